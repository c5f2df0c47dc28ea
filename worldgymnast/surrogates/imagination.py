"""Where a policy practises in the place of the real robot: in a world model before a judge, or in a simulator.

Both are rolled out in the same way, from the same starts, and trained in by the same loop; so whatever is compared
differs in nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium.vector import VectorEnv

from worldgymnast.actions import ActionSpec
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.progress import Progress
from worldgymnast.protocols import Actor, Judge, WorldModel
from worldgymnast.rl.judging import Judging, Reported
from worldgymnast.rl.rollout import batches
from worldgymnast.types import Rollout, RolloutGroup, StartOrLayout
from worldgymnast.weights import identity


@runtime_checkable
class Surrogate(Protocol):
    """What stands in for the real robot."""

    @property
    def action_spec(self) -> ActionSpec:
        """What its actions mean."""
        ...

    @property
    def judging(self) -> Judging | Reported:
        """Gives the verdicts on what happens in it."""
        ...

    def inputs(self) -> dict[str, Any]:
        """What tells it from another."""
        ...

    def __call__(self, rows: int, generator: torch.Generator) -> VectorEnv[Any, Any, Any]:
        """An environment of that many rows at most, which draws from that generator and leaves judging to `judging`."""
        ...

    def hasty(self) -> Surrogate:
        """The same for a policy and a judge that see no frame between two looks."""
        ...

    def rewarded(self, group: RolloutGroup) -> RolloutGroup:
        """The group with the rewards that are learned from, where these are not the verdicts."""
        ...

    def abandon(self) -> None:
        """Something failed: asks nothing more."""
        ...

    def close(self) -> None:
        """Frees what it holds, for now."""
        ...


@runtime_checkable
class Imagines(Surrogate, Protocol):
    """A surrogate that is a world model before a judge."""

    @property
    def world(self) -> WorldModel:
        """The world model."""
        ...

    @property
    def judge(self) -> Judge:
        """Says what happened in it."""
        ...

    @property
    def chunk(self) -> int:
        """Actions a look."""
        ...


@dataclass(frozen=True)
class Imagination:
    """Imagined environments in one world, and the judge of what happens in them.

    Attributes:
        world: the world model.
        judge: the judge.
        chunk: actions a look.
        horizon: actions in a rollout.
        every: frames decoded, see `ImaginedVectorEnv`.
    """

    world: WorldModel
    judge: Judge
    chunk: int
    horizon: int
    every: int = 1

    @classmethod
    def of(cls, policy: Actor, world: WorldModel, judge: Judge, horizon: int) -> Imagination:
        """As `policy` acts."""
        return cls(world, judge, policy.chunk, horizon)

    def __call__(self, rows: int, generator: torch.Generator) -> VectorEnv[Any, Any, Any]:
        """See `Surrogate`."""
        return ImaginedVectorEnv(
            self.world,
            None,
            rows=rows,
            chunk=self.chunk,
            horizon=self.horizon,
            generator=generator,
            every=self.every,
        )

    @property
    def judging(self) -> Judging:
        """The judge at work."""
        return self._judging

    @functools.cached_property
    def _judging(self) -> Judging:
        return Judging(self.judge, self.chunk)

    @property
    def action_spec(self) -> ActionSpec:
        """See `Surrogate`."""
        return self.world.action_spec

    def inputs(self) -> dict[str, Any]:
        """See `Surrogate`."""
        return {"world": identity(self.world), "judge": identity(self.judge)}

    def hasty(self) -> Imagination:
        """See `Surrogate`."""
        return replace(self, every=self.chunk)

    def rewarded(self, group: RolloutGroup) -> RolloutGroup:
        """See `Surrogate`; here verdicts are the rewards."""
        return group

    def abandon(self) -> None:
        """See `Surrogate`."""
        self.judging.abandon()

    def close(self) -> None:
        """See `Surrogate`; nothing to free."""


def score_in(
    surrogate: Surrogate,
    policy: Actor,
    starts: Sequence[StartOrLayout],
    *,
    rows: int,
    temperature: float,
    seed: int,
    said: str = "",
) -> list[Rollout]:
    """Judged rollouts of `policy` in a surrogate, `rows` side by side; `said` are the words of a progress bar."""
    generator = torch.Generator().manual_seed(seed)
    env = surrogate(min(len(starts), rows), generator)
    found = batches(env, policy, starts, temperature=temperature, generator=generator)
    judged: list[Callable[[], list[Rollout]]] = []
    with Progress(said, len(starts)) if said else nullcontext() as progress:
        for batch in found:
            judged.append(surrogate.judging.begin(batch))
            if progress is not None:
                progress.advance(len(batch))
        return [rollout for batch in judged for rollout in batch()]
