"""Read LeRobotDataset v3.0 and v2.1, write v3.0, without lerobot.

An episode has T+1 rows, one per frame, each with the action taken at it. The last row has the recorded action, or one
without motion (see `lerobot_writer`). No frame follows it, so it becomes `Episode.last_action` and no training pair.
Recordings are lossless H.264 and bit-identical when read back. Not supported: appending to a finished dataset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from worldgymnast.episodes.lerobot_reader import episodes, read, stream
from worldgymnast.episodes.lerobot_writer import LeRobotWriter
from worldgymnast.errors import InputError
from worldgymnast.types import Episode
from worldgymnast.video import resize

__all__ = ["LeRobotWriter", "episodes", "read", "stream", "write"]


def write(path: str | Path, episodes: Iterable[Episode], size: int | tuple[int, int] | None = None) -> None:
    """Write episodes as a new dataset.

    Args:
        path: the folder to create.
        episodes: at least one; a generator is consumed one by one.
        size: pixels to resize the frames to; without it all must have the size of the first.

    Raises:
        InputError: there are no episodes, they differ, `path` exists, or the disk is full.
    """
    iterator = iter(episodes)
    first = next(iterator, None)
    if first is None:
        raise InputError(f"{path}: found 0 episodes to write, expected at least 1")
    pixels = (size, size) if isinstance(size, int) else size or (first.frames.shape[1], first.frames.shape[2])
    with LeRobotWriter(path, first.spec, first.fps, pixels) as writer:
        for episode in (part for group in ([first], iterator) for part in group):
            writer.add(episode if size is None else _resized(episode, size))


def _resized(episode: Episode, size: int | tuple[int, int]) -> Episode:
    return replace(episode, frames=resize(episode.frames, size))
