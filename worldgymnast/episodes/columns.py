"""One column of a LeRobotDataset's rows, such as `next.reward`, by episode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from worldgymnast.episodes.lerobot_layout import Record, read_layout
from worldgymnast.episodes.parquet import Table, column_names, integers, numbers, read_table
from worldgymnast.errors import InputError

_NEXT = "next."
"""Prefix of columns whose row t tells what the action at frame t led to."""


def read_column(path: str | Path, name: str) -> tuple[Mapping[int, np.ndarray], bool]:
    """Read a column of numbers or booleans, one value per frame.

    Values of a `next.` column belong to the frame after their row. The first frame has NaN then, and the last frame the
    larger of the values of the last two rows.

    Args:
        path: the folder.
        name: name of the column.

    Returns:
        float64 [n] by number of the episode, without those that the dataset marks as unlabelled; and whether the column
        is boolean.

    Raises:
        InputError: the dataset has no such column, or its values are neither numbers nor booleans.
    """
    layout = read_layout(path, "all")
    values: dict[int, np.ndarray] = {}
    are_boolean = True
    for file in sorted({record.data for record in layout.records}):
        if name not in (known := column_names(file)):
            raise InputError(f"{file}: found no column '{name}', expected one of {', '.join(known)}. Correct --column")
        table = read_table(file, ("episode_index", "frame_index", name), max_rows=layout.max_rows)
        column = numbers(table, name, file)
        are_boolean &= column.dtype.kind == "b"
        for record in layout.records:
            if record.data == file and not (name == "success" and record.labelled is False):
                values[record.index] = _of_episode(table, column.astype(np.float64), record, name)
    return values, are_boolean


def _of_episode(table: Table, column: np.ndarray, record: Record, name: str) -> np.ndarray:
    rows = np.flatnonzero(integers(table, "episode_index", record.data) == record.index)
    if "frame_index" in table:
        rows = rows[np.argsort(integers(table, "frame_index", record.data)[rows], kind="stable")]
    values = column[rows]
    if not name.startswith(_NEXT):
        return values
    shifted = np.concatenate([[np.nan], values[:-1]])
    shifted[-1] = np.fmax(shifted[-1], values[-1])
    return shifted
