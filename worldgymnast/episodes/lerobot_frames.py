"""Frames of LeRobotDataset episodes, from videos or embedded pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.episodes.lerobot_layout import Layout
from worldgymnast.episodes.lerobot_pairing import Pairing, pair
from worldgymnast.episodes.lerobot_rows import Rows
from worldgymnast.episodes.parquet import field_of, python_values, read_table
from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.pictures import open_picture
from worldgymnast.tiling import compose
from worldgymnast.video import iterate_timed
from worldgymnast.video_reader import frame_times

_TOLERANCE = 1e-3
"""Largest difference between a frame's decoded and declared time, in seconds."""


@dataclass
class VideoCamera:
    """A camera stored as videos, with pairings of rows and frames."""

    pairings: Sequence[Pairing]
    _by_episode: dict[int, Pairing] = field(default_factory=dict)
    _open_file: Path | None = None
    _next_index: int = 0
    _frames: Iterator[tuple[float, np.ndarray]] = field(default_factory=lambda: iter(()))
    _times: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self._by_episode = {index: pairing for pairing in self.pairings for index in pairing.frames}

    def file(self, rows: Rows) -> Path:
        """The file with an episode's frames."""
        return self._by_episode[rows.record.index].file

    def has(self, rows: Rows) -> bool:
        """Whether an episode is paired with frames."""
        return rows.record.index in self._by_episode

    def frames(self, rows: Rows) -> Iterator[np.ndarray]:
        """Yield the frames of an episode, uint8 [h w 3].

        A file is decoded once for episodes in its order.
        """
        pairing = self._by_episode[rows.record.index]
        for index in pairing.frames[rows.record.index]:
            yield self._frame(pairing.file, int(index))

    def _frame(self, file: Path, index: int) -> np.ndarray:
        if file != self._open_file or index < self._next_index:
            self._open_file, self._next_index, self._frames = file, 0, iter(iterate_timed(file))
            self._times = frame_times(file)
        while True:
            timed = next(self._frames, None)
            if timed is None:
                raise InputError(f"{file}: found {self._next_index} frames, expected {len(self._times)}; copy it again")
            self._next_index += 1
            if self._next_index - 1 == index:
                break
        time, frame = timed
        if abs(time - self._times[index]) > _TOLERANCE:
            raise InputError(
                f"{file}: frame {index} is displayed at {time:.6g} s, but has timestamp {self._times[index]:.6g} s; "
                "encode the video again"
            )
        return frame


@dataclass
class PictureCamera:
    """A camera stored as PNG or JPEG in a data column."""

    name: str
    _open_file: Path | None = None
    _column: Any = None

    def file(self, rows: Rows) -> Path:
        """The file with an episode's frames."""
        return rows.record.data

    def has(self, rows: Rows) -> bool:
        """Whether an episode has frames; always true."""
        return True

    def frames(self, rows: Rows) -> Iterator[np.ndarray]:
        """Yield the frames of an episode, uint8 [h w 3].

        A file is read once for consecutive episodes.
        """
        path = rows.record.data
        if path != self._open_file:
            table = read_table(path, (self.name,), combine=False)
            self._open_file, self._column = path, field_of(table, self.name, path)
        for row in rows.index:
            where = f"{path}: field '{self.name}': row {row}"
            (entry,) = python_values(self._column.slice(int(row), 1), where)
            content = entry.get("bytes") if isinstance(entry, dict) else entry
            if content is not None and not isinstance(content, bytes):
                raise InputError(f"{where}: found {short(content)}, expected a PNG or JPEG; embed the images")
            if not content:
                raise InputError(f"{where}: found no picture, expected a PNG or JPEG; embed the images in the dataset")
            yield open_picture(content, where)


Camera = VideoCamera | PictureCamera


def open_camera(layout: Layout, name: str, episodes: Sequence[Rows]) -> tuple[Camera, list[Pairing]]:
    """Open a camera for some episodes.

    Returns:
        The camera, and the pairings of its videos, whose errors concern the episodes without frames.
    """
    if layout.has_embedded_frames(name):
        return PictureCamera(name), []
    by_file = sorted(episodes, key=lambda rows: (str(rows.record.videos[name].file), rows.record.videos[name].start))
    pairings = []
    for file, group in groupby(by_file, key=lambda rows: rows.record.videos[name].file):
        spans = [(rows, rows.record.videos[name]) for rows in group]
        pairings.append(pair(file, spans, layout.fps, layout.root))
    return VideoCamera(pairings), pairings


def sort_by_file(layout: Layout, episodes: Sequence[Rows]) -> list[Rows]:
    """Sort episodes by their position in the first camera's files."""
    name = layout.cameras[0]

    def key(rows: Rows) -> tuple[str, float, int]:
        span = rows.record.videos.get(name)
        if span is None:
            return str(rows.record.data), 0.0, rows.record.index
        return str(span.file), span.start, rows.record.index

    return sorted(episodes, key=key)


def pictures(cameras: Sequence[Camera], rows: Rows) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the pictures of all cameras, frame by frame."""
    return zip(*(camera.frames(rows) for camera in cameras), strict=True)


def side_by_side(cameras: Sequence[Camera], rows: Rows) -> Iterator[np.ndarray]:
    """Yield the frames of an episode with all cameras in one picture."""
    for several in pictures(cameras, rows):
        yield compose({str(index): picture for index, picture in enumerate(several)})


def first_sizes(layout: Layout, rows: Rows) -> dict[str, tuple[int, int]]:
    """Height and width of each camera's first picture in an episode."""
    sizes = {}
    for name in layout.cameras:
        camera, _ = open_camera(layout, name, [rows])
        picture = next(iter(camera.frames(rows)))
        sizes[name] = picture.shape[0], picture.shape[1]
    return sizes
