"""Collecting imagined rollouts in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from worldgymnast.protocols import Policy
from worldgymnast.rl.judging import Judging, Reported
from worldgymnast.rl.rollout import batches, group
from worldgymnast.types import RolloutGroup, StartOrLayout

MakeEnv = Callable[[int, torch.Generator], VectorEnv[Any, Any, Any]]
Reward = Callable[[RolloutGroup], RolloutGroup]


class LocalPool:
    """A `RolloutPool` over one vector environment.

    Args:
        policy: the policy that acts; `sync` writes into it. It may be the one that is trained, where nothing is
            imagined ahead of an update; otherwise give a copy.
        make_env: makes a vector environment of that many rows which draws from that generator.
        judging: gives the verdicts.
        rows: most rollouts side by side.
        temperature: of sampling.
        seed: of sampling; each version of the weights has a random stream of its own, so that a resumed run goes on
            as the run that was never stopped.
        rewarded: gives a judged group the rewards that are learned from, where these are not the verdicts.
    """

    def __init__(
        self,
        policy: Policy,
        make_env: MakeEnv,
        judging: Judging | Reported,
        *,
        rows: int,
        temperature: float,
        seed: int,
        rewarded: Reward | None = None,
    ):
        self.policy, self.make_env, self.judging, self.rows = policy, make_env, judging, rows
        self.rewarded = rewarded
        self.temperature, self.seed, self.version = temperature, seed, 0
        self.generator = torch.Generator()

    def begin(self, starts: Sequence[StartOrLayout], group_size: int) -> Callable[[], list[RolloutGroup]]:
        """See `RolloutPool.begin`; every batch of rows is given to the judge when it has been rolled out."""
        wanted = [start for start in starts for _ in range(group_size)]
        env = self.make_env(min(self.rows, len(wanted)), self.generator)
        judged = [
            self.judging.begin(batch)
            for batch in batches(
                env, self.policy, wanted, temperature=self.temperature, generator=self.generator, version=self.version
            )
        ]

        def finish() -> list[RolloutGroup]:
            groups = group([rollout for batch in judged for rollout in batch()], group_size)
            return groups if self.rewarded is None else [self.rewarded(each) for each in groups]

        return finish

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """See `RolloutPool.sync`."""
        self.policy.load_trainable(weights)
        self.version = version
        self.generator.manual_seed(self.seed * 1_000_003 + version)
