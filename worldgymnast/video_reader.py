"""Decode untrusted video files to timed uint8 RGB frames.

- Applied: the edit list of an mp4, which hides frames after a lossless cut, and the display matrix (quarter turns and
  flips).
- Converted: colors of more than 8 bits to 8; one gray channel of 8 bits to RGB; transparency to white.
- Rejected: one channel of more than 8 bits, or of floats (depth maps); rotations by other angles; varying frame sizes;
  missing or non-increasing timestamps.
- Ignored: interlacing, non-square pixels, HDR transfer curves.
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
"""Maximum pixels per frame, checked before decoding; 7680 x 4320 (8K) is allowed."""

_DEMUXERS = "mov,matroska,avi,gif,mpegts,mpeg,ogg,flv,asf,ivf,apng"  # no playlists, which open other files
_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_FRAME_PIXELS),
}
_DEPTH_HINT = "as depth is stored; expected color, or gray of 8 bits; name another camera"
Orientation = tuple[bool, bool, bool]
"""Whether to swap rows and columns, then whether to reverse the rows and the columns."""


def iterate_timed(path: str | Path) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the displayed frames in order, each with its time.

    Args:
        path: a video file in any container of `_DEMUXERS`.

    Yields:
        Seconds since the first displayed frame (strictly increasing from 0), and the frame uint8 [h w 3].

    Raises:
        InputError: the file is missing, not a video, truncated, damaged (reports the number of readable frames), or
            rejected by the rules of this module.
    """
    count = declared = 0
    start: int | None = None
    previous: float = -1.0
    size: tuple[int, ...] | None = None
    with _open(path) as (container, stream):
        declared = _declared_frames(container, stream)
        for frame in _decode(container, stream, path, declared):
            start = frame.pts if start is None else start
            seconds = _seconds(frame, start, previous, count, path)
            image = _reorient(_as_rgb(frame, path), _orientation(frame, path))
            size = image.shape if size is None else size
            if image.shape != size:
                raise InputError(
                    f"{path}: frame {count} is {image.shape[1]}x{image.shape[0]} pixels, expected {size[1]}x{size[0]} "
                    "like the frames before it; encode the video again at one size"
                )
            yield seconds, image
            count, previous = count + 1, seconds
    if count < max(declared, 1):
        raise _damaged(path, count, declared)


def frame_times(path: str | Path, since_first: bool = True) -> np.ndarray:
    """The times of `iterate_timed`, without decoding frames.

    Args:
        path: a video file.
        since_first: count from the first displayed frame; otherwise use the raw timestamps, which may start after 0.

    Returns:
        float64 [n], seconds, increasing.

    Raises:
        InputError: the file is missing or not a video, or a frame has no timestamp.
    """
    timestamps: list[int] = []
    with _open(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                timestamp = _timestamp(packet, container, stream)
                if timestamp is not None:
                    timestamps.append(timestamp)
                elif packet.size and packet.pts is None:
                    raise _missing_timestamp(path, len(timestamps))
        except InputError:
            raise
        except Exception as error:  # FFmpeg's exceptions have no common base
            raise _damaged(path, len(timestamps), 0) from error
        base = stream.time_base
    ticks = np.sort(np.array(timestamps, np.int64))
    start = ticks[:1] if since_first else np.zeros(1, np.int64)
    return (ticks - start) * base.numerator / base.denominator


def rate(path: str | Path) -> float | None:
    """Mean frames per second; None if fewer than two frames are readable."""
    try:
        times = frame_times(path)
    except InputError:
        return None
    return (len(times) - 1) / float(times[-1]) if len(times) > 1 and times[-1] > 0 else None


def ffmpeg_path(path: str | Path) -> str:
    """The path as a file URL of FFmpeg.

    FFmpeg would parse a bare path such as `out:1` as a protocol.

    Raises:
        InputError: the path has a null byte.

    >>> ffmpeg_path("out:1.mp4")
    'file:out:1.mp4'
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: found a null byte in the path; correct the path")
    return f"file:{path}"


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a container and yield it with its only video stream."""
    name = ffmpeg_path(path)
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
        if Path(path).stat().st_size and (reason := mistaken_file(path)):
            raise InputError(f"{path}: not a video ({reason})") from error
        raise _damaged(path, 0, 0) from error
    with container:
        stream = _video_stream(container, path)
        stream.thread_type = "SLICE"  # frame threads detect damage nondeterministically
        yield container, stream


def _video_stream(container: Any, path: str | Path) -> Any:
    """The only video stream; cover pictures do not count."""
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


def _declared_frames(container: Any, stream: Any) -> int:
    """Number of displayed frames according to the header; 0 if not declared."""
    if "mp4" in container.format.name and stream.frames:
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames


def _is_fragmented(container: Any, stream: Any) -> bool:
    """Whether this is an mp4 file without a frame count.

    FFmpeg then keeps hidden frames, before time 0.
    """
    return "mp4" in container.format.name and not stream.frames


def _timestamp(packet: Any, container: Any, stream: Any) -> int | None:
    """Display time of the packet's frame; None if missing or not displayed.

    AVI files store decoding times, which sorted are the display times.
    """
    timestamp = packet.dts if container.format.name == "avi" else packet.pts
    is_hidden = packet.is_discard or (_is_fragmented(container, stream) and timestamp is not None and timestamp < 0)
    return None if is_hidden or not packet.size else timestamp


def _decode(container: Any, stream: Any, path: str | Path, declared: int) -> Iterator[Any]:
    """Yield the displayed frames."""
    count, timestamps = 0, deque[int]()
    is_avi, is_fragmented = container.format.name == "avi", _is_fragmented(container, stream)
    try:
        for packet in container.demux(stream):
            timestamp = _timestamp(packet, container, stream)
            if timestamp is not None and (is_avi or not count):
                timestamps.append(timestamp)
            for frame in packet.decode():
                if frame.is_corrupt or packet.is_corrupt:
                    raise _damaged(path, count, declared)
                if is_avi and timestamps:
                    frame.pts = timestamps.popleft()
                elif is_fragmented and frame.pts is not None and frame.pts < 0:
                    continue
                elif not count and frame.pts is not None and frame.pts > min(timestamps, default=frame.pts):
                    raise _missing_start(path)
                yield frame
                count += 1
    except InputError:
        raise
    except Exception as error:  # FFmpeg's exceptions have no common base
        raise _damaged(path, count, declared) from error


def _missing_start(path: str | Path) -> InputError:
    return InputError(
        f"{path}: the first frames cannot be decoded, as after damage or a cut between keyframes; copy the file again, "
        "or encode it again"
    )


def _seconds(frame: Any, start: int | None, previous: float, index: int, path: str | Path) -> float:
    """The frame's time; raises InputError if missing or not after `previous`."""
    if frame.pts is None or start is None or frame.time_base is None:
        raise _missing_timestamp(path, index)
    seconds = (frame.pts - start) * frame.time_base.numerator / frame.time_base.denominator
    if seconds <= previous:
        raise InputError(
            f"{path}: frame {index} has timestamp {seconds:g} s, expected later than frame {index - 1} at "
            f"{previous:g} s; encode the video again with increasing timestamps"
        )
    return seconds


def _missing_timestamp(path: str | Path, index: int) -> InputError:
    return InputError(f"{path}: frame {index} has no timestamp; encode the video again (as mp4, for example)")


def _damaged(path: str | Path, count: int, declared: int) -> InputError:
    expected = f"{declared}" if declared else "at least 1"
    fix = "copy it again, or encode it again" if declared or count else "copy it again, or name a video"
    return InputError(
        f"{path}: the video is truncated or damaged: found {count} readable frames, expected {expected}; {fix}"
    )


# ---------------------------------------------------------------- pixels


def _as_rgb(frame: Any, path: str | Path) -> np.ndarray:
    """The frame as uint8 [h w 3]; planar RGB is reordered without conversion, bit-exact."""
    kind = _kind(frame.format.name)
    if kind == "depth":
        raise InputError(f"{path}: found frames of format {frame.format.name}, one channel or floats, {_DEPTH_HINT}")
    if kind == "planar":
        return frame.to_ndarray()
    if kind == "alpha":
        return on_white(frame.to_ndarray(format="rgba"), path)
    return frame.to_ndarray(format="rgb24")


@functools.cache
def _kind(name: str) -> str:
    """Conversion that a pixel format needs: "planar", "alpha", "depth" or "plain"."""
    if name == "gbrp":
        return "planar"
    from av import VideoFormat

    parts = VideoFormat(name).components
    colors = [part for part in parts if not part.is_alpha]
    if "f32" in name or "f16" in name or (len(colors) == 1 and colors[0].bits > 8):
        return "depth"
    return "alpha" if len(colors) < len(parts) or name == "pal8" else "plain"


def _orientation(frame: Any, path: str | Path) -> Orientation:
    """The orientation in the frame's display matrix.

    The matrix maps the source's (x, y) to (a x + c y, b x + d y), with y pointing down.

    Raises:
        InputError: the angle is not a multiple of 90 degrees.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = (int(x) for x in np.frombuffer(bytes(matrix), np.int32)[:5])
    tolerance = max(map(abs, (a, b, c, d))) / 1000
    if tolerance >= abs(b) and tolerance >= abs(c):
        return False, d < 0, a < 0
    if tolerance >= abs(a) and tolerance >= abs(d):
        return True, b < 0, c < 0
    raise InputError(
        f"{path}: found a rotation of {frame.rotation} degrees, expected a multiple of 90; encode the video again "
        "without rotation"
    )


def _reorient(image: np.ndarray, orientation: Orientation) -> np.ndarray:
    swap, reverse_rows, reverse_columns = orientation
    if not any(orientation):
        return image
    image = image.swapaxes(0, 1) if swap else image
    row_step, column_step = (-1 if reverse else 1 for reverse in (reverse_rows, reverse_columns))
    return np.ascontiguousarray(image[::row_step, ::column_step])
