"""Encode, decode, resize and arrange video frames with PyAV and Pillow.

Two encodings: lossless (H.264 in RGB with quantizer 0, bit-identical when read back) for data, and yuv420p, which
every browser plays, for viewing. Not supported: sound, hardware codecs, seeking (files are read from the start).
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
from worldgymnast.preprocessing import center_crop as center_crop
from worldgymnast.preprocessing import resize as resize
from worldgymnast.staging import atomic_path
from worldgymnast.video_reader import ffmpeg_path
from worldgymnast.video_reader import iterate_timed as iterate_timed
from worldgymnast.video_reader import rate as rate

_GOP_SIZE = 10
_JPEG_QUALITY = 90
_LOSSLESS = {"qp": "0", "preset": "veryfast", "bf": "0", "threads": "1"}
_VIEWABLE = {"crf": "18", "preset": "veryfast", "bf": "0"}


def is_available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class VideoWriter:
    """Incremental writer of an mp4 file.

    Use as a context manager, or call `close`.

    Writes are not atomic; see `staging.atomic_path`.

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
        """Open the file.

        Args:
            target: path, or a buffer to fill.
            size: height and width of every frame, in pixels.
            fps: frames per second, 0.001 to 1000.
            lossless: bit-identical when read back; otherwise small and playable in a browser.
            exact: keep an odd height or width, which browsers do not play, instead of padding to an even size.

        Raises:
            InputError: `fps` is out of range, or the path has a null byte.
        """
        if not 1e-3 <= fps <= 1000:
            raise InputError(f"{target}: found {fps:g} frames per second, expected 0.001 to 1000; correct the rate")
        import av

        self.count = 0
        self._size = size
        height, width = size
        self._padding = (height % 2, width % 2) if not lossless and not exact else (0, 0)
        destination: Any = target if isinstance(target, io.BytesIO) else ffmpeg_path(target)
        self._container: Any = av.open(destination, "w", format="mp4")
        codec, options = ("libx264rgb", _LOSSLESS) if lossless else ("libx264", _VIEWABLE)
        rate = Fraction(fps).limit_denominator(1001)
        self._stream: Any = self._container.add_stream(codec, rate=rate, options=dict(options))
        self._stream.height, self._stream.width = height + self._padding[0], width + self._padding[1]
        lossy = "yuv444p" if self._stream.height % 2 or self._stream.width % 2 else "yuv420p"
        self._stream.pix_fmt = "rgb24" if lossless else lossy
        self._stream.codec_context.gop_size = _GOP_SIZE
        self._stream.codec_context.time_base = 1 / rate

    def add(self, frames: np.ndarray) -> None:
        """Append uint8 [t h w 3]; raises InputError for another size or type."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*self._size, 3):
            raise InputError(
                f"video: found frames {frames.dtype} {list(frames.shape)}, expected uint8 [t, {self._size[0]}, "
                f"{self._size[1]}, 3]; resize them first"
            )
        if any(self._padding):
            frames = np.pad(frames, ((0, 0), (0, self._padding[0]), (0, self._padding[1]), (0, 0)), mode="edge")
        from av import VideoFrame

        for image in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.count
            frame.time_base = self._stream.codec_context.time_base
            self._container.mux(self._stream.encode(frame))
            self.count += 1

    def close(self) -> None:
        """Flush the encoder and write the index."""
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
    """Write uint8 [t h w 3] to an mp4 file, atomically.

    Lossless files are H.264 in RGB and bit-identical when read back. The others are yuv420p and play in every browser;
    an odd size is padded by repeating the last row or column.

    Raises:
        InputError: there are no frames, or the disk is full.
    """
    ffmpeg_path(path)
    path = Path(path)
    if not len(frames):
        raise InputError(f"{path}: found 0 frames, expected at least 1; nothing to encode")
    with (
        atomic_path(path, durable=False) as temporary,
        VideoWriter(temporary, (frames.shape[1], frames.shape[2]), fps, lossless) as writer,
    ):
        writer.add(frames)


def iterate_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Yield the displayed frames of a video, uint8 [h w 3]; see `iterate_timed`.

    Raises:
        InputError: the file is missing, not a video, truncated or damaged; reports the number of readable frames.
    """
    for _, frame in iterate_timed(path):
        yield frame


def check_rate(path: str | Path, fps: float | None, source: str) -> None:
    """Raise `InputError` if a video's rate differs by over 5%.

    Args:
        path: the video file.
        fps: the expected rate; None skips the check.
        source: origin of the expected rate, for the message.
    """
    actual = rate(path)
    if actual and fps and abs(actual / fps - 1) > 0.05:
        raise InputError(
            f"{path}: found {actual:g} frames per second, expected {fps:g} {source}; encode the video again at that "
            "rate, or remove it"
        )


def decode(path: str | Path, first: int = 0, count: int | None = None) -> np.ndarray:
    """Read frames of a video, uint8 [t h w 3].

    Args:
        path: the video file.
        first: index of the first frame.
        count: number of frames; None reads to the end.

    Raises:
        InputError: the file is missing or damaged, or has too few frames.
    """
    frames: list[np.ndarray] = []
    for index, frame in enumerate(iterate_frames(path)):
        if index >= first:
            frames.append(frame)
        if count is not None and len(frames) == count:
            break
    if not frames or (count is not None and len(frames) < count):
        expected = f"{first + count}" if count is not None else f"more than {first}"
        actual = first + len(frames) if frames else "too few"
        raise InputError(f"{path}: found {actual} frames, expected {expected}")
    return np.stack(frames)


def frame_count(path: str | Path) -> int:
    """Number of frames in a video, by decoding.

    Raises InputError if it is damaged.
    """
    return sum(1 for _ in iterate_frames(path))


def read_picture(path: Path) -> np.ndarray:
    """Read an image file as uint8 [h w 3], by the rules of `pictures`.

    Raises:
        InputError: the file is missing or not a valid picture.
    """
    return open_picture(path, path)


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel of [... h w 3] `factor` times in both directions."""
    return frames.repeat(factor, axis=-2).repeat(factor, axis=-3)  # rows last, which copies contiguous memory


def enlarge_to(frames: np.ndarray, pixels: int) -> np.ndarray:
    """Enlarge [... h w 3] by an integer factor to at least `pixels`."""
    factor = -(-pixels // min(frames.shape[-3:-1]))
    return enlarge(frames, factor) if factor > 1 else frames


def jpeg_url(frame: np.ndarray, pixels: int) -> str:
    """uint8 [h w 3] as a JPEG data URL of at least `pixels`."""
    buffer = io.BytesIO()
    Image.fromarray(enlarge_to(frame, pixels)).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(rows: Sequence[np.ndarray], gap: int = 1) -> np.ndarray:
    """Arrange rows of frames in one picture.

    Args:
        rows: uint8 [t h w 3] each; shorter rows are filled up with white.
        gap: white pixels between frames.

    Returns:
        uint8 [H W 3].
    """
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
    """uint8 [h w 3] as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def side_by_side(videos: Iterable[np.ndarray], gap: int = 2) -> np.ndarray:
    """Arrange videos of the same height in one row.

    Args:
        videos: uint8 [t h w 3] each; shorter ones repeat their last frame.
        gap: white pixels between videos.
    """
    clips = list(videos)
    length = max(len(clip) for clip in clips)
    padded = [np.concatenate([clip, clip[-1:].repeat(length - len(clip), 0)]) for clip in clips]
    bar = np.full((length, clips[0].shape[1], gap, 3), 255, np.uint8)
    parts = [part for clip in padded for part in (clip, bar)][:-1]
    return np.concatenate(parts, axis=2)


def viewable(frames: np.ndarray, fps: float, width: int = 256) -> bytes:
    """uint8 [t h w 3] as an mp4 file that every browser plays, enlarged to at least `width` pixels."""
    factor = max(1, -(-width // frames.shape[2]))
    buffer = io.BytesIO()
    height, wide = enlarge(frames[:1], factor).shape[1:3]
    with VideoWriter(buffer, (height, wide), fps, lossless=False) as writer:
        for frame in frames:
            writer.add(enlarge(frame[None], factor))
    return buffer.getvalue()


def data_url(frames: np.ndarray, fps: float, width: int = 256) -> str:
    """uint8 [t h w 3] as an mp4 data URL; see `viewable`."""
    return "data:video/mp4;base64," + base64.b64encode(viewable(frames, fps, width)).decode()
