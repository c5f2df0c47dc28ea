"""Where things are in a LeRobotDataset folder, v3.0 (many episodes a file) or v2.1 (a file an episode).

After the schema of lerobot 0.4.4 (`lerobot/datasets/utils.py`). What this project adds is ignored by LeRobot: the key
`worldgymnast` in `meta/info.json` (the action spec), the columns `worldgymnast/...` in `meta/episodes` and the features
`success` and `action_is_pad`. A folder without the key is foreign: its action spec is read off names and statistics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgymnast.actions import ActionSpec
from worldgymnast.episodes.lerobot_spec import INFO, OWN, own_fps, own_place, positive, read_spec
from worldgymnast.files import json_object, short
from worldgymnast.types import InputError

IMAGE_KEY = "observation.images.camera"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


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
        """Whether this project wrote it; before format 2 the last row of an episode has no action."""
        return own_place(self.info) is not None

    @property
    def robot_fps(self) -> float:
        """Frames per second of robot time: `fps`, or the fraction this project kept beside LeRobot's whole number."""
        return own_fps(self.info, self.root / INFO) or self.fps

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


def read_object(path: Path) -> dict[str, Any]:
    """The file's JSON, which must be an object."""
    return json_object(read_json(path), path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON lines ({error}); copy the file again") from error
    return [json_object(line, path, f"line {number}") for number, line in enumerate(lines, 1)]


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


def _whole(row: dict[str, Any], name: str, path: Path, least: int = 0) -> int:
    value = field_of(row, name, path)
    if not isinstance(value, int | float) or value != value // 1 or value < least:
        raise InputError(
            f"{path}: field '{name}': found {value!r}, expected a whole number of at least {least}; copy the file again"
        )
    return int(value)


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
    info = read_object(path)
    version = str(field_of(info, "codebase_version", path))
    features = json_object(field_of(info, "features", path), path, "features")
    for name, feature in features.items():
        json_object(feature, path, f"features.{name}")
    if not version.startswith(("v3.", "v2.")):
        raise InputError(f"{path}: field 'codebase_version': found '{version}', expected v3.0 or v2.1; convert it")
    key = _camera(features, image_key, path)
    fps = positive(field_of(info, "fps", path), "fps", path)
    spec = read_spec(root, info, version, fps)
    records = _records_v3(root, info, key, fps) if version.startswith("v3.") else _records_v2(root, info, key)
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
    hint = "name one of them as image_key" if cameras else "copy the file again"
    raise InputError(f"{path}: field 'features': found cameras {cameras}, expected {asked}; {hint}")


def _place(root: Path, info: dict[str, Any], name: str, **where: int | str) -> Path:
    """The file that the template `info[name]` names."""
    path = root / INFO
    template = field_of(info, name, path)
    try:
        return root / str.format(template, **where)
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        known = ", ".join(f"{{{key}}}" for key in where)
        raise InputError(
            f"{path}: field '{name}': found {short(template)}, expected a path with no placeholders but {known}; "
            "correct it"
        ) from error


def _records_v3(root: Path, info: dict[str, Any], key: str, fps: float) -> list[Record]:
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise InputError(
            f"{root / 'meta/episodes'}: found no parquet files, expected at least 1; copy the folder again"
        )
    video = info["features"][key]["dtype"] == "video"
    records = []
    for path in files:
        table = {name: column.to_pylist() for name, column in _without_stats(path).items()}
        for i in range(len(field_of(table, "episode_index", path))):
            row = {name: column[i] for name, column in table.items()}
            names = ("chunk_index", "file_index")
            data = _place(root, info, "data_path", **{name: _whole(row, f"data/{name}", path) for name in names})
            file, first = None, 0
            if video:
                at = f"videos/{key}"
                where = {name: _whole(row, f"{at}/{name}", path) for name in names}
                file = _place(root, info, "video_path", video_key=key, **where)
                first = _first_frame(field_of(row, f"{at}/from_timestamp", path), fps, path)
            records.append(_record(row, data, file, first, path))
    return sorted(records, key=lambda record: record.index)


def _first_frame(timestamp: Any, fps: float, path: Path) -> int:
    if not isinstance(timestamp, int | float) or not 0 <= timestamp < math.inf:
        raise InputError(f"{path}: field 'from_timestamp': found {timestamp!r}, expected seconds; copy the file again")
    return round(timestamp * fps)


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
        index=_whole(row, "episode_index", path),
        rows=_whole(row, "length", path, least=1),
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
    chunk = _whole({"chunks_size": 1000} | info, "chunks_size", root / INFO, least=1)
    records = []
    for row in read_jsonl(path):
        index = _whole(row, "episode_index", path)
        place = {"episode_chunk": index // chunk, "episode_index": index}
        data = _place(root, info, "data_path", **place)
        video = None
        if info["features"][key]["dtype"] == "video":
            video = _place(root, info, "video_path", video_key=key, **place)
        records.append(_record(row, data, video, 0, path))
    return sorted(records, key=lambda record: record.index)
