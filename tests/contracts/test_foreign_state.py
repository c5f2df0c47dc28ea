"""A world model, a policy and an environment of somebody else, with two cameras and the robot's state."""

from __future__ import annotations

from typing import Any

import foreign
import gymnasium as gym
import numpy as np
import pytest
import torch
from foreign import HEIGHT, SPEC, WIDTH, Bright, Dimmer, Mine
from torch import Tensor

from worldgymnast import testing
from worldgymnast.envs.wrappers import vectorize
from worldgymnast.errors import InputError
from worldgymnast.protocols import HasTiling, PredictsState, predicts_state
from worldgymnast.rl.rollout import group, roll_out
from worldgymnast.rl.trainer import Trainer, TrainerConfig, stack
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.tiling import Tiling
from worldgymnast.types import Layout, Observation, Start, Verdict, WorldState

TILING = Tiling.side_by_side({"left": (HEIGHT, WIDTH - 8), "right": (HEIGHT, 8)})


class Rig(Dimmer):
    """A dimmer whose state is its brightness and the number of actions so far."""

    tiling, state_dim, identity = TILING, 2, "rig"

    def start(self, frames: Tensor, state: Tensor | None = None) -> WorldState:
        estimate = torch.stack([frames.float().mean((1, 2, 3)), torch.zeros(len(frames))], -1)
        known = estimate if state is None else torch.where(state.isnan(), estimate, state)
        return WorldState(frames.float(), 0, extra={"robot": known})

    def step(
        self, state: WorldState, actions: Tensor, *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, Tensor]:
        after, frames = super().step(state, actions, generator=generator, every=every)
        moved = torch.stack([10 * actions[:, :, 0].sum(1), torch.full((len(actions),), float(actions.shape[1]))], -1)
        return WorldState(after.latent, after.frame, extra={"robot": state.extra["robot"] + moved}), frames

    def predict_state(self, state: WorldState) -> Tensor | None:
        return state.extra["robot"]


class Reader(Mine):
    """A policy that reads the right camera and the state."""

    cameras, needs = ("right",), frozenset({"right", "state"})

    def _mean(self, obs: Observation) -> Tensor:
        assert obs.state is not None
        assert obs.images["right"].shape[1:] == (HEIGHT, 8, 3)
        seen = torch.cat([obs.images["right"].float().mean((1, 2, 3))[:, None], obs.state], -1)
        return self.net(seen / 255).unflatten(-1, (2, 2))


def start(level: int, state: np.ndarray | None = None) -> Start:
    return Start(np.full((HEIGHT, WIDTH, 3), level, np.uint8), "brighten", state=state)


def imagined(policy: Any, starts: list[Start]) -> Any:
    env = Imagination.of(policy, Rig(), Bright(), 6)(len(starts), torch.Generator().manual_seed(0))
    return roll_out(env, policy, starts, temperature=1.0, generator=torch.Generator().manual_seed(1))


def test_the_contracts_hold() -> None:
    testing.check_world(Rig())
    testing.check_policy(Reader(), (HEIGHT, 8), state_size=2)
    assert isinstance(Rig(), HasTiling)
    assert isinstance(Rig(), PredictsState)
    assert predicts_state(Rig())
    assert not predicts_state(Dimmer())


def test_the_policy_sees_its_camera_and_the_predicted_state() -> None:
    known = np.array([50.0, 7.0], np.float32)
    first, second = imagined(Reader(), [start(100), start(100, known)])
    assert set(first.images) == {"right"}
    np.testing.assert_array_equal(first.images["right"], first.keyframes[:-1, :, WIDTH - 8 :])
    np.testing.assert_allclose(first.state[:, 1], [0, 2, 4])
    np.testing.assert_allclose(second.state[:, 1], [7, 9, 11])
    np.testing.assert_allclose(second.state[0], known)
    moved = 10 * second.chunks.actions[:-1, :, 0].sum(1).numpy()
    np.testing.assert_allclose(np.diff(second.state[:, 0]), moved, rtol=1e-4)


def test_learning_scores_again_with_the_state_of_the_rollout() -> None:
    policy = Reader()
    rollouts = imagined(policy, [start(level) for level in (90, 100, 110, 120)])
    obs, chunk, _ = stack(rollouts)
    np.testing.assert_allclose(obs.state, np.concatenate([r.state for r in rollouts]))
    torch.testing.assert_close(policy.logprobs(obs, chunk), chunk.logprobs)
    judged = [r.with_verdict(Verdict(float(i % 2)), r.looks) for i, r in enumerate(rollouts)]
    metrics = Trainer(policy, TrainerConfig()).update(group(judged, 4), torch.Generator().manual_seed(0))
    assert metrics["ratio_error"] < 1e-4


def test_a_world_without_state_or_camera_is_refused_with_the_fix() -> None:
    env = Imagination.of(Reader(), Dimmer(), Bright(), 6)(1, torch.Generator())
    with pytest.raises(InputError, match="needs right, state, but the environment only provides image"):
        roll_out(env, Reader(), [start(9)], temperature=0.0, generator=torch.Generator())

    class Stateful(Mine):
        needs = frozenset({"image", "state"})

    env = Imagination.of(Stateful(), Dimmer(), Bright(), 6)(1, torch.Generator())
    with pytest.raises(InputError, match="train-world DATA --state"):
        roll_out(env, Stateful(), [start(9)], temperature=0.0, generator=torch.Generator())
    with pytest.raises(InputError, match="state has 3 numbers, but the world model predicts 2"):
        imagined(Reader(), [start(9, np.zeros(3, np.float32))])


class Rail(gym.Env[dict[str, Any], np.ndarray]):
    """One row of a real environment with a state, of single actions."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            image=gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8), state=gym.spaces.Box(-9, 9, (2,), np.float32)
        )
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def _seen(self) -> dict[str, Any]:
        return {"image": foreign.frame_of(7), "state": np.array([self.x, self.t], np.float32)}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.x, self.t = 0.0, 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.x, self.t = self.x + float(action[0]), self.t + 1
        return self._seen(), 0.0, False, self.t == 6, {"success": self.x > 0}


def test_a_real_environment_gives_state_and_cameras_too() -> None:
    env: Any = vectorize(Rail, 1, 2)
    env.tiling = TILING
    layout = Layout("brighten", 7, "brighten")
    (rollout,) = roll_out(env, Reader(), [layout], temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert rollout.start.state.tolist() == [0, 0]
    assert rollout.state[:, 1].tolist() == [0, 2, 4]
    assert rollout.frame_state[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert rollout.images["right"].shape == (3, HEIGHT, 8, 3)
    assert SPEC.dim == 2
