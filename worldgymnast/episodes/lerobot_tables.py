"""Features and parquet tables for the LeRobotDataset writer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import UNKNOWN, ActionSpec
from worldgymnast.episodes import lerobot_layout as layout
from worldgymnast.episodes.stats import Stats
from worldgymnast.episodes.windows import placeholder_names
from worldgymnast.types import Episode

STATE = "observation.state"
_PREFIX = "observation.images."
_INTEGERS = ("frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class Contents:
    """The content that all episodes of a dataset share.

    Attributes:
        cameras: height and width by feature name of the camera, the main one first.
        state: names of the state's axes, empty without a state.
        robot: the robot type, or "".
    """

    cameras: dict[str, tuple[int, int]]
    state: tuple[str, ...]
    robot: str

    @classmethod
    def of(cls, episode: Episode) -> Contents:
        """The contents of an episode."""
        cameras = {name: (frames.shape[1], frames.shape[2]) for name, frames in frames_of(episode).items()}
        width = 0 if episode.state is None else int(episode.state.shape[1])
        names = episode.state_names if len(episode.state_names) == width else placeholder_names(width)
        return cls(cameras, names, episode.robot)

    def difference(self, other: Contents) -> str:
        """The first difference to `other`, in words; "" if they are equal."""
        for name in ("cameras", "state", "robot"):
            expected, found = getattr(self, name), getattr(other, name)
            if expected != found:
                return f"field '{name}': found {_format(found)}, expected {_format(expected)} as in the first"
        return ""


def _format(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name} {height}x{width}" for name, (height, width) in value.items()]
    return ", ".join(value) if isinstance(value, list | tuple) and value else str(value or "none")


def camera_key(name: str) -> str:
    """The feature name of a camera, below `observation.images` and without slashes.

    >>> camera_key("wrist/left")
    'observation.images.wrist_left'
    """
    if not name:
        return layout.IMAGE_KEY
    name = name.replace("/", "_")
    return name if name.startswith("observation.") else _PREFIX + name


def frames_of(episode: Episode) -> dict[str, np.ndarray]:
    """The frames of every camera by feature name, the main one first."""
    return {camera_key(episode.camera): episode.frames} | {camera_key(k): v for k, v in episode.cameras.items()}


def features(
    contents: Contents, spec: ActionSpec, fps: float, rate: int, lossless: bool, labelled: bool
) -> dict[str, Any]:
    """The features of `meta/info.json`.

    Fields of this project are part of the action's feature. LeRobot warns about unknown fields elsewhere in the file,
    and preserves features in edits.

    Args:
        contents: content of the episodes.
        spec: meaning of the actions.
        fps: frames per second of robot time.
        rate: the nearest integer rate, for LeRobot.
        lossless: whether videos are lossless.
        labelled: whether there are success labels.
    """

    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    result = {name: _camera(size, rate, lossless) for name, size in contents.cameras.items()}
    if contents.state:
        result[STATE] = {"dtype": "float32", "shape": [len(contents.state)], "names": list(contents.state)}
    spec_fields = spec.to_dict()
    if spec.unit == UNKNOWN:  # the bounds come from the statistics, which allows datasets to be merged
        spec_fields = {name: value for name, value in spec_fields.items() if name not in ("low", "high")}
    own = {"format": 2, "action_spec": spec_fields} | ({} if fps == rate else {"fps": fps})
    result["action"] = {"dtype": "float32", "shape": [spec.dim], "names": list(spec.axes), layout.OWN: own}
    if labelled:
        result["success"] = scalar("bool")
    return result | {"timestamp": scalar("float32")} | {name: scalar("int64") for name in _INTEGERS}


def _camera(size: tuple[int, int], rate: int, lossless: bool) -> dict[str, Any]:
    height, width = size
    info = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv444p" if height % 2 or width % 2 else "yuv420p",
        "video.is_depth_map": False,
        "is_depth_map": False,
        "video.fps": rate,
        "video.channels": 3,
        "has_audio": False,
    }
    if lossless:  # LeRobot cannot encode H.264 in RGB; without these fields it chooses a format itself
        del info["video.codec"], info["video.pix_fmt"]
    names = ["height", "width", "channels"]
    return {"dtype": "video", "shape": [height, width, 3], "names": names, "info": info}


def rows_schema(columns: dict[str, np.ndarray]) -> Any:
    """The schema of a data file, with scalars and fixed-size lists."""
    import pyarrow as pa

    def kind(values: np.ndarray) -> Any:
        scalar = pa.from_numpy_dtype(values.dtype)
        return scalar if values.ndim == 1 or values.shape[1] == 1 else pa.list_(scalar, values.shape[1])

    return pa.schema([(name, kind(values)) for name, values in columns.items()])


def rows_table(columns: dict[str, np.ndarray]) -> Any:
    """The rows of an episode as a table of `rows_schema`."""
    import pyarrow as pa

    schema, arrays = rows_schema(columns), []
    for name, values in columns.items():
        flat = pa.array(np.ascontiguousarray(values).ravel())
        width = schema.field(name).type.list_size if pa.types.is_fixed_size_list(schema.field(name).type) else 1
        arrays.append(flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width))
    return pa.Table.from_arrays(arrays, schema=schema)


def rows_without(path: Path, column: str) -> Any:
    """The rows of a data file without one column."""
    import pyarrow.parquet as pq

    with open(path, "rb") as file:
        return pq.read_table(file).drop_columns([column])


def tasks_table(tasks: dict[str, int]) -> Any:
    """The tasks table in pandas' format, with sentences as the index."""
    import pyarrow as pa

    index = "__index_level_0__"
    table = pa.table(
        {"task_index": pa.array(list(tasks.values()), pa.int64()), index: pa.array(list(tasks), pa.string())}
    )

    def column(name: str | None, field: str, kind: str, numpy: str) -> dict[str, Any]:
        return {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": None}

    meta = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [column("task_index", "task_index", "int64", "int64"), column(None, index, "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(meta)})


def episodes_table(rows: list[dict[str, Any]], stats: list[dict[str, Stats]]) -> Any:
    """The table of episodes: location of rows and frames, and statistics."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name in rows[0]:
        kind = {f"{layout.OWN}/layout": pa.int64(), "tasks": pa.list_(pa.string())}.get(name)
        columns[name] = pa.array([row[name] for row in rows], kind)
    for feature in stats[0]:
        for name in stats[0][feature]:
            columns[f"stats/{feature}/{name}"] = pa.array([part[feature][name].tolist() for part in stats])
    return pa.table(columns)


def write_table(table: Any, path: Path) -> None:
    """Write a parquet file.

    Opened here because pyarrow parses `out:1` as a URL.
    """
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        pq.write_table(table, file)
