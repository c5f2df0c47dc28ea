"""RL loop: imagine, judge, update.

Each step samples starts, rolls out a group from each inside the world model, has the judge score the rollouts, and
updates the policy. Every `evaluate_every` steps the greedy policy is evaluated from the same starts, imagined and real.
The gap is logged: imagined success that rises alone means that the policy exploits the world model or the judge.

A task whose imagined successes are not real, or whose real success drops, gives no reward until a later evaluation
clears it (`TrustTracker`). The evaluations also choose which step is kept (`evaluation.keeping.choose`). A guard has an
independent judge re-check judged successes, and can stop the training when its rejections increase (`Guard`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch

from worldgymnast.configs import LATER, Between, Executed, Fraction, Positive, checked
from worldgymnast.errors import Paused
from worldgymnast.evaluation.agreement import success_gap
from worldgymnast.evaluation.guard import GuardConfig
from worldgymnast.evaluation.keeping import EVIDENCE
from worldgymnast.evaluation.success import Difference
from worldgymnast.evaluation.task_trust import Scoring, TrustConfig
from worldgymnast.progress import Progress, SaveClock
from worldgymnast.protocols import Judge, Policy, RolloutPool, StatusPool
from worldgymnast.rl.audit import Guard
from worldgymnast.rl.collect import CollectConfig, Collector, DrawStarts, Uncertainty, Verify
from worldgymnast.rl.hold import TrustTracker
from worldgymnast.rl.offload import Turns
from worldgymnast.rl.trainer import Trainer, TrainerConfig
from worldgymnast.run import Run
from worldgymnast.types import Metrics, Rollout

WatchRollouts = Callable[[Sequence[Rollout]], Metrics]
"""Measures the imagined rollouts of a step for the log; it changes nothing."""
EvaluateStep = Callable[[int], "PairedRollouts | None"]
"""Evaluates the policy after that many updates, imagined and real, or returns None without a real environment."""


@dataclass(frozen=True)
class PairedRollouts:
    """Imagined and real rollouts from the same starts, in the same order."""

    imagined: Sequence[Rollout]
    real: Sequence[Rollout]

    def gap(self) -> Difference:
        """Return imagined minus real success, paired over starts; positive where the world is optimistic."""
        return success_gap(
            [r.verdict.succeeded for r in self.imagined],
            [r.verdict.succeeded for r in self.real],
            strata=[r.start.task for r in self.real],
        )

    def metrics(self) -> Metrics:
        """Return both success rates, their gap with its interval, and the agreement of outcomes."""
        gap = self.gap()
        pairs = [(a.verdict.succeeded, b.verdict.succeeded) for a, b in zip(self.imagined, self.real, strict=True)]
        agree = [a == b for a, b in pairs if a is not None and b is not None]
        return {
            "imagined_success": _mean_score(self.imagined),
            "real_success": _mean_score(self.real),
            "gap": gap.mean,
            "gap_low": gap.low,
            "gap_high": gap.high,
            "agreement": float(np.mean(agree)) if agree else float("nan"),
        }

    def task_metrics(self, step: int) -> Metrics:
        """Return both success rates and their gap for every task; empty with a single task."""
        return Scoring.of(step, self.imagined, self.real).metrics()


def _mean_score(rollouts: Sequence[Rollout]) -> float:
    """Return the mean score of the judged rollouts.

    A judge failure is not a policy failure.
    """
    scores = [r.verdict.score for r in rollouts if r.verdict.score is not None]
    return float(np.mean(scores)) if scores else float("nan")


@checked
class ReinforceConfig(CollectConfig):
    """The RL loop.

    Attributes:
        steps: policy updates.
        temperature: sampling temperature, also used in the probability ratio.
        middle: share of starts taken from logged episodes shortly before they succeed.
        rows: most rollouts imagined in parallel.
        horizon: actions per imagined rollout; a multiple of the actions per look. If omitted, `rl` takes it from the
            successful episodes of your data, or from the environment.
        execute: actions to execute of each predicted chunk before the policy looks again; all by default.
        evaluate_every: steps between two evaluations; the first and the last step are always evaluated.
        keep_best: end with the weights chosen by `evaluation.keeping.choose`, possibly the untrained ones, instead of
            the last. Then the result is no worse where only imagined success rises.
        keep_evidence: evidence needed for an evaluated step to replace the start policy. 1 means that more pairs favor
            it than not. With 5, a step that is no better replaces it with probability at most 1/5.
        trust: when a task loses its reward, and when it regains it.
        trainer: the update.
        guard: whether judged successes are confirmed by an audit judge and for real.
        save_every: most steps between two checkpoints. At least one is saved every five minutes, after a step.
        offload: rollouts and updates take turns on the device: world model and judge wait in host memory during an
            update, the optimizer's state and the start policy during rollouts. The numbers are the same.
    """

    steps: Positive = 24
    temperature: Annotated[float, Between(1e-3)] = 0.5
    middle: Fraction = 0.25
    rows: Positive = 96
    horizon: Positive = 24
    execute: Executed = None
    evaluate_every: Positive = 8
    keep_best: bool = True
    keep_evidence: Annotated[float, Between(1)] = EVIDENCE
    trust: TrustConfig = TrustConfig()
    trainer: TrainerConfig = TrainerConfig()
    guard: GuardConfig = GuardConfig()
    save_every: Positive = 5
    offload: bool = field(default=False, metadata=LATER)


def evaluation_steps(config: ReinforceConfig) -> list[int]:
    """Return the steps at which the policy is evaluated, unless an alarm stops the training earlier.

    >>> evaluation_steps(ReinforceConfig(steps=5, evaluate_every=2))
    [0, 2, 4, 5]
    """
    return [s for s in range(config.steps + 1) if s % config.evaluate_every == 0 or s == config.steps]


def reinforce(
    policy: Policy,
    pool: RolloutPool,
    starts: DrawStarts,
    evaluate: EvaluateStep,
    config: ReinforceConfig,
    run: Run,
    uncertainty: Uncertainty | None = None,
    audit: Judge | None = None,
    verify: Verify | None = None,
    start: Policy | None = None,
    watch: WatchRollouts | None = None,
    turns: Turns | None = None,
) -> tuple[Metrics, PairedRollouts | None]:
    """Train `policy` in place.

    Args:
        policy: the policy to train.
        pool: imagines rollouts of it, or of a copy, and judges them.
        starts: draws starts.
        evaluate: evaluates the policy from the same starts, imagined and real.
        config: the loop.
        run: receives metrics and checkpoints; a killed run resumes from its newest checkpoint.
        uncertainty: uncertainty of imagined rollouts; required unless `config.uncertainty` is "off".
        audit: independent judge that re-checks a sample of judged successes; gives no reward.
        verify: imagines judged successes again; required if `config.verify.futures` is above 0.
        start: an unchanging copy of `policy` as it is now; made if omitted.
        watch: measures the imagined rollouts of every step, for the log.
        turns: moves the components that only rollouts need, with `config.offload`.

    Returns:
        Metrics of the evaluation of the final weights, and the rollouts of the last evaluation.

    Raises:
        Paused: the judge failed on, or the world model was uncertain about, more rollouts than `config` allows, or the
            judge's budget is spent. A checkpoint is saved.
    """
    turns = turns or Turns(is_on=config.offload)
    trainer = Trainer(policy, config.trainer, start, "cpu" if config.offload else None)
    first, saved = trainer.resume(run)
    trust = TrustTracker(config.trust, config.keep_evidence, trainer, run, saved)
    optimizer = None if trainer.updater.is_sharded else trainer.optimizer  # shards are small, and stay on the device
    turns.join(policy, lambda: (trainer.start, *trust.anchors.values()), optimizer)
    loop = _Loop(
        trainer,
        Collector(pool, starts, config, config.trainer.objective, uncertainty, verify),
        Guard(config.guard, audit, run, config.seed),
        trust,
        evaluate,
        config,
        run,
        turns,
        watch,
    )
    with turns:
        loop.run_from(first)
    _warn_if_nothing_learned(run)
    return loop.finish(), loop.pairs


@dataclass
class _Loop:
    """The parts of a training, and its last evaluation.

    Attributes:
        metrics: of the last evaluation.
        pairs: rollouts of the last evaluation.
        stage: what the loop does now.
    """

    trainer: Trainer
    collector: Collector
    guard: Guard
    trust: TrustTracker
    evaluate: EvaluateStep
    config: ReinforceConfig
    run: Run
    turns: Turns
    watch: WatchRollouts | None = None
    metrics: Metrics = field(default_factory=dict)
    pairs: PairedRollouts | None = None
    stage: str = ""

    def status(self) -> str:
        """Say what the loop does now, and what its pool waits for."""
        pool = self.collector.pool
        return ", ".join(filter(None, (self.stage, pool.status() if isinstance(pool, StatusPool) else "")))

    def run_from(self, first: int) -> None:
        """Run the steps from `first` to the last; log each, and save checkpoints."""
        config, end = self.config, self.config.steps
        if self.guard.should_stop(first):
            end = first
        label, clock = "reinforcement learning in imagination", SaveClock()
        with Progress(label, config.steps, done=first, status=self.status) as progress:
            for step in range(first, config.steps + 1):
                try:
                    is_evaluated = step % config.evaluate_every == 0 or step == end
                    metrics = self._evaluate(step) if is_evaluated else {}
                    if step < end:
                        metrics |= self._train(step)
                        progress.advance(note=f"reward {metrics['reward']:.2f}")
                except Paused:
                    self.trainer.save(self.run, step, self.trust.state())
                    raise
                self.run.log(step, metrics)
                if step == end:
                    break
                if (step + 1) % config.save_every == 0 or clock.is_due():
                    self.trainer.save(self.run, step + 1, self.trust.state())
                    clock.restart()
                if self.guard.should_stop(step):
                    end = step + 1

    def _evaluate(self, step: int) -> Metrics:
        """Evaluate the policy, and report the outcomes to the guard and the trust tracker."""
        self.turns.give_to("collect")
        self.stage = "evaluating"
        with self.trainer.averaged():
            self.pairs = self.evaluate(step)
            if self.pairs is None:
                return {}
            self.metrics = self.pairs.metrics()
            imagined, real = self.pairs.imagined, self.pairs.real
            return self.metrics | self.guard.record(step, imagined, real) | self.trust.record(step, imagined, real)

    def _train(self, step: int) -> Metrics:
        """Imagine, judge, audit and update once; everything that may pause the run precedes the update."""
        trainer, config, anchors = self.trainer, self.config, self.trust.anchors
        self.turns.give_to("collect")
        self.stage = "rolling out and judging"
        weights = trainer.weights() if config.ahead else trainer.weights(copy=False)
        self.collector.begin(step, trainer.acting or weights)
        for later in range(step + 1, min(step + config.ahead, config.steps - 1) + 1):
            self.collector.begin(later, weights)
        collected = self.collector.finish(step, weights, anchors)
        rollouts = [r for group in collected.groups for r in group.rollouts]
        audited = self.guard.audit(step, rollouts)
        watched = {} if self.watch is None else self.watch(rollouts)
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        self.turns.give_to("update")
        self.stage = "updating"
        stale = {"staleness": float(trainer.acting is not None)} if config.ahead else {}
        metrics = trainer.update(collected.groups, generator, anchors) | stale
        trainer.acting = weights if config.ahead else None
        return metrics | collected.metrics() | {"seconds_update": time.perf_counter() - began} | audited | watched

    def finish(self) -> Metrics:
        """Give the policy its final weights, and return the metrics of their evaluation."""
        choice = self.trust.choice() if self.config.keep_best else None
        self.trainer.finish(kept=choice is not None)
        if choice is None:
            return self.metrics
        print(f"{self.run.path}: {choice}", flush=True)
        rows = [row for row in self.run.metrics() if row["step"] == choice.step and "real_success" in row]
        best = rows[-1] if rows else self.metrics
        return {name: best[name] for name in self.metrics} | {"best_step": float(choice.step)}


def _warn_if_nothing_learned(run: Run) -> None:
    """Print a warning if no step had a group with signal, so the policy is unchanged."""
    shares = [row["zero_advantage_groups"] for row in run.metrics() if "zero_advantage_groups" in row]
    if not shares or min(shares) < 1:
        return
    steps = "the only step" if len(shares) == 1 else f"any of {len(shares)} steps"
    print(
        f"No group had both successes and failures in {steps}. The policy is unchanged. policy.safetensors has the "
        "weights of the start policy. Check the judge, --rl.horizon and --rl.group-size "
        "(docs/how-to/troubleshooting.md)."
    )
