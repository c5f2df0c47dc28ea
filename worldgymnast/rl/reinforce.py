"""Reinforcement learning in imagination: the loop of the method.

Each step samples starts, rolls a group out from each inside the world model, has the judge score them, and updates the
policy. Every `evaluate_every` steps the greedy policy is scored on the same starts imagined and real, and the gap is
logged: imagined success that climbs alone is the failure to look for. A task whose imagined successes are not real, or
whose real success is lost, gives no reward until a scoring redeems it (`Trust`). The scorings also choose the step that
is kept (`evaluation.keeping.choose`). A guard has others look at what the judge calls a success, and can end the
training when ever less of it holds up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from worldgymnast.configs import Between, Fraction, Positive, checked
from worldgymnast.errors import Paused
from worldgymnast.evaluation.agreement import success_gap
from worldgymnast.evaluation.guard import GuardConfig
from worldgymnast.evaluation.keeping import EVIDENCE
from worldgymnast.evaluation.success import Difference
from worldgymnast.evaluation.task_trust import Scoring, TrustConfig
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge, Policy, RolloutPool
from worldgymnast.rl.audit import Guard
from worldgymnast.rl.collect import Doubt, Draw, GatherConfig, Gathering, Verify
from worldgymnast.rl.hold import Trust
from worldgymnast.rl.trainer import Trainer, TrainerConfig
from worldgymnast.run import Run
from worldgymnast.types import Metrics, Rollout

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

    def by_task(self, step: int) -> Metrics:
        """Both success rates and their gap of every task, where there are several."""
        return Scoring.of(step, self.imagined, self.real).metrics()


def _rate(rollouts: Sequence[Rollout]) -> float:
    """Mean score of the rollouts that have one; an outage is no failure."""
    scores = [r.verdict.score for r in rollouts if r.verdict.score is not None]
    return float(np.mean(scores)) if scores else float("nan")


@checked
class ReinforceConfig(GatherConfig):
    """The loop.

    Attributes:
        steps: policy updates.
        temperature: of sampling, also of the probability ratio.
        middle: share of starts taken from logged episodes shortly before they succeed.
        rows: most rollouts imagined side by side.
        horizon: actions in an imagined rollout.
        evaluate_every: steps between two scorings; the first and the last step are always scored.
        keep_best: end with the weights that `evaluation.keeping.choose` takes, the untrained ones included, rather than
            the last: where imagined success climbs alone, the policy that is handed out is then no worse.
        keep_evidence: that it takes for a scored step to replace the start policy: with 1 the pairs favor it, with 5 a
            step that is no better does so with a probability of at most 1/5.
        trust: when a task loses its reward, and when it gets it back.
        trainer: the update.
        guard: whether claimed successes hold up before an audit judge and for real.
        save_every: steps between two checkpoints.
    """

    steps: Positive = 24
    temperature: Annotated[float, Between(1e-3)] = 1.0
    middle: Fraction = 0.25
    rows: Positive = 96
    horizon: Positive = 24
    evaluate_every: Positive = 8
    keep_best: bool = True
    keep_evidence: Annotated[float, Between(1)] = EVIDENCE
    trust: TrustConfig = TrustConfig()
    trainer: TrainerConfig = TrainerConfig()
    guard: GuardConfig = GuardConfig()
    save_every: Positive = 5


def scorings(config: ReinforceConfig) -> list[int]:
    """The steps at which the policy is scored, unless an alarm ends the training before."""
    return [s for s in range(config.steps + 1) if s % config.evaluate_every == 0 or s == config.steps]


def reinforce(
    policy: Policy,
    pool: RolloutPool,
    starts: Draw,
    score: Score,
    config: ReinforceConfig,
    run: Run,
    doubt: Doubt | None = None,
    audit: Judge | None = None,
    verify: Verify | None = None,
    start: Policy | None = None,
) -> tuple[Metrics, Scored | None]:
    """Trains `policy` in place; returns the metrics of the scoring of the weights it ends with, and the last scoring.

    Args:
        policy: the policy that is trained.
        pool: imagines with it or with a copy of it, and judges.
        starts: draws that many starts with that generator.
        score: scores the policy on the same starts, imagined and real.
        config: the loop.
        run: where metrics and checkpoints go; a killed run goes on from its newest checkpoint.
        doubt: which rollouts not to believe; needed unless `config.uncertainty` is off.
        audit: another judge, which looks at a sample of what the pool's judge calls a success and gives no reward.
        verify: imagines successes again; needed where `config.verify` wants that.
        start: the policy as it is now, in an object that is never changed; a copy is made where it is left out.

    Raises:
        Paused: the judge fails, or the world is in doubt, on more rollouts than the config allows, or its budget is
            spent; a checkpoint is kept.
    """
    trainer = Trainer(policy, config.trainer, start)
    gathering = Gathering(pool, starts, config, config.trainer.objective, doubt, verify)
    first, saved = trainer.resume(run)
    last, scored = Metrics(), None
    guard = Guard(config.guard, audit, run, config.seed)
    trust = Trust(config.trust, config.keep_evidence, trainer, run, saved)
    end = first if guard.ends(first) else config.steps
    with Progress("reinforcement learning in imagination", config.steps, done=first) as progress:
        for step in range(first, config.steps + 1):
            metrics: Metrics = {}
            try:
                if step % config.evaluate_every == 0 or step == end:
                    with trainer.averaged():
                        if scored := score(step):
                            last = scored.metrics()
                            metrics |= last | guard.scored(step, scored.imagined, scored.real)
                            metrics |= trust.scored(step, scored.imagined, scored.real)
                if step < end:
                    metrics |= _train(trainer, gathering, guard, trust, config, step)
                    progress.advance(note=f"reward {metrics['reward']:.2f}")
            except Paused:
                trainer.save(run, step, trust.state())
                raise
            run.log(step, metrics)
            if step == end:
                break
            if (step + 1) % config.save_every == 0:
                trainer.save(run, step + 1, trust.state())
            end = step + 1 if guard.ends(step) else end
    _say_if_nothing_was_learned(run)
    choice = trust.choice() if config.keep_best else None
    trainer.finish(kept=choice is not None)
    if choice is None:
        return last, scored
    print(f"{run.path}: {choice}", flush=True)
    kept = next((row for row in reversed(run.metrics()) if row["step"] == choice.step and "real_success" in row), last)
    return {k: kept[k] for k in last} | {"best_step": float(choice.step)}, scored


def _say_if_nothing_was_learned(run: Run) -> None:
    """Prints that the policy is as it was where no step had a group to learn from."""
    shares = [row["zero_advantage_groups"] for row in run.metrics() if "zero_advantage_groups" in row]
    if shares and min(shares) >= 1:
        steps = "the one step" if len(shares) == 1 else f"any of {len(shares)} steps"
        print(
            f"no group had both successes and failures in {steps}: the policy is unchanged; look at the judge and at "
            "--rl.horizon"
        )


def _train(
    trainer: Trainer, gathering: Gathering, guard: Guard, trust: Trust, config: ReinforceConfig, step: int
) -> Metrics:
    """One step: imagine, judge, audit, update; whatever may pause the run comes before the update."""
    weights = trainer.weights() if config.ahead else trainer.weights(copy=False)
    gathering.begin(step, trainer.acting or weights)
    for later in range(step + 1, min(step + config.ahead, config.steps - 1) + 1):
        gathering.begin(later, weights)
    found = gathering.finish(step, weights, trust.anchors)
    audited = guard.audit(step, [r for group in found.groups for r in group.rollouts])
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    metrics = trainer.update(found.groups, generator, trust.anchors)
    trainer.acting = weights if config.ahead else None
    return metrics | found.metrics() | {"seconds_update": time.perf_counter() - began} | audited
