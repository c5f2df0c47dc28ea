"""The frames of a LeRobotDataset, episode by episode, from videos or from pictures in the data files."""

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
from worldgymnast.video import iterate_timed, resize
from worldgymnast.video_reader import frame_times

_SLACK = 1e-3


@dataclass
class VideoCamera:
    """Frames from videos, by the pairings of each."""

    pairings: Sequence[Pairing]
    _by_episode: dict[int, Pairing] = field(default_factory=dict)
    _open: Path | None = None
    _next: int = 0
    _source: Iterator[tuple[float, np.ndarray]] = field(default_factory=lambda: iter(()))
    _times: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self._by_episode = {index: pairing for pairing in self.pairings for index in pairing.frames}

    def file(self, rows: Rows) -> Path:
        """Where an episode's frames are."""
        return self._by_episode[rows.record.index].file

    def has(self, rows: Rows) -> bool:
        """Whether an episode's frames are known."""
        return rows.record.index in self._by_episode

    def frames(self, rows: Rows) -> Iterator[np.ndarray]:
        """Frames uint8 [h w 3] of an episode's rows; a file is walked once where episodes come in its order."""
        pairing = self._by_episode[rows.record.index]
        for wanted in pairing.frames[rows.record.index]:
            yield self._frame(pairing.file, int(wanted))

    def _frame(self, file: Path, wanted: int) -> np.ndarray:
        if file != self._open or wanted < self._next:
            self._open, self._next, self._source = file, 0, iter(iterate_timed(file))
            self._times = frame_times(file)
        while True:
            found = next(self._source, None)
            if found is None:
                raise InputError(f"{file}: found {self._next} frames, expected {len(self._times)}; copy it again")
            self._next += 1
            if self._next - 1 == wanted:
                break
        if abs(found[0] - self._times[wanted]) > _SLACK:
            raise InputError(
                f"{file}: frame {wanted} is shown at {found[0]:.6g} s, but stamped {self._times[wanted]:.6g} s; encode "
                "the video again"
            )
        return found[1]


@dataclass
class PictureCamera:
    """Frames kept as PNG or JPEG in the data files' column `name`."""

    name: str
    _open: Path | None = None
    _column: Any = None

    def file(self, rows: Rows) -> Path:
        """Where an episode's frames are."""
        return rows.record.data

    def has(self, rows: Rows) -> bool:
        """Whether an episode's frames are known."""
        return True

    def frames(self, rows: Rows) -> Iterator[np.ndarray]:
        """Frames uint8 [h w 3] of an episode's rows; a file is walked once where episodes come in its order."""
        path = rows.record.data
        if path != self._open:
            self._open, self._column = path, field_of(read_table(path, (self.name,), combine=False), self.name, path)
        for row in rows.index:
            where = f"{path}: field '{self.name}': row {row}"
            (entry,) = python_values(self._column.slice(int(row), 1), where)
            content = entry.get("bytes") if isinstance(entry, dict) else entry
            if content is not None and not isinstance(content, bytes):
                raise InputError(f"{where}: found {short(content)}, expected a PNG or JPEG; embed the images")
            if not content:
                raise InputError(f"{where} holds no picture; embed the images in the data set")
            yield open_picture(content, where)


Camera = VideoCamera | PictureCamera


def camera(found: Layout, name: str, rows: Sequence[Rows]) -> tuple[Camera, list[Pairing]]:
    """A camera's frames for the episodes of `rows`, and the pairings, whose errors concern its other episodes."""
    if found.in_data(name):
        return PictureCamera(name), []
    by_file = sorted(rows, key=lambda one: (str(one.record.places[name].file), one.record.places[name].start))
    pairings = []
    for file, group in groupby(by_file, key=lambda one: one.record.places[name].file):
        pairings.append(pair(file, [(one, one.record.places[name]) for one in group], found.fps, found.root))
    return VideoCamera(pairings), pairings


def in_order(found: Layout, rows: Sequence[Rows]) -> list[Rows]:
    """The episodes in the order in which the first camera's files hold them."""
    name = found.cameras[0]

    def key(one: Rows) -> tuple[str, float, int]:
        place = one.record.places.get(name)
        if place is None:
            return str(one.record.data), 0.0, one.record.index
        return str(place.file), place.start, one.record.index

    return sorted(rows, key=key)


def side_by_side(cameras: Sequence[Camera], rows: Rows) -> Iterator[np.ndarray]:
    """The frames of an episode, those of all cameras in one picture."""
    for pictures in zip(*(source.frames(rows) for source in cameras), strict=True):
        yield beside(pictures)


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 [h w 3] from left to right, each scaled to the height of the first.

    >>> beside([np.zeros((4, 6, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]).shape
    (4, 10, 3)
    """
    if len(pictures) == 1:
        return pictures[0]
    height = pictures[0].shape[0]
    widths = [max(1, round(picture.shape[1] * height / picture.shape[0])) for picture in pictures]
    scaled = [resize(picture, (height, width)) for picture, width in zip(pictures, widths, strict=True)]
    return np.concatenate(scaled, axis=1)
