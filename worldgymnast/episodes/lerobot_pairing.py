"""Which frame of a video belongs to which row of a LeRobotDataset, decided by time.

A row's frame is the one shown at the episode's `from_timestamp` plus the row's `timestamp`, as in LeRobot: the nearest,
which must be clearly nearer than the next, no other row's, and not beyond the episode's end. An episode whose rows all
lie beside their frames is refused: which frame is meant is not decided then. One exception: where rows and video run
evenly at slightly different rates (a 29.97 video said to be 30), they drift apart until no frame is near; then an
episode with exactly as many frames as rows is paired one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldgymnast.episodes.lerobot_layout import INFO, Place
from worldgymnast.episodes.lerobot_rows import Rows
from worldgymnast.errors import InputError
from worldgymnast.video_reader import frame_times

_NEAR = 0.45
"""How far a row's frame may be, in steps of the rate; at 0.5 two frames are equally near."""
_BESIDE = 0.25
"""How far the rows of an episode may be from their frames in the middle, in steps, all to one side."""
_OFF_START = 0.1
"""How far `from_timestamp` may be from a frame, in steps, in a video with frames of no row."""
_SAME_RATE = 0.05
_UNEVEN_RATE = 1.5
_EVEN = 0.1


@dataclass(frozen=True)
class Pairing:
    """The frames of the episodes that have some in one video.

    Attributes:
        file: the video.
        frames: by episode, int64 [n], numbers of the frames of its rows, increasing.
        errors: what is wrong with the other episodes.
        unused: how many frames belong to no row.
    """

    file: Path
    frames: dict[int, np.ndarray]
    errors: tuple[InputError, ...]
    unused: int = 0


def pair(file: Path, episodes: Sequence[tuple[Rows, Place]], fps: float, root: Path) -> Pairing:
    """Pairs the rows of `episodes`, all of whose frames are in `file`, with its frames."""
    try:
        stamps = frame_times(file, since_first=False)
        _same_rate(file, stamps, fps, root)
    except InputError as error:
        return Pairing(file, {}, (error,))
    found = _paired(file, episodes, stamps, fps)
    if found.errors and len(stamps) and abs(stamps[0]) * fps > _EVEN:
        late = _paired(file, episodes, stamps - stamps[0], fps)  # stamped late as a whole, as some encoders do
        found = found if late.errors or late.unused else late
    return found


def _same_rate(file: Path, times: np.ndarray, fps: float, root: Path) -> None:
    """Raise InputError where the video runs at another rate than the rows.

    Of an uneven video one of two rates has to fit: the usual one, where frames were lost, or the mean, where the time
    between frames trembles. Where both are somewhat off, the rows' times decide.
    """
    if len(times) < 2:
        return
    steps = np.diff(times)
    rate, mean = 1 / float(np.median(steps)), 1 / float(np.mean(steps))
    is_uneven = np.ptp(steps) * fps > _EVEN and 1 / _UNEVEN_RATE < rate / fps < _UNEVEN_RATE
    if min(abs(rate / fps - 1), abs(mean / fps - 1)) > _SAME_RATE and not is_uneven:
        raise InputError(
            f"{file}: found a video of {rate:.5g} frames per second, expected {fps:g} as in {root / INFO}; encode it "
            "again at that rate, or correct fps"
        )


def _same_clock(file: Path, places: Sequence[Place], times: np.ndarray, fps: float) -> None:
    """Raise InputError where `from_timestamp` counts frames at the nominal rate and the video runs at another.

    Then the frame at that time is not the frame of that number, and which one is meant is not known.
    """
    if len(times) < 2:
        return
    start = np.array([place.start for place in places])
    nearest = _nearest(times, start)
    nominal = np.round(start * fps).astype(np.int64)
    if (nearest == nominal).all() or not (start * fps < len(times)).all():
        return
    off = float((np.abs(times[nearest] - start) * fps).max())
    off_nominal = float(np.abs(start * fps - nominal).max())
    if off_nominal < min(off, _EVEN) or max(off, off_nominal) < 0.02:
        worst = int(np.argmax(nearest != nominal))
        raise InputError(
            f"{file}: field 'from_timestamp': found {start[worst]:g} s, which is frame {nominal[worst]} at {fps:g} fps "
            f"but frame {nearest[worst]} by the video's own time; correct from_timestamp or encode the video again at "
            f"{fps:g} fps"
        )


def _paired(file: Path, episodes: Sequence[tuple[Rows, Place]], times: np.ndarray, fps: float) -> Pairing:
    try:
        _same_clock(file, [place for _, place in episodes], times, fps)
    except InputError as error:
        return Pairing(file, {}, (error,))
    made: dict[int, np.ndarray] = {}
    errors: list[InputError] = []
    starts = sorted(place.start for _, place in episodes)
    for rows, place in episodes:
        try:
            made[rows.record.index] = _by_time(file, rows, place, times, fps)
        except InputError as error:
            later = next((start for start in starts if start > place.start), None)
            numbers = _one_by_one(rows, place, later, times, fps)
            if numbers is None:
                errors.append(error)
            else:
                made[rows.record.index] = numbers
    errors += _overlaps(file, made)
    unused = len(times) - sum(map(len, made.values()))
    if unused and not errors:
        errors = _loose_starts(file, [(r, place) for r, place in episodes if r.record.index in made], times, fps)
        for index in [r.record.index for r, _ in episodes] if errors else ():
            made.pop(index, None)
    return Pairing(file, made, tuple(errors), unused)


def _loose_starts(
    file: Path, episodes: Sequence[tuple[Rows, Place]], times: np.ndarray, fps: float
) -> list[InputError]:
    """The error of a `from_timestamp` beside its frame, in a video with frames that no row has.

    Such times drift from episode to episode, and where neighbors were removed nothing says by how many frames. Times
    that count frames at the nominal rate are told by `_same_clock`.
    """
    for rows, place in episodes:
        nearest = float(times[_nearest(times, np.array([place.start]))[0]])
        off, off_nominal = (place.start - nearest) * fps, abs(place.start * fps - round(place.start * fps))
        if place.start > 0 and abs(off) > _OFF_START and off_nominal > 0.02:
            return [
                InputError(
                    f"{file}: episode {rows.record.index}: field 'from_timestamp': found {place.start:.6g} s, "
                    f"{abs(off):.2f} of a step from the nearest frame at {nearest:.6g} s, in a video with frames of no "
                    "row; which frame is the first is not decided; correct from_timestamp in meta/episodes"
                )
            ]
    return []


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [n], the number of the frame nearest to each time."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    if len(times) < 2:
        return np.zeros(len(wanted), np.int64)
    return after - (wanted - times[after - 1] <= times[after] - wanted)


def _by_time(file: Path, rows: Rows, place: Place, times: np.ndarray, fps: float) -> np.ndarray:
    """The frame at each row's time.

    Raises:
        InputError: a row has no frame near, two rows have one frame, or a row lies beyond the episode's end.
    """
    wanted = place.start + rows.times
    where = f"{file}: episode {rows.record.index}"
    if not len(times):
        raise InputError(f"{file}: found no frames, expected some; copy it again")
    numbers = _nearest(times, wanted)
    far = np.flatnonzero(np.abs(times[numbers] - wanted) * fps > _NEAR)
    if len(far):
        i = int(far[0])
        raise InputError(
            f"{where}: row {i} is at {wanted[i]:.6g} s ({place.start:g} + {rows.times[i]:.6g}), "
            f"{_around(times, wanted[i])}; no frame belongs to it; {_advice(rows, times, i)}"
        )
    twice = np.flatnonzero(np.diff(numbers) <= 0)
    if len(twice):
        i = int(twice[0])
        raise InputError(
            f"{where}: rows {i} and {i + 1} at {wanted[i]:.6g} and {wanted[i + 1]:.6g} s have one frame, at "
            f"{times[numbers[i]]:.6g} s, expected one each; correct the timestamps or encode the video again"
        )
    _unambiguous(where, rows, numbers, int(_nearest(times, np.array([place.start]))[0]), times, fps)
    _beside(where, place, wanted, numbers, times, fps)
    if place.stop is not None and times[numbers[-1]] > place.stop - 0.5 / fps:
        i = int(np.argmax(times[numbers] > place.stop - 0.5 / fps))
        raise InputError(
            f"{where}: row {i} is at {wanted[i]:.6g} s, but the episode ends at {place.stop:.6g} s by to_timestamp: "
            "the frame there is the next episode's; correct the timestamps or to_timestamp in meta/episodes"
        )
    return numbers


def _beside(where: str, place: Place, wanted: np.ndarray, numbers: np.ndarray, times: np.ndarray, fps: float) -> None:
    """Raise InputError where the rows as a whole are beside their frames: which frame is meant is not decided."""
    off = float(np.median(wanted - times[numbers]))
    if abs(off) * fps > _BESIDE:
        side = "after" if off > 0 else "before"
        raise InputError(
            f"{where}: rows from {wanted[0]:.6g} s on are {abs(off):.4g} s ({abs(off) * fps:.2f} of a step) {side} "
            f"their nearest frames throughout (limit {_BESIDE:g}); which frame is meant is not decided; correct "
            f"from_timestamp ({place.start:g}) or the timestamps by that"
        )


def _unambiguous(where: str, rows: Rows, numbers: np.ndarray, first: int, times: np.ndarray, fps: float) -> None:
    """Raise InputError where counting at the rate gives other frames than the time, in a video that runs evenly."""
    steps = np.diff(times[min(first, int(numbers[0])) : int(numbers[-1]) + 1])
    off = np.flatnonzero(np.abs(rows.times * fps - (numbers - first)) > 0.5)
    if len(off) and np.ptp(steps) * fps < _EVEN:
        i = int(off[0])
        raise InputError(
            f"{where}: row {i} at {rows.times[i]:.6g} s is frame {round(rows.times[i] * fps)} of the episode at "
            f"{fps:g} fps but frame {numbers[i] - first} by the video's own time; encode the video again at {fps:g} fps"
        )


def _around(times: np.ndarray, wanted: float) -> str:
    if wanted > times[-1]:
        return f"after the video's last frame, {len(times) - 1}, at {times[-1]:.6g} s"
    if wanted < times[0]:
        return f"before the video's first frame at {times[0]:.6g} s"
    after = int(np.searchsorted(times, wanted))
    return f"between frames at {times[after - 1]:.6g} and {times[after]:.6g} s"


def _advice(rows: Rows, times: np.ndarray, row: int) -> str:
    if row == 0 and rows.times[0] > times[-1] + 1:
        return "subtract the time of each episode's first row from its timestamps"
    if row > 0 and rows.times[row] > times[-1]:
        return "the camera lost frames, or the video was cut: copy it again, or remove the rows"
    return "correct the timestamps, or remove the episode"


def _one_by_one(rows: Rows, place: Place, later: float | None, times: np.ndarray, fps: float) -> np.ndarray | None:
    """The frames from the episode's first on, where both run evenly and there are exactly as many; else None."""
    count = len(rows.times)
    first = int(_nearest(times, np.array([place.start]))[0]) if len(times) else 0
    last = first + count - 1
    if count < 2 or last >= len(times) or rows.times[0] * fps > _NEAR:
        return None
    if np.abs(times[first] - place.start) * fps > _NEAR:
        return None
    steps = np.diff(times[first : last + 1]) * fps
    drifts = abs(float(np.mean(steps)) - 1) < _SAME_RATE and np.abs(steps - 1).max() < _EVEN
    if not drifts or np.abs(np.diff(rows.times) * fps - 1).max() > _EVEN:
        return None
    end = times[last] + float(np.mean(steps)) / fps
    stops = [time for time in (place.stop, later) if time is not None]
    ends = last == len(times) - 1 if not stops else any(abs(end - stop) * fps < 0.5 for stop in stops)
    return np.arange(first, last + 1) if ends else None


def _overlaps(file: Path, made: dict[int, np.ndarray]) -> list[InputError]:
    """Errors of episodes that have frames in common; they are taken out of `made`."""
    errors: list[InputError] = []
    before: int | None = None
    for index in sorted(made, key=lambda index: (int(made[index][0]), index)):
        if before is not None and made[index][0] <= made[before][-1]:
            errors.append(
                InputError(
                    f"{file}: episodes {before} and {index} have frame {made[index][0]} in common by their "
                    "from_timestamp and timestamps, expected frames of its own for each; correct meta/episodes"
                )
            )
            del made[index]
            continue
        before = index
    return errors
