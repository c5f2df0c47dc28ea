"""Reinforcement learning in imagination: the loop of the method.

Each step samples starts, rolls a group out from each inside the world model, has the judge score them, and updates the
policy. Every `evaluate_every` steps the greedy policy is scored on the same starts imagined and real, and the gap is
logged: imagined success that climbs alone is the failure to look for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from worldgymnast.evaluation.agreement import success_gap
from worldgymnast.evaluation.success import Difference
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.rl.objective import has_signal
from worldgymnast.rl.rollout import without_uncertain
from worldgymnast.rl.trainer import Trainer, TrainerConfig
from worldgymnast.run import Progress, Run
from worldgymnast.types import InputError, Metrics, Policy, Rollout, RolloutGroup, RolloutPool, Start, in_range

Score = Callable[[int], "Scored | None"]
"""Scores the policy of a step on the same starts, imagined and real."""

Doubt = Callable[[Sequence[Rollout], int], np.ndarray]
"""How little each imagined rollout is to be believed, float [r]; the number is the seed of its draws."""


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
        uncertainty: whether rollouts that the world is not to be believed in are dropped from their groups.
        uncertainty_threshold: doubt above which a rollout is dropped; `eval-world` shows what a threshold costs.
        uncertain_limit: share of such rollouts above which the run stops: the policy has left what the world knows.
        jitter: the disturbed futures that tell; each costs as much imagination as the rollout itself. None by default:
            of the starter world's lies the judge's own doubt alone finds as many.
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
    uncertainty: Literal["off", "drop"] = "off"
    uncertainty_threshold: float = 0.8
    uncertain_limit: float = 0.5
    jitter: JitterConfig = JitterConfig(futures=0)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    save_every: int = 5

    def __post_init__(self) -> None:
        in_range(self, 1, "steps", "starts", "rows", "horizon", "evaluate_every", "save_every")
        in_range(self, 2, "group_size")
        in_range(self, 1e-3, "temperature")
        in_range(self, 0, "resample", "evaluate_starts", "seed")
        in_range(self, 0, "middle", "judge_error_limit", "uncertain_limit", high=1)
        in_range(self, 0, "uncertainty_threshold")


def reinforce(
    policy: Policy,
    pool: RolloutPool,
    starts: Callable[[np.random.Generator, int], Sequence[Start]],
    score: Score,
    config: ReinforceConfig,
    run: Run,
    doubt: Doubt | None = None,
) -> tuple[Metrics, Scored | None]:
    """Trains `policy` in place; returns the metrics of the scoring of the weights it ends with, and the last scoring.

    Args:
        policy: the policy that is trained.
        pool: collects the groups with a copy of it.
        starts: draws that many starts with that generator.
        score: scores the policy on the same starts, imagined and real.
        config: the loop.
        run: where metrics and checkpoints go; a killed run goes on from its newest checkpoint.
        doubt: which rollouts not to believe; needed unless `config.uncertainty` is off.

    Raises:
        InputError: the judge fails, or the world is in doubt, on more rollouts than the config allows.
    """
    if config.uncertainty != "off" and doubt is None:
        raise ValueError(f"uncertainty: found '{config.uncertainty}' and no doubt to measure it by, expected one")
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
                metrics |= _train(trainer, pool, starts, config, step, run, doubt)
                progress.advance(note=f"reward {metrics['reward']:.2f}")
            run.log(step, metrics)
            if (step + 1) % config.save_every == 0 and step < config.steps:
                trainer.save(run, step + 1)
    best = trainer.restore_best() if config.keep_best else None
    if best is None:
        return last, scored
    kept = next((row for row in reversed(run.metrics()) if row["step"] == best and "real_success" in row), last)
    return {k: kept[k] for k in last} | {"best_step": float(best)}, scored


@dataclass
class _Collected:
    """The groups of a step that are trained on, and what was imagined for them.

    Attributes:
        groups: without the uncertain rollouts.
        rollouts: how many were imagined.
        frames: and how many frames in them.
        uncertain: how many were dropped.
    """

    groups: list[RolloutGroup]
    rollouts: int = 0
    frames: int = 0
    uncertain: int = 0


def _train(
    trainer: Trainer,
    pool: RolloutPool,
    starts: Callable[[np.random.Generator, int], Sequence[Start]],
    config: ReinforceConfig,
    step: int,
    run: Run,
    doubt: Doubt | None,
) -> Metrics:
    """One step: collect, judge, update."""
    rng = np.random.default_rng([config.seed, step])
    began = time.perf_counter()
    found = _collect(pool, starts, rng, config, step, doubt)
    collected = time.perf_counter()
    told = _told(found, config)
    if told.get("uncertain_rate", 0) > config.uncertain_limit:
        trainer.save(run, step)
        raise InputError(
            f"step {step}: --rl.uncertain-limit: found {told['uncertain_rate']:.0%} of {found.rollouts} imagined "
            f"rollouts above the threshold of doubt ({config.uncertainty_threshold:g}), expected at most "
            f"{config.uncertain_limit:.0%}; {run.path} keeps the policy of this step in a checkpoint: record real "
            "rollouts, train the world model on them too, and begin a new run, or raise the threshold in one"
        )
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    metrics = trainer.update(found.groups, generator)
    metrics |= told
    metrics["imagined_frames_per_second"] = found.frames / (collected - began)
    metrics["seconds_collect"] = collected - began
    metrics["seconds_update"] = time.perf_counter() - collected
    if metrics["judge_error_rate"] > config.judge_error_limit:
        raise InputError(
            f"step {step}: the judge failed on {metrics['judge_error_rate']:.0%} of the rollouts, expected at most "
            f"{config.judge_error_limit:.0%}; mend the judge and run the same command again to go on"
        )
    return metrics


def _told(found: _Collected, config: ReinforceConfig) -> Metrics:
    """How many rollouts were uncertain, where that is asked."""
    if config.uncertainty == "off":
        return {}
    return {
        "rollouts": float(found.rollouts),
        "uncertain": float(found.uncertain),
        "uncertain_rate": found.uncertain / max(found.rollouts, 1),
    }


def _collect(
    pool: RolloutPool,
    starts: Callable[[np.random.Generator, int], Sequence[Start]],
    rng: np.random.Generator,
    config: ReinforceConfig,
    step: int,
    doubt: Doubt | None,
) -> _Collected:
    """Groups from fresh starts; those without signal are replaced, and kept for the statistics."""
    found = _Collected([])

    def add(count: int, turn: int) -> None:
        groups = pool.collect(starts(rng, count), config.group_size)
        rollouts = [r for g in groups for r in g.rollouts]
        found.rollouts += len(rollouts)
        found.frames += sum(r.chunks.actions.shape[0] * r.chunks.actions.shape[1] for r in rollouts)
        if config.uncertainty == "drop" and doubt is not None:
            seed = config.seed * 1_000_003 + step * (config.resample + 1) + turn
            groups, dropped = without_uncertain(groups, doubt(rollouts, seed), config.uncertainty_threshold)
            found.uncertain += dropped
        found.groups += groups

    add(config.starts, 0)
    for turn in range(config.resample):
        wanting = sum(not has_signal(g, config.trainer.objective) for g in found.groups[-config.starts :])
        if wanting <= config.starts // 3:
            break
        add(wanting, turn + 1)
    return found
