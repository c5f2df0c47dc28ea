"""The writer of LeRobotDataset v3.0, which never leaves half a data set at its path."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import ActionSpec, require_same
from worldgymnast.episodes import lerobot_layout as layout
from worldgymnast.episodes.lerobot_spec import STATS
from worldgymnast.episodes.stats import Stats, aggregate, describe, describe_images
from worldgymnast.staging import StagedFolder, disk_error
from worldgymnast.types import Episode, InputError
from worldgymnast.video import VideoWriter

_FILES_PER_CHUNK = 1000


class LeRobotWriter:
    """Writes episodes one by one into a staging folder, which becomes `PATH` when the last is in; a context manager.

    Leaving the `with` block by an exception removes everything; a process killed leaves only a hidden staging folder,
    which the next writer to the same path clears away.

    Attributes:
        episodes: how many were added.
        frames: how many frames they have together.
    """

    def __init__(
        self,
        path: str | Path,
        spec: ActionSpec,
        fps: float,
        size: tuple[int, int] | int,
        megabytes_per_file: float = 100,
        frames_per_file: int = 50_000,
    ):
        """Opens the data set.

        Args:
            path: a folder that must not exist yet.
            spec: of every action.
            fps: frames per second of robot time.
            size: height and width of every frame, in pixels.
            megabytes_per_file: a new video and data file is begun past this size,
            frames_per_file: or past this many frames.

        Raises:
            InputError: the path exists, cannot be written, or another process is writing it.
        """
        self.path = Path(path)
        self.spec, self.fps = spec, fps
        self.size = (size, size) if isinstance(size, int) else size
        self.episodes = 0
        self.frames = 0
        self._limits = (megabytes_per_file * 2**20, frames_per_file)
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._stats: list[dict[str, Stats]] = []
        self._part = -1
        self._video: VideoWriter | None = None
        self._data: Any = None
        self._folder = StagedFolder(self.path)
        self._root = self._folder.path

    def add(self, episode: Episode) -> None:
        """Appends an episode; raises InputError or ActionSpecMismatch where it does not fit the data set."""
        require_same(episode.spec, self.spec, f"{self.path}: episode {self.episodes}")
        where = f"{self.path}: episode {self.episodes} of task '{episode.task}'"
        self.spec.check(episode.actions, where)
        if episode.fps != self.fps:
            raise InputError(f"{where}: field 'fps': found {episode.fps}, expected {self.fps}")
        if episode.layout is not None and episode.layout < 0:
            raise InputError(f"{where}: field 'layout': found {episode.layout}, expected a seed >= 0 or None")
        if episode.success is not None and len(episode.success) != len(episode.frames):
            raise InputError(f"{where}: field 'success': found {len(episode.success)}, expected {len(episode.frames)}")
        self._open_part(len(episode.frames))
        assert self._video is not None
        before = self._video.count
        self._video.add(episode.frames)
        columns = self._columns(episode)
        self._data.write_table(_rows_table(columns, self.spec.dim))
        stats = {name: describe(values) for name, values in columns.items()}
        stats["action"] = describe(episode.actions)
        stats[layout.IMAGE_KEY] = describe_images(episode.frames)
        self._stats.append(stats)
        self._rows.append(self._episode_row(episode, before))
        self.episodes += 1
        self.frames += len(episode.frames)

    def _columns(self, episode: Episode) -> dict[str, np.ndarray]:
        count = len(episode.frames)
        task = self._tasks.setdefault(episode.instruction, len(self._tasks))
        actions = np.zeros((count, self.spec.dim), np.float32)
        actions[:-1] = episode.actions
        return {
            "action": actions,
            "success": np.zeros(count, bool) if episode.success is None else np.asarray(episode.success, bool),
            "action_is_pad": np.arange(count) == count - 1,
            "timestamp": (np.arange(count) / self.fps).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, self.episodes),
            "index": np.arange(self.frames, self.frames + count),
            "task_index": np.full(count, task),
        }

    def _episode_row(self, episode: Episode, before: int) -> dict[str, Any]:
        place = self._place()
        video = f"videos/{layout.IMAGE_KEY}"
        return {
            "episode_index": self.episodes,
            "tasks": [episode.instruction],
            "length": len(episode.frames),
            "data/chunk_index": place["chunk_index"],
            "data/file_index": place["file_index"],
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + len(episode.frames),
            f"{video}/chunk_index": place["chunk_index"],
            f"{video}/file_index": place["file_index"],
            f"{video}/from_timestamp": before / self.fps,
            f"{video}/to_timestamp": (before + len(episode.frames)) / self.fps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            f"{layout.OWN}/task": episode.task,
            f"{layout.OWN}/source": episode.source,
            f"{layout.OWN}/layout": episode.layout,
            f"{layout.OWN}/labelled": episode.success is not None,
        }

    def _place(self) -> dict[str, int]:
        return {"chunk_index": self._part // _FILES_PER_CHUNK, "file_index": self._part % _FILES_PER_CHUNK}

    def _open_part(self, count: int) -> None:
        """Makes sure a video and a data file with room for `count` more frames are open."""
        if self._video is not None:
            size = os.path.getsize(self._file(layout.VIDEO))
            if size < self._limits[0] and self._video.count + count <= self._limits[1]:
                return
            self._close_part()
        import pyarrow.parquet as pq

        self._part += 1
        for template in (layout.VIDEO, layout.DATA):
            self._file(template).parent.mkdir(parents=True, exist_ok=True)
        self._video = VideoWriter(self._file(layout.VIDEO), self.size, self.fps)
        self._data = pq.ParquetWriter(self._file(layout.DATA), _rows_schema(self.spec.dim))

    def _file(self, template: str) -> Path:
        return self._root / template.format(video_key=layout.IMAGE_KEY, **self._place())

    def _close_part(self) -> None:
        video, data = self._video, self._data
        self._video = self._data = None
        try:
            if video is not None:
                video.close()
        finally:
            if data is not None:
                data.close()

    def close(self) -> None:
        """Writes the metadata and moves the data set to its path.

        Raises:
            InputError: no episode was added, the path has come into being meanwhile, or the disk is full.
        """
        try:
            if not self.episodes:
                raise InputError(f"{self.path}: found 0 episodes to write, expected at least 1")
            self._close_part()
            self._write_meta()
            self._folder.publish()
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise disk_error(error, self.path) from error
            raise

    def abort(self) -> None:
        """Removes everything written so far."""
        try:
            self._close_part()
        except OSError:
            pass  # The disk is full or gone: what matters now is that nothing half-written stays.
        finally:
            self._folder.discard()

    def _write_meta(self) -> None:
        import pyarrow.parquet as pq

        total = {name: aggregate([stats[name] for stats in self._stats]) for name in self._stats[0]}
        for name, value in ((layout.INFO, self._info()), (STATS, _plain(total))):
            path = self._root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")
        pq.write_table(_tasks_table(self._tasks), self._root / layout.TASKS)
        path = self._root / layout.EPISODES.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_episodes_table(self._rows, self._stats), path)

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": layout.DATA,
            "video_path": layout.VIDEO,
            "features": _features(self.spec, self.size, self.fps),
            layout.OWN: {"format": 1, "action_spec": self.spec.to_dict()},
        }

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
            return
        self.abort()
        if isinstance(error, OSError):
            replaced = disk_error(error, self.path)
            if replaced is not error:
                raise replaced from error


def _features(spec: ActionSpec, size: tuple[int, int], fps: float) -> dict[str, Any]:
    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    height, width = size
    video = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "gbrp",
        "video.is_depth_map": False,
        "video.fps": int(fps) if float(fps).is_integer() else fps,
        "video.channels": 3,
        "has_audio": False,
    }
    names = ["height", "width", "channels"]
    return {
        layout.IMAGE_KEY: {"dtype": "video", "shape": [height, width, 3], "names": names, "info": video},
        "action": {"dtype": "float32", "shape": [spec.dim], "names": list(spec.axes)},
        "success": scalar("bool"),
        "action_is_pad": scalar("bool"),
        "timestamp": scalar("float32"),
        **{name: scalar("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
    }


def _rows_schema(width: int) -> Any:
    import pyarrow as pa

    # LeRobot stores a feature of shape (1,) as a plain column, and a longer one as lists of fixed length.
    action = pa.float32() if width == 1 else pa.list_(pa.float32(), width)
    integers = [(name, pa.int64()) for name in ("frame_index", "episode_index", "index", "task_index")]
    flags = [("success", pa.bool_()), ("action_is_pad", pa.bool_())]
    return pa.schema([("action", action), *flags, ("timestamp", pa.float32()), *integers])


def _rows_table(columns: dict[str, np.ndarray], width: int) -> Any:
    import pyarrow as pa

    arrays: dict[str, Any] = {name: pa.array(values) for name, values in columns.items() if name != "action"}
    flat = pa.array(columns["action"].ravel())
    arrays["action"] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.table(arrays).select(_rows_schema(width).names).cast(_rows_schema(width))


def _tasks_table(tasks: dict[str, int]) -> Any:
    """What pandas writes for a frame with column `task_index` and the sentences as its index."""
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


def _episodes_table(rows: list[dict[str, Any]], stats: list[dict[str, Stats]]) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name in rows[0]:
        kind = {f"{layout.OWN}/layout": pa.int64(), "tasks": pa.list_(pa.string())}.get(name)
        columns[name] = pa.array([row[name] for row in rows], kind)
    for feature in stats[0]:
        for name in stats[0][feature]:
            columns[f"stats/{feature}/{name}"] = pa.array([one[feature][name].tolist() for one in stats])
    return pa.table(columns)


def _plain(stats: dict[str, Stats]) -> dict[str, dict[str, Any]]:
    return {feature: {name: value.tolist() for name, value in one.items()} for feature, one in stats.items()}
