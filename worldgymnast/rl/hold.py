"""Trust per task during RL: record evaluations, hold tasks, choose the weights to keep."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldgymnast.evaluation.keeping import Choice, choose_step
from worldgymnast.evaluation.task_trust import Scoring, Standing, TrustConfig, standings, trust_metrics
from worldgymnast.protocols import Policy
from worldgymnast.rl.trainer import Trainer
from worldgymnast.run import Run
from worldgymnast.types import Metrics, Rollout


class TrustTracker:
    """Decides from the evaluations so far which tasks give reward, and which step is kept.

    Attributes:
        anchors: anchor policy of each held task.

    Args:
        config: when a task is held.
        evidence: evidence needed to replace the start policy, see `keeping.choose`.
        trainer: keeps weights; its start policy and its kept policy are the anchors.
        run: its folder is named in messages.
        saved: `state()` of the run to resume.
    """

    def __init__(self, config: TrustConfig, evidence: float, trainer: Trainer, run: Run, saved: Mapping[str, Any]):
        self.config, self.evidence, self.trainer, self.path = config, evidence, trainer, run.path
        self.history = [Scoring.from_json(each) for each in saved.get("scorings", ())]
        self.anchors: dict[str, Policy] = self._choose_anchors(self._standings())

    def state(self) -> dict[str, Any]:
        """Return the evaluations for a checkpoint; everything else follows from them."""
        return {"scorings": [scoring.to_json() for scoring in self.history]}

    def record(self, step: int, imagined: Sequence[Rollout], real: Sequence[Rollout]) -> Metrics:
        """Record an evaluation: keep the current weights if they are the choice, and hold or release tasks.

        A run that paused at an evaluated step evaluates it again. The first outcomes count, because they decided which
        weights were kept.
        """
        known = next((each for each in self.history if each.step == step), None)
        scoring = known or Scoring.of(step, imagined, real)
        if not np.isfinite(scoring.mean_real()):
            return scoring.metrics()
        self.history = [each for each in self.history if each is not known]
        before = self._standings()
        self.history.append(scoring)
        choice, now = self.choice(), self._standings()
        if choice is not None and choice.step == step:
            self.trainer.keep(step)
        self.anchors = self._choose_anchors(now)
        if self.config.enabled:
            self._report(step, before, now)
        kept = {} if choice is None else {"kept_step": float(choice.step)}
        return scoring.metrics() | kept | (trust_metrics(now) if self.config.enabled else {})

    def choice(self) -> Choice | None:
        """Return the step to keep after the evaluations so far; None before the first."""
        return choose_step(self.history, self.evidence) if self.history else None

    def _standings(self) -> dict[str, Standing]:
        """Return the standing of every task after the newest evaluation."""
        return standings(self.history, self.config)[-1] if self.history else {}

    def _choose_anchors(self, now: Mapping[str, Standing]) -> dict[str, Policy]:
        """Choose for each held task the start policy, or the kept policy if it has more real successes there."""
        held = [task for task, standing in now.items() if standing.held is not None]
        choice = self.choice()
        if not (held and self.config.enabled and choice is not None):
            return {}
        start = self.history[0]
        kept = next(scoring for scoring in self.history if scoring.step == choice.step)
        better = {task for task in held if kept.successes(task) > start.successes(task)}
        policy = self.trainer.kept_policy() if better else self.trainer.start
        return {task: policy if task in better else self.trainer.start for task in held}

    def _report(self, step: int, before: Mapping[str, Standing], now: Mapping[str, Standing]) -> None:
        """Print which tasks were held and which were released."""
        for task, standing in now.items():
            was_held = before[task].held if task in before else None
            name = f"task '{task}'" if task else "the task"
            if was_held == standing.held:
                continue
            if standing.held is None:
                message = f"{name} is trusted again: {standing}."
            else:
                anchor = "start policy" if self.anchors[task] is self.trainer.start else "kept policy"
                message = (
                    f"{name} is held: {standing}. It gives no reward until an evaluation clears it, and is pulled "
                    f"toward the {anchor}."
                )
            print(f"{self.path}: step {step}: {message}", file=sys.stderr, flush=True)
        if now and len(self.anchors) == len(now):
            print(
                f"{self.path}: step {step}: every task is held, so nothing is learned. Train the world model and the "
                "judge on new real rollouts, then start a new run.",
                file=sys.stderr,
                flush=True,
            )
