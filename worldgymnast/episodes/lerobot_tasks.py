"""The instruction of an episode of a LeRobotDataset.

As in LeRobot, the `task_index` of the rows refers to the tasks table. For rows without that column, the episode's list
of tasks counts. Other sources must agree: after a partial edit it is unknown which one is correct.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.episodes.lerobot_layout import TASKS, Record, integer_field
from worldgymnast.episodes.parquet import pandas_metadata, read_lists
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, parse_json, read_json_lines, short

_LINES = "meta/tasks.jsonl"
TASK_FILES = (TASKS, _LINES)
_NAMES = ("task", "__index_level_0__")


@dataclass(frozen=True)
class Tasks:
    """The tasks table of a dataset.

    Attributes:
        file: the file of the table.
        sentences: sentences by `task_index`.
        known: the set of sentences.
    """

    file: Path
    sentences: Mapping[int, str]
    known: frozenset[str]


def tasks_file(root: Path, is_v2: bool) -> Path:
    """The expected path of the table, v2.1 or v3.0."""
    return root / (_LINES if is_v2 else TASKS)


def read_tasks(root: Path, is_v2: bool) -> Tasks | None:
    """Read the tasks table; None if the dataset has none.

    Raises:
        InputError: the table cannot be read, or has two sentences for one number.
    """
    for name in (_LINES, TASKS) if is_v2 else (TASKS, _LINES):
        path = root / name
        if path.is_file():
            sentences = _unique(_lines(path) if name == _LINES else _columns(path), path)
            return Tasks(path, sentences, frozenset(sentences.values()))
    return None


def _unique(pairs: list[tuple[int, str]], path: Path) -> dict[int, str]:
    sentences: dict[int, str] = {}
    for number, sentence in pairs:
        if sentences.setdefault(number, sentence) != sentence:
            raise InputError(
                f"{path}: task_index {number}: found {short(sentences[number])} and {short(sentence)}, expected one "
                "sentence per number; remove one"
            )
    return sentences


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = read_json_lines(path)
    return [(integer_field(line, "task_index", path), as_text(line.get("task"), path)) for line in lines]


def _columns(path: Path) -> list[tuple[int, str]]:
    """Read the table as written by pandas, with or without an index."""
    table = read_lists(path)
    sentences = [name for name in _NAMES if name in table]
    sentences += [name for name in table if name not in (*_NAMES, "task_index") and _is_text(table[name])]
    if not sentences:
        raise InputError(
            f"{path}: found the columns {list(table)}, expected 'task_index' and the sentences; correct it"
        )
    count = len(table[sentences[0]])
    indices = table.get("task_index") or _range_index(path, count)
    numbers = [integer_field({"task_index": index}, "task_index", path) for index in indices]
    return [(n, as_text(task, path)) for n, task in zip(numbers, table[sentences[0]], strict=True)]


def _is_text(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) for value in values)


def _range_index(path: Path, count: int) -> Sequence[int]:
    """The range index that pandas stores as metadata.

    Raises InputError if there is none.
    """
    blob = pandas_metadata(path)
    columns = json_object(parse_json(blob, path), path).get("index_columns") if blob else None
    note = columns[0] if isinstance(columns, list) and columns else None
    if not isinstance(note, dict) or note.get("kind") != "range" or count == 0:
        if count == 0:
            return ()
        raise InputError(f"{path}: field 'task_index' is missing, expected the number of each sentence; write it again")
    start, step = (integer_field(note, name, path) for name in ("start", "step"))
    return range(start, start + count * step, step) if step else (start,) * count


def as_text(value: Any, path: Path) -> str:
    """A task as stripped text; "" for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{path}: field 'task': found {short(value)}, expected a sentence; correct it")
    return str(value).strip()


def instruction(record: Record, numbers: np.ndarray | None, tasks: Tasks | None) -> str:
    """The sentence of an episode.

    Without a table the episode's list of tasks counts. A missing table is reported elsewhere.

    Args:
        record: the episode in the metadata.
        numbers: int64 [n], `task_index` of its rows in order; None without that column.
        tasks: the tasks table, or None.

    Raises:
        InputError: the rows have several sentences or an unknown number, or the metadata disagree with them.
    """
    listed = [text for task in record.tasks if (text := as_text(task, record.meta))]
    if numbers is None or tasks is None:
        return _listed_sentence(record, listed, tasks)
    where = f"{record.data}: episode {record.index}"
    used = np.unique(numbers)
    for number in used:
        if int(number) not in tasks.sentences:
            row = int(np.flatnonzero(numbers == number)[0])
            raise InputError(
                f"{where}: row {row}: field 'task_index': found {number}, expected a number in {tasks.file}; copy it "
                "again"
            )
    sentences = [tasks.sentences[int(number)] for number in (numbers if len(used) > 1 else numbers[:1])]
    sentence = sentences[0]
    change = next((i for i, other in enumerate(sentences) if other != sentence), None)
    if change is not None:
        raise InputError(
            f"{where}: field 'task_index': found {short(sentence)} up to row {change - 1} and "
            f"{short(sentences[change])} in row {change}, expected one sentence per episode; split the episode there, "
            "or give its rows one task_index"
        )
    if listed and sentence not in listed and not _is_number_of(record, int(numbers[0])):
        raise InputError(
            f"{record.meta}: episode {record.index}: field 'tasks': found {short(list(record.tasks))}, expected "
            f"{short(sentence)} by task_index {numbers[0]} of its rows and {tasks.file}; correct the wrong one"
        )
    return sentence


def _listed_sentence(record: Record, listed: list[str], tasks: Tasks | None) -> str:
    """The sentence in the metadata."""
    where = f"{record.meta}: episode {record.index}: field 'tasks'"
    if len(set(listed)) > 1:
        raise InputError(
            f"{where}: found {len(set(listed))} sentences and no column task_index in {record.data}, expected one per "
            "episode; keep the correct one"
        )
    if not listed:
        return ""
    if tasks is None or listed[0] in tasks.known:
        return listed[0]
    if isinstance(record.tasks[0], int) and record.tasks[0] in tasks.sentences:
        return tasks.sentences[record.tasks[0]]
    raise InputError(f"{where}: found {short(listed[0])}, which is not in {tasks.file}; correct the wrong one")


def _is_number_of(record: Record, number: int) -> bool:
    """Whether the episode's list of tasks contains this number."""
    return number in [task for task in record.tasks if not isinstance(task, str)]
