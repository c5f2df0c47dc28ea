"""Guard against reward hacking: do claimed successes hold up before somebody else, and ever less of them?

A policy in imagination learns whatever the judge rewards. So a sample of what the judge calls a success is shown to
somebody who gives no reward: another judge (the audit), or the real environment from the same starts. The share of
claims that is denied is no measure of the policy; its growth during training is a measure of how much of the reward is
made of faults of the judge and its world. Growth is told by Fisher's exact test (one-sided) on the claims of the first
audits against those of the newest, so that a few unlucky audits raise no alarm. That most claims are denied is an alarm
of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from worldgymnast.configs import Fraction, Positive, checked
from worldgymnast.evaluation.success import Rate
from worldgymnast.types import Verdict


@checked
class GuardConfig:
    """When a guard speaks.

    Attributes:
        every: steps between two audits; real scorings come when they come.
        sample: claimed successes shown to the audit judge each time.
        pool: claims that are held against one another at least: the first ones, and the newest.
        growth: of the share denied, that is an alarm.
        level: largest p-value at which it is one.
        most: share denied that is an alarm without any growth, where the newest claims lie above it at that level.
        stop: whether an alarm ends the training; otherwise it is told once, and logged.
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
    """Successes that the judge claimed in one step, and how many of them somebody else denied.

    Attributes:
        step: which.
        count: those of which he said something.
        denied: how many he denied.
        errors: those of which he said nothing, since he failed.
    """

    step: int
    count: int
    denied: int
    errors: int = 0

    @classmethod
    def of(cls, step: int, outcomes: Iterable[bool | None]) -> Claims:
        """From what somebody else says of each claim; None, where he failed, counts for nothing."""
        said = list(outcomes)
        known = [outcome for outcome in said if outcome is not None]
        return cls(step, len(known), sum(not outcome for outcome in known), len(said) - len(known))


@dataclass(frozen=True)
class Alarm:
    """Most claims are denied, or more and more of them.

    Attributes:
        newest: share denied among the newest claims.
        first: and among the first ones; None where the newest alone are reason enough.
        p_value: of no growth.
    """

    newest: Rate
    first: Rate | None = None
    p_value: float = float("nan")

    def __str__(self) -> str:
        said = f"{self.newest} of the newest claimed successes are denied"
        return said if self.first is None else f"{said}, {self.first} of the first, p = {self.p_value:.1g}"


def alarm(history: Sequence[Claims], config: GuardConfig) -> Alarm | None:
    """The alarm that the audits so far give, in the order of their steps; None where all is quiet or little known."""
    used = [claims for claims in history if claims.count]
    head = _pooled(used, config.pool)
    tail = _pooled(used[::-1], config.pool)
    if head is None or tail is None:
        return None
    first, newest = head[0], tail[0]
    high = stats.binomtest(newest.successes, newest.count, config.most, alternative="greater").pvalue <= config.level
    alone = Alarm(newest) if high else None
    if head[1] + tail[1] > len(used):  # the first claims are among the newest
        return alone
    table = [
        [newest.successes, newest.count - newest.successes],
        [first.successes, first.count - first.successes],
    ]
    found: Any = stats.fisher_exact(table, alternative="greater")
    p_value = float(found.pvalue)
    grown = newest.value - first.value >= config.growth
    return Alarm(newest, first, p_value) if grown and p_value <= config.level else alone


def _pooled(history: Sequence[Claims], least: int) -> tuple[Rate, int] | None:
    """Share denied among the first `least` claims or some more, and of how many audits; None where there are fewer."""
    denied = count = 0
    for audits, claims in enumerate(history, 1):
        denied, count = denied + claims.denied, count + claims.count
        if count >= least:
            return Rate(denied, count), audits
    return None


_COUNTS = ("claims", "denied", "errors")


def metrics_of(source: str, claims: Claims) -> dict[str, float]:
    """What is logged of an audit by "audit" or "real"; `history_of` reads it back."""
    return {
        f"{source}_claims": float(claims.count),
        f"{source}_denied": float(claims.denied),
        f"{source}_errors": float(claims.errors),
        f"{source}_denied_share": claims.denied / claims.count if claims.count else float("nan"),
    }


def history_of(source: str, rows: Iterable[Mapping[str, float]]) -> list[Claims]:
    """The audits in a run's log, so that a resumed run remembers what the one before saw."""
    return [
        Claims(*(int(row.get(name, 0)) for name in ("step", *(f"{source}_{kind}" for kind in _COUNTS))))
        for row in rows
        if f"{source}_claims" in row
    ]


def confirmations(claimed: Sequence[Verdict], checked: Sequence[Verdict]) -> list[bool | None]:
    """What somebody else says, `checked`, of what the judge says, `claimed`, is a success; in the same order."""
    return [other.succeeded for own, other in zip(claimed, checked, strict=True) if own.succeeded]
