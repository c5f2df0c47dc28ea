"""Where things are in a LeRobotDataset folder, v3.0 (many episodes a file) or v2.1 (a file an episode).

After the schema of lerobot 0.4.4 (`lerobot/datasets/utils.py`). What this project adds is ignored by LeRobot: the key
`worldgymnast` in `meta/info.json` (the action spec), the columns `worldgymnast/...` in `meta/episodes` and the features
`success` and `action_is_pad`. A folder without the key is foreign: its action spec is read off names and statistics.
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
from worldgymnast.episodes.lerobot_spec import INFO, OWN, action_key, own_fps, own_place, positive, read_spec
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
_MOST = 2**53
"""No count and no time is larger: floats do not hold whole numbers beyond it."""
_SPARE_ROWS = 1_000_000
"""Rows that a data file may hold beyond twice those of the episodes: leftovers are read and then named."""

ImageKey = str | Sequence[str] | None
"""One camera, several (side by side), "all", or None for the only one."""


@dataclass(frozen=True)
class Place:
    """Where an episode's frames are in a video file.

    Attributes:
        file: the video.
        start: time of the episode's first frame in it, in seconds.
        stop: time at which the next episode begins, or None where the metadata do not say.
    """

    file: Path
    start: float = 0.0
    stop: float | None = None


@dataclass(frozen=True)
class Record:
    """One episode as the metadata describe it.

    Attributes:
        index: its number in the data set.
        rows: number of rows, which is the number of frames.
        data: parquet file with its rows.
        places: by camera, where its frames are; without those cameras whose pictures are in the data file.
        meta: the file that lists it.
        tasks: what the metadata call its tasks: sentences, or numbers of sentences.
        task: name of the task, "" in a foreign data set.
        source: how it came about.
        layout: seed of its scene, -1 for none.
        labelled: whether `success` means anything; None where the rows decide (a foreign data set).
    """

    index: int
    rows: int
    data: Path
    places: Mapping[str, Place]
    meta: Path
    tasks: tuple[str | int | float, ...]
    task: str
    source: str
    layout: int
    labelled: bool | None


@dataclass(frozen=True)
class Layout:
    """A data set's metadata, read and checked for contradictions that would make reading impossible.

    Attributes:
        root: its folder.
        version: as in `codebase_version`.
        info: the content of meta/info.json.
        cameras: names of the chosen cameras, in the order asked for.
        action: name of the action's feature and column: "action", or "actions" as openpi writes it.
        fps: rows per second.
        spec: what the actions mean.
        records: the episodes by number.
        listed: the episodes by number, those of other splits as well.
        splits: which of them are left out.
    """

    root: Path
    version: str
    info: dict[str, Any]
    cameras: tuple[str, ...]
    action: str
    fps: float
    spec: ActionSpec
    records: tuple[Record, ...]
    listed: tuple[Record, ...]
    splits: Splits

    @property
    def own(self) -> bool:
        """Whether this project wrote it; before format 2 the last row of an episode has no action."""
        return own_place(self.info) is not None

    @property
    def most_rows(self) -> int:
        """Most rows of a data file that are plausible: all that the metadata list, twice, and some."""
        return most_rows(self.listed)

    @property
    def robot_fps(self) -> float:
        """Frames per second of robot time: `fps`, or the fraction this project kept beside LeRobot's whole number."""
        return own_fps(self.info, self.root / INFO) or self.fps

    @property
    def old(self) -> bool:
        """Whether it is v2: one file an episode, metadata as JSON lines."""
        return self.version.startswith("v2.")

    @property
    def robot(self) -> str:
        """The robot's type, or ""."""
        found = self.info.get("robot_type")
        return found if isinstance(found, str) else ""

    @property
    def state(self) -> str:
        """Name of the state's feature and column: "state" as openpi writes it, where there is no other."""
        main, other = STATES
        numeric = str(self.info["features"].get(other, {}).get("dtype")).startswith(("float", "int"))
        return other if main not in self.info["features"] and numeric else main

    @property
    def depth(self) -> list[str]:
        """Depth maps that were not asked for."""
        features = self.info["features"]
        known = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
        return [name for name in known if is_depth(name, features[name]) and name not in self.cameras]

    def in_data(self, camera: str) -> bool:
        """Whether a camera's frames are pictures inside the parquet files rather than videos."""
        return self.info["features"][camera]["dtype"] == "image"


def read_layout(root: str | Path, image_key: ImageKey = None) -> Layout:
    """Reads `meta/`.

    Args:
        root: the data set's folder.
        image_key: which cameras; needed only where there are several.

    Raises:
        InputError: missing or contradictory metadata, an unknown version, or no such camera.
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
    listed = _listed_v3(root) if version.startswith("v3.") else _listed_v2(root)
    at = _places_v3 if version.startswith("v3.") else _places_v2
    records = [_record(row, meta, *at(root, info, row, meta, cameras)) for meta, row in listed]
    if not records:
        raise InputError(f"{root}: found 0 episodes in meta/, expected at least 1")
    records.sort(key=lambda record: record.index)
    spec = read_spec(root, info, version, fps, most_rows(records))
    splits = read_splits(info, path, {record.index for record in records})
    kept = tuple(record for record in records if record.index not in splits.left_out)
    return Layout(root, version, info, cameras, action_key(features), fps, spec, kept, tuple(records), splits)


def most_rows(records: Sequence[Record]) -> int:
    """See `Layout.most_rows`."""
    return 2 * sum(record.rows for record in records) + _SPARE_ROWS


# ---------------------------------------------------------------- cameras


def _cameras(features: dict[str, Any], wanted: ImageKey, path: Path) -> tuple[str, ...]:
    """The chosen cameras; depth maps count only where they are named."""
    known = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    color = [name for name in known if not is_depth(name, features[name])]
    if not known:
        raise InputError(
            f"{path}: field 'features': found no camera, expected one of dtype video or image; is it a data set of "
            "states alone?"
        )
    named = (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
    names = tuple(part.strip() for name in named for part in ([name] if name in known else name.split(",")))
    if names == ("all",) and "all" not in known and color:
        return tuple(color)
    if not names and len(color) == 1:
        return tuple(color)
    if not color and (not names or (names == ("all",) and "all" not in known)):
        raise InputError(
            f"{path}: field 'features': found {known}, which hold depth, expected a color camera; depth is read only "
            f"where it is named: --image-key {known[0]}"
        )
    chosen = tuple(_camera(name, known) for name in names)
    how = "name one or several with --image-key NAME [NAME ...], or all with --image-key all"
    if not names or None in chosen or len(set(chosen)) < len(chosen):
        asked = "one camera" if not names else f"cameras {list(names)}, each once"
        asked = f"camera '{names[0]}'" if len(names) == 1 else asked
        raise InputError(f"{path}: field 'features': found cameras {known}, expected {asked}; {how}")
    return tuple(name for name in chosen if name is not None)


def _camera(wanted: str, known: Sequence[str]) -> str | None:
    """The camera of that name, or the only one whose name ends in it, as `top` for `observation.images.top`."""
    endings = [name for name in known if name.endswith(f".{wanted}")]
    if wanted in known:
        return wanted
    return endings[0] if len(endings) == 1 else None


# ---------------------------------------------------------------- files


def _file(root: Path, info: dict[str, Any], name: str, **where: int | str) -> Path:
    """The file that the template `info[name]` names.

    Raises:
        InputError: it has other placeholders or formats, or leaves the folder.
    """
    path = root / INFO
    template = field_of(info, name, path)
    known = ", ".join(f"{{{key}}}" for key in where)
    try:
        if not isinstance(template, str):
            raise ValueError("no text")
        parts = list(string.Formatter().parse(template))
        for _, key, form, conversion in parts:
            if key is not None and (key not in where or conversion or not _FORMAT.fullmatch(form or "")):
                raise ValueError("an unknown placeholder or format")
        found = template.format(**where)
        bad = PurePosixPath(found).is_absolute() or ".." in PurePosixPath(found).parts
        if bad or not found.isprintable() or not found:
            raise ValueError("outside the folder")
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{path}: field '{name}': found {short(template)}, expected a path inside the folder with no placeholders "
            f"but {known}; correct it"
        ) from error
    return root / found


def _listed_v3(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every row of `meta/episodes`, with the file it stands in; statistics are left out."""
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
                f"{path}: found {total:,} episodes up to this file, expected at most {MAX_TABLE_ROWS:,} in all; split "
                "the data set"
            )
        for i in range(len(table["episode_index"])):
            yield path, {name: column[i] for name, column in table.items()}


def _listed_v2(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = root / EPISODE_LINES
    for row in read_json_lines(path):
        yield path, row


Places = tuple[Path, dict[str, Place]]
"""The data file, and by camera the video."""


def _places_v3(root: Path, info: dict[str, Any], row: dict[str, Any], meta: Path, cameras: tuple[str, ...]) -> Places:
    def numbered(prefix: str) -> dict[str, int]:
        return {name: whole(row, f"{prefix}/{name}", meta) for name in ("chunk_index", "file_index")}

    places = {}
    for camera in cameras:
        if info["features"][camera]["dtype"] == "video":
            at = f"videos/{camera}"
            file = _file(root, info, "video_path", video_key=camera, **numbered(at))
            start = _seconds(field_of(row, f"{at}/from_timestamp", meta), "from_timestamp", meta)
            stop = row.get(f"{at}/to_timestamp")
            places[camera] = Place(file, start, None if stop is None else _seconds(stop, "to_timestamp", meta, start))
    return _file(root, info, "data_path", **numbered("data")), places


def _places_v2(root: Path, info: dict[str, Any], row: dict[str, Any], meta: Path, cameras: tuple[str, ...]) -> Places:
    chunk = whole({"chunks_size": 1000} | info, "chunks_size", root / INFO, least=1)
    index = whole(row, "episode_index", meta)
    where = {"episode_chunk": index // chunk, "episode_index": index}
    places = {
        camera: Place(_file(root, info, "video_path", video_key=camera, **where))
        for camera in cameras
        if info["features"][camera]["dtype"] == "video"
    }
    return _file(root, info, "data_path", **where), places


# ---------------------------------------------------------------- fields


def whole(row: dict[str, Any], name: str, path: Path, least: int = 0) -> int:
    """`row[name]`, a whole number; raises InputError for others."""
    value = field_of(row, name, path)
    good = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _MOST
    if not good or value != value // 1:
        most = f" and at most {_MOST:,}" if isinstance(value, int | float) and value > _MOST else ""
        raise InputError(
            f"{path}: field '{name}': found {short(value)}, expected a whole number of at least {least}{most}; copy "
            "the file again"
        )
    return int(value)


def _seconds(value: Any, name: str, path: Path, least: float = 0.0) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not least <= value < _MOST:
        raise InputError(
            f"{path}: field '{name}': found {short(value)}, expected seconds, at least {least:g}; copy the file again"
        )
    return float(value)


def _record(row: dict[str, Any], meta: Path, data: Path, places: dict[str, Place]) -> Record:
    def own(name: str, is_good: Callable[[Any], bool], expected: str) -> Any:
        value = row.get(f"{OWN}/{name}")
        if value is not None and not is_good(value):
            raise InputError(f"{meta}: field '{OWN}/{name}': found {short(value)}, expected {expected}; correct it")
        return value

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    layout = own("layout", lambda value: type(value) is int and -1 <= value < 2**63, "a seed or nothing")
    return Record(
        index=whole(row, "episode_index", meta),
        rows=whole(row, "length", meta, least=1),
        data=data,
        places=places,
        meta=meta,
        tasks=_tasks(row.get("tasks"), meta),
        task=own("task", is_text, "text") or "",
        source=own("source", is_text, "text") or "",
        layout=-1 if layout is None else layout,
        labelled=own("labelled", lambda value: isinstance(value, bool), "true or false"),
    )


def _tasks(value: Any, meta: Path) -> tuple[str | int | float, ...]:
    """What stands under `tasks`: a list by the schema; text or a number alone are taken as a list of one."""
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, str | int | float)):
            raise InputError(f"{meta}: field 'tasks': found {short(value)}, expected a list of sentences; correct it")
    return tuple(entry for entry in entries if entry is not None)
