"""A policy in a world model, from the first frames of its own recorded episodes: planted worlds, known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from lamp import SIZE, BrightJudge, Lamp, lamp_episode
from torch import Tensor

from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import closed_loop
from worldgymnast.evaluation.uncertainty import imagine_clips
from worldgymnast.measure.recorded import imagine_recorded
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import IMAGE, ActionChunk, Observation

STEPS = 6


class Steady:
    """A foreign policy without torch modules: it makes the lamp brighter by 5 levels a step, whatever it sees."""

    action_spec, chunk, cameras, needs = Lamp().action_spec, 2, (IMAGE,), frozenset({IMAGE})

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        actions = torch.zeros(len(obs.instruction), self.chunk, 4)
        actions[..., 0] = 0.5
        return ActionChunk(actions, actions, torch.zeros(actions.shape), temperature)


def recorded(count: int = 24) -> EpisodeSet:
    """Rollouts of `Steady` in the true lamp, some of which end brighter than 128."""
    episodes = []
    for index in range(count):
        own = lamp_episode(index, STEPS)
        actions = np.tile(np.float32([0.5, 0, 0, 0]), (STEPS, 1))
        first = np.full((1, SIZE, SIZE, 3), 80 + index * 2, np.uint8)
        frames = imagine_clips(Lamp(), first, actions[None], 0)[0]
        success = (np.arange(STEPS + 1) == STEPS) & (frames[-1].mean() > 128)
        episodes.append(replace(own, frames=frames, actions=actions, success=success, task=("low", "high")[index % 2]))
    return from_episodes(episodes)


def imagined(world: Lamp, episodes: EpisodeSet) -> tuple[float, float, float]:
    policy = Steady()
    surrogate = Imagination.of(policy, world, BrightJudge(), STEPS)
    rows = imagine_recorded(policy, surrogate, episodes, horizon=STEPS, rows=7)
    assert [row.task for row in rows] == list(episodes.task)
    assert [row.real for row in rows] == list(episodes.succeeded)
    gap = closed_loop(rows).gap
    return gap.low, gap.value, gap.high


def test_the_true_world_has_no_gap() -> None:
    episodes = recorded()
    assert 0 < episodes.succeeded.sum() < len(episodes)
    assert imagined(Lamp(), episodes) == (0, 0, 0)


@pytest.mark.parametrize(("fades", "sign"), [(2.0, 1), (-2.0, -1)])
def test_a_world_that_is_too_kind_or_too_strict_shows(fades: float, sign: int) -> None:
    low, value, high = imagined(Lamp(fades), recorded())
    assert low <= value <= high
    assert sign * value == pytest.approx(6 / 24)
    assert low * high > 0, "the interval leaves out zero"


def test_episodes_without_a_label_are_left_out() -> None:
    episodes = recorded(4)
    plain = from_episodes([replace(episodes.episode(0), success=None), episodes.episode(1)])
    policy = Steady()
    surrogate = Imagination.of(policy, Lamp(), BrightJudge(), STEPS)
    assert len(imagine_recorded(policy, surrogate, plain, horizon=STEPS)) == 1
    with pytest.raises(InputError, match="no episode has a success label"):
        imagine_recorded(policy, surrogate, plain.select([0]), horizon=STEPS)


def test_the_policy_sees_what_the_world_imagines() -> None:
    seen: list[Tensor] = []

    class Watching(Steady):
        def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
            seen.append(obs.images[IMAGE].float().mean((1, 2, 3)))
            return super().act(obs, temperature=temperature, generator=generator)

    policy = Watching()
    imagine_recorded(policy, Imagination.of(policy, Lamp(3.0), BrightJudge(), STEPS), recorded(3), horizon=STEPS)
    assert torch.allclose(seen[1] - seen[0], torch.full((3,), 16.0)), "two actions of 5 levels, and 3 that fade in each"
