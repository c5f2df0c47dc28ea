"""Imagining what was logged, and judging it: real action sequences drive the world, and their true outcome is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from worldgymnast.actions import converter
from worldgymnast.episodes.windows import EpisodeSet, warn_outside
from worldgymnast.evaluation.uncertainty import belief
from worldgymnast.progress import Progress
from worldgymnast.types import Clip, Judge, Verdict, WorldModel

PIECE = 32
"""Clips a judge is given in one call."""


def replay(
    world: WorldModel,
    episodes: EpisodeSet,
    *,
    seed: int,
    rows: int = 64,
    actions: np.ndarray | None = None,
    said: str = "",
) -> EpisodeSet:
    """The same episodes as the world imagines them from their first frame.

    Args:
        world: the world model.
        episodes: all of one length.
        seed: of the imagination.
        rows: episodes imagined side by side.
        actions: other actions than the logged ones, float32 [e t a], such as those of another episode.
        said: the words of a progress bar; "" for none.

    Returns:
        A set with imagined frames and the true labels, sources prefixed with "imagined ".
    """
    length = int(episodes.length.max())
    assert (episodes.length == length).all(), "replay: episodes differ in length"
    convert = converter(episodes.spec, world.action_spec)
    if episodes.spec.is_same_kind(world.action_spec):
        warn_outside(episodes, world.action_spec, "world model")
    frame_rows = episodes.first[:, None] + np.arange(length + 1)
    driven = episodes.actions[frame_rows[:, :-1]] if actions is None else actions
    generator = torch.Generator().manual_seed(seed)
    imagined = []
    with Progress(said, len(episodes)) if said else nullcontext() as progress:
        for i in range(0, len(episodes), rows):
            first = torch.from_numpy(np.asarray(episodes.frames[frame_rows[i : i + rows, 0]]))
            state = world.start(first)
            _, frames = world.step(state, torch.from_numpy(convert(driven[i : i + rows])), generator=generator)
            imagined.append(torch.cat([first[:, None], frames.cpu()], 1).flatten(0, 1).numpy())
            if progress is not None:
                progress.advance(len(first))
    return replace(
        episodes,
        frames=np.concatenate(imagined),
        actions=episodes.actions[frame_rows].reshape(-1, episodes.spec.dim),
        success=episodes.success[frame_rows].reshape(-1),
        first=np.arange(len(episodes), dtype=np.int64) * (length + 1),
        source=tuple(f"imagined {source}" for source in episodes.source),
    )


def shuffled_actions(episodes: EpisodeSet, seed: int) -> np.ndarray:
    """Every episode's actions replaced by those of another, float32 [e t a]: what a world that listens must dislike."""
    length = int(episodes.length.max())
    driven = episodes.actions[episodes.first[:, None] + np.arange(length)]
    order = np.random.default_rng(seed).permutation(len(episodes))
    return driven[np.roll(order, 1)[np.argsort(order)]]


def clips(episodes: EpisodeSet, stride: int) -> list[Clip]:
    """What a judge sees of episodes of one length: every `stride`-th frame of each, its sentence and its task."""
    rows = episodes.first[:, None] + np.arange(0, int(episodes.length.max()) + 1, stride)
    shown = np.asarray(episodes.frames[rows])
    return [Clip(*one) for one in zip(shown, episodes.instruction, episodes.task, strict=True)]


def judged(judge: Judge, episodes: EpisodeSet, stride: int) -> Iterator[list[Verdict]]:
    """The verdicts on episodes of one length, `PIECE` at a time."""
    for i in range(0, len(episodes), PIECE):
        yield judge.score(clips(episodes.select(np.arange(i, min(i + PIECE, len(episodes)))), stride))


def clip_probabilities(judge: Judge, episodes: EpisodeSet, stride: int) -> np.ndarray:
    """The judge's belief in the success of every episode (all of one length), float [e]; NaN where it failed."""
    return np.array([belief(verdict) for part in judged(judge, episodes, stride) for verdict in part], np.float64)
