"""Where an imagination begins: a picture, or a logged episode to compare it with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from typing_extensions import Protocol, runtime_checkable

from worldgymnast.actions import ActionSpec, converter
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.types import Start, require_frame_size


@dataclass(frozen=True)
class Log:
    """The recorded continuation of a start.

    Attributes:
        frames: uint8 [T+1 h w 3], the start's frame first.
        actions: float32 [T a], in the units of the world model.
        success: bool [T+1], or None if unlabelled.
    """

    frames: UInt8[np.ndarray, "t1 h w 3"]
    actions: Float[np.ndarray, "t a"]
    success: Bool[np.ndarray, " t1"] | None = None


@dataclass(frozen=True)
class Scene:
    """One start, and its recorded continuation where there is one.

    Attributes:
        name: short name for the list of scenes.
        start: the start.
        log: the recorded continuation, or None.
    """

    name: str
    start: Start
    log: Log | None = None


@runtime_checkable
class Scenes(Protocol):
    """A list of scenes, read when they are asked for."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each scene."""
        ...

    def __len__(self) -> int:
        """Number of scenes."""
        ...

    def __getitem__(self, index: int) -> Scene:
        """Scene by its position."""
        ...


class StartScenes:
    """Scenes of pictures.

    Attributes:
        starts: the starts.
    """

    def __init__(self, starts: Sequence[Start], frame_size: tuple[int, int]):
        """Check the frames.

        Raises:
            InputError: there is no start, or a frame has another size than those of the world model.
        """
        if not starts:
            raise InputError("starts: found none, expected at least one")
        for start in starts:
            require_frame_size(start.frame.shape, frame_size)
        self.starts = list(starts)

    @property
    def names(self) -> list[str]:
        """Instructions, numbered where they repeat."""
        return list(_numbered([start.instruction or start.task or "start" for start in self.starts]))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Scene:
        _check(index, len(self))
        return Scene(self.names[index], self.starts[index])


class EpisodeScenes:
    """Scenes of logged episodes, with what really happened.

    Attributes:
        episodes: the episodes.
        numbers: number of each in its data set.
    """

    def __init__(self, episodes: EpisodeSet, numbers: Sequence[int], spec: ActionSpec, frame_size: tuple[int, int]):
        """Check frames and actions.

        Args:
            episodes: the episodes.
            numbers: number of each in its data set.
            spec: actions of the world model.
            frame_size: height and width of its frames.

        Raises:
            InputError: the frames have another size.
            ActionSpecMismatch: the actions cannot be converted.
        """
        require_frame_size(episodes.size, frame_size, "data")
        self.episodes, self.numbers = episodes, list(numbers)
        self._convert = converter(episodes.spec, spec)

    @property
    def names(self) -> list[str]:
        """Number, instruction and outcome of each episode."""
        return [self._name(index) for index in range(len(self))]

    def _name(self, index: int) -> str:
        e = self.episodes
        outcome = ""
        if e.labelled[index]:
            first = int(e.first[index])
            outcome = " (success)" if e.success[first : first + int(e.length[index]) + 1].any() else " (failure)"
        return f"{self.numbers[index]}: {e.instruction[index] or e.task[index] or 'episode'}{outcome}"

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Scene:
        _check(index, len(self))
        episode = self.episodes.episode(index)
        log = Log(episode.frames, np.asarray(self._convert(episode.actions), np.float32), episode.success)
        return Scene(self._name(index), episode.start(0), log)


def _check(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InputError(f"scene: found {index}, expected 0 to {count - 1}")


def _numbered(names: Sequence[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield f"{name} ({seen[name]})" if names.count(name) > 1 else name
