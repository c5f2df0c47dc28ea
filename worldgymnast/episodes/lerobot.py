"""LeRobotDataset v3.0, written and read; v2.1 and foreign v3.0 read. No lerobot needed.

T+1 rows an episode, one a frame, each with the action taken at it; the last has the recorded action, or one that asks
for no motion (see `lerobot_writer`). No frame follows it, so it is `Episode.last_action` and no training pair. What is
recorded here is lossless H.264, so that an episode read back is bit-identical. Left out: appending to a data set that
is finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from worldgymnast.episodes.lerobot_reader import episodes, read, read_whole
from worldgymnast.episodes.lerobot_writer import LeRobotWriter
from worldgymnast.errors import InputError
from worldgymnast.types import Episode
from worldgymnast.video import resize

__all__ = ["LeRobotWriter", "episodes", "read", "read_whole", "write"]


def write(path: str | Path, episodes: Iterable[Episode], size: int | tuple[int, int] | None = None) -> None:
    """Writes episodes of one spec and frame rate as a data set at `path`, which must not exist.

    Args:
        path: the folder.
        episodes: any number; a generator is not gathered in memory.
        size: pixels to resize the frames to; without it all must have the size of the first.
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
