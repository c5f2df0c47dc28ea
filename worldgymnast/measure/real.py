"""A policy for real: on fixed layouts, beside the same layouts imagined, and before against after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import torch
from gymnasium.vector import VectorEnv

from worldgymnast.actions import require_same
from worldgymnast.configs import Between, Count, NonNegative, Positive, checked
from worldgymnast.progress import Progress
from worldgymnast.protocols import Actor, RealEnvironment
from worldgymnast.rl.reinforce import PairedRollouts
from worldgymnast.rl.rollout import roll_out
from worldgymnast.surrogates.imagination import Surrogate, score_in
from worldgymnast.types import Layout, Rollout
from worldgymnast.weights import identity

_SOME = 10
"""Real episodes between two lines of progress."""


@checked
class ScoreConfig:
    """Real evaluation.

    Attributes:
        per_task: episodes per task.
        temperature: of sampling; 0 is greedy.
        first_layout: layouts count up from here; never recorded ones.
        workers: processes that run the real environment.
    """

    per_task: Annotated[int, Between(1, 160)] = 50
    temperature: NonNegative = 0.0
    first_layout: Count = 1_000_000
    workers: Positive = 2


@checked
class ScoringConfig:
    """The scorings during training: the greedy policy on the same layouts, imagined and for real.

    Attributes:
        per_task: layouts per task.
        first_layout: first of them; never recorded ones, and not those of the final evaluation.
        workers: processes that run the real environment.
    """

    per_task: Positive = 10
    first_layout: Count = 5_000_000
    workers: Positive = 2


def score_real(
    policy: Actor, env: VectorEnv[Any, Any, Any], layouts: Sequence[Layout], *, temperature: float, seed: int
) -> list[Rollout]:
    """Real rollouts of `policy`, one on each layout."""
    generator = torch.Generator().manual_seed(seed)
    return roll_out(env, policy, layouts, temperature=temperature, generator=generator)


def trials(
    policy: Actor, env: VectorEnv[Any, Any, Any], layouts: Sequence[Layout], *, temperature: float, seed: int, what: str
) -> list[Rollout]:
    """`score_real` some layouts at a time, with their progress; `what` says what is done."""
    found: list[Rollout] = []
    with Progress(what, len(layouts)) as progress:
        for i in range(0, len(layouts), _SOME):
            part = layouts[i : i + _SOME]
            found += score_real(policy, env, part, temperature=temperature, seed=seed)
            progress.advance(len(part))
    return found


def row(rollout: Rollout, seed: int) -> dict[str, Any]:
    """A real episode in an evaluation's file; `seed` pairs it with another policy's."""
    start = rollout.start
    return {"task": start.task, "layout": start.layout, "seed": seed, "success": rollout.verdict.succeeded}


@dataclass
class Scorer:
    """Scores a policy on the same layouts in the real environment and in the surrogate.

    Attributes:
        env: the real environment.
        config: on how many layouts.
    """

    env: RealEnvironment
    config: ScoringConfig = ScoringConfig()
    _open: tuple[tuple[int, int], VectorEnv[Any, Any, Any]] | None = field(default=None, init=False, repr=False)

    def description(self) -> dict[str, Any]:
        """What tells it from another, JSON: tasks, layouts, and the environment."""
        return {"tasks": list(self.env.tasks), **asdict(self.config), "environment": identity(self.env)}

    def __call__(self, policy: Actor, surrogate: Surrogate, step: int, *, horizon: int, rows: int) -> PairedRollouts:
        """Greedy rollouts from the same layouts, imagined and real.

        Args:
            policy: acts.
            surrogate: where it practises.
            step: seed of the draws.
            horizon: actions in a rollout.
            rows: rollouts imagined side by side.
        """
        env = self._vector(policy, horizon)
        layouts = self.env.layouts(self.config.per_task, self.config.first_layout)
        real = score_real(policy, env, layouts, temperature=0.0, seed=step)
        imagined = score_in(surrogate, policy, [r.start for r in real], rows=rows, temperature=0.0, seed=step)
        return PairedRollouts(imagined, real)

    def _vector(self, policy: Actor, horizon: int) -> VectorEnv[Any, Any, Any]:
        require_same(policy.action_spec, self.env.action_spec, "policy and real environment")
        wanted = (policy.chunk, horizon)
        if self._open is not None and self._open[0] != wanted:
            self.close()
        if self._open is None:
            self._open = wanted, self.env.vector(self.config.workers, policy.chunk, horizon=horizon)
        return self._open[1]

    def close(self) -> None:
        """End the processes of the real environment."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
