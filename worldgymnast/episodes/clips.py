"""Sample clips of episodes for training.

A batch of clips is a pure function of (seed, step): a resumed run draws the same batches without any loader state.
There are no worker processes, since a batch is one fancy index into a memory map (a few milliseconds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from worldgymnast.episodes.windows import EpisodeSet, check_compatible
from worldgymnast.errors import InputError


@dataclass(frozen=True)
class ClipBatch:
    """Clips of T actions and T+1 frames.

    Attributes:
        frames: uint8 [b T+1 h w 3]; padded with the last frame of the episode.
        actions: float32 [b T a]; padded with zeros.
        mask: bool [b T], False for padded actions.
        success: bool [b T+1], labels of the frames; meaningless if not `labelled`.
        labelled: bool [b].
        instruction: b sentences.
        origin: int64 [b], index of the set in a mixture.
        episode: int64 [b], index of the episode in that set.
        offset: int64 [b], first frame of the clip within the episode.
    """

    frames: UInt8[Tensor, "b t1 h w 3"]
    actions: Float[Tensor, "b t a"]
    mask: Bool[Tensor, "b t"]
    success: Bool[Tensor, "b t1"]
    labelled: Bool[Tensor, " b"]
    instruction: tuple[str, ...]
    origin: Int[Tensor, " b"]
    episode: Int[Tensor, " b"]
    offset: Int[Tensor, " b"]


def clips(episodes: EpisodeSet, episode: np.ndarray, offset: np.ndarray, length: int, origin: int = 0) -> ClipBatch:
    """Extract clips from episodes.

    Args:
        episodes: the set.
        episode: int [b], indices of the episodes.
        offset: int [b], first frame of each clip within its episode.
        length: actions T per clip.
        origin: index of the set in a mixture.
    """
    last = episodes.length[episode][:, None]
    frame = offset[:, None] + np.arange(length + 1)
    rows = episodes.first[episode][:, None] + np.minimum(frame, last)
    mask = frame[:, :-1] < last
    # An episode's last action row is zeros, which pads the actions.
    return ClipBatch(
        frames=torch.from_numpy(np.asarray(episodes.frames[rows])),
        actions=torch.from_numpy(episodes.actions[rows[:, :-1]]),
        mask=torch.from_numpy(mask),
        success=torch.from_numpy(episodes.success[rows]),
        labelled=torch.from_numpy(episodes.labelled[episode]),
        instruction=tuple(episodes.instruction[i] for i in episode),
        origin=torch.full((len(episode),), origin, dtype=torch.int64),
        episode=torch.from_numpy(episode.astype(np.int64)),
        offset=torch.from_numpy(offset.astype(np.int64)),
    )


class ClipSampler:
    """Sampler of random clips, a pure function of (seed, step).

    Attributes:
        sets: the episode sets.
        length: actions T per clip.
        batch: clips per batch.
        seed: seed of the draws.
        overrun: whether clips may run past the end of an episode.
    """

    def __init__(
        self,
        sources: EpisodeSet | Sequence[tuple[EpisodeSet, float]],
        length: int,
        batch: int,
        seed: int,
        weights: np.ndarray | None = None,
        overrun: bool = False,
    ):
        """Prepare the sampler.

        Args:
            sources: one set, or a mixture of (set, share of the clips) pairs; shares are normalized.
            length: actions T per clip.
            batch: clips per batch.
            seed: seed of the draws, combined with the step.
            weights: float [e], sampling weights of the episodes of all sets in order, normalized within each set. The
                default is the episodes' lengths, which makes all actions about equally likely.
            overrun: let clips start at any frame with an action and run past the end (masked). Otherwise a clip stays
                within its episode if that is long enough, and starts at its first frame if not.

        Raises:
            InputError: a set is empty, sets differ, or weights are not one non-negative number per episode.
        """
        pairs = [(sources, 1.0)] if isinstance(sources, EpisodeSet) else list(sources)
        if not pairs or any(len(part) == 0 for part, _ in pairs):
            raise InputError("clip sampler: found a set of 0 episodes, expected at least 1 in each")
        for part, _ in pairs:
            check_compatible(pairs[0][0].spec, part.spec, pairs[0][0].frames, part.frames)
        self.sets = tuple(part for part, _ in pairs)
        self.length, self.batch, self.seed, self.overrun = length, batch, seed, overrun
        self._share = _cumulative(np.array([share for _, share in pairs], np.float64))
        if weights is None:
            weights = np.concatenate([part.length for part in self.sets]).astype(np.float64)
        total = sum(len(part) for part in self.sets)
        if len(weights) != total:
            raise InputError(f"clip sampler: found {len(weights)} weights, expected {total}, one per episode")
        bounds = np.cumsum([len(part) for part in self.sets])[:-1]
        self._weights = [_cumulative(part) for part in np.split(np.asarray(weights, np.float64), bounds)]

    def __call__(self, step: int) -> ClipBatch:
        """The batch of `step`; clips of the same set are adjacent."""
        generator = np.random.default_rng([self.seed, step])
        counts = np.bincount(self._pick(self._share, generator, self.batch), minlength=len(self.sets))
        parts = [self._draw(origin, int(n), generator) for origin, n in enumerate(counts) if n]
        return parts[0] if len(parts) == 1 else _join(parts)

    @staticmethod
    def _pick(cumulative: np.ndarray, generator: np.random.Generator, count: int) -> np.ndarray:
        return np.searchsorted(cumulative, generator.random(count), side="right")

    def _draw(self, origin: int, count: int, generator: np.random.Generator) -> ClipBatch:
        part = self.sets[origin]
        episode = self._pick(self._weights[origin], generator, count)
        room = part.length[episode] - (1 if self.overrun else self.length)
        offset = generator.integers(0, np.maximum(room, 0) + 1)
        return clips(part, episode, offset, self.length, origin)


def _cumulative(weights: np.ndarray) -> np.ndarray:
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise InputError(
            "clip sampler: found weights that are negative, not finite or all zero; expected positive ones"
        )
    total = np.cumsum(weights) / weights.sum()
    total[np.flatnonzero(weights)[-1] :] = 1.0  # keeps rounding errors from excluding the last episode
    return total


def _join(parts: Sequence[ClipBatch]) -> ClipBatch:
    def cat(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return ClipBatch(
        frames=cat("frames"),
        actions=cat("actions"),
        mask=cat("mask"),
        success=cat("success"),
        labelled=cat("labelled"),
        instruction=tuple(sentence for part in parts for sentence in part.instruction),
        origin=cat("origin"),
        episode=cat("episode"),
        offset=cat("offset"),
    )
