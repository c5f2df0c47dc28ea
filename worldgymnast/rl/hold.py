"""Trust at work during reinforcement learning: remembers scorings, holds tasks, chooses what is kept, says so."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldgymnast.evaluation.keeping import Choice, choose
from worldgymnast.evaluation.task_trust import Scoring, Standing, TrustConfig, standings, trust_metrics
from worldgymnast.protocols import Policy
from worldgymnast.rl.trainer import Trainer
from worldgymnast.run import Run
from worldgymnast.types import Metrics, Rollout


class Trust:
    """Which tasks give reward, and which step is kept, by the scorings so far.

    Attributes:
        anchors: by task that is held, the policy that it is held to.

    Args:
        config: when a task is held.
        evidence: that it takes to replace the start policy, see `keeping.choose`.
        trainer: keeps weights; its start policy and its kept policy are the anchors.
        run: whose folder is named in what is said.
        saved: `state()` of the run that goes on.
    """

    def __init__(self, config: TrustConfig, evidence: float, trainer: Trainer, run: Run, saved: Mapping[str, Any]):
        self.config, self.evidence, self.trainer, self.path = config, evidence, trainer, run.path
        self.history = [Scoring.from_json(each) for each in saved.get("scorings", ())]
        self.anchors: dict[str, Policy] = self._anchors(self._now())

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the scorings, from which everything follows."""
        return {"scorings": [scoring.to_json() for scoring in self.history]}

    def scored(self, step: int, imagined: Sequence[Rollout], real: Sequence[Rollout]) -> Metrics:
        """Hears of a scoring: keeps the weights of now if they are the choice, and holds tasks or lets them go.

        A run that was paused at a scored step scores it again; the first outcomes count, by which weights were kept.
        """
        known = next((each for each in self.history if each.step == step), None)
        scoring = known or Scoring.of(step, imagined, real)
        if not np.isfinite(scoring.mean_real()):
            return scoring.metrics()
        self.history = [each for each in self.history if each is not known]
        before = self._now()
        self.history.append(scoring)
        choice, now = self.choice(), self._now()
        if choice is not None and choice.step == step:
            self.trainer.keep(step)
        self.anchors = self._anchors(now)
        if self.config.enabled:
            self._say(step, before, now)
        kept = {} if choice is None else {"kept_step": float(choice.step)}
        return scoring.metrics() | kept | (trust_metrics(now) if self.config.enabled else {})

    def choice(self) -> Choice | None:
        """What is kept after the scorings so far; None before the first."""
        return choose(self.history, self.config, self.evidence) if self.history else None

    def _now(self) -> dict[str, Standing]:
        """Where every task stands after the scorings so far."""
        return standings(self.history, self.config)[-1] if self.history else {}

    def _anchors(self, now: Mapping[str, Standing]) -> dict[str, Policy]:
        """For each held task the start policy, or the kept one where that has more real successes in the task."""
        held = [task for task, standing in now.items() if standing.held is not None]
        choice = self.choice()
        if not (held and self.config.enabled and choice is not None):
            return {}
        start = self.history[0]
        kept = next(scoring for scoring in self.history if scoring.step == choice.step)
        better = {task for task in held if kept.successes(task) > start.successes(task)}
        policy = self.trainer.kept_policy() if better else self.trainer.start
        return {task: policy if task in better else self.trainer.start for task in held}

    def _say(self, step: int, before: Mapping[str, Standing], now: Mapping[str, Standing]) -> None:
        """Tells which tasks were held, and which are trusted again."""
        for task, standing in now.items():
            was = before[task].held if task in before else None
            name = f"task '{task}'" if task else "the task"
            if was == standing.held:
                continue
            if standing.held is None:
                said = f"{name} is trusted again: {standing}"
            else:
                anchor = "start policy" if self.anchors[task] is self.trainer.start else "kept policy"
                said = f"{name} gives no reward until a scoring redeems it: {standing}; held to the {anchor}"
            print(f"{self.path}: step {step}: {said}", file=sys.stderr, flush=True)
        if now and len(self.anchors) == len(now):
            said = "every task is held, so nothing is learned now; train world and judge on new real rollouts"
            print(f"{self.path}: step {step}: {said}, then begin a new run", file=sys.stderr, flush=True)
