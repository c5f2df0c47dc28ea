"""The guard at work during reinforcement learning: asks an audit judge, hears of real scorings, remembers, warns."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from worldgymnast.errors import Paused
from worldgymnast.evaluation.guard import Claims, GuardConfig, alarm, confirmations, history_of, metrics_of
from worldgymnast.protocols import Judge
from worldgymnast.rl.judging import seen
from worldgymnast.run import Run
from worldgymnast.types import Metrics, Rollout

_SOURCES = {"audit": "the audit judge", "real": "the real environment"}


class Guard:
    """Whether what the judge calls a success holds up before somebody who gives no reward.

    Args:
        config: when it speaks.
        judge: the audit judge, or None where there are only real scorings.
        run: whose log it reads and goes on with.
        seed: of the samples.
    """

    def __init__(self, config: GuardConfig, judge: Judge | None, run: Run, seed: int):
        self.config, self.judge, self.seed, self.path = config, judge, seed, run.path
        rows = run.metrics()
        self.history = {source: history_of(source, rows) for source in _SOURCES}
        self._told: set[str] = set()

    def audit(self, step: int, rollouts: Sequence[Rollout]) -> Metrics:
        """Shows the audit judge a sample of the claimed successes.

        Raises:
            Paused: its budget is spent, or it fails on most of them and `config.stop` counts on it.
        """
        claimed = [rollout for rollout in rollouts if rollout.verdict.succeeded]
        if self.judge is None or step % self.config.every or not claimed:
            return {}
        rng = np.random.default_rng([self.seed, step, len(claimed)])
        chosen = sorted(rng.permutation(len(claimed))[: self.config.sample])
        verdicts = self.judge.score([seen(claimed[i]) for i in chosen])
        self._sees(step, [verdict.error for verdict in verdicts if verdict.score is None], len(verdicts))
        return self._remember("audit", step, [verdict.succeeded for verdict in verdicts])

    def _sees(self, step: int, errors: Sequence[str | None], count: int) -> None:
        """Says that the audit judge fails on most of what it is shown; a guard that may stop the run must not be blind.

        Raises:
            Paused: it fails, and the run counts on it.
        """
        if len(errors) <= count / 2:
            return
        said = f"step {step}: the audit judge failed on {len(errors)} of {count} claims, the first because: {errors[0]}"
        if self.config.stop:
            raise Paused(
                f"{said}; with --rl.guard.stop nothing goes on unwatched: a checkpoint is kept, mend the judge and run "
                "the same command again to go on"
            )
        if "blind" not in self._told:
            self._told.add("blind")
            print(f"{self.path}: {said}; nobody watches for reward hacking", file=sys.stderr, flush=True)

    def scored(self, step: int, imagined: Sequence[Rollout], real: Sequence[Rollout]) -> Metrics:
        """Hears of a scoring: whether the imagined successes are successes for real, from the same starts."""
        outcomes = confirmations([r.verdict for r in imagined], [r.verdict for r in real])
        return self._remember("real", step, outcomes)

    def _remember(self, source: str, step: int, outcomes: Sequence[bool | None]) -> Metrics:
        claims = Claims.of(step, outcomes)
        self.history[source].append(claims)
        return metrics_of(source, claims)

    def ends(self, step: int) -> bool:
        """Says what there is to say after `step`; whether the training should end."""
        found = {source: alarm(history, self.config) for source, history in self.history.items()}
        for source, heard in found.items():
            if heard is not None and source not in self._told:
                self._told.add(source)
                then = "the training ends here" if self.config.stop else "look at the videos before you trust it"
                print(
                    f"{self.path}: step {step}: reward hacking? asked {_SOURCES[source]}: {heard}; {then}",
                    file=sys.stderr,
                    flush=True,
                )
        return self.config.stop and any(found.values())
