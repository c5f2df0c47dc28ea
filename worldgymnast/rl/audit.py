"""Reward-hacking guard during RL: audits judged successes, keeps a history, warns or stops."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from worldgymnast.errors import Paused
from worldgymnast.evaluation.guard import Claims, GuardConfig, claim_metrics, confirmations, find_alarm, read_history
from worldgymnast.protocols import Judge
from worldgymnast.rl.judging import judge_clip
from worldgymnast.run import Run
from worldgymnast.types import Metrics, Rollout

_SOURCES = {"audit": "the audit judge", "real": "the real environment"}


class Guard:
    """Tracks whether judged successes are confirmed by a source that gives no reward.

    Args:
        config: when it warns or stops the run.
        judge: the audit judge, or None to use real evaluations only.
        run: the log to continue.
        seed: of the audit samples.
    """

    def __init__(self, config: GuardConfig, judge: Judge | None, run: Run, seed: int):
        self.config, self.judge, self.seed, self.path = config, judge, seed, run.path
        rows = run.metrics()
        self.history = {source: read_history(source, rows) for source in _SOURCES}
        self._reported: set[str] = set()

    def audit(self, step: int, rollouts: Sequence[Rollout]) -> Metrics:
        """Have the audit judge re-check a sample of the judged successes.

        Raises:
            Paused: the audit judge's budget is spent, or it failed on most of the sample while `config.stop` is set.
        """
        claimed = [rollout for rollout in rollouts if rollout.verdict.succeeded]
        if self.judge is None or step % self.config.every or not claimed:
            return {}
        rng = np.random.default_rng([self.seed, step, len(claimed)])
        chosen = sorted(rng.permutation(len(claimed))[: self.config.sample])
        verdicts = self.judge.score([judge_clip(claimed[i]) for i in chosen])
        self._check_audit_errors(step, [verdict.error for verdict in verdicts if verdict.score is None], len(verdicts))
        return self._record("audit", step, [verdict.succeeded for verdict in verdicts])

    def _check_audit_errors(self, step: int, errors: Sequence[str | None], count: int) -> None:
        """Report an audit judge that fails on most claims.

        Raises:
            Paused: `config.stop` is set, so the run relies on the audit.
        """
        if len(errors) <= count / 2:
            return
        message = f"step {step}: the audit judge failed on {len(errors)} of {count} claims. First error: {errors[0]}."
        if self.config.stop:
            raise Paused(
                f"{message} With --rl.guard.stop, training pauses without an audit. Checkpoint saved. Fix the audit "
                "judge, then rerun the same command to resume."
            )
        if "errors" not in self._reported:
            self._reported.add("errors")
            print(f"{self.path}: {message} Reward hacking is not monitored.", file=sys.stderr, flush=True)

    def record(self, step: int, imagined: Sequence[Rollout], real: Sequence[Rollout]) -> Metrics:
        """Record an evaluation: whether imagined successes are real successes from the same starts."""
        outcomes = confirmations([r.verdict for r in imagined], [r.verdict for r in real])
        return self._record("real", step, outcomes)

    def _record(self, source: str, step: int, outcomes: Sequence[bool | None]) -> Metrics:
        claims = Claims.of(step, outcomes)
        self.history[source].append(claims)
        return claim_metrics(source, claims)

    def should_stop(self, step: int) -> bool:
        """Print new alarms, and return whether training should stop after `step`."""
        alarms = {source: find_alarm(history, self.config) for source, history in self.history.items()}
        action = "Training stops here." if self.config.stop else "Check the videos before you trust this policy."
        for source, found in alarms.items():
            if found is None or source in self._reported:
                continue
            self._reported.add(source)
            print(
                f"{self.path}: step {step}: possible reward hacking, according to {_SOURCES[source]}: {found}. "
                f"{action}",
                file=sys.stderr,
                flush=True,
            )
        return self.config.stop and any(alarms.values())
