"""Pair the rows of a LeRobotDataset with video frames by time.

As in LeRobot, a row's frame is the one nearest to the episode's `from_timestamp` plus the row's `timestamp`. It must be
clearly nearer than the next frame, belong to no other row, and lie within the episode. An episode whose rows are all
offset from their frames is ambiguous and rejected.

One exception: rows and video with constant but slightly different rates (a 29.97 fps video declared as 30) drift apart
until no frame is near. An episode with exactly as many frames as rows is then paired one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldgymnast.episodes.lerobot_layout import INFO, VideoSpan
from worldgymnast.episodes.lerobot_rows import Rows
from worldgymnast.errors import InputError
from worldgymnast.video_reader import frame_times

_MAX_DISTANCE = 0.45
"""Maximum distance of a row from its frame, in steps of the rate; at 0.5 two frames are equally near."""
_MAX_OFFSET = 0.25
"""Maximum median offset of an episode's rows from their frames, in steps."""
_MAX_START_OFFSET = 0.1
"""Maximum distance of `from_timestamp` from a frame, in steps, in a video with unused frames."""
_RATE_TOLERANCE = 0.05
_UNEVEN_RATE = 1.5
_MAX_JITTER = 0.1


@dataclass(frozen=True)
class Pairing:
    """The frames of a video by episode.

    Attributes:
        file: the video.
        frames: by episode, int64 [n], increasing frame numbers of its rows.
        errors: errors of the episodes that were not paired.
        unused: number of frames that belong to no row.
    """

    file: Path
    frames: dict[int, np.ndarray]
    errors: tuple[InputError, ...]
    unused: int = 0


def pair(file: Path, episodes: Sequence[tuple[Rows, VideoSpan]], fps: float, root: Path) -> Pairing:
    """Pair the rows of `episodes` with the frames of one video."""
    try:
        times = frame_times(file, since_first=False)
        _check_rate(file, times, fps, root)
    except InputError as error:
        return Pairing(file, {}, (error,))
    pairing = _pair(file, episodes, times, fps)
    if pairing.errors and len(times) and abs(times[0]) * fps > _MAX_JITTER:
        shifted = _pair(file, episodes, times - times[0], fps)  # some encoders offset all timestamps
        if not shifted.errors and not shifted.unused:
            return shifted
    return pairing


def _check_rate(file: Path, times: np.ndarray, fps: float, root: Path) -> None:
    """Raise InputError if the rates of video and rows differ.

    In an uneven video either the median rate (lost frames) or the mean rate (jitter) must match. If neither does but
    both are close, the times of the rows decide later.
    """
    if len(times) < 2:
        return
    steps = np.diff(times)
    rate, mean = 1 / float(np.median(steps)), 1 / float(np.mean(steps))
    is_uneven = np.ptp(steps) * fps > _MAX_JITTER and 1 / _UNEVEN_RATE < rate / fps < _UNEVEN_RATE
    if min(abs(rate / fps - 1), abs(mean / fps - 1)) > _RATE_TOLERANCE and not is_uneven:
        raise InputError(
            f"{file}: found {rate:.5g} frames per second, expected {fps:g} as in {root / INFO}; encode the video again "
            "at that rate, or correct fps"
        )


def _check_clock(file: Path, spans: Sequence[VideoSpan], times: np.ndarray, fps: float) -> None:
    """Raise InputError if `from_timestamp` assumes a different rate of the video.

    The frame at that time then differs from the frame of that number, and the intended one is unknown.
    """
    if len(times) < 2:
        return
    start = np.array([span.start for span in spans])
    nearest = _nearest(times, start)
    nominal = np.round(start * fps).astype(np.int64)
    if (nearest == nominal).all() or not (start * fps < len(times)).all():
        return
    error = float((np.abs(times[nearest] - start) * fps).max())
    nominal_error = float(np.abs(start * fps - nominal).max())
    if nominal_error < min(error, _MAX_JITTER) or max(error, nominal_error) < 0.02:
        worst = int(np.argmax(nearest != nominal))
        raise InputError(
            f"{file}: field 'from_timestamp': found {start[worst]:g} s, which is frame {nominal[worst]} at {fps:g} fps "
            f"but frame {nearest[worst]} by the video's timestamps; correct from_timestamp or encode the video again "
            f"at {fps:g} fps"
        )


def _pair(file: Path, episodes: Sequence[tuple[Rows, VideoSpan]], times: np.ndarray, fps: float) -> Pairing:
    try:
        _check_clock(file, [span for _, span in episodes], times, fps)
    except InputError as error:
        return Pairing(file, {}, (error,))
    paired: dict[int, np.ndarray] = {}
    errors: list[InputError] = []
    starts = sorted(span.start for _, span in episodes)
    for rows, span in episodes:
        try:
            paired[rows.record.index] = _pair_by_time(file, rows, span, times, fps)
        except InputError as error:
            next_start = next((start for start in starts if start > span.start), None)
            numbers = _pair_by_count(rows, span, next_start, times, fps)
            if numbers is None:
                errors.append(error)
            else:
                paired[rows.record.index] = numbers
    errors += _remove_overlaps(file, paired)
    unused = len(times) - sum(map(len, paired.values()))
    if unused and not errors:
        errors = _start_errors(file, [(r, span) for r, span in episodes if r.record.index in paired], times, fps)
        for index in [r.record.index for r, _ in episodes] if errors else ():
            paired.pop(index, None)
    return Pairing(file, paired, tuple(errors), unused)


def _start_errors(
    file: Path, episodes: Sequence[tuple[Rows, VideoSpan]], times: np.ndarray, fps: float
) -> list[InputError]:
    """The error of a `from_timestamp` between frames, if frames are unused.

    Such times drift from episode to episode, by an unknown number of frames if neighbors were removed. Times that
    count frames at the nominal rate are handled by `_check_clock`.
    """
    for rows, span in episodes:
        nearest = float(times[_nearest(times, np.array([span.start]))[0]])
        offset, nominal_error = (span.start - nearest) * fps, abs(span.start * fps - round(span.start * fps))
        if span.start > 0 and abs(offset) > _MAX_START_OFFSET and nominal_error > 0.02:
            return [
                InputError(
                    f"{file}: episode {rows.record.index}: field 'from_timestamp': found {span.start:.6g} s, "
                    f"{abs(offset):.2f} of a step from the nearest frame at {nearest:.6g} s, in a video with unused "
                    "frames. The first frame is ambiguous. Correct from_timestamp in meta/episodes"
                )
            ]
    return []


def _nearest(times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Number of the frame nearest to each target time, int64 [n]."""
    after = np.clip(np.searchsorted(times, targets), 1, max(len(times) - 1, 1))
    if len(times) < 2:
        return np.zeros(len(targets), np.int64)
    return after - (targets - times[after - 1] <= times[after] - targets)


def _pair_by_time(file: Path, rows: Rows, span: VideoSpan, times: np.ndarray, fps: float) -> np.ndarray:
    """The number of the frame at each row's time.

    Raises:
        InputError: a row has no near frame, two rows share a frame, or a row is beyond the end of the episode.
    """
    targets = span.start + rows.times
    where = f"{file}: episode {rows.record.index}"
    if not len(times):
        raise InputError(f"{file}: found no frames, expected some; copy it again")
    numbers = _nearest(times, targets)
    far = np.flatnonzero(np.abs(times[numbers] - targets) * fps > _MAX_DISTANCE)
    if len(far):
        i = int(far[0])
        raise InputError(
            f"{where}: row {i} is at {targets[i]:.6g} s ({span.start:g} + {rows.times[i]:.6g}), "
            f"{_describe_position(times, targets[i])}, and has no frame; {_fix(rows, times, i)}"
        )
    shared = np.flatnonzero(np.diff(numbers) <= 0)
    if len(shared):
        i = int(shared[0])
        raise InputError(
            f"{where}: rows {i} and {i + 1} at {targets[i]:.6g} and {targets[i + 1]:.6g} s share the frame at "
            f"{times[numbers[i]]:.6g} s, expected one each; correct the timestamps or encode the video again"
        )
    _check_counts(where, rows, numbers, int(_nearest(times, np.array([span.start]))[0]), times, fps)
    _check_offset(where, span, targets, numbers, times, fps)
    if span.stop is not None and times[numbers[-1]] > span.stop - 0.5 / fps:
        i = int(np.argmax(times[numbers] > span.stop - 0.5 / fps))
        raise InputError(
            f"{where}: row {i} is at {targets[i]:.6g} s, but the episode ends at {span.stop:.6g} s by to_timestamp. "
            "The frame belongs to the next episode. Correct the timestamps or to_timestamp in meta/episodes"
        )
    return numbers


def _check_offset(
    where: str, span: VideoSpan, targets: np.ndarray, numbers: np.ndarray, times: np.ndarray, fps: float
) -> None:
    """Raise InputError if all rows are offset from their frames."""
    offset = float(np.median(targets - times[numbers]))
    if abs(offset) * fps > _MAX_OFFSET:
        side = "after" if offset > 0 else "before"
        raise InputError(
            f"{where}: rows from {targets[0]:.6g} s on are {abs(offset):.4g} s ({abs(offset) * fps:.2f} of a step) "
            f"{side} their nearest frames throughout (limit {_MAX_OFFSET:g}). The pairing is ambiguous. Correct "
            f"from_timestamp ({span.start:g}) or the timestamps by that amount"
        )


def _check_counts(where: str, rows: Rows, numbers: np.ndarray, first: int, times: np.ndarray, fps: float) -> None:
    """Raise InputError if counting and times yield different frames."""
    steps = np.diff(times[min(first, int(numbers[0])) : int(numbers[-1]) + 1])
    wrong = np.flatnonzero(np.abs(rows.times * fps - (numbers - first)) > 0.5)
    if len(wrong) and np.ptp(steps) * fps < _MAX_JITTER:
        i = int(wrong[0])
        raise InputError(
            f"{where}: row {i} at {rows.times[i]:.6g} s is frame {round(rows.times[i] * fps)} of the episode at "
            f"{fps:g} fps but frame {numbers[i] - first} by the video's timestamps; encode the video again at {fps:g} "
            "fps"
        )


def _describe_position(times: np.ndarray, target: float) -> str:
    if target > times[-1]:
        return f"after the video's last frame, {len(times) - 1}, at {times[-1]:.6g} s"
    if target < times[0]:
        return f"before the video's first frame at {times[0]:.6g} s"
    after = int(np.searchsorted(times, target))
    return f"between frames at {times[after - 1]:.6g} and {times[after]:.6g} s"


def _fix(rows: Rows, times: np.ndarray, row: int) -> str:
    if row == 0 and rows.times[0] > times[-1] + 1:
        return "subtract the time of each episode's first row from its timestamps"
    if row > 0 and rows.times[row] > times[-1]:
        return "the camera lost frames, or the video was cut: copy it again, or remove the rows"
    return "correct the timestamps, or remove the episode"


def _pair_by_count(
    rows: Rows, span: VideoSpan, next_start: float | None, times: np.ndarray, fps: float
) -> np.ndarray | None:
    """Pair evenly spaced rows and frames of equal number one by one.

    Else None.
    """
    count = len(rows.times)
    first = int(_nearest(times, np.array([span.start]))[0]) if len(times) else 0
    last = first + count - 1
    if count < 2 or last >= len(times) or rows.times[0] * fps > _MAX_DISTANCE:
        return None
    if np.abs(times[first] - span.start) * fps > _MAX_DISTANCE:
        return None
    steps = np.diff(times[first : last + 1]) * fps
    is_drift = abs(float(np.mean(steps)) - 1) < _RATE_TOLERANCE and np.abs(steps - 1).max() < _MAX_JITTER
    if not is_drift or np.abs(np.diff(rows.times) * fps - 1).max() > _MAX_JITTER:
        return None
    end = times[last] + float(np.mean(steps)) / fps
    stops = [time for time in (span.stop, next_start) if time is not None]
    is_complete = last == len(times) - 1
    if stops:
        is_complete = any(abs(end - stop) * fps < 0.5 for stop in stops)
    return np.arange(first, last + 1) if is_complete else None


def _remove_overlaps(file: Path, paired: dict[int, np.ndarray]) -> list[InputError]:
    """Remove episodes that share frames with an earlier one; returns their errors."""
    errors: list[InputError] = []
    previous: int | None = None
    for index in sorted(paired, key=lambda index: (int(paired[index][0]), index)):
        if previous is not None and paired[index][0] <= paired[previous][-1]:
            errors.append(
                InputError(
                    f"{file}: episodes {previous} and {index} share frame {paired[index][0]} by their from_timestamp "
                    "and timestamps, expected separate frames; correct meta/episodes"
                )
            )
            del paired[index]
            continue
        previous = index
    return errors
