"""Demonstrations that are executed again on another layout, without looking."""

from __future__ import annotations

from typing import Any

import numpy as np
import other_environments as other
import pytest

import worldgymnast as wg
from worldgymnast.errors import FieldError
from worldgymnast.protocols import Demonstrates
from worldgymnast.recipes import record as recording
from worldgymnast.recipes.record import RecordConfig, record


class Steered(other.Cart):
    """Its expert drives to the middle, so its actions depend on where it is."""

    def expert_action(self) -> np.ndarray:
        return np.array([np.clip((self.width / 2 - self.at) / self.speed, -1, 1), 0.5], np.float32)


@pytest.fixture
def env() -> Demonstrates:
    made = wg.environment(Steered, kwargs={})
    assert isinstance(made, Demonstrates)
    return made


def recorded(env: Demonstrates, **counts: int) -> list[Any]:
    config = RecordConfig(**{"expert": 0, "noisy": 0, "play": 0, **counts}, length=8, workers=1)
    return list(record(env, config))


def test_the_actions_are_those_of_the_demonstration(env: Demonstrates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_smooth_noise", lambda rng, length, dim, correlation: np.zeros((length, dim)))
    replayed = recorded(env, replayed=2)
    own = recorded(env, expert=2)
    monkeypatch.setattr(recording, "_DONOR", 0)
    again = recorded(env, replayed=2)
    assert [episode.source for episode in replayed] == ["replayed"] * 4
    for blind, seen, same in zip(replayed, own, again, strict=True):
        assert np.array_equal(blind.frames[0], seen.frames[0])  # the same layout
        assert not np.array_equal(blind.actions, seen.actions)  # but the actions of another
        assert np.array_equal(same.actions, seen.actions)
        assert np.array_equal(same.frames, seen.frames)


def test_noise_spares_the_gripper(env: Demonstrates) -> None:
    episodes = recorded(env, replayed=8)
    assert all((episode.actions[:, -1] == 0.5).all() for episode in episodes)
    blind = np.array([len(np.unique(episode.actions[2:, 0])) for episode in episodes])
    assert (blind > 1).any()


def test_counts(env: Demonstrates) -> None:
    assert len(recorded(env, expert=1, replayed=2)) == 2 * 3
    with pytest.raises(FieldError, match=r"'replayed'.*found 0 in total"):
        RecordConfig(expert=0, noisy=0, play=0)
