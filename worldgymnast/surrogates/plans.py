"""Executes imagined rollouts on the real robot.

A policy acts in the world model from the frame that the robot shows first; the actions that it chose there are then
executed for real, without looking again. Such episodes show what imagined actions really lead to, for example a hand
that carries nothing after an imagined grasp. The policy's own real rollouts hardly contain this, because a policy that
sees its miss tries again. See docs/results/libero.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.protocols import Actor, WorldModel, predicts_state
from worldgymnast.rl.rollout import roll_out
from worldgymnast.types import IMAGE, STATE, ActionChunk, Observation, Rollout, Start, StartOrLayout


class Planner:
    """Actor that plans a whole rollout at its first look, and executes it blindly at the others.

    Good for one batch of rollouts that begin together.

    Args:
        policy: acts in the world model.
        world: where it acts.
        execute: actions executed per look.
        horizon: actions in a rollout.
        sees_state: whether the environment tells the robot's state.
    """

    def __init__(self, policy: Actor, world: WorldModel, execute: int, horizon: int, sees_state: bool = False):
        self.policy, self.world, self.horizon, self.chunk = policy, world, horizon, execute
        self.action_spec, self.cameras = policy.action_spec, (IMAGE,)
        self.needs = frozenset({IMAGE, STATE} if sees_state else {IMAGE})
        self._plans: list[ActionChunk] = []
        self._look = 0

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """The plan's next actions; see `Actor.act`."""
        if not self._plans:
            self._plans = self._imagine(obs, temperature, generator or torch.Generator().manual_seed(0))
        now = torch.tensor([self._look])
        self._look += 1
        return ActionChunk.join([plan.rows(now) for plan in self._plans], torch.cat)

    def _imagine(self, obs: Observation, temperature: float, generator: torch.Generator) -> list[ActionChunk]:
        """The looks of one imagined rollout per row."""
        starts = [
            Start(
                np.asarray(frame.cpu()),
                sentence,
                state=None if obs.state is None else np.asarray(obs.state[row].cpu(), np.float32),
            )
            for row, (frame, sentence) in enumerate(zip(obs.images[IMAGE], obs.instruction, strict=True))
        ]
        imagined = ImaginedVectorEnv(
            self.world,
            None,
            rows=len(starts),
            chunk=self.chunk,
            horizon=self.horizon,
            generator=generator,
            every=self.chunk,
        )
        rollouts = roll_out(imagined, self.policy, starts, temperature=temperature, generator=generator)
        return [rollout.chunks for rollout in rollouts]


def execute_plans(
    real: VectorEnv[Any, Any, Any],
    policy: Actor,
    world: WorldModel,
    starts: Sequence[StartOrLayout],
    *,
    execute: int,
    horizon: int,
    temperature: float,
    generator: torch.Generator,
) -> list[Rollout]:
    """Real rollouts of plans made in `world`, one per start; see `rl.rollout.roll_out` and `Planner`."""
    observed = getattr(real.single_observation_space, "spaces", {})
    sees_state = predicts_state(world) and STATE in observed
    rollouts: list[Rollout] = []
    for first in range(0, len(starts), real.num_envs):
        planner = Planner(policy, world, execute, horizon, sees_state)
        part = starts[first : first + real.num_envs]
        rollouts += roll_out(real, planner, part, temperature=temperature, generator=generator)
    return rollouts
