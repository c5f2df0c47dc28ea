"""Rollouts inside and outside of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from episode_builders import SPEC, episode
from lamp import SIZE, lamp_episode

from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.measure.support import EXPECTED, MIN_EPISODES, Support
from worldgymnast.types import IMAGE, ActionChunk, Rollout, Start, Verdict


def rollout(frames: np.ndarray, actions: np.ndarray, chunk: int = 2) -> Rollout:
    chunks = torch.from_numpy(actions).unflatten(0, (-1, chunk))
    looks = len(chunks)
    return Rollout(
        start=Start(frames[0], "turn the lamp on", "lamp"),
        images={IMAGE: frames[:-1:chunk]},
        chunks=ActionChunk(chunks, chunks, torch.zeros(looks), 1.0),
        frames=frames,
        verdict=Verdict(1.0),
        looks_until_success=looks,
    )


def recorded(episodes: EpisodeSet) -> list[Rollout]:
    each = [episodes.episode(e) for e in range(len(episodes))]
    return [rollout(np.asarray(e.frames), e.actions) for e in each]


@pytest.fixture(scope="module")
def data() -> EpisodeSet:
    return from_episodes([lamp_episode(i) for i in range(80)])


def test_new_real_episodes_are_inside_and_noise_is_outside(data: EpisodeSet) -> None:
    support = Support(data, SPEC, 2)
    fresh = recorded(from_episodes([lamp_episode(i) for i in range(1000, 1200)]))
    assert support.outside(fresh).mean() < 3 * EXPECTED
    dark = [rollout(np.zeros_like(r.frames), r.chunks.actions.flatten(0, 1).numpy()) for r in fresh]
    assert support.outside(dark).all()
    wild = [rollout(r.frames, np.full((8, 4), (-1) ** i, np.float32)) for i, r in enumerate(fresh)]
    assert support.outside(wild).all()
    near = support.distances(fresh), support.distances(wild)
    assert np.array_equal(near[0].frames, near[1].frames)
    assert near[1].actions.min() > support.max_actions


def test_the_data_themselves_lie_at_distance_zero(data: EpisodeSet) -> None:
    own = Support(data, SPEC, 2).distances(recorded(data))
    assert own.frames.max() < 0.5
    assert own.actions.max() < 1e-3


@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 50])
def test_any_chunk_and_any_length(chunk: int) -> None:
    episodes = from_episodes([episode(i, steps=1 + i % 7, size=SIZE) for i in range(20)])
    support = Support(episodes, SPEC, chunk)
    frames = np.zeros((2 * chunk + 1, 24, 40, 3), np.uint8)
    assert support.outside([rollout(frames, np.zeros((2 * chunk, 4), np.float32), chunk)]).shape == (1,)


def test_keyframes_alone_give_the_same(data: EpisodeSet) -> None:
    support = Support(data, SPEC, 2)
    (full,) = recorded(data.select([3]))
    sparse = rollout(full.frames, full.chunks.actions.flatten(0, 1).numpy())
    object.__setattr__(sparse, "frames", full.frames[::2])
    assert np.array_equal(support.distances([full]).frames, support.distances([sparse]).frames)


def test_too_few_episodes(data: EpisodeSet) -> None:
    with pytest.raises(ValueError, match=f"expected at least {MIN_EPISODES}"):
        Support(data.select(np.arange(MIN_EPISODES - 1)), SPEC, 2)
