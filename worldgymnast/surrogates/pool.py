"""Collects imagined rollouts in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from worldgymnast.protocols import Policy
from worldgymnast.rl.judging import EnvironmentVerdicts, JudgeVerdicts
from worldgymnast.rl.rollout import batches, group
from worldgymnast.types import RolloutGroup, StartOrLayout

MakeEnv = Callable[[int, torch.Generator], VectorEnv[Any, Any, Any]]
"""Makes a vector environment of that many rows, which draws from that generator."""
AssignRewards = Callable[[RolloutGroup], RolloutGroup]
"""Replaces the verdicts of a judged group with the rewards to learn from."""


class LocalPool:
    """A `RolloutPool` over one vector environment.

    Args:
        policy: acts; `sync` writes into it. With prefetch, pass a copy of the trained policy; otherwise the policy
            itself is fine.
        make_env: makes the vector environment.
        verdict_source: provides the verdicts.
        rows: most parallel rollouts.
        temperature: of sampling.
        seed: of sampling. Every version of the weights has its own random stream, so a resumed run continues exactly
            as an uninterrupted one.
        assign_rewards: sets the rewards of a judged group, if they are not the verdicts.
    """

    def __init__(
        self,
        policy: Policy,
        make_env: MakeEnv,
        verdict_source: JudgeVerdicts | EnvironmentVerdicts,
        *,
        rows: int,
        temperature: float,
        seed: int,
        assign_rewards: AssignRewards | None = None,
    ):
        self.policy, self.make_env, self.verdict_source, self.rows = policy, make_env, verdict_source, rows
        self.assign_rewards = assign_rewards
        self.temperature, self.seed, self.version = temperature, seed, 0
        self.generator = torch.Generator()

    def begin(self, starts: Sequence[StartOrLayout], group_size: int) -> Callable[[], list[RolloutGroup]]:
        """Roll out a group from each start, and start judging each batch of rows once it is complete."""
        repeated = [start for start in starts for _ in range(group_size)]
        env = self.make_env(min(self.rows, len(repeated)), self.generator)
        pending = [
            self.verdict_source.begin(batch)
            for batch in batches(
                env, self.policy, repeated, temperature=self.temperature, generator=self.generator, version=self.version
            )
        ]

        def finish() -> list[RolloutGroup]:
            groups = group([rollout for batch in pending for rollout in batch()], group_size)
            return groups if self.assign_rewards is None else [self.assign_rewards(each) for each in groups]

        return finish

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Load `weights` into the acting policy, and reseed its random stream."""
        self.policy.load_trainable(weights)
        self.version = version
        self.generator.manual_seed(self.seed * 1_000_003 + version)
