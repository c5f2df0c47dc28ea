"""Which imagined rollouts leave the data: frames or actions unlike those of any real episode.

Every look of a rollout is compared with the looks of the real episodes: the frame, reduced to 8x8 pixels, and the mean
of the executed actions. The distance of a rollout is the mean over its looks of the distance to the nearest real look.
The threshold comes from the real episodes themselves: each is compared with the others, and 5 % of them are outside
(split in halves between frames and actions). So a share far above 5 % means that the policy, or the world model, has
left the data.

A rollout inside the data may still be wrong. This measures coverage, not truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn.functional import adaptive_avg_pool2d

from worldgymnast.actions import ActionSpec, converter
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.types import Rollout

EXPECTED = 0.05
"""Share of real episodes that are outside."""
MIN_EPISODES = 4
"""Fewest real episodes to compare with."""
_SIDE = 8
"""Height and width of a reduced frame."""
_MAX_EPISODES, _MAX_LOOKS = 128, 4096
"""Most real episodes and looks to compare with."""
_BATCH = 512
"""Looks compared at a time."""


@dataclass(frozen=True)
class Distances:
    """Distances of n rollouts from the data.

    Attributes:
        frames: float [n], root mean square difference of reduced frames, in levels of 0..255.
        actions: float [n], root mean square difference of actions, in half ranges of each axis.
    """

    frames: np.ndarray
    actions: np.ndarray


class Support:
    """The frames and actions of real episodes, as a reference.

    Args:
        episodes: real episodes, at least `MIN_EPISODES` with an action.
        spec: meaning of the rollouts' actions.
        chunk: actions executed per look.

    Attributes:
        max_frames: largest distance in frames of a rollout inside the data.
        max_actions: largest distance in actions of a rollout inside the data.

    Raises:
        ValueError: there are too few episodes.
    """

    def __init__(self, episodes: EpisodeSet, spec: ActionSpec, chunk: int):
        usable = np.flatnonzero(episodes.length > 0)
        if len(usable) < MIN_EPISODES:
            raise ValueError(f"found {len(usable)} episodes with an action, expected at least {MIN_EPISODES}")
        chosen = evenly_spaced(len(usable), _MAX_EPISODES)
        most = max(1, _MAX_LOOKS // len(chosen))
        low, high = np.array(spec.low), np.array(spec.high)
        self._half_range = np.where(high > low, (high - low) / 2, 1.0).astype(np.float32)
        convert = converter(episodes.spec, spec)
        looks = [_looks(episodes, int(e), chunk, most) for e in usable[chosen]]
        self._frames = [reduced_frames(frames) for frames, _ in looks]
        self._actions = [convert(actions) / self._half_range for _, actions in looks]
        self.max_frames, self.max_actions = _limit(self._frames), _limit(self._actions)

    def distances(self, rollouts: Sequence[Rollout]) -> Distances:
        """Return the distance of each rollout from the nearest real looks."""
        frames = [reduced_frames(rollout.keyframes[:-1]) for rollout in rollouts]
        actions = [rollout.chunks.actions.mean(1).numpy() / self._half_range for rollout in rollouts]
        banks = np.concatenate(self._frames), np.concatenate(self._actions)
        return Distances(_mean_nearest(frames, banks[0]), _mean_nearest(actions, banks[1]))

    def outside(self, rollouts: Sequence[Rollout]) -> np.ndarray:
        """Return which rollouts leave the data, bool [n]."""
        own = self.distances(rollouts)
        return (own.frames > self.max_frames) | (own.actions > self.max_actions)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Choose at most `most` of `count` indices, evenly spaced, with the first and the last: int64 [n].

    >>> evenly_spaced(9, 3).tolist(), evenly_spaced(2, 3).tolist(), evenly_spaced(0, 3).tolist()
    ([0, 4, 8], [0, 1], [])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _looks(
    episodes: EpisodeSet, index: int, chunk: int, most: int
) -> tuple[UInt8[np.ndarray, "n h w 3"], Float[np.ndarray, "n a"]]:
    """Return some frames of an episode, evenly spaced, and the mean of the `chunk` actions after each."""
    first, length = int(episodes.first[index]), int(episodes.length[index])
    starts = np.arange(0, length, chunk)
    starts = starts[evenly_spaced(len(starts), most)]
    actions = [episodes.actions[first + s : first + min(s + chunk, length)].mean(0) for s in starts]
    return np.asarray(episodes.frames[first + starts]), np.stack(actions).astype(np.float32)


def reduced_frames(frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """Average frames over a grid of 8x8 cells."""
    channels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    return adaptive_avg_pool2d(channels, _SIDE).flatten(1).numpy()


def _nearest(looks: Float[np.ndarray, "n d"], bank: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    """Return the root mean square difference of each look from the nearest of the bank."""
    center = bank.mean(0)  # for precision
    bank = bank - center
    squares, values = np.square(bank).sum(1), []
    for i in range(0, len(looks), _BATCH):
        part = looks[i : i + _BATCH] - center
        values.append((np.square(part).sum(1)[:, None] - 2 * part @ bank.T + squares).min(1))
    return np.sqrt(np.maximum(np.concatenate(values), 0) / looks.shape[1])


def _mean_nearest(parts: Sequence[np.ndarray], bank: np.ndarray) -> np.ndarray:
    """Return the mean over the looks of each part of the distance to the bank, float [n]."""
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return np.array([each.mean() for each in np.split(_nearest(np.concatenate(parts), bank), ends)])


def _limit(parts: Sequence[np.ndarray]) -> float:
    """Compare the looks of each episode with all others; return the limit that `EXPECTED` / 2 of them exceed."""
    others = [np.concatenate([*parts[:i], *parts[i + 1 :]]) for i in range(len(parts))]
    distances = [float(_nearest(own, bank).mean()) for own, bank in zip(parts, others, strict=True)]
    return float(np.quantile(distances, 1 - EXPECTED / 2, method="higher"))
