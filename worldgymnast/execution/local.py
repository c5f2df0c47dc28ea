"""Collecting imagined rollouts in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from worldgymnast.rl.rollout import group, roll_out
from worldgymnast.types import Policy, RolloutGroup, Start

MakeEnv = Callable[[int, torch.Generator], VectorEnv[Any, Any, Any]]


class LocalPool:
    """A `RolloutPool` over one vector environment.

    Args:
        policy: the policy that acts; `sync` writes into it, so give a copy where the trained one must stay apart.
        make_env: makes a vector environment of that many rows which draws from that generator.
        rows: most rollouts side by side.
        temperature: of sampling.
        seed: of sampling; each version of the weights has a random stream of its own, so that a resumed run goes on
            as the run that was never stopped.
    """

    def __init__(self, policy: Policy, make_env: MakeEnv, *, rows: int, temperature: float, seed: int):
        self.policy, self.make_env, self.rows = policy, make_env, rows
        self.temperature, self.seed, self.version = temperature, seed, 0
        self.generator = torch.Generator()

    def collect(self, starts: Sequence[Start], group_size: int) -> list[RolloutGroup]:
        """See `RolloutPool.collect`."""
        wanted = [start for start in starts for _ in range(group_size)]
        env = self.make_env(min(self.rows, len(wanted)), self.generator)
        rollouts = roll_out(
            env, self.policy, wanted, temperature=self.temperature, generator=self.generator, version=self.version
        )
        return group(rollouts, group_size)

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """See `RolloutPool.sync`."""
        assert isinstance(self.policy, nn.Module)
        self.policy.load_state_dict(dict(weights))
        self.version = version
        self.generator.manual_seed(self.seed * 1_000_003 + version)
