"""How far a judge's belief and verdict can be trusted, against a known truth. Pure functions of arrays.

Reliability and expected calibration error: Guo et al. 2017 (arXiv 1706.04599, eq. 2 and 3, bins of equal width). Shares
carry Wilson intervals, everything else 95 % percentile bootstraps with a given seed; verdict and belief statistics are
resampled within true successes and failures, the calibration error over clips, for it depends on how many succeed.
A judgement that failed (belief NaN, verdict None) is left out of every number, and counted. Where no success or no
failure is known, what needs both is NaN.

A threshold that was chosen on some clips looks better on them than on new ones. So its rates are cross-fitted: the
clips are cut into folds, each judged by the threshold that the other folds choose.

Left out: recalibration (temperature, isotonic). A monotone map of the belief changes no ranking and no best threshold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from worldgymnast.evaluation.agreement import GATE, balanced_accuracy, true_negative_rate, true_positive_rate
from worldgymnast.evaluation.success import (
    RESAMPLES,
    Difference,
    Estimate,
    Outcome,
    Rate,
    paired_difference,
)
from worldgymnast.evaluation.uncertainty import detection

Rule = Literal["balanced", "safe"]
"""How a threshold is chosen: "balanced", the highest balanced accuracy; "safe", the most successes known among those
that refuse `SAFE` of the failures."""

SAFE = GATE
ENOUGH = 10
"""Successes, and failures, that a task needs for a threshold of its own."""
BINS = 10
FOLDS = 5
_DRAWS = RESAMPLES // 10
_NAN = float("nan")
_UNKNOWN = Estimate(_NAN, _NAN, _NAN)


@dataclass(frozen=True)
class Bin:
    """The clips whose belief lies in low..high.

    Attributes:
        low: lower end.
        high: upper end; only the last bin includes it.
        belief: their mean belief, NaN where there are none.
        successes: how many of them truly succeeded.
    """

    low: float
    high: float
    belief: float
    successes: Rate


@dataclass(frozen=True)
class Worth:
    """What some verdicts are worth.

    Attributes:
        balanced_accuracy: mean of the two below.
        known: share of the true successes that are called so.
        refused: share of the true failures that are called so.
    """

    balanced_accuracy: Estimate
    known: Rate
    refused: Rate

    @classmethod
    def of(cls, verdicts: Sequence[Outcome], truth: Sequence[bool], seed: int) -> Worth:
        """The worth of n verdicts; None is left out and counted."""
        known, refused = true_positive_rate(verdicts, truth), true_negative_rate(verdicts, truth)
        return cls(balanced_accuracy(verdicts, truth, seed), known, refused)


@dataclass(frozen=True)
class Threshold:
    """The threshold that all clips choose, with its interval, and its worth on clips that did not choose it."""

    value: Estimate
    worth: Worth


@dataclass(frozen=True)
class Gain:
    """What thresholds by task are worth above a single one, both cross-fitted, and the difference over pairs."""

    single: Worth
    own: Worth
    difference: Difference


@dataclass(frozen=True)
class Calibration:
    """A judge against the truth on n clips.

    Attributes:
        precision: share of true successes among the clips it called successes.
        worth: of its own verdicts; what is `known` is their recall.
        auroc: chance that it believes more in a true success than in a true failure.
        calibration_error: mean distance of belief and share of true successes over `bins`, weighed by their clips;
            it is biased upward where clips are few, and so are its resamples.
        bins: the reliability table.
        best: the threshold of the highest balanced accuracy.
        safe: the one that knows most successes among those that refuse `SAFE` of the failures.
        count: clips that were judged.
        errors: clips on which the judge failed.
    """

    precision: Rate
    worth: Worth
    auroc: Estimate
    calibration_error: Estimate
    bins: tuple[Bin, ...]
    best: Threshold
    safe: Threshold
    count: int
    errors: int


@dataclass(frozen=True)
class Thresholds:
    """One threshold, and those of the tasks that have one of their own."""

    overall: float
    by_task: Mapping[str, float]

    def of(self, task: str) -> float:
        """The threshold of a task."""
        return self.by_task.get(task, self.overall)


def calibration(
    beliefs: Float[np.ndarray, " n"],
    verdicts: Sequence[Outcome],
    truth: Bool[np.ndarray, " n"],
    seed: int = 0,
    task: Sequence[str] = (),
) -> Calibration:
    """A judge's beliefs and verdicts on n clips against their truth.

    Args:
        beliefs: in [0, 1], NaN where the judge failed.
        verdicts: its own, None where it failed.
        truth: whether they succeeded.
        seed: of bootstrap and folds.
        task: n names; then every fold has its part of each.

    Raises:
        ValueError: lengths differ, or a belief is no probability.
    """
    if not len(beliefs) == len(verdicts) == len(truth):
        raise ValueError(f"calibration: found {len(beliefs)} beliefs, {len(verdicts)} verdicts, {len(truth)} truths")
    answered = np.isfinite(beliefs) & np.array([v is not None for v in verdicts], bool)
    belief, true = beliefs[answered], truth[answered]
    if ((belief < 0) | (belief > 1)).any():
        raise ValueError(f"calibration: found beliefs in {belief.min():g}..{belief.max():g}, expected 0..1")
    said = [v if known else None for v, known in zip(verdicts, answered, strict=True)]
    labels, names = truth.tolist(), list(compress(task or [""] * len(truth), answered))
    bins, error = reliability(belief, true, seed)
    return Calibration(
        precision=Rate.of(t for v, t in zip(said, labels, strict=True) if v),
        worth=Worth.of(said, labels, seed),
        auroc=detection(belief, true, seed).auroc,
        calibration_error=error,
        bins=bins,
        best=_threshold(belief, true, names, "balanced", seed),
        safe=_threshold(belief, true, names, "safe", seed),
        count=int(answered.sum()),
        errors=int((~answered).sum()),
    )


@dataclass(frozen=True)
class Measured:
    """A judge on n clips, and what thresholds by task would gain: of every task and, under None, of all."""

    calibrations: Mapping[str | None, Calibration]
    gains: Mapping[str | None, Gain]

    @property
    def overall(self) -> Calibration:
        """All tasks together."""
        return self.calibrations[None]


def measure(
    beliefs: Float[np.ndarray, " n"],
    verdicts: Sequence[Outcome],
    truth: Bool[np.ndarray, " n"],
    task: Sequence[str],
    seed: int = 0,
) -> Measured:
    """`calibration` of all clips and of every task, and what thresholds by task would gain."""
    found = {
        name: calibration(beliefs[rows], [verdicts[i] for i in rows], truth[rows], seed, [task[i] for i in rows])
        for name, rows in rows_by_task(task).items()
    }
    return Measured(found, gains(beliefs, truth, task, seed=seed))


def rows_by_task(task: Sequence[str]) -> dict[str | None, list[int]]:
    """The clips of every task in the order of their names, and last, under None, all of them."""
    found = {name: [i for i, own in enumerate(task) if own == name] for name in sorted(set(task))}
    return {**found, None: list(range(len(task)))}


# ---------------------------------------------------------------- reliability


def reliability(
    belief: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], seed: int = 0, bins: int = BINS
) -> tuple[tuple[Bin, ...], Estimate]:
    """The reliability table over `bins` bins of equal width, and the expected calibration error."""
    edges = np.linspace(0, 1, bins + 1)
    inside = np.minimum((belief * bins).astype(np.int64), bins - 1)
    table = []
    for i in range(bins):
        own = truth[inside == i]
        mean = float(belief[inside == i].mean()) if len(own) else _NAN
        table.append(Bin(float(edges[i]), float(edges[i + 1]), mean, Rate(int(own.sum()), len(own))))
    if not len(belief):
        return tuple(table), _UNKNOWN
    gap = np.zeros((len(belief), bins))  # summed over a bin: its count times (belief minus share), eq. 3
    gap[np.arange(len(belief)), inside] = belief - truth
    drawn = np.random.default_rng(seed).multinomial(len(belief), np.full(len(belief), 1 / len(belief)), _DRAWS)
    draws = np.abs(drawn @ gap).sum(1) / len(belief)
    low, high = np.quantile(draws, [0.025, 0.975])
    return tuple(table), Estimate(float(np.abs(gap.sum(0)).sum() / len(belief)), float(low), float(high))


# ---------------------------------------------------------------- thresholds


def choose(belief: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], rule: Rule) -> float:
    """The threshold on the belief that `rule` takes, between two beliefs; NaN where a class is absent.

    Where several are as good, the one that refuses most. Where none refuses `SAFE` of the failures, the safest.
    """
    if truth.all() or not truth.any():
        return _NAN
    limits = candidates(belief)
    won, lost = histograms(belief, truth)
    return float(limits[best_candidate(won[None], lost[None], len(limits), rule)[0]])


def candidates(belief: np.ndarray) -> np.ndarray:
    """What parts the distinct beliefs: 0, between each two, and above them all where there is room, float [m]."""
    distinct = np.unique(belief)
    between = np.maximum((distinct[1:] + distinct[:-1]) / 2, np.nextafter(distinct[:-1], 1))
    above = [(distinct[-1] + 1) / 2] if distinct[-1] < 1 else []
    return np.concatenate([[0.0], between, above])


def histograms(belief: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many true successes and how many true failures have each distinct belief, int [u] each."""
    distinct, place = np.unique(belief, return_inverse=True)
    won, lost = (np.bincount(place[kind], minlength=len(distinct)) for kind in (truth, ~truth))
    return won, lost


def best_candidate(
    won: Int[np.ndarray, "r u"], lost: Int[np.ndarray, "r u"], limits: int, rule: Rule, safe: float = SAFE
) -> Int[np.ndarray, " r"]:
    """Which of the `limits` candidates `rule` takes, from r pairs of histograms of successes and failures."""
    below_won, below_lost = (np.cumsum(np.insert(x, 0, 0, 1), 1)[:, :limits] for x in (won, lost))
    known, refused = 1 - below_won / won.sum(1, keepdims=True), below_lost / lost.sum(1, keepdims=True)
    worth = known + refused
    if rule == "safe":
        asked = np.minimum(safe, refused.max(1, keepdims=True))
        worth = np.where(refused >= asked - 1e-9, known, -1.0)
    return limits - 1 - np.argmax(np.round(worth[:, ::-1], 9), 1)  # the last of equals: it refuses most


def _threshold(belief: np.ndarray, truth: np.ndarray, task: Sequence[str], rule: Rule, seed: int) -> Threshold:
    """The threshold that `rule` takes, with an interval, and its cross-fitted rates."""
    value = _UNKNOWN
    if truth.any() and not truth.all():
        limits, rng = candidates(belief), np.random.default_rng(seed)
        drawn = [rng.multinomial(int(x.sum()), x / x.sum(), _DRAWS) for x in histograms(belief, truth)]
        draws = limits[best_candidate(drawn[0], drawn[1], len(limits), rule)]
        low, high = np.quantile(draws, [0.025, 0.975])
        value = Estimate(choose(belief, truth, rule), float(low), float(high))
    said = cross_fitted(belief, truth, task, rule, seed=seed)
    return Threshold(value, Worth.of(said, truth.tolist(), seed))


def enough(
    beliefs: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], task: Sequence[str], at_least: int = ENOUGH
) -> list[str]:
    """The tasks with at least so many judged successes and as many failures."""
    names, known = np.array(task), np.isfinite(beliefs)
    return [
        name
        for name in sorted(set(task))
        if min(int((known & (names == name) & (truth == kind)).sum()) for kind in (True, False)) >= at_least
    ]


def thresholds(
    beliefs: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    task: Sequence[str],
    rule: Rule = "safe",
    own: Collection[str] = (),
) -> Thresholds:
    """The threshold that `rule` takes over all clips, and over those of each task in `own`."""
    names, known = np.array(task), np.isfinite(beliefs)
    mine = {name: known & (names == name) for name in own}
    return Thresholds(
        choose(beliefs[known], truth[known], rule),
        {name: choose(beliefs[rows], truth[rows], rule) for name, rows in mine.items()},
    )


def cross_fitted(
    beliefs: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    task: Sequence[str],
    rule: Rule,
    own: Collection[str] = (),
    seed: int = 0,
    folds: int = FOLDS,
) -> list[Outcome]:
    """Verdicts on n clips, each by the `thresholds` that the other folds choose; None where there is none."""
    fold = _folds(truth, task, folds, seed)
    said: list[Outcome] = [None] * len(beliefs)
    for k in range(folds):
        others = fold != k
        chosen = thresholds(beliefs[others], truth[others], list(compress(task, others)), rule, own)
        for i in np.flatnonzero(fold == k).tolist():
            limit = chosen.of(task[i])
            if np.isfinite(beliefs[i]) and np.isfinite(limit):
                said[i] = bool(beliefs[i] >= limit)
    return said


def _folds(truth: np.ndarray, task: Sequence[str], folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Which fold each clip is in; the successes of a task are spread evenly over them, and so are its failures."""
    rng, names = np.random.default_rng(seed), np.array(task)
    fold, begun = np.zeros(len(truth), np.int64), 0
    for name in sorted(set(task)):
        for kind in (True, False):
            rows = rng.permutation(np.flatnonzero((names == name) & (truth == kind)))
            fold[rows] = (begun + np.arange(len(rows))) % folds
            begun += len(rows)
    return fold


# ---------------------------------------------------------------- two ways to judge the same clips


def difference(
    before: Sequence[Outcome], after: Sequence[Outcome], truth: Bool[np.ndarray, " n"], seed: int = 0
) -> Difference:
    """Balanced accuracy of `after` minus that of `before` on the same clips, and the exact McNemar p-value.

    The pairs are resampled within true successes and failures. A clip on which either failed is left out and counted.
    """
    right = [
        [None if v is None else v == t for v, t in zip(said, truth.tolist(), strict=True)] for said in (before, after)
    ]
    found = paired_difference(right[0], right[1], truth, seed)
    if truth.any() and not truth.all():
        return found
    return Difference(_NAN, _NAN, _NAN, found.n, found.p_value, found.errors)


def gains(
    beliefs: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    task: Sequence[str],
    rule: Rule = "safe",
    seed: int = 0,
    at_least: int = ENOUGH,
) -> dict[str | None, Gain]:
    """What thresholds by task gain above a single one, both cross-fitted: of every task, and under None of all.

    A task with `at_least` clips of both kinds has its own, the others the single one.
    """
    own = enough(beliefs, truth, task, at_least)
    said = [cross_fitted(beliefs, truth, task, rule, which, seed) for which in ((), own)]
    found = {}
    for name, rows in rows_by_task(task).items():
        true, (one, several) = truth[rows], ([verdicts[i] for i in rows] for verdicts in said)
        single, many = (Worth.of(x, true.tolist(), seed) for x in (one, several))
        found[name] = Gain(single, many, difference(one, several, true, seed))
    return found
