"""One person labels the episodes of a dataset; every label is saved at once."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from worldgymnast.episodes.labels import Label, LabelWriter, keys_of
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError

_JPEG_QUALITY = 92


class Session:
    """Episodes, and the labels that one labeller gives them.

    Positions count the episodes from 0 in the order of the set. Every method may be called from any thread.

    Attributes:
        episodes: the episodes.
        numbers: number of each episode in the dataset.
        labeller: name of the person.
    """

    def __init__(self, episodes: EpisodeSet, numbers: Sequence[int], writer: LabelWriter, labeller: str):
        """Continue with the labels that `labeller` has in the writer's file."""
        self.episodes, self.numbers, self.labeller = episodes, list(numbers), labeller
        self._writer, self._keys, self._lock = writer, keys_of(episodes), threading.Lock()
        known = {name: position for position, name in enumerate(zip(self._keys, self.numbers, strict=True))}
        self._labels: dict[int, Label] = {}
        for name, label in writer.file.by(labeller).items():
            if name in known:
                self._labels[known[name]] = label
        self._history: list[tuple[int, Label | None]] = [(position, None) for position in self._labels]

    def state(self) -> dict[str, Any]:
        """All that the page shows, as JSON."""
        with self._lock:
            return {
                "labeller": self.labeller,
                "data": self._writer.file.data,
                "rule": str(self._writer.file.rule),
                "fps": self.episodes.fps,
                "episodes": [self._row(position) for position in range(len(self.episodes))],
            }

    def _row(self, position: int) -> dict[str, Any]:
        label = self._labels.get(position)
        height, width = self.episodes.size
        return {
            "number": self.numbers[position],
            "instruction": self.episodes.instruction[position],
            "task": self.episodes.task[position],
            "frames": int(self.episodes.length[position]) + 1,
            "width": width,
            "height": height,
            "success": None if label is None else label.success,
            "frame": None if label is None else label.frame,
        }

    def label(self, position: int, success: bool, frame: int | None) -> dict[str, Any]:
        """Label an episode; returns its row.

        Args:
            position: of the episode.
            success: whether the task was accomplished.
            frame: first successful frame, or None; ignored for a failure.

        Raises:
            InputError: there is no such episode or frame.
        """
        self._check(position, frame)
        with self._lock:
            self._history.append((position, self._labels.get(position)))
            self._save(position, success, frame if success else None)
            return self._row(position)

    def undo(self) -> int | None:
        """Take back the last label; returns its episode's position, None if there is none."""
        with self._lock:
            if not self._history:
                return None
            position, before = self._history.pop()
            if before is None:
                self._save(position, None, None)
            else:
                self._save(position, before.success, before.frame)
            return position

    def _save(self, position: int, success: bool | None, frame: int | None) -> None:
        label = Label(self.numbers[position], self._keys[position], self.labeller, success, frame)
        self._writer.add(label)
        if success is None:
            self._labels.pop(position, None)
        else:
            self._labels[position] = label

    def frame(self, position: int, frame: int) -> bytes:
        """A frame as JPEG.

        Raises:
            InputError: there is no such episode or frame.
        """
        self._check(position, frame)
        pixels = np.asarray(self.episodes.frames[int(self.episodes.first[position]) + frame])
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()

    def _check(self, position: int, frame: int | None) -> None:
        if not 0 <= position < len(self.episodes):
            raise InputError(f"episode: found position {position}, expected 0 to {len(self.episodes) - 1}")
        last = int(self.episodes.length[position])
        if frame is not None and not 0 <= frame <= last:
            raise InputError(f"frame: found {frame}, expected 0 to {last}")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of successes, failures and unlabelled episodes."""
        with self._lock:
            successes = sum(label.success is True for label in self._labels.values())
            return successes, len(self._labels) - successes, len(self.episodes) - len(self._labels)
