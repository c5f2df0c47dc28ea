"""Rolls out policies in the real environment, and compares with the same layouts imagined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from worldgymnast.actions import require_same
from worldgymnast.configs import Between, Count, Executed, NonNegative, Positive, checked
from worldgymnast.progress import Progress
from worldgymnast.protocols import Actor, KeepsLayouts, RealEnvironment
from worldgymnast.rl.reinforce import PairedRollouts
from worldgymnast.rl.rollout import executed_per_look, open_vector, roll_out
from worldgymnast.surrogates.imagination import Surrogate, score_in
from worldgymnast.types import Layout, Rollout
from worldgymnast.weights import identity

_BATCH = 10
"""Real episodes between two updates of the progress bar."""
_STILL_LOOKS = 5
_SAME_PICTURE = 1.0
"""Largest mean difference, of 255, of two pictures that count as the same."""


@checked
class ScoreConfig:
    """Real evaluation.

    Attributes:
        per_task: episodes per task.
        temperature: sampling temperature; 0 is greedy.
        first_layout: seed of the first layout; use layouts that were never recorded. By default those that a benchmark
            keeps for the final evaluation, at most as many as it has; otherwise 1000000.
        workers: processes of the real environment.
        execute: actions to execute of each predicted chunk; all by default.
    """

    per_task: Annotated[int, Between(1, 160)] = 50
    temperature: NonNegative = 0.0
    first_layout: Count | None = None
    workers: Positive = 2
    execute: Executed = None

    def resolved(self, env: RealEnvironment) -> ScoreConfig:
        """Config with the layouts of an environment."""
        kept = env.evaluation_layouts if isinstance(env, KeepsLayouts) else None
        per_task, first = _layouts(self.per_task, self.first_layout, kept, 1_000_000, "the final evaluation")
        return replace(self, per_task=per_task, first_layout=first)


@checked
class ScoringConfig:
    """Evaluations during training: the greedy policy on the same layouts, imagined and real.

    Attributes:
        per_task: layouts per task.
        first_layout: seed of the first layout; use layouts that were never recorded, and not those of the final
            evaluation. By default those that a benchmark keeps for scores, at most as many as it has; otherwise
            5000000.
        workers: processes of the real environment.
    """

    per_task: Positive = 10
    first_layout: Count | None = None
    workers: Positive = 2

    def resolved(self, env: RealEnvironment) -> ScoringConfig:
        """Config with the layouts of an environment."""
        kept = env.scoring_layouts if isinstance(env, KeepsLayouts) else None
        per_task, first = _layouts(self.per_task, self.first_layout, kept, 5_000_000, "scores during training")
        return replace(self, per_task=per_task, first_layout=first)


def first_of(config: ScoreConfig | ScoringConfig) -> int:
    """First layout of a config that is `resolved`."""
    assert config.first_layout is not None, "resolve the config with its environment first"
    return config.first_layout


def _layouts(per_task: int, first: int | None, kept: range | None, default: int, purpose: str) -> tuple[int, int]:
    """Number of layouts per task, and the first."""
    if first is not None or kept is None:
        return per_task, default if first is None else first
    if per_task > len(kept):
        print(f"the benchmark keeps {len(kept)} layouts per task for {purpose}: {len(kept)} are used, not {per_task}")
    return min(per_task, len(kept)), kept.start


def score_real(
    policy: Actor, env: VectorEnv[Any, Any, Any], layouts: Sequence[Layout], *, temperature: float, seed: int
) -> list[Rollout]:
    """Roll out `policy` for real, once per layout."""
    generator = torch.Generator().manual_seed(seed)
    return roll_out(env, policy, layouts, temperature=temperature, generator=generator)


def run_trials(
    policy: Actor,
    env: VectorEnv[Any, Any, Any],
    layouts: Sequence[Layout],
    *,
    temperature: float,
    seed: int,
    label: str,
) -> list[Rollout]:
    """Roll out `policy` for real, with a progress bar; see `score_real`."""
    rollouts: list[Rollout] = []
    with Progress(label, len(layouts)) as progress:
        for i in range(0, len(layouts), _BATCH):
            part = layouts[i : i + _BATCH]
            rollouts += score_real(policy, env, part, temperature=temperature, seed=seed)
            progress.advance(len(part))
    warn_of_standstill(rollouts)
    return rollouts


def stands_still(rollout: Rollout, looks: int = _STILL_LOOKS) -> bool:
    """Whether a rollout ends with the same actions in front of the same pictures.

    A policy without memory cannot leave such a picture if it acts greedily: fingers that are closing look like fingers
    that have closed. In imagination noise carries it on.

    Args:
        rollout: the rollout.
        looks: least number of such looks at the end.
    """
    chunks, pictures = rollout.chunks.actions[-looks:].float(), [each[-looks:] for each in rollout.images.values()]
    if len(chunks) < looks or not torch.allclose(chunks, chunks[-1:].expand_as(chunks), atol=1e-6):
        return False
    return all(np.abs(each - each[-1].astype(np.int16)).mean((1, 2, 3)).max() <= _SAME_PICTURE for each in pictures)


def warn_of_standstill(rollouts: Sequence[Rollout]) -> bool:
    """Warn if a tenth of all rollouts, or more, fail in a standstill; return whether they do."""
    failed = [rollout for rollout in rollouts if rollout.verdict.score is not None and not rollout.verdict.succeeded]
    still = sum(map(stands_still, failed))
    if 10 * still < max(len(rollouts), 1):
        return False
    print(
        f"warning: {still} of {len(failed)} failed episodes end in a standstill: the policy repeats one action in "
        "front of one picture. Let it read the robot's state (sft --state), predict longer chunks, or act at a "
        "temperature above 0",
        flush=True,
    )
    return True


def result_row(rollout: Rollout, seed: int) -> dict[str, Any]:
    """Return the row of a real episode in an evaluation file; `seed` pairs it with other policies."""
    start = rollout.start
    return {"task": start.task, "layout": start.layout, "seed": seed, "success": rollout.verdict.succeeded}


@dataclass
class Scorer:
    """Evaluates a policy on the same layouts in the real environment and in the surrogate.

    Attributes:
        env: the real environment.
        config: number of layouts.
    """

    env: RealEnvironment
    config: ScoringConfig = ScoringConfig()
    _open: tuple[tuple[int, int], VectorEnv[Any, Any, Any]] | None = field(default=None, init=False, repr=False)
    _has_warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.config = self.config.resolved(self.env)

    def description(self) -> dict[str, Any]:
        """Return tasks, layouts and environment as JSON, for config.json."""
        return {"tasks": list(self.env.tasks), **asdict(self.config), "environment": identity(self.env)}

    def __call__(
        self,
        policy: Actor,
        surrogate: Surrogate,
        step: int,
        *,
        horizon: int,
        rows: int,
        execute: int | None = None,
    ) -> PairedRollouts:
        """Roll out the greedy policy from the same layouts, imagined and real.

        Args:
            policy: acts.
            surrogate: where to imagine.
            step: seed of the draws.
            horizon: actions per rollout.
            rows: most rollouts imagined in parallel.
            execute: actions to execute of each predicted chunk; all by default.
        """
        env = self._vector(policy, horizon, execute)
        layouts = self.env.layouts(self.config.per_task, first_of(self.config))
        real = score_real(policy, env, layouts, temperature=0.0, seed=step)
        self._has_warned = self._has_warned or warn_of_standstill(real)
        imagined = score_in(surrogate, policy, [r.start for r in real], rows=rows, temperature=0.0, seed=step)
        return PairedRollouts(imagined, real)

    def _vector(self, policy: Actor, horizon: int, execute: int | None) -> VectorEnv[Any, Any, Any]:
        """Return the real environment for this chunk and horizon, opened once."""
        require_same(policy.action_spec, self.env.action_spec, "policy and real environment")
        key = (executed_per_look(policy, execute), horizon)
        if self._open is not None and self._open[0] != key:
            self.close()
        if self._open is None:
            self._open = key, open_vector(self.env, self.config.workers, key[0], horizon=horizon)
        return self._open[1]

    def close(self) -> None:
        """Stop the processes of the real environment."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
