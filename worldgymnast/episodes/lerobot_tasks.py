"""Which sentence belongs to an episode of a LeRobotDataset.

The rows say it: their `task_index` is a number in the tasks' table, as LeRobot reads it. Where rows have no such
column, the episode's own list does. Whatever else names a sentence has to agree; where it does not, one of the two was
rewritten, and only the person who did it knows which holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.episodes.lerobot_layout import TASKS, Record, whole
from worldgymnast.episodes.parquet import pandas_metadata, read_lists
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, parse_json, read_json_lines, short

_LINES = "meta/tasks.jsonl"
TASK_FILES = (TASKS, _LINES)
_NAMES = ("task", "__index_level_0__")


@dataclass(frozen=True)
class Tasks:
    """The tasks' table of a data set.

    Attributes:
        file: where it stands.
        sentences: by `task_index`.
        known: the same without their numbers.
    """

    file: Path
    sentences: Mapping[int, str]
    known: frozenset[str]


def tasks_file(root: Path, old: bool) -> Path:
    """Where the table should be, v2.1 (`old`) or v3.0."""
    return root / (_LINES if old else TASKS)


def read_tasks(root: Path, old: bool) -> Tasks | None:
    """The tasks' table, or None where the data set has none.

    Raises:
        InputError: it cannot be read, or gives one number two sentences.
    """
    for name in (_LINES, TASKS) if old else (TASKS, _LINES):
        path = root / name
        if path.is_file():
            found = _unique(_lines(path) if name == _LINES else _columns(path), path)
            return Tasks(path, found, frozenset(found.values()))
    return None


def _unique(pairs: list[tuple[int, str]], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, sentence in pairs:
        if found.setdefault(number, sentence) != sentence:
            raise InputError(
                f"{path}: task_index {number}: found {short(found[number])} and {short(sentence)}, expected one "
                "sentence a number; remove one"
            )
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    return [(whole(line, "task_index", path), as_text(line.get("task"), path)) for line in read_json_lines(path)]


def _columns(path: Path) -> list[tuple[int, str]]:
    """The table as pandas writes it: sentences as the index or as a column, numbers as a column or as the index."""
    table = read_lists(path)
    sentences = [name for name in _NAMES if name in table]
    sentences += [name for name in table if name not in (*_NAMES, "task_index") and _is_text(table[name])]
    if not sentences:
        raise InputError(
            f"{path}: found the columns {list(table)}, expected 'task_index' and the sentences; correct it"
        )
    count = len(table[sentences[0]])
    indices = table.get("task_index") or _range_index(path, count)
    numbers = [whole({"task_index": index}, "task_index", path) for index in indices]
    return [(n, as_text(task, path)) for n, task in zip(numbers, table[sentences[0]], strict=True)]


def _is_text(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) for value in values)


def _range_index(path: Path, count: int) -> Sequence[int]:
    """The numbers 0, 1, 2, ... that pandas notes instead of storing them; raises InputError where it did not."""
    blob = pandas_metadata(path)
    columns = json_object(parse_json(blob, path), path).get("index_columns") if blob else None
    note = columns[0] if isinstance(columns, list) and columns else None
    if not isinstance(note, dict) or note.get("kind") != "range" or count == 0:
        if count == 0:
            return ()
        raise InputError(f"{path}: field 'task_index' is missing, expected the number of each sentence; write it again")
    start, step = (whole(note, name, path) for name in ("start", "step"))
    return range(start, start + count * step, step) if step else (start,) * count


def as_text(value: Any, path: Path) -> str:
    """A task as text without blanks around it; nothing and NaN are ""."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{path}: field 'task': found {short(value)}, expected a sentence; correct it")
    return str(value).strip()


def instruction(record: Record, numbers: np.ndarray | None, tasks: Tasks | None) -> str:
    """The sentence of an episode.

    Args:
        record: the episode as the metadata describe it.
        numbers: int64 [n], `task_index` of its rows in their order; None where they have none.
        tasks: the tasks' table, None where there is none.

    Without a table the episode's own list counts; that the table is missing is said once, not for each episode.

    Raises:
        InputError: rows have several sentences, a number without one, or the metadata disagree with them.
    """
    listed = [text for task in record.tasks if (text := as_text(task, record.meta))]
    if numbers is None or tasks is None:
        return _listed(record, listed, tasks)
    where = f"{record.data}: episode {record.index}"
    used = np.unique(numbers)
    for number in used:
        if int(number) not in tasks.sentences:
            row = int(np.flatnonzero(numbers == number)[0])
            raise InputError(
                f"{where}: row {row}: field 'task_index': found {number}, expected a number in {tasks.file}; copy it "
                "again"
            )
    said = [tasks.sentences[int(number)] for number in (numbers if len(used) > 1 else numbers[:1])]
    change = next((i for i, sentence in enumerate(said) if sentence != said[0]), None)
    if change is not None:
        raise InputError(
            f"{where}: field 'task_index': found {short(said[0])} up to row {change - 1} and {short(said[change])} in "
            f"row {change}, expected one sentence an episode; split the episode there, or give its rows one task_index"
        )
    if listed and said[0] not in listed and not _is_number_of(record, int(numbers[0])):
        raise InputError(
            f"{record.meta}: episode {record.index}: field 'tasks': found {short(list(record.tasks))}, expected "
            f"{short(said[0])} by task_index {numbers[0]} of its rows and {tasks.file}; correct the one that is wrong"
        )
    return said[0]


def _listed(record: Record, listed: list[str], tasks: Tasks | None) -> str:
    """The sentence by the metadata alone."""
    where = f"{record.meta}: episode {record.index}: field 'tasks'"
    if len(set(listed)) > 1:
        raise InputError(
            f"{where}: found {len(set(listed))} sentences and no column task_index in {record.data}, expected one an "
            "episode; leave the one that holds"
        )
    if not listed:
        return ""
    if tasks is None or listed[0] in tasks.known:
        return listed[0]
    if isinstance(record.tasks[0], int) and record.tasks[0] in tasks.sentences:
        return tasks.sentences[record.tasks[0]]
    raise InputError(f"{where}: found {short(listed[0])}, which is not in {tasks.file}; correct the one that is wrong")


def _is_number_of(record: Record, number: int) -> bool:
    """Whether the episode's list names tasks by number, and this one is among them."""
    return number in [task for task in record.tasks if not isinstance(task, str)]
