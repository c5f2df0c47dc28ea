"""Video files that other people made, to uint8 RGB frames as a player shows them, each with its time.

Applied: the edit list of an mp4 (frames a lossless cut hides are left out) and the display matrix (quarter turns and
flips). Colors of more than 8 bits are reduced to 8, one gray channel of 8 bits becomes three equal ones, transparency
is laid on white. Refused: one channel of more than 8 bits and floats, as depth is stored; other angles; frames that
change in size; time stamps that are missing or do not increase. Left as they are: interlaced lines, pixels that are
not square, HDR curves.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken_file
from worldgymnast.pictures import on_white

MAX_FRAME_PIXELS = 2**25
"""Larger frames are refused before they are decoded; 7680 x 4320 (8K) is allowed."""

_DEMUXERS = "mov,matroska,avi,gif,mpegts,mpeg,ogg,flv,asf,ivf,apng"  # no playlist: those read other files
_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_FRAME_PIXELS),
}
_DEPTH = "as depth is stored; expected color, or gray of 8 bits; name another camera"
Turn = tuple[bool, bool, bool]
"""Whether rows and columns are swapped, and whether then the rows and the columns are reversed."""


def iterate_timed(path: str | Path) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the frames a player shows, in order, each with its time.

    Args:
        path: a video file, any container of `_DEMUXERS`.

    Yields:
        Seconds since the first shown frame (0 for that one, strictly increasing), and the frame uint8 [h w 3].

    Raises:
        InputError: the file is missing, is no video, is cut short or damaged (says how many frames were good), or
            holds what the module's docstring says is refused.
    """
    found = declared = 0
    start: int | None = None
    last: float = -1.0
    size: tuple[int, ...] | None = None
    with _opened(path) as (container, stream):
        declared = _declared(container, stream)
        for frame in _decoded(container, stream, path, declared):
            start = frame.pts if start is None else start
            now = _seconds(frame, start, last, found, path)
            image = _turned(_as_rgb(frame, path), _turn(frame, path))
            size = image.shape if size is None else size
            if image.shape != size:
                raise InputError(
                    f"{path}: frame {found} is {image.shape[1]}x{image.shape[0]} pixels, expected {size[1]}x{size[0]} "
                    "as before it; encode the video again at one size"
                )
            yield now, image
            found, last = found + 1, now
    if found < max(declared, 1):
        raise _damaged(path, found, declared)


def frame_times(path: str | Path, since_first: bool = True) -> np.ndarray:
    """Read the times that `iterate_timed` gives without decoding a frame.

    Args:
        path: a video file.
        since_first: count from the first shown frame; otherwise as stamped, where the first can be later than 0.

    Returns:
        float64 [n], seconds, increasing.

    Raises:
        InputError: the file is missing, is no video, or a frame has no time stamp.
    """
    stamps: list[int] = []
    with _opened(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                stamp = _stamp(packet, container, stream)
                if stamp is not None:
                    stamps.append(stamp)
                elif packet.size and packet.pts is None:
                    raise _unstamped(path, len(stamps))
        except InputError:
            raise
        except Exception as error:  # whatever FFmpeg raises
            raise _damaged(path, len(stamps), 0) from error
        base = stream.time_base
    ticks = np.sort(np.array(stamps, np.int64))
    start = ticks[:1] if since_first else np.zeros(1, np.int64)
    return (ticks - start) * base.numerator / base.denominator


def rate(path: str | Path) -> float | None:
    """Frames per second, the mean over the shown frames; None where fewer than two can be read."""
    try:
        times = frame_times(path)
    except InputError:
        return None
    return (len(times) - 1) / float(times[-1]) if len(times) > 1 and times[-1] > 0 else None


def address(path: str | Path) -> str:
    """The path as FFmpeg takes it for a file, whatever is in its name (`out:1` is no protocol).

    Raises:
        InputError: the path holds a null byte, which would end it.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: the path holds a null byte, which no file name can; correct the path")
    return f"file:{path}"


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """The container and its one video stream; closes it at the end."""
    name = address(path)
    if not Path(path).exists():
        raise InputError(f"{path}: no such video file; check the path")
    if not Path(path).is_file():
        raise InputError(f"{path}: is not a regular file, expected a video; check the path")
    import av

    try:
        container = av.open(name, "r", options=_OPTIONS, metadata_errors="replace")
    except PermissionError as error:
        raise InputError(f"{path}: cannot be opened (permission denied); make it readable") from error
    except Exception as error:
        if Path(path).stat().st_size and (said := mistaken_file(path)):
            raise InputError(f"{path}: is no video ({said})") from error
        raise _damaged(path, 0, 0) from error
    with container:
        stream = _video_stream(container, path)
        stream.thread_type = "SLICE"  # with threads by frame, damage is seen in some runs and not in others
        yield container, stream


def _video_stream(container: Any, path: str | Path) -> Any:
    """The one stream of frames; a cover picture is none."""
    from av.stream import Disposition

    hidden = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & hidden]
    if not streams:
        raise InputError(f"{path}: found no video stream, expected one; is it an mp4 file?")
    if len(streams) > 1:
        raise InputError(f"{path}: found {len(streams)} video streams, expected 1; keep one (ffmpeg -map 0:v:0)")
    context = streams[0].codec_context
    if context is None:
        raise InputError(f"{path}: the video's codec is unknown to FFmpeg; encode it again as H.264")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise InputError(
            f"{path}: found frames of {context.width}x{context.height} pixels, expected at most "
            f"{MAX_FRAME_PIXELS:,} pixels; scale the video down"
        )
    return streams[0]


def _declared(container: Any, stream: Any) -> int:
    """How many frames the file says a player shows; 0 where it does not say."""
    if "mp4" in container.format.name and stream.frames:
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames


def _is_fragmented(container: Any, stream: Any) -> bool:
    """Whether this is an mp4 file that counts no frames: FFmpeg leaves in what its edit list hides, before time 0."""
    return "mp4" in container.format.name and not stream.frames


def _stamp(packet: Any, container: Any, stream: Any) -> int | None:
    """When the packet's frame is shown; None where it says no time or shows nothing.

    An AVI file stores when packets are read, which in order are the frames' times.
    """
    stamp = packet.dts if container.format.name == "avi" else packet.pts
    is_hidden = packet.is_discard or (_is_fragmented(container, stream) and stamp is not None and stamp < 0)
    return None if is_hidden or not packet.size else stamp


def _decoded(container: Any, stream: Any, path: str | Path, declared: int) -> Iterator[Any]:
    """The frames that are shown."""
    found, stamps = 0, deque[int]()
    is_avi, is_fragmented = container.format.name == "avi", _is_fragmented(container, stream)
    try:
        for packet in container.demux(stream):
            stamp = _stamp(packet, container, stream)
            if stamp is not None and (is_avi or not found):
                stamps.append(stamp)
            for frame in packet.decode():
                if frame.is_corrupt or packet.is_corrupt:
                    raise _damaged(path, found, declared)
                if is_avi and stamps:
                    frame.pts = stamps.popleft()
                elif is_fragmented and frame.pts is not None and frame.pts < 0:
                    continue
                elif not found and frame.pts is not None and frame.pts > min(stamps, default=frame.pts):
                    raise _headless(path)
                yield frame
                found += 1
    except InputError:
        raise
    except Exception as error:  # whatever FFmpeg raises
        raise _damaged(path, found, declared) from error


def _headless(path: str | Path) -> InputError:
    return InputError(
        f"{path}: its first frames cannot be decoded, as after damage or a cut between keyframes; copy it again, or "
        "encode it again"
    )


def _seconds(frame: Any, start: int | None, last: float, number: int, path: str | Path) -> float:
    """The frame's time; raises InputError where it has none or it is not after `last`."""
    if frame.pts is None or start is None or frame.time_base is None:
        raise _unstamped(path, number)
    now = (frame.pts - start) * frame.time_base.numerator / frame.time_base.denominator
    if now <= last:
        raise InputError(
            f"{path}: frame {number} is stamped {now:g} s, expected later than frame {number - 1} at {last:g} s; "
            "encode the video again with increasing time stamps"
        )
    return now


def _unstamped(path: str | Path, number: int) -> InputError:
    return InputError(f"{path}: frame {number} has no time stamp; encode the video again (as mp4, for example)")


def _damaged(path: str | Path, found: int, declared: int) -> InputError:
    expected = f"{declared}" if declared else "at least 1"
    fix = "copy it again, or encode it again" if declared or found else "copy it again, or name a video"
    return InputError(
        f"{path}: video is cut short or damaged: found {found} readable frames, expected {expected}; {fix}"
    )


# ---------------------------------------------------------------- pixels


def _as_rgb(frame: Any, path: str | Path) -> np.ndarray:
    """uint8 [h w 3]; planar RGB is reordered rather than converted, which keeps every bit."""
    kind = _kind(frame.format.name)
    if kind == "deep":
        raise InputError(f"{path}: found frames of format {frame.format.name}, one channel or floats, {_DEPTH}")
    if kind == "planar":
        return frame.to_ndarray()
    if kind == "alpha":
        return on_white(frame.to_ndarray(format="rgba"), path)
    return frame.to_ndarray(format="rgb24")


@functools.cache
def _kind(name: str) -> str:
    """What a pixel format needs: "planar", "alpha", "deep" or "plain"."""
    if name == "gbrp":
        return "planar"
    from av import VideoFormat

    parts = VideoFormat(name).components
    colors = [part for part in parts if not part.is_alpha]
    if "f32" in name or "f16" in name or (len(colors) == 1 and colors[0].bits > 8):
        return "deep"
    return "alpha" if len(colors) < len(parts) or name == "pal8" else "plain"


def _turn(frame: Any, path: str | Path) -> Turn:
    """What the display matrix asks for.

    The matrix sends the source's (x, y) to (a x + c y, b x + d y), y pointing down.

    Raises:
        InputError: an angle that is no multiple of 90 degrees.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return False, False, False
    a, b, _, c, d = (int(x) for x in np.frombuffer(bytes(found), np.int32)[:5])
    small = max(map(abs, (a, b, c, d))) / 1000
    if small >= abs(b) and small >= abs(c):
        return False, d < 0, a < 0
    if small >= abs(a) and small >= abs(d):
        return True, b < 0, c < 0
    raise InputError(
        f"{path}: found frames to be turned by {frame.rotation} degrees, expected a multiple of 90; encode the video "
        "again as it should be seen"
    )


def _turned(image: np.ndarray, turn: Turn) -> np.ndarray:
    swap, rows, columns = turn
    if not any(turn):
        return image
    image = image.swapaxes(0, 1) if swap else image
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])
