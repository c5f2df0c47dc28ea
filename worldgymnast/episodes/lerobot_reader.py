"""The reader of LeRobotDataset v3.0 and v2.1, this project's and anyone's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.episodes import lerobot_layout as layout
from worldgymnast.episodes.cache import cached_frames, fingerprint
from worldgymnast.episodes.lerobot_layout import Layout, Record, read_layout, read_table
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.pictures import open_picture
from worldgymnast.types import InputError
from worldgymnast.video import check_rate, iterate, resize


def read(path: str | Path, *, image_key: str | None = None, size: int | tuple[int, int] | None = None) -> EpisodeSet:
    """Reads a data set, v3.0 or v2.1, this project's or anyone's.

    The decoded frames are kept in the user's cache folder (see `cache`) and mapped, so only the first read decodes.

    Args:
        path: the folder.
        image_key: which camera; needed only where there are several.
        size: pixels to resize the frames to.

    Raises:
        InputError: a file is missing, cut short, or contradicts the metadata; names the file and the field.
    """
    found = read_layout(path, image_key)
    order = sorted(
        found.records, key=lambda record: (str(record.video or record.data), record.video_first, record.index)
    )
    first = {
        record.index: int(row) for record, row in zip(order, np.cumsum([0, *(r.rows for r in order)]), strict=False)
    }
    total = sum(record.rows for record in order)
    actions, success, labelled = _read_rows(found, first, total)
    media = {record.video or record.data for record in order}
    meta = {p for p in (found.root / "meta").rglob("*") if p.is_file()}
    key = fingerprint(media | meta, found.image_key, size)
    pixels = "native" if size is None else str(size).replace(" ", "")
    name = f"{found.image_key}-{pixels}".replace("/", "_")
    frames = cached_frames(found.root, name, key, total, lambda: _decoded(found, order, size))
    records = found.records
    return EpisodeSet(
        frames=frames,
        actions=actions,
        success=success,
        first=np.array([first[record.index] for record in records], np.int64),
        length=np.array([record.rows - 1 for record in records], np.int64),
        labelled=labelled,
        instruction=tuple(record.instruction for record in records),
        task=tuple(record.task for record in records),
        source=tuple(record.source for record in records),
        layout=np.array([record.layout for record in records], np.int64),
        spec=found.spec,
        fps=found.robot_fps,
    )


def _read_rows(found: Layout, first: dict[int, int], total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions float32 [n a] with zeros at each last frame, success bool [n], labelled bool [e]."""
    actions = np.zeros((total, found.spec.dim), np.float32)
    success = np.zeros(total, bool)
    labelled: dict[int, bool] = {}
    columns = ("episode_index", "action", "success", "next.success")
    for path, group in groupby(sorted(found.records, key=lambda r: (str(r.data), r.index)), key=lambda r: r.data):
        table = read_table(path, columns)
        episode = numbers(table, "episode_index", path)
        values = action_rows(table, path, found.spec.dim)
        marks = {name: labels(table, name, path) for name in ("success", "next.success") if name in table}
        for record in group:
            rows = np.flatnonzero(episode == record.index)
            if len(rows) != record.rows:
                raise InputError(
                    f"{path}: episode {record.index}: found {len(rows)} rows, expected {record.rows} by the metadata"
                )
            start = first[record.index]
            actions[start : start + record.rows - 1] = values[rows[:-1]]
            given = record.labelled is not False and bool(marks)
            labelled[record.index] = given
            if given:
                success[start : start + record.rows] = _success(marks, rows)
            if not np.isfinite(values[rows[:-1]]).all():
                raise InputError(
                    f"{path}: episode {record.index}: field 'action' holds NaN or infinity, expected finite numbers; "
                    "remove the episode"
                )
    return actions, success, np.array([labelled[record.index] for record in found.records], bool)


def numbers(table: dict[str, Any], name: str, path: Path) -> np.ndarray:
    """A column of numbers or flags as [n]; raises InputError where the file does not have it."""
    return np.asarray(layout.field_of(table, name, path).to_numpy(zero_copy_only=False))


def labels(table: dict[str, Any], name: str, path: Path) -> np.ndarray:
    """A column of success labels, bool [n].

    Raises:
        InputError: it holds anything but flags or numbers: every word would count as a success.
    """
    found = numbers(table, name, path)
    if found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        shown = next((x for x in found.tolist() if x not in (0, 1)), found.dtype)
        raise InputError(f"{path}: field '{name}': found {shown!r}, expected true or false a frame; convert the column")
    return found.astype(bool)


def action_rows(table: dict[str, Any], path: Path, width: int) -> np.ndarray:
    """float32 [n a] of the column `action`."""
    column = layout.field_of(table, "action", path)
    flat = column.flatten() if column.type.num_fields else column
    values = flat.to_numpy(zero_copy_only=False).astype(np.float32)
    if len(values) != len(column) * width:
        raise InputError(
            f"{path}: field 'action': found {len(values) / max(len(column), 1):g} numbers a row, expected {width}; "
            f"correct the shape in {layout.INFO} or the rows"
        )
    return values.reshape(-1, width)


def _success(marks: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """bool [rows]: `success` as it stands, or `next.success`, which speaks of the frame after its row."""
    if "success" in marks:
        return marks["success"][rows]
    after = marks["next.success"][rows]
    here = np.concatenate([[False], after[:-1]])
    here[-1] |= after[-1]
    return here


def _decoded(
    found: Layout, order: list[Record], size: int | tuple[int, int] | None
) -> Iterator[tuple[Path, np.ndarray]]:
    """The frames of the records in that order with their files, each file walked once."""
    for path, group in groupby(order, key=lambda record: record.video or record.data):
        records = list(group)
        if not found.in_data:
            check_rate(path, found.fps, f"as in {found.root / layout.INFO}")
        frames = pictures(path, records, found.image_key) if found.in_data else spans(path, records)
        for frame in frames:
            yield path, frame if size is None else resize(frame, size)


def spans(path: Path, records: list[Record]) -> Iterator[np.ndarray]:
    """The frames of records (sorted by their first frame, not overlapping) of one video file."""
    source = enumerate(iterate(path))
    index = -1
    for record in records:
        for wanted in range(record.video_first, record.video_first + record.rows):
            frame = None
            while index < wanted:
                index, frame = next(source, (1 << 62, None))
            if frame is None or index != wanted:
                end = record.video_first + record.rows
                raise InputError(
                    f"{path}: too few frames for episode {record.index}, which should end at frame {end}; copy it again"
                )
            yield frame


def pictures(path: Path, records: list[Record], key: str) -> Iterator[np.ndarray]:
    """The frames of records kept as PNG or JPEG inside a data file."""
    table = read_table(path, ("episode_index", key))
    episode = numbers(table, "episode_index", path)
    pictures = layout.field_of(table, key, path)
    for record in records:
        for row in np.flatnonzero(episode == record.index):
            blob = pictures[int(row)].as_py()
            data = blob["bytes"] if isinstance(blob, dict) else None
            if not data:
                raise InputError(f"{path}: field '{key}': row {row} holds no picture; embed the images in the data set")
            yield open_picture(data, f"{path}: field '{key}': row {row}")
