"""Frames to mp4 files and back, resized frames and contact sheets, through PyAV and Pillow.

Two ways to write: lossless (H.264 in RGB, quantiser 0: what is read back is bit-identical) for data, and yuv420p for
people, which every browser plays. Left out: sound, hardware codecs, seeking (a read walks the file from its start).
"""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldgymnast.errors import InputError
from worldgymnast.pictures import open_picture
from worldgymnast.staging import atomic_path
from worldgymnast.video_reader import address
from worldgymnast.video_reader import iterate_timed as iterate_timed
from worldgymnast.video_reader import rate as rate

_GROUP_OF_PICTURES = 10
_JPEG_QUALITY = 90
_LOSSLESS = {"qp": "0", "preset": "veryfast", "bf": "0", "threads": "1"}
_VIEWABLE = {"crf": "18", "preset": "veryfast", "bf": "0"}


def available() -> bool:
    """Whether videos can be written and read here: PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class VideoWriter:
    """An mp4 file that grows by runs of frames; use as a context manager, or call `close`.

    Nothing is renamed here: whoever wants an atomic file gives a temporary path and renames it.

    Attributes:
        count: frames written so far.
    """

    def __init__(
        self,
        target: str | Path | io.BytesIO,
        size: tuple[int, int],
        fps: float,
        lossless: bool = True,
        exact: bool = False,
    ):
        """Opens the file.

        Args:
            target: path, or a buffer to fill.
            size: height and width of every frame, in pixels.
            fps: frames per second.
            lossless: bit-identical when read back; otherwise small and playable in a browser.
            exact: keep an odd height or width, which browsers do not play, rather than make it even.

        Raises:
            InputError: `fps` is not 0.001 to 1000, or the path holds a null byte.
        """
        if not 1e-3 <= fps <= 1000:
            raise InputError(f"{target}: found {fps:g} frames per second, expected 0.001 to 1000; correct the rate")
        import av

        self.count = 0
        self._size = size
        height, width = size
        self._odd = (height % 2, width % 2) if not lossless and not exact else (0, 0)
        destination: Any = target if isinstance(target, io.BytesIO) else address(target)
        self._container: Any = av.open(destination, "w", format="mp4")
        codec, options = ("libx264rgb", _LOSSLESS) if lossless else ("libx264", _VIEWABLE)
        rate = Fraction(fps).limit_denominator(1001)
        self._stream: Any = self._container.add_stream(codec, rate=rate, options=dict(options))
        self._stream.height, self._stream.width = height + self._odd[0], width + self._odd[1]
        lossy = "yuv444p" if self._stream.height % 2 or self._stream.width % 2 else "yuv420p"
        self._stream.pix_fmt = "rgb24" if lossless else lossy
        self._stream.codec_context.gop_size = _GROUP_OF_PICTURES
        self._stream.codec_context.time_base = 1 / rate

    def add(self, frames: np.ndarray) -> None:
        """Appends uint8 [t h w 3]; raises InputError on another size or type."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*self._size, 3):
            raise InputError(
                f"video: found frames {frames.dtype} {list(frames.shape)}, expected uint8 [t, {self._size[0]}, "
                f"{self._size[1]}, 3]; resize them first"
            )
        if any(self._odd):
            frames = np.pad(frames, ((0, 0), (0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        from av import VideoFrame

        for image in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.count
            frame.time_base = self._stream.codec_context.time_base
            self._container.mux(self._stream.encode(frame))
            self.count += 1

    def close(self) -> None:
        """Flushes the encoder and writes the index."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self.count:
                container.mux(self._stream.encode())
        finally:
            container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def encode(path: str | Path, frames: np.ndarray, fps: float, lossless: bool = True) -> None:
    """Writes uint8 [t h w 3] as an mp4 file, atomically.

    Lossless files are H.264 in RGB, bit-identical when read back; the others are yuv420p (a missing last row or column
    of an odd size is repeated) and play in every browser.

    Raises:
        InputError: there are no frames, or the disk is full.
    """
    address(path)
    path = Path(path)
    if not len(frames):
        raise InputError(f"{path}: found 0 frames, expected at least 1; nothing to encode")
    with (
        atomic_path(path, durable=False) as temporary,
        VideoWriter(temporary, (frames.shape[1], frames.shape[2]), fps, lossless) as writer,
    ):
        writer.add(frames)


def iterate(path: str | Path) -> Iterator[np.ndarray]:
    """Yields the frames uint8 [h w 3] of a video file one by one, as a player shows them; see `iterate_timed`.

    Raises:
        InputError: the file is missing, is no video, is cut short or damaged; says how many frames were good.
    """
    for _, frame in iterate_timed(path):
        yield frame


def check_rate(path: str | Path, fps: float | None, why: str) -> None:
    """Raises `InputError` where the file says another rate than `fps` by more than 5 %; `why` says whose `fps` is."""
    found = rate(path)
    if found and fps and abs(found / fps - 1) > 0.05:
        raise InputError(
            f"{path}: found a video of {found:g} frames per second, expected {fps:g} {why}; encode it again at that "
            "rate, or remove it"
        )


def decode(path: str | Path, first: int = 0, count: int | None = None) -> np.ndarray:
    """Reads uint8 [t h w 3]: `count` frames from frame `first` on, or all that follow.

    Raises:
        InputError: the file is missing or damaged, or holds fewer frames than asked for.
    """
    kept: list[np.ndarray] = []
    for index, frame in enumerate(iterate(path)):
        if index >= first:
            kept.append(frame)
        if count is not None and len(kept) == count:
            break
    if not kept or (count is not None and len(kept) < count):
        wanted = f"{first + count}" if count is not None else f"more than {first}"
        raise InputError(f"{path}: found {first + len(kept) if kept else 'too few'} frames, expected {wanted}")
    return np.stack(kept)


def frame_count(path: str | Path) -> int:
    """How many frames can be read from the file; raises InputError where it is damaged."""
    return sum(1 for _ in iterate(path))


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def resize(frames: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resizes uint8 [... h w 3] to `size` pixels (a square, or height and width), with antialiasing.

    The whole picture is kept; another aspect ratio squashes it. Frames that already have the size are returned as is.
    """
    height, width = _size(size)
    if frames.shape[-3:-1] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    out = np.empty((len(flat), height, width, 3), np.uint8)
    for index, image in enumerate(flat):
        out[index] = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    return out.reshape(*frames.shape[:-3], height, width, 3)


def picture(path: Path) -> np.ndarray:
    """The picture in a file, uint8 [h w 3], by the rules of `pictures`.

    Raises:
        InputError: there is no file, or none that holds a picture.
    """
    return open_picture(path, path)


def square(frame: np.ndarray) -> np.ndarray:
    """The middle square of uint8 [h w 3]."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frame[top : top + side, left : left + side]


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Repeats every pixel of [... h w 3] `factor` times along both sides."""
    return frames.repeat(factor, axis=-2).repeat(factor, axis=-3)  # the wide axis last: whole rows are copied


def enlarged(frames: np.ndarray, pixels: int) -> np.ndarray:
    """Frames [... h w 3] enlarged by whole pixels until their shorter side has `pixels`."""
    factor = -(-pixels // min(frames.shape[-3:-1]))
    return enlarge(frames, factor) if factor > 1 else frames


def jpeg_url(frame: np.ndarray, pixels: int) -> str:
    """uint8 [h w 3] as a `data:` address of a JPEG file, enlarged until its shorter side has `pixels`."""
    made = io.BytesIO()
    Image.fromarray(enlarged(frame, pixels)).save(made, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(made.getvalue()).decode()


def contact_sheet(rows: Sequence[np.ndarray], gap: int = 1) -> np.ndarray:
    """Lays uint8 [t h w 3] rows under one another into one picture [H W 3]; rows may differ in length (white fills)."""
    if not rows:
        raise InputError("contact sheet: found 0 rows, expected at least 1")
    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            sheet[top : top + height, left : left + width] = image
    return sheet


def png(picture: np.ndarray) -> bytes:
    """uint8 [h w 3] as a PNG file's content."""
    made = io.BytesIO()
    Image.fromarray(picture).save(made, format="PNG", optimize=True)
    return made.getvalue()


def side_by_side(videos: Iterable[np.ndarray], gap: int = 2) -> np.ndarray:
    """Places videos uint8 [t h w 3] of one height beside one another; a shorter one holds its last frame."""
    clips = list(videos)
    longest = max(len(clip) for clip in clips)
    held = [np.concatenate([clip, clip[-1:].repeat(longest - len(clip), 0)]) for clip in clips]
    bar = np.full((longest, clips[0].shape[1], gap, 3), 255, np.uint8)
    parts = [part for clip in held for part in (clip, bar)][:-1]
    return np.concatenate(parts, axis=2)


def data_url(frames: np.ndarray, fps: float, width: int = 256) -> str:
    """A `data:video/mp4;base64,...` address of uint8 [t h w 3], each pixel enlarged until it is `width` pixels wide."""
    factor = max(1, -(-width // frames.shape[2]))
    buffer = io.BytesIO()
    large = enlarge(frames[:1], factor).shape[1:3]
    with VideoWriter(buffer, (large[0], large[1]), fps, lossless=False) as writer:
        for frame in frames:
            writer.add(enlarge(frame[None], factor))
    return "data:video/mp4;base64," + base64.b64encode(buffer.getvalue()).decode()
