"""Collects imagined rollouts in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from worldgymnast.protocols import Policy
from worldgymnast.rl.collect import Streams
from worldgymnast.rl.judging import EnvironmentVerdicts, JudgeVerdicts
from worldgymnast.rl.rollout import batches, group
from worldgymnast.surrogates.units import MakeEnv, UnitCounter, begin_unit
from worldgymnast.types import Rollout, RolloutGroup, StartOrLayout

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
        streams: "step", one random stream per version of the weights; or "group", one per group, as every pool of
            several processes has. Only the numbers differ.
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
        streams: Streams = "step",
    ):
        self.policy, self.make_env, self.verdict_source, self.rows = policy, make_env, verdict_source, rows
        self.assign_rewards = assign_rewards
        self.temperature, self.seed, self.version = temperature, seed, 0
        self.generator = torch.Generator()
        self._weights: Mapping[str, Tensor] = {}
        self._units = UnitCounter(seed) if streams == "group" else None

    def begin(self, starts: Sequence[StartOrLayout], group_size: int) -> Callable[[], list[RolloutGroup]]:
        """Roll out a group from each start, and start judging each batch of rows once it is complete."""
        pending = (
            self._begin_by_step(starts, group_size) if self._units is None else self._begin_units(starts, group_size)
        )

        def finish() -> list[RolloutGroup]:
            groups = group([rollout for batch in pending for rollout in batch()], group_size)
            return groups if self.assign_rewards is None else [self.assign_rewards(each) for each in groups]

        return finish

    def begin_filled(
        self,
        starts: Sequence[StartOrLayout],
        group_size: int,
        replace: Callable[[RolloutGroup], Sequence[StartOrLayout]],
    ) -> Callable[[], list[RolloutGroup]]:
        """Roll out a group from each start, and then those that `replace` asks for; see `FillingPool`.

        Raises:
            ValueError: the pool's streams are not "group".
        """
        if self._units is None:
            raise ValueError("streams: found 'step', expected 'group' to replace groups")
        weights, version = self._weights, self.version
        first = self.begin(starts, group_size)

        def finish() -> list[RolloutGroup]:
            groups, unasked = list[RolloutGroup](), deque(first())
            while unasked:
                groups.append(unasked.popleft())
                if more := replace(groups[-1]):
                    if self.version != version:
                        self.sync(weights, version)
                    unasked += self.begin(more, group_size)()
            return groups

        return finish

    def _begin_by_step(self, starts: Sequence[StartOrLayout], group_size: int) -> list[Callable[[], list[Rollout]]]:
        """Roll out batches of rows that continue one random stream."""
        repeated = [start for start in starts for _ in range(group_size)]
        env = self.make_env(min(self.rows, len(repeated)), self.generator)
        return [
            self.verdict_source.begin(batch)
            for batch in batches(
                env, self.policy, repeated, temperature=self.temperature, generator=self.generator, version=self.version
            )
        ]

    def _begin_units(self, starts: Sequence[StartOrLayout], group_size: int) -> list[Callable[[], list[Rollout]]]:
        """Roll out one group after the other, each with its own random stream."""
        assert self._units is not None
        units = self._units.units(starts, group_size, self.version)
        return [
            begin_unit(
                unit, self.policy, self.make_env, self.verdict_source, rows=self.rows, temperature=self.temperature
            )
            for unit in units
        ]

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Load `weights` into the acting policy, and reseed its random stream."""
        self.policy.load_trainable(weights)
        self._weights, self.version = weights, version
        self.generator.manual_seed(self.seed * 1_000_003 + version)
