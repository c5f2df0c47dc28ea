"""Imagined rollouts whose actions are executed for real, without looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import SPEC, Mine
from lamp import SIZE, Lamp

from worldgymnast.cli.main import main
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.episodes.formats import read
from worldgymnast.recipes.quickstart import starter
from worldgymnast.rl.rollout import roll_out
from worldgymnast.surrogates.plans import execute_plans
from worldgymnast.types import Start, WorldState

HORIZON = 6


def env(world: Any, rows: int) -> ImaginedVectorEnv:
    return ImaginedVectorEnv(
        world, None, rows=rows, chunk=2, horizon=HORIZON, generator=torch.Generator().manual_seed(0)
    )


def policy() -> Mine:
    """Its actions depend strongly on what it sees."""
    torch.manual_seed(0)
    made = Mine()
    with torch.no_grad():
        made.net[0].weight.mul_(20)
    return made


def starts(count: int, state: bool = False) -> list[Start]:
    rng = np.random.default_rng(0)
    return [
        Start(
            rng.integers(40, 200, (SIZE, SIZE, 3), dtype=np.uint8),
            "shine",
            state=np.array([i], np.float32) if state else None,
        )
        for i in range(count)
    ]


def executed(real: Any, world: Any, rows: int, given: list[Start]) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return execute_plans(
        env(real, rows), policy(), world, given, execute=2, horizon=HORIZON, temperature=0.0, generator=generator
    )


def closed_loop(world: Any, given: list[Start]) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return roll_out(env(world, len(given)), policy(), given, temperature=0.0, generator=generator)


def test_the_actions_are_those_of_the_world_model_and_the_frames_real() -> None:
    real, world, given = Lamp(spec=SPEC), Lamp(fades=-9, spec=SPEC), starts(5)
    plans, looking = closed_loop(world, given), closed_loop(real, given)
    for rollout, plan, seen in zip(executed(real, world, 2, given), plans, looking, strict=True):
        assert torch.equal(rollout.chunks.actions, plan.chunks.actions)
        assert not torch.equal(rollout.chunks.actions, seen.chunks.actions), "the policy saw the real frames"
        state, frames = WorldState(torch.from_numpy(rollout.start.frame[None]).float(), 0), [rollout.start.frame]
        for actions in rollout.chunks.actions:
            state, shown = real.step(state, actions[None], generator=torch.Generator())
            frames += list(shown[0].numpy())
        np.testing.assert_array_equal(rollout.frames, np.stack(frames))


def test_in_the_world_that_it_was_made_in_a_plan_is_what_the_policy_does() -> None:
    world, given = Lamp(fades=3, spec=SPEC), starts(4)
    for rollout, seen in zip(executed(world, world, 4, given), closed_loop(world, given), strict=True):
        assert torch.equal(rollout.chunks.actions, seen.chunks.actions)
        np.testing.assert_array_equal(rollout.frames, seen.frames)


class Stateful(Lamp):
    """A lamp that predicts a state of one number, and notes the states that it was started with."""

    state_dim = 1

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.known: list[torch.Tensor] = []

    def start(self, frames: torch.Tensor, state: torch.Tensor | None = None) -> WorldState:
        assert state is not None
        self.known.append(state)
        return super().start(frames)

    def predict_state(self, state: WorldState) -> torch.Tensor:
        return torch.zeros(len(state.latent), 1)


def test_the_real_state_begins_the_plan() -> None:
    world = Stateful(spec=SPEC)
    real = Stateful(spec=SPEC)
    real.predict_state = lambda state: torch.arange(5.0, 5.0 + len(state.latent))[:, None]
    executed(real, world, 3, starts(3, state=True))
    assert [known.tolist() for known in world.known] == [[[5.0], [6.0], [7.0]]]
    world.known.clear()
    executed(Lamp(spec=SPEC), world, 3, starts(3))
    assert torch.stack(world.known).isnan().all(), "an environment without a state leaves it to the world model"


def test_record_policy_executes_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = str(starter("world"))
    words = [
        "record-policy",
        str(starter("policy")),
        "--plan-in",
        world,
        "--env.tasks",
        "drawer-open",
        "--workers",
        "1",
    ]
    words += ["--temperatures", "0", "--per-temperature", "2", "--length", "8"]
    assert main([*words, "--out", str(tmp_path / "plans")]) == 0
    recorded = read(tmp_path / "plans")
    assert set(recorded.source) == {"plan@0"}
    assert recorded.labelled.all()
    words[words.index("--plan-in")] = "--out"
    words[words.index(world)] = str(tmp_path / "seen")
    assert main(words) == 0
    seen = read(tmp_path / "seen")
    np.testing.assert_array_equal(seen.frames[0], recorded.frames[0])
    assert (seen.actions[0] == recorded.actions[0]).all(), "the first look is real"
    assert not np.array_equal(seen.actions, recorded.actions)
    capsys.readouterr()
    words[words.index("--out")] = "--plan-in"
    words[words.index(str(tmp_path / "seen"))] = str(starter("judge"))
    assert main([*words, "--out", str(tmp_path / "no")]) == 2
    assert "judge" in capsys.readouterr().err
