"""Where things are in a LeRobotDataset folder, v3.0 (many episodes a file) or v2.1 (a file an episode).

After the schema of lerobot 0.4.4 (`lerobot/datasets/utils.py`). What this project adds is ignored by LeRobot: the key
`worldgymnast` in `meta/info.json` (the action spec), the columns `worldgymnast/...` in `meta/episodes` and the features
`success` and `action_is_pad`. A folder without the key is foreign: its action spec is read off names and statistics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import ActionSpec, ActionSpecMismatch
from worldgymnast.types import InputError

IMAGE_KEY = "observation.images.camera"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
OWN = "worldgymnast"


@dataclass(frozen=True)
class Record:
    """One episode as the metadata describe it.

    Attributes:
        index: its number in the data set.
        rows: number of rows, which is the number of frames.
        data: parquet file with its rows.
        video: file with its frames, or None where the data file holds them.
        video_first: its first frame in that file.
        instruction: the sentence.
        task: name of the task, "" in a foreign data set.
        source: how it came about.
        layout: seed of its scene, -1 for none.
        labelled: whether `success` means anything; None where the rows decide (a foreign data set).
    """

    index: int
    rows: int
    data: Path
    video: Path | None
    video_first: int
    instruction: str
    task: str
    source: str
    layout: int
    labelled: bool | None


@dataclass(frozen=True)
class Layout:
    """A data set's metadata, read and checked for contradictions that would make reading impossible."""

    root: Path
    version: str
    info: dict[str, Any]
    image_key: str
    fps: float
    spec: ActionSpec
    records: tuple[Record, ...]

    @property
    def own(self) -> bool:
        """Whether this project wrote it: T+1 rows an episode, the last without an action."""
        return OWN in self.info

    @property
    def in_data(self) -> bool:
        """Whether the frames are pictures inside the parquet files rather than videos."""
        return self.info["features"][self.image_key]["dtype"] == "image"


def read_json(path: Path) -> Any:
    """The file's JSON; raises InputError where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); is this a LeRobotDataset folder?") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno} is not JSON ({error.msg}); copy the file again") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON lines ({error}); copy the file again") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Columns of a parquet file as arrow arrays, by name; those it does not have are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            table = file.read(names if columns is None else [name for name in names if name in columns])
    except (OSError, pa.ArrowException) as error:
        message = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as parquet ({message}); copy the file again") from error
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def field_of(record: dict[str, Any], name: str, path: Path) -> Any:
    """`record[name]`, or an InputError that names the file."""
    if name not in record:
        raise InputError(f"{path}: field '{name}' is missing, found {sorted(record)[:8]}; is this a LeRobotDataset?")
    return record[name]


def read_layout(root: str | Path, image_key: str | None = None) -> Layout:
    """Reads `meta/`.

    Args:
        root: the data set's folder.
        image_key: which camera; needed only where there are several.

    Raises:
        InputError: missing or contradictory metadata, an unknown version, or no such camera.
    """
    root = Path(root)
    path = root / INFO
    if not path.is_file():
        raise InputError(f"{root}: no {INFO}, expected the folder of a LeRobotDataset v3.0 or v2.1; check the path")
    info = read_json(path)
    version = str(field_of(info, "codebase_version", path))
    features = field_of(info, "features", path)
    if not version.startswith(("v3.", "v2.")):
        raise InputError(f"{path}: field 'codebase_version': found '{version}', expected v3.0 or v2.1; convert it")
    key = _camera(features, image_key, path)
    fps = float(field_of(info, "fps", path))
    spec = _spec(root, info, version, fps)
    records = _records_v3(root, info, key) if version.startswith("v3.") else _records_v2(root, info, key)
    if not records:
        raise InputError(f"{root}: found 0 episodes in meta/, expected at least 1")
    return Layout(root, version, info, key, fps, spec, tuple(records))


def _camera(features: dict[str, Any], wanted: str | None, path: Path) -> str:
    cameras = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    if wanted is None and len(cameras) == 1:
        return cameras[0]
    if wanted is not None and wanted in cameras:
        return wanted
    asked = "one camera" if wanted is None else f"camera '{wanted}'"
    raise InputError(f"{path}: found cameras {cameras}, expected {asked}; name one of them as image_key")


def _spec(root: Path, info: dict[str, Any], version: str, fps: float) -> ActionSpec:
    path = root / INFO
    if OWN in info:
        try:
            return ActionSpec.from_dict(info[OWN]["action_spec"])
        except (KeyError, TypeError, ActionSpecMismatch) as error:
            raise InputError(
                f"{path}: field '{OWN}.action_spec' is no action spec ({error}); write it again"
            ) from error
    feature = field_of(field_of(info, "features", path), "action", path)
    width = int(feature["shape"][0])
    low, high = _action_range(root, version)
    if not len(low) == len(high) == width:
        raise InputError(f"{root / STATS}: field 'action': found {len(low)} numbers, expected {width} as in {INFO}")
    names = _axis_names(feature.get("names"), width)
    return ActionSpec(names, "unknown", tuple(low), tuple(high), frame="unknown", rotation="unknown", rate=fps)


def _axis_names(names: Any, width: int) -> tuple[str, ...]:
    """Axis names, from a list, {"motors": [...]} or {"x": 0, ...}; numbered where there are none."""
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = lists[0] if lists else sorted(names, key=lambda name: names[name])
    if isinstance(names, list) and len(names) == width:
        return tuple(str(name) for name in names)
    return tuple(f"a{index}" for index in range(width))


def _action_range(root: Path, version: str) -> tuple[list[float], list[float]]:
    """The smallest and largest value of each action axis, off the data set's statistics."""
    per_episode = root / "meta/episodes_stats.jsonl"
    if version.startswith("v2.") and per_episode.is_file():
        path, parts = per_episode, [line.get("stats", {}).get("action") for line in read_jsonl(per_episode)]
    else:
        path = root / STATS
        parts = [read_json(path).get("action")] if path.is_file() else []
    found = [part for part in parts if isinstance(part, dict) and "min" in part and "max" in part]
    if not found:
        raise InputError(
            f"{path}: no statistics for 'action', expected its min and max (they are its range); "
            "recompute the data set's statistics with LeRobot"
        )
    low = np.min([part["min"] for part in found], axis=0)
    high = np.max([part["max"] for part in found], axis=0)
    return np.atleast_1d(low).tolist(), np.atleast_1d(high).tolist()


def _records_v3(root: Path, info: dict[str, Any], key: str) -> list[Record]:
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise InputError(
            f"{root / 'meta/episodes'}: found no parquet files, expected at least 1; copy the folder again"
        )
    video = info["features"][key]["dtype"] == "video"
    fps = float(info["fps"])
    records = []
    for path in files:
        table = {name: column.to_pylist() for name, column in _without_stats(path).items()}
        for i in range(len(field_of(table, "episode_index", path))):
            row = {name: column[i] for name, column in table.items()}
            place = {"chunk_index": field_of(row, "data/chunk_index", path), "file_index": row["data/file_index"]}
            file, first = None, 0
            if video:
                at = f"videos/{key}"
                where = {"chunk_index": field_of(row, f"{at}/chunk_index", path), "file_index": row[f"{at}/file_index"]}
                file = root / info["video_path"].format(video_key=key, **where)
                first = round(field_of(row, f"{at}/from_timestamp", path) * fps)
            records.append(_record(row, root / info["data_path"].format(**place), file, first, path))
    return sorted(records, key=lambda record: record.index)


def _without_stats(path: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet ({error}); copy the file again") from error
    return read_table(path, [name for name in names if not name.startswith("stats/")])


def _record(row: dict[str, Any], data: Path, video: Path | None, first: int, path: Path) -> Record:
    sentences = field_of(row, "tasks", path) or [""]
    layout = row.get(f"{OWN}/layout")
    return Record(
        index=int(row["episode_index"]),
        rows=int(field_of(row, "length", path)),
        data=data,
        video=video,
        video_first=first,
        instruction=sentences[0],
        task=row.get(f"{OWN}/task") or "",
        source=row.get(f"{OWN}/source") or "",
        layout=-1 if layout is None else int(layout),
        labelled=row.get(f"{OWN}/labelled"),
    )


def _records_v2(root: Path, info: dict[str, Any], key: str) -> list[Record]:
    path = root / "meta/episodes.jsonl"
    records = []
    for row in read_jsonl(path):
        index = int(field_of(row, "episode_index", path))
        place = {"episode_chunk": index // int(info.get("chunks_size", 1000)), "episode_index": index}
        data = root / info["data_path"].format(**place)
        video = None
        if info["features"][key]["dtype"] == "video":
            video = root / info["video_path"].format(video_key=key, **place)
        records.append(_record(row, data, video, 0, path))
    return sorted(records, key=lambda record: record.index)
