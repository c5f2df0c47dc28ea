"""Collecting imagined rollouts in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from worldgymnast.rl.rollout import group, run
from worldgymnast.types import Policy, RolloutGroup, Start

MakeEnv = Callable[[int], VectorEnv[Any, Any, Any]]


class LocalPool:
    """A `RolloutPool` over one vector environment.

    Args:
        policy: the policy that acts; `sync` writes into it, so give a copy where the trained one must stay apart.
        make_env: makes a vector environment of that many rows; kept while the number stays the same.
        rows: most rollouts side by side.
        temperature: of sampling.
        generator: of sampling.
    """

    def __init__(
        self, policy: Policy, make_env: MakeEnv, *, rows: int, temperature: float, generator: torch.Generator
    ):
        self.policy, self.make_env, self.rows = policy, make_env, rows
        self.temperature, self.generator, self.version = temperature, generator, 0
        self._env: VectorEnv[Any, Any, Any] | None = None

    def collect(self, starts: Sequence[Start], group_size: int) -> list[RolloutGroup]:
        """See `RolloutPool.collect`."""
        wanted = [start for start in starts for _ in range(group_size)]
        rows = min(self.rows, len(wanted))
        if self._env is None or self._env.num_envs != rows:
            self._env = self.make_env(rows)
        rollouts = run(
            self._env, self.policy, wanted, temperature=self.temperature, generator=self.generator, version=self.version
        )
        return group(rollouts, group_size)

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """See `RolloutPool.sync`."""
        assert isinstance(self.policy, nn.Module)
        self.policy.load_state_dict(dict(weights))
        self.version = version
