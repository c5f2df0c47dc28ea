"""Appends episodes to a LeRobotDataset v3.0 without copying it.

The data set's files are hard-linked into a staging folder, new files and new metadata are written there, and the two
folders change places. So a killed process leaves the old data set, and a reader sees the old or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import ActionSpec
from worldgymnast.episodes import lerobot_layout as layout
from worldgymnast.episodes.lerobot_spec import OWN, STATS, own_field
from worldgymnast.episodes.lerobot_tables import STATE, Contents, episodes_table, rows_table, tasks_table, write_table
from worldgymnast.episodes.lerobot_tasks import read_tasks
from worldgymnast.episodes.lerobot_writer import LeRobotWriter
from worldgymnast.episodes.stats import Stats, aggregate
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object, visible
from worldgymnast.staging import StagedFolder, check_exchange, sync
from worldgymnast.types import Episode

_PLAIN = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_INSTEAD = "Give --out, which writes a new data set"


@dataclass(frozen=True)
class _Base:
    """What is kept of the data set.

    Attributes:
        info: content of meta/info.json.
        listed: table of its episodes.
        schema: of its rows.
        stats: statistics of the whole data set by feature.
        tasks: number of each sentence.
    """

    info: dict[str, Any]
    listed: Any
    schema: Any
    stats: dict[str, Stats]
    tasks: dict[str, int]

    @property
    def has_labels(self) -> bool:
        """Whether rows have a success label."""
        return "success" in self.info["features"]


class LeRobotAppender(LeRobotWriter):
    """Atomic writer of further episodes into an existing data set; use as a context manager.

    Attributes:
        base_episodes: number of episodes that it had.
    """

    def __init__(self, folder: StagedFolder, first: Episode, spec: ActionSpec, fps: float):
        """Stage the data set.

        Args:
            folder: staged, and replaces the data set.
            first: its first episode.
            spec: meaning of the actions, with bounds that include old and new ones.
            fps: frames per second of robot time.

        Raises:
            InputError: it has columns or files that this project does not write, or another process writes it.
        """
        path = folder.target
        try:
            self._base = base = _read_base(path, first)
            lossless = "video.pix_fmt" not in (base.info["features"][first.camera].get("info") or {})
            super().__init__(folder, spec, fps, lossless=lossless and own_field(base.info) is not None)
            if self._rate != base.info["fps"]:
                raise InputError(f"{path}: found {base.info['fps']} frames per second, expected {fps:g}. {_INSTEAD}")
            _link_files(path, self._root)
            check_exchange(self._root, path)
            numbers = base.listed["episode_index"].to_pylist()
            self.base_episodes = len(numbers)
            self.episodes, self.frames = max(numbers) + 1, max(base.listed["dataset_to_index"].to_pylist())
            self._tasks, self._part = dict(base.tasks), _last_part(base)
            self._contents = Contents.of(first)
        except BaseException:
            folder.discard()
            raise

    def add(self, episode: Episode) -> None:
        """Append an episode.

        Raises:
            InputError: it does not match the data set, or its label cannot be stored.
        """
        where = f"{self.path}: episode {self.episodes} of task '{episode.task}'"
        if episode.success is not None and not self._base.has_labels:
            raise InputError(f"{where}: has a success label, but the data set has no column 'success'. {_INSTEAD}")
        tells = f"{OWN}/labelled" in self._base.listed.column_names
        if episode.success is None and self._base.has_labels and not tells:
            raise InputError(
                f"{where}: has no success label, which the data set's column 'success' cannot express. Add --labels, "
                "or give --out, which writes a new data set"
            )
        super().add(episode)

    def _schema(self, columns: dict[str, np.ndarray]) -> Any:
        return self._base.schema

    def _table(self, columns: dict[str, np.ndarray]) -> Any:
        names = self._base.schema.names
        return rows_table({name: columns[name] for name in names}).cast(self._base.schema)

    def _remove_labels(self) -> None:
        """Keep the column, in which old episodes may have labels."""

    def _write_meta(self) -> None:
        base, root = self._base, self._root
        listed = _joined(base, episodes_table(self._rows, self._stats))
        stats = {name: aggregate([old, *(new[name] for new in self._stats)]) for name, old in base.stats.items()}
        info = _updated(base.info, listed.num_rows, self.frames, len(self._tasks), self.spec)
        shutil.rmtree(root / "meta/episodes")
        write_table(listed, root / layout.EPISODES.format(chunk_index=0, file_index=0))
        write_table(tasks_table(self._tasks), _fresh(root / layout.TASKS))
        old = read_json_object(self.path / STATS)
        for name, value in (
            (layout.INFO, info),
            (STATS, old | {name: {key: part.tolist() for key, part in one.items()} for name, one in stats.items()}),
        ):
            _fresh(root / name).write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")
        for folder, _, names in os.walk(root):
            for path in (Path(folder) / name for name in names):
                if not path.is_symlink() and path.stat().st_nlink == 1:  # new, not a link to an old file
                    sync(path)


def _fresh(path: Path) -> Path:
    """A path whose hard link is removed, so that writing does not change the old file."""
    path.unlink(missing_ok=True)
    return path


def _read_base(path: Path, first: Episode) -> _Base:
    """Read the data set's metadata; `first` is one of its episodes.

    Raises:
        InputError: it is none of LeRobot v3.0, or has what this project does not write.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = layout.read_layout(path, "all")
    info = known.info
    if known.is_v2:
        raise InputError(f"{path}: found LeRobot {known.version}, expected v3.0. {_INSTEAD}")
    for name, expected in (("data_path", layout.DATA), ("video_path", layout.VIDEO)):
        if info.get(name) != expected:
            raise InputError(f"{path}: field '{name}': found {info.get(name)}, expected {expected}. {_INSTEAD}")
    if known.splits.left_out or len(info.get("splits") or {"train": ""}) > 1:
        raise InputError(f"{path}: has several splits, so the place of new episodes is unknown. {_INSTEAD}")
    for name, feature in info["features"].items():
        if feature.get("dtype") == "video" and name not in Contents.of(first).cameras:
            raise InputError(f"{path}: camera '{name}' is not read, so added episodes would lack it. {_INSTEAD}")
        if feature.get("dtype") == "video" or name in (STATE, "action", "success", *_PLAIN):
            continue
        raise InputError(f"{path}: has '{name}', which added episodes would lack. {_INSTEAD}")
    files = visible((path / "meta/episodes").rglob("*.parquet"))
    listed = pa.concat_tables([pq.read_table(_open(file)) for file in files], promote_options="permissive")
    rows = pq.read_schema(_open(max(record.data for record in known.records)))
    if missing := set(rows.names) - {STATE, "action", "success", *_PLAIN}:
        raise InputError(f"{path}: has the column '{min(missing)}', which added episodes would lack. {_INSTEAD}")
    tasks = read_tasks(path, False)
    if tasks is None or tasks.file != path / layout.TASKS:
        raise InputError(f"{path}: found no {layout.TASKS}, to which instructions are added. {_INSTEAD}")
    numbers = {sentence: number for number, sentence in tasks.sentences.items()}
    if sorted(tasks.sentences) != list(range(len(numbers))):
        raise InputError(f"{tasks.file}: the numbers of the tasks have gaps or repeat sentences. {_INSTEAD}")
    return _Base(info, listed, rows, _read_stats(path, known), numbers)


def _open(path: Path) -> Any:
    """Open a parquet file; pyarrow takes some paths for addresses."""
    import pyarrow as pa

    return pa.OSFile(str(path))


def _read_stats(path: Path, known: layout.Layout) -> dict[str, Stats]:
    """Statistics by feature, each with a count of rows.

    Raises:
        InputError: they are missing or no numbers.
    """
    rows = sum(record.rows for record in known.all_records)
    result: dict[str, Stats] = {}
    for name, part in read_json_object(path / STATS).items():
        if name not in known.info["features"]:
            continue
        try:
            stats = {key: np.asarray(value, float) for key, value in part.items()}
            _ = [stats[key] for key in ("min", "max", "mean", "std")]
            stats["count"] = np.asarray(part.get("count", [rows]), np.int64).reshape(-1)[:1]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path / STATS}: field '{name}': no statistics of numbers. {_INSTEAD}") from error
        result[name] = stats
    return result


def _link_files(source: Path, target: Path) -> None:
    """Hard-link all files of a folder into another; links to files elsewhere are kept as they are."""
    for folder, _, names in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            file = Path(folder) / name
            if file.is_symlink():
                os.symlink(os.readlink(file), place / name)
                continue
            try:
                os.link(file, place / name)
            except OSError as error:
                raise InputError(
                    f"{source}: cannot be added to in place, because the file system has no hard links "
                    f"({error.strerror}). {_INSTEAD}"
                ) from error


def _last_part(base: _Base) -> int:
    """Number of the last data or video file."""
    chunks = int(base.info.get("chunks_size", 1000))
    names = [name for name in base.listed.column_names if name.endswith("/file_index") and not name.startswith("meta/")]
    last = 0
    for name in names:
        chunk = base.listed[name.replace("file_index", "chunk_index")].to_pylist()
        last = max(last, *(c * chunks + f for c, f in zip(chunk, base.listed[name].to_pylist(), strict=True)))
    return last


def _joined(base: _Base, new: Any) -> Any:
    """The table of all episodes, with the columns of the old one and those of this project."""
    import pyarrow as pa

    old = base.listed
    defaults = {"task": "", "source": "", "layout": None, "labelled": base.has_labels}
    for name in (name for name in new.column_names if name.startswith(f"{OWN}/") and name not in old.column_names):
        values = [defaults[name.removeprefix(f"{OWN}/")]] * old.num_rows
        old = old.append_column(name, pa.array(values, new.schema.field(name).type))
    for name in ("meta/episodes/chunk_index", "meta/episodes/file_index"):  # one file lists all
        if name in old.column_names:
            old = old.set_column(old.column_names.index(name), name, pa.array([0] * old.num_rows, pa.int64()))
    columns = [
        new[field.name].cast(field.type) if field.name in new.column_names else pa.nulls(new.num_rows, field.type)
        for field in old.schema
    ]
    return pa.concat_tables([old, pa.table(columns, schema=old.schema)])


def _updated(info: Mapping[str, Any], episodes: int, frames: int, tasks: int, spec: ActionSpec) -> dict[str, Any]:
    """Content of meta/info.json with new totals, and with the bounds of all actions."""
    result: dict[str, Any] = json.loads(json.dumps(info))
    result |= {"total_episodes": episodes, "total_frames": frames, "total_tasks": tasks}
    if result.get("splits"):
        result["splits"] = dict.fromkeys(result["splits"], f"0:{episodes}")
    for block in (result.get(OWN), result["features"]["action"].get(OWN)):
        if isinstance(block, dict) and {"low", "high"} <= set(block.get("action_spec") or {}):
            block["action_spec"] |= {"low": list(spec.low), "high": list(spec.high)}
    return result
