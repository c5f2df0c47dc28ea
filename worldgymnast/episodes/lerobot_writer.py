"""Atomic writer of LeRobotDataset v3.0.

A row is a frame and the action taken at it: an episode of T actions and T+1 frames has T+1 rows. The last row has the
action recorded at the last frame (`Episode.last_action`). If none was recorded, it is an action without motion: zero
deltas or the previous absolute target, and the previous gripper command. LeRobot trains on every row.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import ActionSpec, motionless, require_same
from worldgymnast.episodes import lerobot_layout as layout
from worldgymnast.episodes.lerobot_spec import STATS
from worldgymnast.episodes.lerobot_tables import (
    STATE,
    Contents,
    episodes_table,
    features,
    frames_of,
    rows_schema,
    rows_table,
    rows_without,
    tasks_table,
    write_table,
)
from worldgymnast.episodes.stats import Stats, aggregate, compute_image_stats, compute_stats
from worldgymnast.errors import InputError
from worldgymnast.staging import StagedFolder, disk_full_error, is_disk_full, space_for
from worldgymnast.types import Episode
from worldgymnast.video import VideoWriter

_FILES_PER_CHUNK = 1000


class LeRobotWriter:
    """Atomic writer of episodes.

    Use as a context manager. An exception in the `with` block removes everything. A killed process leaves only a
    hidden staging folder, which the next writer to the same path removes.

    Attributes:
        episodes: number of episodes added.
        frames: total number of frames.
    """

    def __init__(
        self,
        path: str | Path | StagedFolder,
        spec: ActionSpec,
        fps: float,
        size: tuple[int, int] | int | None = None,
        megabytes_per_file: float = 100,
        frames_per_file: int = 50_000,
        lossless: bool = True,
    ):
        """Open the dataset.

        Args:
            path: a new folder, or a staged one.
            spec: meaning of the actions.
            fps: frames per second of robot time. LeRobot requires an integer: `info.json`, timestamps and videos use
                the nearest one, and the exact rate is stored in this project's own field.
            size: height and width of the main camera's frames, in pixels; defaults to those of the first episode.
            megabytes_per_file: size after which new video and data files are started.
            frames_per_file: number of frames after which new files are started.
            lossless: frames are bit-identical when read back (H.264 in RGB), otherwise small (yuv420p).

        Raises:
            InputError: the path exists, is not writable, or another process is writing it.
        """
        self._folder = path if isinstance(path, StagedFolder) else StagedFolder(path)
        self.path, self._root = self._folder.target, self._folder.path
        self.spec, self.fps = spec, fps
        self.size = (size, size) if isinstance(size, int) else size
        self.episodes = 0
        self.frames = 0
        self._rate = max(1, round(fps))
        self._lossless = lossless
        self._limits = (megabytes_per_file * 2**20, frames_per_file)
        self._contents: Contents | None = None
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._stats: list[dict[str, Stats]] = []
        self._part = -1
        self._videos: dict[str, VideoWriter] = {}
        self._data: Any = None
        self._data_file: Any = None

    def add(self, episode: Episode) -> None:
        """Append an episode.

        Raises InputError or ActionSpecMismatch if it does not match the dataset.
        """
        self._check(episode)
        columns, frames = self._columns(episode), frames_of(episode)
        self._open_part(columns, len(episode.frames))
        first_frame = next(iter(self._videos.values())).count
        for name, writer in self._videos.items():
            writer.add(frames[name])
        self._data.write_table(self._table(columns))
        self._stats.append(
            {name: compute_stats(values) for name, values in columns.items()}
            | {name: compute_image_stats(pixels) for name, pixels in frames.items()}
        )
        self._rows.append(self._episode_row(episode, first_frame))
        self.episodes += 1
        self.frames += len(episode.frames)

    def _check(self, episode: Episode) -> None:
        require_same(episode.spec, self.spec, f"{self.path}: episode {self.episodes}")
        where = f"{self.path}: episode {self.episodes} of task '{episode.task}'"
        self.spec.check(_all_actions(episode), where)
        if episode.fps != self.fps:
            raise InputError(f"{where}: field 'fps': found {episode.fps}, expected {self.fps}")
        if episode.layout is not None and episode.layout < 0:
            raise InputError(f"{where}: field 'layout': found {episode.layout}, expected a seed >= 0 or None")
        if episode.success is not None and len(episode.success) != len(episode.frames):
            raise InputError(f"{where}: field 'success': found {len(episode.success)}, expected {len(episode.frames)}")
        if episode.state is not None and not np.isfinite(episode.state).all():
            raise InputError(f"{where}: field 'state': found NaN or infinity, expected finite numbers")
        contents = Contents.of(episode)
        if self._contents is None:
            main = next(iter(contents.cameras))
            self._contents = replace(contents, cameras=contents.cameras | ({main: self.size} if self.size else {}))
        if difference := self._contents.difference(contents):
            raise InputError(f"{where}: {difference}; resize all, or write it to a separate dataset")

    def _columns(self, episode: Episode) -> dict[str, np.ndarray]:
        count = len(episode.frames)
        task = self._tasks.setdefault(episode.instruction, len(self._tasks))
        success = np.zeros(count, bool) if episode.success is None else np.asarray(episode.success, bool)
        return {
            **({} if episode.state is None else {STATE: episode.state.astype(np.float32)}),
            "action": _all_actions(episode),
            "success": success,
            "timestamp": (np.arange(count) / self._rate).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, self.episodes),
            "index": np.arange(self.frames, self.frames + count),
            "task_index": np.full(count, task),
        }

    def _episode_row(self, episode: Episode, first_frame: int) -> dict[str, Any]:
        indices = self._file_indices()
        videos: dict[str, Any] = {}
        for name in self._videos:
            videos |= {f"videos/{name}/{key}": value for key, value in indices.items()}
            videos[f"videos/{name}/from_timestamp"] = first_frame / self._rate
            videos[f"videos/{name}/to_timestamp"] = (first_frame + len(episode.frames)) / self._rate
        return {
            "episode_index": self.episodes,
            "tasks": [episode.instruction],
            "length": len(episode.frames),
            "data/chunk_index": indices["chunk_index"],
            "data/file_index": indices["file_index"],
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + len(episode.frames),
            **videos,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            f"{layout.OWN}/task": episode.task,
            f"{layout.OWN}/source": episode.source,
            f"{layout.OWN}/layout": episode.layout,
            f"{layout.OWN}/labelled": episode.success is not None,
        }

    def _file_indices(self, part: int | None = None) -> dict[str, int]:
        part = self._part if part is None else part
        return {"chunk_index": part // _FILES_PER_CHUNK, "file_index": part % _FILES_PER_CHUNK}

    def _open_part(self, columns: dict[str, np.ndarray], count: int) -> None:
        """Ensure that the open files have room for `count` frames."""
        assert self._contents is not None
        if self._videos:
            # A video file is created with its first packet.
            files = [path for path in map(self._video_file, self._videos) if path.exists()]
            size = max((os.path.getsize(path) for path in files), default=0)
            if size < self._limits[0] and next(iter(self._videos.values())).count + count <= self._limits[1]:
                return
            self._close_part()
        import pyarrow.parquet as pq

        self._part += 1
        data = self._root / layout.DATA.format(**self._file_indices())
        data.parent.mkdir(parents=True, exist_ok=True)
        self._data_file = open(data, "wb")  # noqa: SIM115 - closed by `_close_part`
        self._data = pq.ParquetWriter(self._data_file, self._schema(columns))
        for name, pixels in self._contents.cameras.items():
            self._video_file(name).parent.mkdir(parents=True, exist_ok=True)
            self._videos[name] = VideoWriter(self._video_file(name), pixels, self._rate, self._lossless, exact=True)

    def _schema(self, columns: dict[str, np.ndarray]) -> Any:
        """Schema of a data file."""
        return rows_schema(columns)

    def _table(self, columns: dict[str, np.ndarray]) -> Any:
        """Rows of an episode in this schema."""
        return rows_table(columns)

    def _video_file(self, camera: str) -> Path:
        return self._root / layout.VIDEO.format(video_key=camera, **self._file_indices())

    def _close_part(self) -> None:
        with ExitStack() as stack:  # closes all of them, even if one raises
            if self._data_file is not None:
                stack.callback(self._data_file.close)
            if self._data is not None:
                stack.callback(self._data.close)
            for video in self._videos.values():
                stack.callback(video.close)
            self._videos, self._data, self._data_file = {}, None, None

    def close(self) -> None:
        """Write the metadata and rename the dataset to its path.

        Raises:
            InputError: no episode was added, the path exists by now, or the disk is full.
        """
        try:
            with space_for(self.path):
                if not self._rows:
                    raise InputError(f"{self.path}: found 0 episodes to write, expected at least 1")
                self._close_part()
                if not any(row[f"{layout.OWN}/labelled"] for row in self._rows):
                    self._remove_labels()
                self._write_meta()
                self._folder.publish()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove everything written so far."""
        try:
            self._close_part()
        except OSError:
            pass  # The disk is full or gone; removing the staging folder still matters.
        finally:
            self._folder.discard()

    def _remove_labels(self) -> None:
        """Remove the column `success`, which without labels would mean failure."""
        for part in range(self._part + 1):
            path = self._root / layout.DATA.format(**self._file_indices(part))
            write_table(rows_without(path, "success"), path)
        for stats in self._stats:
            del stats["success"]

    def _write_meta(self) -> None:
        total = {name: aggregate([stats[name] for stats in self._stats]) for name in self._stats[0]}
        stats = {feature: {name: value.tolist() for name, value in part.items()} for feature, part in total.items()}
        for name, value in ((layout.INFO, self._info()), (STATS, stats)):
            path = self._root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")
        write_table(tasks_table(self._tasks), self._root / layout.TASKS)
        write_table(
            episodes_table(self._rows, self._stats), self._root / layout.EPISODES.format(chunk_index=0, file_index=0)
        )

    def _info(self) -> dict[str, Any]:
        assert self._contents is not None
        return {
            "codebase_version": "v3.0",
            "robot_type": self._contents.robot or None,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._rate,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": layout.DATA,
            "video_path": layout.VIDEO,
            "features": features(
                self._contents, self.spec, self.fps, self._rate, self._lossless, "success" in self._stats[0]
            ),
        }

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
            return
        self.abort()
        if is_disk_full(error):
            raise disk_full_error(self.path) from error


def _all_actions(episode: Episode) -> np.ndarray:
    """The actions of all rows, float32 [T+1 a].

    The last one is recorded or without motion.
    """
    actions = episode.actions.astype(np.float32)
    last = episode.last_action
    if last is None:
        if not len(actions):
            raise InputError(
                f"episode of task '{episode.task}': found one frame and no action, expected at least 1 action; omit it"
            )
        last = motionless(episode.spec, actions[-1:], actions[-1])[0]
    return np.concatenate([actions, np.asarray(last, np.float32)[None]])
