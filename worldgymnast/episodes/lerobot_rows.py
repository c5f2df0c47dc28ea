"""Sorted and validated rows of a LeRobotDataset's data files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np

from worldgymnast.episodes.lerobot_layout import Layout, Record
from worldgymnast.episodes.lerobot_tasks import Tasks, instruction
from worldgymnast.episodes.lerobot_texts import TEXTS, Texts, choose_sentence
from worldgymnast.episodes.parquet import Table, integers, labels, numbers, read_table, texts, vectors
from worldgymnast.errors import InputError

ACTIONS = ("action", "actions")
_LABELS = ("success", "next.success")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rows:
    """The rows of one episode, sorted by `frame_index`.

    Attributes:
        record: the episode in the metadata.
        index: int64 [n], row numbers in the data file.
        times: float64 [n], seconds since the start of the episode, increasing.
        is_timed: whether the times are stored, rather than computed from the rate.
        actions: float32 [n a].
        success: bool [n]; None if unlabelled.
        instruction: the sentence, "" for none.
        has_task_index: whether the rows have a `task_index`.
        has_last_action: whether the action of the last row was recorded, rather than padded.
        state: float32 [n s], or None.
    """

    record: Record
    index: np.ndarray
    times: np.ndarray
    is_timed: bool
    actions: np.ndarray
    success: np.ndarray | None
    instruction: str
    has_task_index: bool
    has_last_action: bool
    state: np.ndarray | None = None


@dataclass(frozen=True)
class _Columns:
    """The columns of a data file, over all episodes."""

    episode: np.ndarray
    frame: np.ndarray | None
    time: np.ndarray | None
    task: np.ndarray | None
    actions: np.ndarray
    success: np.ndarray | None
    next_success: np.ndarray | None
    is_pad: np.ndarray | None
    state: np.ndarray | None
    texts: dict[str, Texts]


def read_rows(
    layout: Layout, tasks: Tasks | None, report: Callable[[InputError], None], read_state: bool = False
) -> list[Rows]:
    """Read the rows of all valid episodes, in order.

    Args:
        layout: the metadata.
        tasks: the tasks table.
        report: called with each error; the affected episodes are skipped.
        read_state: whether to read the state.
    """
    episodes: list[Rows] = []
    for path, group in groupby(sorted(layout.records, key=lambda r: (str(r.data), r.index)), key=lambda r: r.data):
        columns = call_reporting(lambda path=path: _columns(path, layout, read_state), report)
        if columns is None:
            continue
        order = np.argsort(columns.episode, kind="stable")
        sorted_episodes = columns.episode[order]
        for record in group:
            low, high = np.searchsorted(sorted_episodes, [record.index, record.index + 1])
            read = functools.partial(_rows, record, order[low:high], columns, layout, tasks)
            if (rows := call_reporting(read, report)) is not None:
                episodes.append(rows)
    return sorted(episodes, key=lambda rows: rows.record.index)


def call_reporting(function: Callable[[], Result], report: Callable[[InputError], None]) -> Result | None:
    """Call a function.

    On an InputError, pass it to `report` and return None.
    """
    try:
        return function()
    except InputError as error:
        report(error)
        return None


def _columns(path: Path, layout: Layout, read_state: bool) -> _Columns:
    names = ("episode_index", "frame_index", "timestamp", "task_index", "action_is_pad", *ACTIONS, *_LABELS, *TEXTS)
    table = read_table(path, (*names, *layout.states) if read_state else names, max_rows=layout.max_rows)
    action = layout.action
    if action not in table:
        action = next((name for name in ACTIONS if name in table), action)

    def optional(name: str, read: Callable[[Table, str, Path], np.ndarray]) -> np.ndarray | None:
        return read(table, name, path) if name in table else None

    return _Columns(
        episode=integers(table, "episode_index", path),
        frame=optional("frame_index", integers),
        time=optional("timestamp", numbers),
        task=optional("task_index", integers),
        actions=vectors(table, action, path, layout.spec.dim),
        success=optional("success", labels),
        next_success=optional("next.success", labels),
        is_pad=optional("action_is_pad", labels) if layout.is_own else None,
        state=_state(table, path, layout) if read_state else None,
        texts={name: Texts(*text) for name in TEXTS if name in table and (text := texts(table, name, path))},
    )


def _state(table: Table, path: Path, layout: Layout) -> np.ndarray | None:
    """The state, float32 [n s], with the width declared in `meta/info.json`.

    None if there is none.
    """
    parts = []
    for name in layout.states:
        feature = layout.info["features"].get(name)
        if name not in table and feature is None:
            return None
        shape = feature.get("shape") if feature else None
        width = shape[0] if isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int else 0
        parts.append(vectors(table, name, path, width if width > 0 else None))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _rows(record: Record, unsorted: np.ndarray, columns: _Columns, layout: Layout, tasks: Tasks | None) -> Rows:
    """Sort and validate the rows of one episode."""
    where = f"{record.data}: episode {record.index}"
    if len(unsorted) != record.rows:
        others = np.unique(columns.episode)
        hint = f"; the file has episodes {others[0]} to {others[-1]}" if len(others) and not len(unsorted) else ""
        raise InputError(f"{where}: found {len(unsorted)} rows, expected {record.rows} by the metadata{hint}")
    index = _sort(unsorted, columns, where)
    times = _times(index, columns, layout.fps, where)
    actions = columns.actions[index]
    is_pad = columns.is_pad is not None and bool(columns.is_pad[index[-1]])
    is_finite = np.asarray(np.isfinite(actions).all(axis=1))
    if not is_finite[:-1].all():
        raise InputError(
            f"{where}: field '{layout.action}': found NaN or infinity, expected finite numbers; remove the episode "
            f"(row {index[int(np.argmin(is_finite))]} is the first)"
        )
    state = None if columns.state is None else columns.state[index]
    if state is not None and len(bad := np.flatnonzero(~np.isfinite(state).all(axis=1))):
        raise InputError(
            f"{where}: field '{layout.state}': row {index[bad[0]]}: found NaN, infinity or nothing, expected finite "
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
        instruction=choose_sentence(listed, columns.texts, index, where),
        has_task_index=columns.task is not None,
        has_last_action=bool(is_finite[-1]) and not is_pad,
        state=state,
    )


def _success(columns: _Columns, index: np.ndarray) -> np.ndarray | None:
    """Labels bool [n] from `success` or the shifted `next.success`."""
    if columns.success is not None:
        return columns.success[index]
    if columns.next_success is None:
        return None
    next_success = columns.next_success[index]
    success = np.concatenate([[False], next_success[:-1]])
    success[-1] |= next_success[-1]
    return success


# ---------------------------------------------------------------- order and times


def _sort(rows: np.ndarray, columns: _Columns, where: str) -> np.ndarray:
    """Sort rows by `frame_index`, or else by time; raises InputError for duplicates."""
    frame = columns.frame
    if frame is None:
        return rows if columns.time is None else rows[np.argsort(columns.time[rows], kind="stable")]
    index = rows[np.argsort(frame[rows], kind="stable")]
    duplicates = np.flatnonzero(np.diff(frame[index]) == 0)
    if len(duplicates):
        first, second = index[duplicates[0]], index[duplicates[0] + 1]
        raise InputError(
            f"{where}: field 'frame_index': found {frame[first]} in rows {first} and {second}, expected each once; "
            "remove one of the two"
        )
    return index


def _times(index: np.ndarray, columns: _Columns, fps: float, where: str) -> np.ndarray:
    """Seconds since the start of the episode, float64 [n].

    Raises InputError unless they increase.
    """
    frame = None if columns.frame is None else columns.frame[index]
    if columns.time is None:
        return _times_by_rate(frame, len(index), fps, where)
    times = columns.time[index].astype(np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(times))):
        raise InputError(
            f"{where}: field 'timestamp': row {index[bad[0]]}: found {times[bad[0]]}, expected seconds; correct it"
        )
    if times[0] < -0.5 / fps:
        raise InputError(
            f"{where}: field 'timestamp': row {index[0]}: found {times[0]:g}, expected seconds since the start of the "
            "episode, 0 or more; correct it"
        )
    if len(bad := np.flatnonzero(np.diff(times) <= 0)):
        i = bad[0]
        order = "" if frame is None else ", which is later by frame_index"
        raise InputError(
            f"{where}: field 'timestamp': found {times[i]:.6g} s in row {index[i]} and {times[i + 1]:.6g} s in row "
            f"{index[i + 1]}{order}, expected a later time; correct the timestamps"
        )
    if frame is not None:
        _check_jumps(frame, times, index, fps, where)
    return times


def _times_by_rate(frame: np.ndarray | None, count: int, fps: float, where: str) -> np.ndarray:
    """Times computed from the rate, for rows without timestamps."""
    if frame is None:
        return np.arange(count) / fps
    if frame[0] != 0:
        raise InputError(
            f"{where}: field 'frame_index': found {frame[0]} in the first row and no column timestamp, expected 0; add "
            "timestamps, or count each episode's frames from 0"
        )
    return frame / fps


def _check_jumps(frame: np.ndarray, times: np.ndarray, index: np.ndarray, fps: float, where: str) -> None:
    """Raise InputError if jumps of `frame_index` and of the timestamps differ."""
    steps = np.diff(frame)
    error = np.abs(np.diff(times) * fps - steps)
    bad = np.flatnonzero((steps != 1) & (error > 0.5))
    if len(bad):
        i = bad[0]
        raise InputError(
            f"{where}: rows {index[i]} and {index[i + 1]}: frame_index jumps from {frame[i]} to {frame[i + 1]} but "
            f"timestamp from {times[i]:.4g} to {times[i + 1]:.4g} s at {fps:g} fps. The frame of the row is ambiguous. "
            "Correct one of the two columns"
        )


def rate_error(episodes: Sequence[Rows], fps: float, where: Path) -> InputError | None:
    """The error of timestamps in a different unit or rate.

    None if they fit.
    """
    steps = np.concatenate([np.diff(rows.times) for rows in episodes if rows.is_timed] or [np.zeros(0)])
    if not len(steps):
        return None
    median = float(np.median(steps))
    if 2 / 3 <= median * fps <= 1.5:
        return None
    return InputError(
        f"{where}: field 'fps': found {fps:g}, but the median time between rows is {median:.4g} s by their timestamps, "
        f"expected {1 / fps:.4g} s; correct fps, or give timestamps in seconds"
    )


def uneven_steps(rows: Rows, fps: float) -> tuple[float, float] | None:
    """The shortest and longest time between rows in seconds.

    None if it is constant.
    """
    steps = np.diff(rows.times)
    if not len(steps) or np.abs(steps * fps - 1).max() <= 0.25:
        return None
    return float(steps.min()), float(steps.max())
