"""Labels from a column of the data and from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldgymnast.episodes import formats
from worldgymnast.episodes.columns import read_column
from worldgymnast.episodes.labels import Label, keys_of
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.files import short

_TRUE, _FALSE = ("true", "1", "yes", "y", "success"), ("false", "0", "no", "n", "failure")
_MAX_CSV_BYTES = 2**26


def labels_from_column(
    path: Path, episodes: EpisodeSet, numbers: Sequence[int], column: str, threshold: float | None
) -> list[Label]:
    """Labels by a column: an episode succeeds if a value reaches the threshold, from the first such frame on.

    Args:
        path: the dataset.
        episodes: its episodes.
        numbers: number of each.
        column: "success", "next.success", "next.reward" or any column of numbers or booleans.
        threshold: smallest value of a success; not needed for booleans, nor for values 0 and 1.

    Raises:
        InputError: there is no such column, or a threshold is missing.
    """
    keys = keys_of(episodes)
    if not formats.detect(path).startswith("lerobot"):
        if column != "success" or not episodes.labelled.any():
            raise InputError(f"{path}: found no column '{column}'. Only LeRobot data sets have columns. Use --csv FILE")
        return [
            _label(numbers[e], keys[e], column, episodes.success[first : first + int(episodes.length[e]) + 1])
            for e, first in enumerate(episodes.first.tolist())
            if episodes.labelled[e]
        ]
    values, is_boolean = read_column(path, column)
    present = np.concatenate([np.zeros(0), *(part[~np.isnan(part)] for part in values.values())])
    if threshold is None and not is_boolean and not np.isin(present, (0, 1)).all():
        raise InputError(
            f"--reward-threshold: missing, but column '{column}' has values from {present.min():g} to "
            f"{present.max():g}. Give the smallest value of a success"
        )
    least = 1.0 if threshold is None else threshold
    return [
        _label(number, key, column, values[number] >= least)
        for number, key in zip(numbers, keys, strict=True)
        if number in values and not np.isnan(values[number]).all()
    ]


def _label(number: int, key: str, labeller: str, success: np.ndarray) -> Label:
    frame = int(np.argmax(success)) if success.any() else None
    return Label(number, key, labeller, bool(success.any()), frame)


def labels_from_csv(path: Path, episodes: EpisodeSet, numbers: Sequence[int], labeller: str) -> list[Label]:
    """Labels of a CSV file with the columns episode, success and perhaps frame, in any order, or without a header.

    Without a header the columns are episode, success; or episode, frame, success.

    Raises:
        InputError: a line names an unknown episode, one that is already labelled, no boolean or no frame of the
            episode; names the line.
    """
    position = {number: e for e, number in enumerate(numbers)}
    keys, lines = keys_of(episodes), dict[int, int]()
    found: list[Label] = []
    for line, row in _rows(path):
        where = f"{path}: line {line}"
        number = _integer(row["episode"])
        if number is None or number not in position:
            known = f"{min(position)} to {max(position)}" if len(position) > 1 else str(min(position))
            raise InputError(
                f"{where}: found episode {short(row['episode'])}, expected one of {known}. Correct the line"
            )
        if number in lines:
            raise InputError(
                f"{where}: episode {number} was already labelled in line {lines[number]}. Remove one of them"
            )
        lines[number] = line
        e = position[number]
        success = _boolean(row["success"], where)
        frame = _frame(row.get("frame", ""), success, int(episodes.length[e]), where)
        found.append(Label(number, keys[e], labeller, success, frame))
    if not found:
        raise InputError(f"{path}: found no labels, expected lines such as: 0,true. Add them")
    return found


def _problem(path: Path) -> str:
    """Why there is no CSV file to read; empty if there is one."""
    if path.is_dir():
        return "is a folder"
    if not path.exists():
        return "no such file"
    return "" if path.is_file() and path.stat().st_size <= _MAX_CSV_BYTES else "too large"


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with their numbers."""
    if problem := _problem(path):
        raise InputError(f"{path}: {problem}. Give a CSV file with the columns episode and success")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as CSV in UTF-8") from error
    head = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=head.count), skipinitialspace=True)
    try:
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: cannot be read as CSV ({error}). Correct it") from error
    if not cells:
        raise InputError(f"{path}: is empty, expected the columns episode and success. Add labels")
    names = _header(cells[0][1], path)
    if _integer(cells[0][1][0]) is None:
        cells = cells[1:]
    for line, row in cells:
        if len(row) != len(names):
            raise InputError(
                f"{path}: line {line}: found {len(row)} values, expected {len(names)} ({', '.join(names)})"
            )
    return [(line, dict(zip(names, row, strict=True))) for line, row in cells]


def _header(first: Sequence[str], path: Path) -> list[str]:
    if _integer(first[0]) is not None:
        if len(first) not in (2, 3):
            raise InputError(
                f"{path}: line 1: found {len(first)} values, expected episode,success or episode,frame,success"
            )
        return ["episode", "success"] if len(first) == 2 else ["episode", "frame", "success"]
    names = [name.casefold() for name in first]
    for name in ("episode", "success"):
        if names.count(name) != 1:
            raise InputError(
                f"{path}: line 1: found the columns {', '.join(first)}, expected '{name}' once. Correct it"
            )
    return names


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _boolean(text: str, where: str) -> bool:
    word = text.casefold()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise InputError(f"{where}: field 'success': found {short(text)}, expected true or false. Correct the line")


def _frame(text: str, success: bool, last: int, where: str) -> int | None:
    if not text:
        return None
    frame = _integer(text)
    if frame is None or frame > last:
        raise InputError(
            f"{where}: field 'frame': found {short(text)}, expected 0 to {last}, or nothing. Correct the line"
        )
    if not success:
        raise InputError(f"{where}: field 'frame': found {frame} for a failure, expected nothing. Correct the line")
    return frame
