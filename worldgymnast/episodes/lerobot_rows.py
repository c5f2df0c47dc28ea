"""The rows of a LeRobotDataset's data files: put in order, validated once, for the reader and the check alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np

from worldgymnast.episodes.lerobot_layout import Layout, Record
from worldgymnast.episodes.lerobot_tasks import Tasks, instruction
from worldgymnast.episodes.lerobot_texts import TEXTS, Texts, chosen
from worldgymnast.episodes.parquet import Table, integers, labels, numbers, read_table, texts, vectors
from worldgymnast.errors import InputError

ACTIONS = ("action", "actions")
_MARKS = ("success", "next.success")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Rows:
    """The rows of one episode, by `frame_index`.

    Attributes:
        record: the episode as the metadata describe it.
        index: int64 [n], their places in the data file.
        times: float64 [n], seconds since the episode began, increasing.
        is_timed: whether the data file says the times, rather than the rate and the order.
        actions: float32 [n a].
        success: bool [n], or None where unlabelled.
        instruction: the sentence, "" for none.
        is_numbered: whether the rows name their task by number.
        has_last_action: whether the action of the last row was recorded, rather than filled in.
        state: float32 [n s], or None.
    """

    record: Record
    index: np.ndarray
    times: np.ndarray
    is_timed: bool
    actions: np.ndarray
    success: np.ndarray | None
    instruction: str
    is_numbered: bool
    has_last_action: bool
    state: np.ndarray | None = None


@dataclass(frozen=True)
class _Columns:
    """What one data file holds, all episodes together."""

    episode: np.ndarray
    frame: np.ndarray | None
    time: np.ndarray | None
    task: np.ndarray | None
    actions: np.ndarray
    success: np.ndarray | None
    after: np.ndarray | None
    is_pad: np.ndarray | None
    state: np.ndarray | None
    texts: dict[str, Texts]


def read_rows(
    found: Layout, tasks: Tasks | None, complain: Callable[[InputError], None], state: bool = False
) -> list[Rows]:
    """The rows of every episode that can be read, in the order of the records.

    Args:
        found: the metadata.
        tasks: the tasks' table.
        complain: called with each error; what it concerns is left out.
        state: read the state, too.
    """
    kept: list[Rows] = []
    for path, group in groupby(sorted(found.records, key=lambda r: (str(r.data), r.index)), key=lambda r: r.data):
        columns = tried(lambda path=path: _columns(path, found, state), complain)
        if columns is None:
            continue
        order = np.argsort(columns.episode, kind="stable")
        sorted_episodes = columns.episode[order]
        for record in group:
            low, high = np.searchsorted(sorted_episodes, [record.index, record.index + 1])
            rows = tried(lambda r=record, own=order[low:high], c=columns: _rows(r, own, c, found, tasks), complain)
            if rows is not None:
                kept.append(rows)
    return sorted(kept, key=lambda rows: rows.record.index)


def tried(work: Callable[[], _T], complain: Callable[[InputError], None]) -> _T | None:
    """What `work` gives; None where it raised, and `complain` is called with the error."""
    try:
        return work()
    except InputError as error:
        complain(error)
        return None


def _columns(path: Path, found: Layout, state: bool) -> _Columns:
    wanted = ("episode_index", "frame_index", "timestamp", "task_index", "action_is_pad", *ACTIONS, *_MARKS, *TEXTS)
    table = read_table(path, (*wanted, found.state) if state else wanted, most=found.most_rows)
    action = found.action if found.action in table else next((name for name in ACTIONS if name in table), found.action)

    def optional(name: str, read: Callable[[Table, str, Path], np.ndarray]) -> np.ndarray | None:
        return read(table, name, path) if name in table else None

    return _Columns(
        episode=integers(table, "episode_index", path),
        frame=optional("frame_index", integers),
        time=optional("timestamp", numbers),
        task=optional("task_index", integers),
        actions=vectors(table, action, path, found.spec.dim),
        success=optional("success", labels),
        after=optional("next.success", labels),
        is_pad=optional("action_is_pad", labels) if found.own else None,
        state=_state(table, path, found) if state else None,
        texts={name: Texts(*text) for name in TEXTS if name in table and (text := texts(table, name, path))},
    )


def _state(table: Table, path: Path, found: Layout) -> np.ndarray | None:
    """float32 [n s], the state, as wide as `meta/info.json` says; None where there is none."""
    feature = found.info["features"].get(found.state)
    if found.state not in table and feature is None:
        return None
    shape = feature.get("shape") if feature else None
    width = shape[0] if isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int else 0
    return vectors(table, found.state, path, width if width > 0 else None)


def _rows(record: Record, own: np.ndarray, columns: _Columns, found: Layout, tasks: Tasks | None) -> Rows:
    """The rows `own` of the data file, which are those of one episode."""
    where = f"{record.data}: episode {record.index}"
    if len(own) != record.rows:
        others = np.unique(columns.episode)
        hint = f"; the file holds episodes {others[0]} to {others[-1]}" if len(others) and not len(own) else ""
        raise InputError(f"{where}: found {len(own)} rows, expected {record.rows} by the metadata{hint}")
    index = _in_order(own, columns, where)
    times = _times(index, columns, found.fps, where)
    actions = columns.actions[index]
    is_pad = columns.is_pad is not None and bool(columns.is_pad[index[-1]])
    is_finite = np.asarray(np.isfinite(actions).all(axis=1))
    if not is_finite[:-1].all():
        raise InputError(
            f"{where}: field '{found.action}' holds NaN or infinity, expected finite numbers; remove the episode "
            f"(row {index[int(np.argmin(is_finite))]} is the first)"
        )
    state = None if columns.state is None else columns.state[index]
    if state is not None and len(bad := np.flatnonzero(~np.isfinite(state).all(axis=1))):
        raise InputError(
            f"{where}: field '{found.state}': row {index[bad[0]]} holds NaN, infinity or nothing, expected finite "
            "numbers; remove the episode, or the feature"
        )
    listed = instruction(record, None if columns.task is None else columns.task[index], tasks)
    return Rows(
        record=record,
        index=index,
        times=times,
        is_timed=columns.time is not None,
        actions=actions,
        success=_success(columns, index) if record.labelled is not False else None,
        instruction=chosen(listed, columns.texts, index, where),
        is_numbered=columns.task is not None,
        has_last_action=bool(is_finite[-1]) and not is_pad,
        state=state,
    )


def _success(columns: _Columns, index: np.ndarray) -> np.ndarray | None:
    """bool [n]: `success` as it stands, or `next.success`, which speaks of the frame after its row."""
    if columns.success is not None:
        return columns.success[index]
    if columns.after is None:
        return None
    after = columns.after[index]
    here = np.concatenate([[False], after[:-1]])
    here[-1] |= after[-1]
    return here


# ---------------------------------------------------------------- order and times


def _in_order(own: np.ndarray, columns: _Columns, where: str) -> np.ndarray:
    """The rows sorted by `frame_index`, or by time where there is none; raises InputError for a number twice."""
    frame = columns.frame
    if frame is None:
        return own if columns.time is None else own[np.argsort(columns.time[own], kind="stable")]
    index = own[np.argsort(frame[own], kind="stable")]
    twice = np.flatnonzero(np.diff(frame[index]) == 0)
    if len(twice):
        first, second = index[twice[0]], index[twice[0] + 1]
        raise InputError(
            f"{where}: field 'frame_index': found {frame[first]} in rows {first} and {second}, expected each once; "
            "remove one of the two"
        )
    return index


def _times(index: np.ndarray, columns: _Columns, fps: float, where: str) -> np.ndarray:
    """float64 [n], seconds since the episode began; raises InputError unless they increase."""
    frame = None if columns.frame is None else columns.frame[index]
    if columns.time is None:
        return _counted(frame, len(index), fps, where)
    times = columns.time[index].astype(np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(times))):
        raise InputError(
            f"{where}: field 'timestamp': row {index[bad[0]]}: found {times[bad[0]]}, expected seconds; correct it"
        )
    if times[0] < -0.5 / fps:
        raise InputError(
            f"{where}: field 'timestamp': row {index[0]}: found {times[0]:g}, expected seconds since the episode "
            "began, 0 or more; correct it"
        )
    if len(bad := np.flatnonzero(np.diff(times) <= 0)):
        i = bad[0]
        after = "" if frame is None else " after it by frame_index"
        raise InputError(
            f"{where}: field 'timestamp': found {times[i]:.6g} s in row {index[i]} and {times[i + 1]:.6g} s in row "
            f"{index[i + 1]}{after}, expected a later time; correct the timestamps"
        )
    if frame is not None:
        _agree(frame, times, index, fps, where)
    return times


def _counted(frame: np.ndarray | None, count: int, fps: float, where: str) -> np.ndarray:
    """The times by the rate, where rows have no timestamps."""
    if frame is None:
        return np.arange(count) / fps
    if frame[0] != 0:
        raise InputError(
            f"{where}: field 'frame_index': found {frame[0]} in its first row and no column timestamp, expected 0; add "
            "timestamps, or count each episode's frames from 0"
        )
    return frame / fps


def _agree(frame: np.ndarray, times: np.ndarray, index: np.ndarray, fps: float, where: str) -> None:
    """Raise InputError where `frame_index` jumps and the timestamps do not, or by another time."""
    steps = np.diff(frame)
    off = np.abs(np.diff(times) * fps - steps)
    bad = np.flatnonzero((steps != 1) & (off > 0.5))
    if len(bad):
        i = bad[0]
        raise InputError(
            f"{where}: rows {index[i]} and {index[i + 1]}: frame_index goes from {frame[i]} to {frame[i + 1]} but "
            f"timestamp from {times[i]:.4g} to {times[i + 1]:.4g} s at {fps:g} fps; which frame belongs to the row is "
            "not decided; correct one of the two columns"
        )


def misfit(rows: Sequence[Rows], fps: float, where: Path) -> InputError | None:
    """The error of timestamps that are no seconds at this rate (milliseconds, another rate), over all episodes."""
    steps = np.concatenate([np.diff(one.times) for one in rows if one.is_timed] or [np.zeros(0)])
    if not len(steps):
        return None
    usual = float(np.median(steps))
    if 2 / 3 <= usual * fps <= 1.5:
        return None
    return InputError(
        f"{where}: field 'fps': found {fps:g}, but half of the rows are {usual:.4g} s or more after the one before by "
        f"their timestamps, expected {1 / fps:.4g} s; correct fps, or give timestamps in seconds"
    )


def uneven(one: Rows, fps: float) -> tuple[float, float] | None:
    """The shortest and longest time between rows, where the time is not constant; else None."""
    steps = np.diff(one.times)
    if not len(steps) or np.abs(steps * fps - 1).max() <= 0.25:
        return None
    return float(steps.min()), float(steps.max())
