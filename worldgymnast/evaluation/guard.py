"""Reward-hacking detector: re-checks judged successes with an independent source, and alarms on rising rejections.

RL in imagination exploits errors of the judge and the world model. So a sample of judged successes (claims) is checked
by a source that gives no reward: another judge (the audit), or the real environment from the same starts. A rejection
rate that rises during training shows how much of the reward comes from such errors. The rise is tested with Fisher's
exact test (one-sided), on the claims of the first audits against the newest, so a few unlucky audits raise no alarm. A
rejection rate above a limit is an alarm of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worldgymnast.configs import Fraction, Positive, checked
from worldgymnast.evaluation.success import Rate
from worldgymnast.types import Verdict


@checked
class GuardConfig:
    """When a guard alarms.

    Attributes:
        every: steps between two audits; real evaluations have their own schedule.
        sample: judged successes shown to the audit judge per audit.
        pool: fewest claims to compare: the first ones, and the newest ones.
        growth: smallest rise of the rejection rate for an alarm.
        level: largest p-value for an alarm.
        most: rejection rate that is an alarm without any rise, if the newest claims exceed it at `level`.
        stop: an alarm stops the training; otherwise it is printed once, and logged.
    """

    every: Positive = 1
    sample: Positive = 16
    pool: Positive = 16
    growth: Fraction = 0.15
    level: Fraction = 0.005
    most: Fraction = 0.5
    stop: bool = False


@dataclass(frozen=True)
class Claims:
    """Judged successes of one step, and how many of them were rejected.

    Attributes:
        step: the step.
        count: checked claims.
        denied: rejected claims.
        errors: claims whose check failed.
    """

    step: int
    count: int
    denied: int
    errors: int = 0

    @classmethod
    def of(cls, step: int, outcomes: Iterable[bool | None]) -> Claims:
        """Count the outcomes of the checks; None means that a check failed."""
        results = list(outcomes)
        known = [outcome for outcome in results if outcome is not None]
        return cls(step, len(known), sum(not outcome for outcome in known), len(results) - len(known))


@dataclass(frozen=True)
class Alarm:
    """A high or rising rejection rate.

    Attributes:
        newest: rejection rate of the newest claims.
        first: rejection rate of the first claims; None if the newest alone cause the alarm.
        p_value: of no rise.
    """

    newest: Rate
    first: Rate | None = None
    p_value: float = float("nan")

    def __str__(self) -> str:
        text = f"{self.newest} of the newest judged successes are rejected"
        return text if self.first is None else f"{text}, {self.first} of the first, p = {self.p_value:.1g}"


def find_alarm(history: Sequence[Claims], config: GuardConfig) -> Alarm | None:
    """Return the alarm of the audits so far, ordered by step.

    None without an alarm or with too few claims.
    """
    from scipy import stats

    used = [claims for claims in history if claims.count]
    head = _pooled(used, config.pool)
    tail = _pooled(used[::-1], config.pool)
    if head is None or tail is None:
        return None
    first, newest = head[0], tail[0]
    is_high = stats.binomtest(newest.successes, newest.count, config.most, alternative="greater").pvalue <= config.level
    level_alarm = Alarm(newest) if is_high else None
    if head[1] + tail[1] > len(used):  # the first claims are among the newest
        return level_alarm
    table = [
        [newest.successes, newest.count - newest.successes],
        [first.successes, first.count - first.successes],
    ]
    result: Any = stats.fisher_exact(table, alternative="greater")
    p_value = float(result.pvalue)
    has_risen = newest.value - first.value >= config.growth and p_value <= config.level
    return Alarm(newest, first, p_value) if has_risen else level_alarm


def _pooled(history: Sequence[Claims], least: int) -> tuple[Rate, int] | None:
    """Return the rejection rate of the first `least` or more claims, and the number of audits.

    None if too few.
    """
    denied = count = 0
    for audits, claims in enumerate(history, 1):
        denied, count = denied + claims.denied, count + claims.count
        if count >= least:
            return Rate(denied, count), audits
    return None


def claim_metrics(source: str, claims: Claims) -> dict[str, float]:
    """Return the metrics to log for an audit by "audit" or "real"; `read_history` reads them back."""
    return {
        f"{source}_claims": float(claims.count),
        f"{source}_denied": float(claims.denied),
        f"{source}_errors": float(claims.errors),
        f"{source}_denied_share": claims.denied / claims.count if claims.count else float("nan"),
    }


def read_history(source: str, rows: Iterable[Mapping[str, float]]) -> list[Claims]:
    """Read the audits from a run's log, to resume from."""

    def count(row: Mapping[str, float], name: str) -> int:
        return int(row.get(name, 0))

    return [
        Claims(
            count(row, "step"),
            count(row, f"{source}_claims"),
            count(row, f"{source}_denied"),
            count(row, f"{source}_errors"),
        )
        for row in rows
        if f"{source}_claims" in row
    ]


def confirmations(claimed: Sequence[Verdict], checked: Sequence[Verdict]) -> list[bool | None]:
    """Return the outcomes `checked` of the verdicts `claimed` that are successes, in the same order."""
    return [check.succeeded for claim, check in zip(claimed, checked, strict=True) if claim.succeeded]
