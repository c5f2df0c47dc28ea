"""Reinforcement learning in imagination: the loop of the method.

Each step samples starts, rolls a group out from each inside the world model, has the judge score them, and updates the
policy. Every `evaluate_every` steps the greedy policy is scored on the same starts imagined and real, and the gap is
logged: imagined success that climbs alone is the failure to look for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from worldgymnast.evaluation.agreement import success_gap
from worldgymnast.evaluation.success import Difference
from worldgymnast.rl.objective import has_signal
from worldgymnast.rl.trainer import Trainer, TrainerConfig
from worldgymnast.run import Progress, Run
from worldgymnast.types import InputError, Metrics, Policy, Rollout, RolloutGroup, RolloutPool, Start, in_range

Score = Callable[[int], "Scored | None"]
"""Scores the policy of a step on the same starts, imagined and real."""


@dataclass(frozen=True)
class Scored:
    """Rollouts from the same starts, in the same order."""

    imagined: Sequence[Rollout]
    real: Sequence[Rollout]

    def gap(self) -> Difference:
        """Imagined minus real success, paired over starts: positive where the world is an optimist."""
        return success_gap(
            [r.verdict.succeeded for r in self.imagined],
            [r.verdict.succeeded for r in self.real],
            strata=[r.start.task for r in self.real],
        )

    def metrics(self) -> Metrics:
        """Both success rates and their gap."""
        gap = self.gap()
        pairs = [(a.verdict.succeeded, b.verdict.succeeded) for a, b in zip(self.imagined, self.real, strict=True)]
        agree = [a == b for a, b in pairs if a is not None and b is not None]
        return {
            "imagined_success": _rate(self.imagined),
            "real_success": _rate(self.real),
            "gap": gap.mean,
            "gap_low": gap.low,
            "gap_high": gap.high,
            "agreement": float(np.mean(agree)) if agree else float("nan"),
        }


def _rate(rollouts: Sequence[Rollout]) -> float:
    """Mean score of the rollouts that have one; an outage is no failure."""
    scores = [r.verdict.score for r in rollouts if r.verdict.score is not None]
    return float(np.mean(scores)) if scores else float("nan")


@dataclass(frozen=True)
class ReinforceConfig:
    """The loop.

    Attributes:
        steps: policy updates.
        starts: starts a step.
        group_size: rollouts per start, K.
        temperature: of sampling, also of the probability ratio.
        resample: how often starts whose group carried no signal are replaced within a step (dynamic sampling).
        middle: share of starts taken from the middle of logged episodes.
        rows: most rollouts imagined side by side.
        horizon: actions in an imagined rollout.
        evaluate_every: steps between two scorings; the first and the last step are always scored.
        evaluate_starts: starts per task of one scoring.
        keep_best: end with the weights that scored highest for real, the untrained ones included, rather than the last:
            where imagined success climbs alone, the policy that is handed out is then no worse.
        judge_error_limit: share of failed judgements above which the run stops.
        trainer: the update.
        seed: of every random draw.
        save_every: steps between two checkpoints.
    """

    steps: int = 18
    starts: int = 12
    group_size: int = 8
    temperature: float = 1.0
    resample: int = 1
    middle: float = 0.25
    rows: int = 96
    horizon: int = 24
    evaluate_every: int = 6
    evaluate_starts: int = 10
    keep_best: bool = True
    judge_error_limit: float = 0.2
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    save_every: int = 5

    def __post_init__(self) -> None:
        in_range(self, 1, "steps", "starts", "rows", "horizon", "evaluate_every", "save_every")
        in_range(self, 2, "group_size")
        in_range(self, 1e-3, "temperature")
        in_range(self, 0, "resample", "evaluate_starts", "seed")
        in_range(self, 0, "middle", "judge_error_limit", high=1)


def reinforce(
    policy: Policy,
    pool: RolloutPool,
    starts: Callable[[np.random.Generator, int], Sequence[Start]],
    score: Score,
    config: ReinforceConfig,
    run: Run,
) -> tuple[Metrics, Scored | None]:
    """Trains `policy` in place; returns the metrics of the scoring of the weights it ends with, and the last scoring.

    Args:
        policy: the policy that is trained.
        pool: collects the groups with a copy of it.
        starts: draws that many starts with that generator.
        score: scores the policy on the same starts, imagined and real.
        config: the loop.
        run: where metrics and checkpoints go; a killed run goes on from its newest checkpoint.
    """
    assert isinstance(policy, nn.Module)
    trainer = Trainer(policy, config.trainer)
    first, last, scored = trainer.resume(run), Metrics(), None
    with Progress("reinforcement learning in imagination", config.steps, done=first) as progress:
        for step in range(first, config.steps + 1):
            pool.sync(policy.state_dict(), step)
            metrics: Metrics = {}
            if step % config.evaluate_every == 0 or step == config.steps:
                scored = score(step)
                last = scored.metrics() if scored else last
                if scored and np.isfinite(last["real_success"]):
                    trainer.keep_best(last["real_success"], step)
                metrics |= last
            if step < config.steps:
                metrics |= _train(trainer, pool, starts, config, step)
                progress.advance(note=f"reward {metrics['reward']:.2f}")
            run.log(step, metrics)
            if (step + 1) % config.save_every == 0 and step < config.steps:
                trainer.save(run, step + 1)
    best = trainer.restore_best() if config.keep_best else None
    if best is None:
        return last, scored
    kept = next((row for row in reversed(run.metrics()) if row["step"] == best and "real_success" in row), last)
    return {k: kept[k] for k in last} | {"best_step": float(best)}, scored


def _train(
    trainer: Trainer,
    pool: RolloutPool,
    starts: Callable[[np.random.Generator, int], Sequence[Start]],
    config: ReinforceConfig,
    step: int,
) -> Metrics:
    """One step: collect, judge, update."""
    rng = np.random.default_rng([config.seed, step])
    began = time.perf_counter()
    groups = _collect(pool, starts, rng, config)
    collected = time.perf_counter()
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    metrics = trainer.update(groups, generator)
    frames = sum(len(r.frames) - 1 for g in groups for r in g.rollouts)
    metrics["imagined_frames_per_second"] = frames / (collected - began)
    metrics["seconds_collect"] = collected - began
    metrics["seconds_update"] = time.perf_counter() - collected
    if metrics["judge_error_rate"] > config.judge_error_limit:
        raise InputError(
            f"step {step}: the judge failed on {metrics['judge_error_rate']:.0%} of the rollouts, expected at most "
            f"{config.judge_error_limit:.0%}; mend the judge and run the same command again to go on"
        )
    return metrics


def _collect(
    pool: RolloutPool,
    starts: Callable[[np.random.Generator, int], Sequence[Start]],
    rng: np.random.Generator,
    config: ReinforceConfig,
) -> list[RolloutGroup]:
    """Groups from fresh starts; those without signal are replaced, and kept for the statistics."""
    groups = pool.collect(starts(rng, config.starts), config.group_size)
    for _ in range(config.resample):
        wanting = sum(not has_signal(g, config.trainer.objective) for g in groups[-config.starts :])
        if wanting <= config.starts // 3:
            break
        groups += pool.collect(starts(rng, wanting), config.group_size)
    return groups
