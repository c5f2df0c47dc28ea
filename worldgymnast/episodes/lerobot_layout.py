"""Metadata of a LeRobotDataset, v3.0 or v2.1.

Follows the schema of lerobot 0.4.4 (`lerobot/datasets/utils.py`). Additions of this project are ignored by LeRobot:

- the key `worldgymnast` of `meta/info.json` (the action spec);
- the columns `worldgymnast/...` of `meta/episodes`;
- the features `success` and `action_is_pad`.

A folder without the key is foreign; its action spec is derived from names and statistics.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from worldgymnast.actions import ActionSpec
from worldgymnast.episodes.depth import is_depth
from worldgymnast.episodes.lerobot_spec import INFO, OWN, action_key, own_field, own_fps, positive, read_spec
from worldgymnast.episodes.lerobot_splits import Splits, read_splits
from worldgymnast.episodes.parquet import MAX_TABLE_ROWS, column_names, field_of, read_lists
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, read_json_lines, read_json_object, short, visible

IMAGE_KEY = "observation.images.camera"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODE_LINES = "meta/episodes.jsonl"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

STATES = ("observation.state", "state")
_FORMAT = re.compile(r"0?[0-9]{0,2}d?")
_MAX_VALUE = 2**53
"""Upper bound of counts and times, beyond which floats do not represent all integers."""
_SPARE_ROWS = 1_000_000
"""Rows that a data file may have beyond twice those of the episodes; unlisted rows are read and reported."""

ImageKey = str | Sequence[str] | None
"""One camera, several (side by side), "all", or None for the only one."""


@dataclass(frozen=True)
class VideoSpan:
    """Location of an episode's frames in a video file.

    Attributes:
        file: the video.
        start: time of the episode's first frame, in seconds.
        stop: start of the next episode in seconds; None if the metadata do not have it.
    """

    file: Path
    start: float = 0.0
    stop: float | None = None


@dataclass(frozen=True)
class Record:
    """An episode in the metadata.

    Attributes:
        index: number of the episode in the dataset.
        rows: number of rows, equal to the number of frames.
        data: parquet file with the rows.
        videos: location of the frames by camera, except for cameras with pictures in the data file.
        meta: the file that lists the episode.
        tasks: its tasks in the metadata: sentences, or numbers of sentences.
        task: name of the task, "" in a foreign dataset.
        source: origin (see `Episode.source`).
        layout: seed of the scene, -1 for none.
        labelled: whether `success` is valid; None if the rows decide (a foreign dataset).
    """

    index: int
    rows: int
    data: Path
    videos: Mapping[str, VideoSpan]
    meta: Path
    tasks: tuple[str | int | float, ...]
    task: str
    source: str
    layout: int
    labelled: bool | None


@dataclass(frozen=True)
class Layout:
    """Validated metadata of a dataset.

    Attributes:
        root: the folder.
        version: value of `codebase_version`.
        info: the content of meta/info.json.
        cameras: names of the selected cameras, in the requested order.
        action: name of the action's feature and column: "action", or "actions" as openpi writes it.
        fps: rows per second.
        spec: meaning of the actions.
        records: the episodes, sorted by number.
        all_records: the same with the episodes of other splits.
        splits: the episodes that are not read.
    """

    root: Path
    version: str
    info: dict[str, Any]
    cameras: tuple[str, ...]
    action: str
    fps: float
    spec: ActionSpec
    records: tuple[Record, ...]
    all_records: tuple[Record, ...]
    splits: Splits

    @property
    def is_own(self) -> bool:
        """Whether this project wrote the dataset.

        Before format 2 the last row has no action.
        """
        return own_field(self.info) is not None

    @property
    def max_rows(self) -> int:
        """Maximum plausible number of rows in a data file."""
        return max_rows(self.all_records)

    @property
    def robot_fps(self) -> float:
        """Frames per second of robot time.

        Fractions are stored in this project's own field.
        """
        return own_fps(self.info, self.root / INFO) or self.fps

    @property
    def is_v2(self) -> bool:
        """Whether the format is v2, with one file per episode."""
        return self.version.startswith("v2.")

    @property
    def robot(self) -> str:
        """The robot type, or ""."""
        value = self.info.get("robot_type")
        return value if isinstance(value, str) else ""

    @property
    def state(self) -> str:
        """Name of the state's feature and column; the first of `states`."""
        return self.states[0]

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the features and columns whose numbers are the state, in order.

        Without "observation.state" they are its parts "observation.state.NAME", or else "state", as openpi writes it.
        """
        main, other = STATES
        features = self.info["features"]

        def is_numeric(name: str) -> bool:
            return str(features.get(name, {}).get("dtype")).startswith(("float", "int"))

        parts = tuple(name for name in features if name.startswith(f"{main}.") and is_numeric(name))
        if main in features or not (parts or is_numeric(other)):
            return (main,)
        return parts or (other,)

    @property
    def skipped_depth(self) -> list[str]:
        """Names of depth maps that were not requested."""
        features = self.info["features"]
        known = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
        return [name for name in known if is_depth(name, features[name]) and name not in self.cameras]

    def has_embedded_frames(self, camera: str) -> bool:
        """Whether a camera's frames are embedded in the parquet files."""
        return self.info["features"][camera]["dtype"] == "image"


def read_layout(root: str | Path, image_key: ImageKey = None) -> Layout:
    """Read and validate the metadata in `meta/`.

    Args:
        root: the dataset's folder.
        image_key: the cameras; required if there are several.

    Raises:
        InputError: metadata are missing or contradictory, the version is unknown, or a camera does not exist.
    """
    root = Path(root)
    path = root / INFO
    if not path.is_file():
        raise InputError(f"{root}: no {INFO}, expected the folder of a LeRobotDataset v3.0 or v2.1; check the path")
    info = read_json_object(path)
    version = str(field_of(info, "codebase_version", path))
    features = json_object(field_of(info, "features", path), path, "features")
    for name, feature in features.items():
        json_object(feature, path, f"features.{name}")
    if not version.startswith(("v3.", "v2.")):
        raise InputError(f"{path}: field 'codebase_version': found '{version}', expected v3.0 or v2.1; convert it")
    cameras = _cameras(features, image_key, path)
    fps = positive(field_of(info, "fps", path), "fps", path)
    entries = _episodes_v3(root) if version.startswith("v3.") else _episodes_v2(root)
    locate = _locate_v3 if version.startswith("v3.") else _locate_v2
    records = [_record(row, meta, *locate(root, info, row, meta, cameras)) for meta, row in entries]
    if not records:
        raise InputError(f"{root}: found 0 episodes in meta/, expected at least 1")
    records.sort(key=lambda record: record.index)
    spec = read_spec(root, info, version, fps, max_rows(records))
    splits = read_splits(info, path, {record.index for record in records})
    kept = tuple(record for record in records if record.index not in splits.left_out)
    return Layout(root, version, info, cameras, action_key(features), fps, spec, kept, tuple(records), splits)


def max_rows(records: Sequence[Record]) -> int:
    """See `Layout.max_rows`."""
    return 2 * sum(record.rows for record in records) + _SPARE_ROWS


# ---------------------------------------------------------------- cameras


def _cameras(features: dict[str, Any], image_key: ImageKey, path: Path) -> tuple[str, ...]:
    """The selected cameras; depth maps must be named explicitly."""
    known = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    color = [name for name in known if not is_depth(name, features[name])]
    if not known:
        raise InputError(
            f"{path}: field 'features': found no camera, expected one of dtype video or image; datasets without "
            "pictures are not supported"
        )
    keys = (image_key,) if isinstance(image_key, str) else tuple(image_key or ())
    names = tuple(part.strip() for name in keys for part in ([name] if name in known else name.split(",")))
    is_all = names == ("all",) and "all" not in known
    if color and (is_all or (not names and len(color) == 1)):
        return tuple(color)
    if not color and (not names or is_all):
        raise InputError(
            f"{path}: field 'features': found {known}, which are depth maps, expected a color camera; to read depth, "
            f"name it: --image-key {known[0]} (in Python: cameras='{known[0]}')"
        )
    selected = tuple(_camera(name, known) for name in names)
    if not names or None in selected or len(set(selected)) < len(selected):
        expected = "one camera" if not names else f"cameras {list(names)}, each once"
        expected = f"camera '{names[0]}'" if len(names) == 1 else expected
        raise InputError(
            f"{path}: field 'features': found cameras {known}, expected {expected}; name one or several with "
            "--image-key NAME [NAME ...], or all with --image-key all (in Python: cameras=...)"
        )
    return tuple(name for name in selected if name is not None)


def _camera(name: str, known: Sequence[str]) -> str | None:
    """The camera with that name or suffix, as `top` for `observation.images.top`."""
    matches = [other for other in known if other.endswith(f".{name}")]
    if name in known:
        return name
    return matches[0] if len(matches) == 1 else None


# ---------------------------------------------------------------- files


def _file(root: Path, info: dict[str, Any], name: str, **values: int | str) -> Path:
    """Fill in the path template `info[name]`.

    Raises:
        InputError: the template has unknown placeholders or formats, or leaves the folder.
    """
    path = root / INFO
    template = field_of(info, name, path)
    known = ", ".join(f"{{{key}}}" for key in values)
    try:
        if not isinstance(template, str):
            raise ValueError("not text")
        for _, key, form, conversion in string.Formatter().parse(template):
            if key is not None and (key not in values or conversion or not _FORMAT.fullmatch(form or "")):
                raise ValueError("an unknown placeholder or format")
        file = template.format(**values)
        is_outside = PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts
        if is_outside or not file.isprintable() or not file:
            raise ValueError("outside the folder")
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{path}: field '{name}': found {short(template)}, expected a path inside the folder with no placeholders "
            f"but {known}; correct it"
        ) from error
    return root / file


def _episodes_v3(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the rows of `meta/episodes` without statistics, each with its file."""
    files = visible(path for folder in visible((root / "meta/episodes").glob("*")) for path in folder.glob("*.parquet"))
    if not files:
        raise InputError(
            f"{root / 'meta/episodes'}: found no parquet files, expected at least 1; copy the folder again"
        )
    total = 0
    for path in files:
        names = [name for name in column_names(path) if not name.startswith("stats/")]
        table = read_lists(path, names)
        total += len(field_of(table, "episode_index", path))
        if total > MAX_TABLE_ROWS:
            raise InputError(
                f"{path}: found {total:,} episodes up to this file, expected at most {MAX_TABLE_ROWS:,} in total; "
                "split the dataset"
            )
        for i in range(len(table["episode_index"])):
            yield path, {name: column[i] for name, column in table.items()}


def _episodes_v2(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = root / EPISODE_LINES
    for row in read_json_lines(path):
        yield path, row


Files = tuple[Path, dict[str, VideoSpan]]
"""The data file of an episode, and its frames by camera."""


def _locate_v3(root: Path, info: dict[str, Any], row: dict[str, Any], meta: Path, cameras: tuple[str, ...]) -> Files:
    def indices(prefix: str) -> dict[str, int]:
        return {name: integer_field(row, f"{prefix}/{name}", meta) for name in ("chunk_index", "file_index")}

    spans = {}
    for camera in cameras:
        if info["features"][camera]["dtype"] == "video":
            prefix = f"videos/{camera}"
            file = _file(root, info, "video_path", video_key=camera, **indices(prefix))
            start = _seconds(field_of(row, f"{prefix}/from_timestamp", meta), "from_timestamp", meta)
            stop = row.get(f"{prefix}/to_timestamp")
            stop = None if stop is None else _seconds(stop, "to_timestamp", meta, start)
            spans[camera] = VideoSpan(file, start, stop)
    return _file(root, info, "data_path", **indices("data")), spans


def _locate_v2(root: Path, info: dict[str, Any], row: dict[str, Any], meta: Path, cameras: tuple[str, ...]) -> Files:
    chunk = integer_field({"chunks_size": 1000} | info, "chunks_size", root / INFO, minimum=1)
    index = integer_field(row, "episode_index", meta)
    values = {"episode_chunk": index // chunk, "episode_index": index}
    spans = {
        camera: VideoSpan(_file(root, info, "video_path", video_key=camera, **values))
        for camera in cameras
        if info["features"][camera]["dtype"] == "video"
    }
    return _file(root, info, "data_path", **values), spans


# ---------------------------------------------------------------- fields


def integer_field(row: dict[str, Any], name: str, path: Path, minimum: int = 0) -> int:
    """The integer `row[name]`; raises InputError for other values."""
    value = field_of(row, name, path)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not minimum <= value <= _MAX_VALUE or value != value // 1:
        maximum = f" and at most {_MAX_VALUE:,}" if is_number and value > _MAX_VALUE else ""
        raise InputError(
            f"{path}: field '{name}': found {short(value)}, expected an integer of at least {minimum}{maximum}; copy "
            "the file again"
        )
    return int(value)


def _seconds(value: Any, name: str, path: Path, minimum: float = 0.0) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not minimum <= value < _MAX_VALUE:
        raise InputError(
            f"{path}: field '{name}': found {short(value)}, expected seconds, at least {minimum:g}; copy the file again"
        )
    return float(value)


def _record(row: dict[str, Any], meta: Path, data: Path, videos: dict[str, VideoSpan]) -> Record:
    def own(name: str, is_valid: Callable[[Any], bool], expected: str) -> Any:
        value = row.get(f"{OWN}/{name}")
        if value is not None and not is_valid(value):
            raise InputError(f"{meta}: field '{OWN}/{name}': found {short(value)}, expected {expected}; correct it")
        return value

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    layout = own("layout", lambda value: type(value) is int and -1 <= value < 2**63, "a seed or nothing")
    return Record(
        index=integer_field(row, "episode_index", meta),
        rows=integer_field(row, "length", meta, minimum=1),
        data=data,
        videos=videos,
        meta=meta,
        tasks=_tasks(row.get("tasks"), meta),
        task=own("task", is_text, "text") or "",
        source=own("source", is_text, "text") or "",
        layout=-1 if layout is None else layout,
        labelled=own("labelled", lambda value: isinstance(value, bool), "true or false"),
    )


def _tasks(value: Any, meta: Path) -> tuple[str | int | float, ...]:
    """The values of `tasks`, which should be a list.

    A single text or number is accepted.
    """
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, str | int | float)):
            raise InputError(f"{meta}: field 'tasks': found {short(value)}, expected a list of sentences; correct it")
    return tuple(entry for entry in entries if entry is not None)
