"""Calibration and accuracy of a judge against true outcomes. Pure functions of arrays.

Reliability and expected calibration error follow Guo et al. 2017 (arXiv 1706.04599, eq. 2 and 3, bins of equal width).
Shares carry Wilson intervals, everything else seeded 95% percentile bootstraps. Statistics of verdicts and
probabilities are resampled within true successes and failures. The calibration error is resampled over clips, because
it depends on the share of successes. Failed judgments (probability NaN, verdict None) are excluded and counted.
Without any success or any failure, what needs both is NaN.

A threshold looks better on the clips it was chosen on than on new ones. So its rates are cross-fitted: the clips are
split into folds, and each fold is judged by the threshold that the other folds choose.

Not included: recalibration (temperature, isotonic). A monotone map changes neither ranking nor best threshold.
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
"""How a threshold is chosen: "balanced" maximizes the balanced accuracy; "safe" maximizes the true positive rate at a
true negative rate of at least `SAFE`."""

SAFE = GATE
ENOUGH = 10
"""Successes, and failures, that a task needs for its own threshold."""
BINS = 10
FOLDS = 5
_DRAWS = RESAMPLES // 10
_NAN = float("nan")
_UNKNOWN = Estimate(_NAN, _NAN, _NAN)


@dataclass(frozen=True)
class Bin:
    """Clips with a success probability in [low, high).

    Attributes:
        low: lower end.
        high: upper end; included only in the last bin.
        belief: mean probability, NaN if the bin is empty.
        successes: share of true successes.
    """

    low: float
    high: float
    belief: float
    successes: Rate


@dataclass(frozen=True)
class VerdictQuality:
    """Accuracy of verdicts.

    Attributes:
        balanced_accuracy: mean of the two rates.
        known: true positive rate (recall).
        refused: true negative rate.
    """

    balanced_accuracy: Estimate
    known: Rate
    refused: Rate

    @classmethod
    def of(cls, verdicts: Sequence[Outcome], truth: Sequence[bool], seed: int) -> VerdictQuality:
        """Compare n verdicts with the truth; None is excluded and counted."""
        known, refused = true_positive_rate(verdicts, truth), true_negative_rate(verdicts, truth)
        return cls(balanced_accuracy(verdicts, truth, seed), known, refused)


@dataclass(frozen=True)
class Threshold:
    """A threshold chosen on all clips, with its interval and its cross-fitted accuracy."""

    value: Estimate
    worth: VerdictQuality


@dataclass(frozen=True)
class Gain:
    """Accuracy of a single threshold and of thresholds per task, cross-fitted, and their paired difference."""

    single: VerdictQuality
    own: VerdictQuality
    difference: Difference


@dataclass(frozen=True)
class Calibration:
    """A judge against the truth on n clips.

    Attributes:
        precision: share of true successes among the clips judged as successes.
        worth: accuracy of its own verdicts.
        auroc: probability that it ranks a true success above a true failure.
        calibration_error: mean distance of probability and share of true successes over `bins`, weighted by their
            clips; biased upward with few clips, as are its resamples.
        bins: the reliability table.
        best: the threshold of the highest balanced accuracy.
        safe: the threshold of the rule "safe".
        count: judged clips.
        errors: clips on which the judge failed.
    """

    precision: Rate
    worth: VerdictQuality
    auroc: Estimate
    calibration_error: Estimate
    bins: tuple[Bin, ...]
    best: Threshold
    safe: Threshold
    count: int
    errors: int


@dataclass(frozen=True)
class Thresholds:
    """A shared threshold, and the thresholds of tasks with their own."""

    overall: float
    by_task: Mapping[str, float]

    def of(self, task: str) -> float:
        """Return the threshold of a task."""
        return self.by_task.get(task, self.overall)


def calibration(
    beliefs: Float[np.ndarray, " n"],
    verdicts: Sequence[Outcome],
    truth: Bool[np.ndarray, " n"],
    seed: int = 0,
    task: Sequence[str] = (),
) -> Calibration:
    """Compare a judge's probabilities and verdicts on n clips with their true outcomes.

    Args:
        beliefs: success probabilities, NaN where the judge failed.
        verdicts: its own verdicts, None where it failed.
        truth: true outcomes.
        seed: of bootstrap and folds.
        task: n names; folds are stratified by them.

    Raises:
        ValueError: lengths differ, or a value of `beliefs` is outside [0, 1].
    """
    if not len(beliefs) == len(verdicts) == len(truth):
        raise ValueError(
            f"calibration got {len(beliefs)} beliefs, {len(verdicts)} verdicts and {len(truth)} true outcomes"
        )
    answered = np.isfinite(beliefs) & np.array([v is not None for v in verdicts], bool)
    belief, true = beliefs[answered], truth[answered]
    if ((belief < 0) | (belief > 1)).any():
        raise ValueError(f"beliefs lie in {belief.min():g}..{belief.max():g}, expected 0..1")
    known_verdicts = [v if known else None for v, known in zip(verdicts, answered, strict=True)]
    labels, names = truth.tolist(), list(compress(task or [""] * len(truth), answered))
    bins, error = reliability(belief, true, seed)
    return Calibration(
        precision=Rate.of(t for v, t in zip(known_verdicts, labels, strict=True) if v),
        worth=VerdictQuality.of(known_verdicts, labels, seed),
        auroc=detection(belief, true, seed).auroc,
        calibration_error=error,
        bins=bins,
        best=_threshold(belief, true, names, "balanced", seed),
        safe=_threshold(belief, true, names, "safe", seed),
        count=int(answered.sum()),
        errors=int((~answered).sum()),
    )


@dataclass(frozen=True)
class TaskCalibrations:
    """Calibration of a judge, and gain of thresholds per task: for every task and, under None, for all."""

    calibrations: Mapping[str | None, Calibration]
    gains: Mapping[str | None, Gain]

    @property
    def overall(self) -> Calibration:
        """Calibration over all tasks."""
        return self.calibrations[None]


def measure(
    beliefs: Float[np.ndarray, " n"],
    verdicts: Sequence[Outcome],
    truth: Bool[np.ndarray, " n"],
    task: Sequence[str],
    seed: int = 0,
) -> TaskCalibrations:
    """Return the calibration of every task and of all clips, and the gain of thresholds per task."""
    calibrations = {
        name: calibration(beliefs[rows], [verdicts[i] for i in rows], truth[rows], seed, [task[i] for i in rows])
        for name, rows in rows_by_task(task).items()
    }
    return TaskCalibrations(calibrations, gains(beliefs, truth, task, seed=seed))


def rows_by_task(task: Sequence[str]) -> dict[str | None, list[int]]:
    """Return the clips of every task, sorted by name, and all clips under None."""
    rows = {name: [i for i, other in enumerate(task) if other == name] for name in sorted(set(task))}
    return {**rows, None: list(range(len(task)))}


# ---------------------------------------------------------------- reliability


def reliability(
    belief: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], seed: int = 0, bins: int = BINS
) -> tuple[tuple[Bin, ...], Estimate]:
    """Return the reliability table of `bins` bins of equal width, and the expected calibration error."""
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


def choose_threshold(belief: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], rule: Rule) -> float:
    """Choose a threshold by `rule`, halfway between two probabilities; NaN if a class is absent.

    Among equals the highest is taken. If none reaches `SAFE`, the one with the highest true negative rate is taken.
    """
    if truth.all() or not truth.any():
        return _NAN
    limits = candidates(belief)
    won, lost = histograms(belief, truth)
    return float(limits[best_candidate(won[None], lost[None], len(limits), rule)[0]])


def candidates(belief: np.ndarray) -> np.ndarray:
    """Return candidate thresholds: 0, between distinct probabilities, and above them all if below 1; float [m]."""
    distinct = np.unique(belief)
    between = np.maximum((distinct[1:] + distinct[:-1]) / 2, np.nextafter(distinct[:-1], 1))
    above = [(distinct[-1] + 1) / 2] if distinct[-1] < 1 else []
    return np.concatenate([[0.0], between, above])


def histograms(belief: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count true successes and true failures at each distinct probability, int [u] each."""
    distinct, place = np.unique(belief, return_inverse=True)
    won, lost = (np.bincount(place[kind], minlength=len(distinct)) for kind in (truth, ~truth))
    return won, lost


def best_candidate(
    won: Int[np.ndarray, "r u"], lost: Int[np.ndarray, "r u"], limits: int, rule: Rule, safe: float = SAFE
) -> Int[np.ndarray, " r"]:
    """Choose one of the `limits` candidates by `rule` for r pairs of histograms."""
    positives_below = np.cumsum(np.insert(won, 0, 0, 1), 1)[:, :limits]
    negatives_below = np.cumsum(np.insert(lost, 0, 0, 1), 1)[:, :limits]
    true_positive = 1 - positives_below / won.sum(1, keepdims=True)
    true_negative = negatives_below / lost.sum(1, keepdims=True)
    utility = true_positive + true_negative
    if rule == "safe":
        required = np.minimum(safe, true_negative.max(1, keepdims=True))
        utility = np.where(true_negative >= required - 1e-9, true_positive, -1.0)
    return limits - 1 - np.argmax(np.round(utility[:, ::-1], 9), 1)  # the last among equals: the highest threshold


def _threshold(belief: np.ndarray, truth: np.ndarray, task: Sequence[str], rule: Rule, seed: int) -> Threshold:
    """Choose a threshold by `rule`, with its interval and cross-fitted accuracy."""
    value = _UNKNOWN
    if truth.any() and not truth.all():
        limits, rng = candidates(belief), np.random.default_rng(seed)
        drawn = [rng.multinomial(int(x.sum()), x / x.sum(), _DRAWS) for x in histograms(belief, truth)]
        draws = limits[best_candidate(drawn[0], drawn[1], len(limits), rule)]
        low, high = np.quantile(draws, [0.025, 0.975])
        value = Estimate(choose_threshold(belief, truth, rule), float(low), float(high))
    verdicts = cross_fit(belief, truth, task, rule, seed=seed)
    return Threshold(value, VerdictQuality.of(verdicts, truth.tolist(), seed))


def tasks_with_enough(
    beliefs: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], task: Sequence[str], at_least: int = ENOUGH
) -> list[str]:
    """Return the tasks with at least `at_least` judged successes and failures each."""
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
    """Choose a threshold by `rule` on all clips, and on those of each task in `own`."""
    names, known = np.array(task), np.isfinite(beliefs)
    task_rows = {name: known & (names == name) for name in own}
    return Thresholds(
        choose_threshold(beliefs[known], truth[known], rule),
        {name: choose_threshold(beliefs[rows], truth[rows], rule) for name, rows in task_rows.items()},
    )


def cross_fit(
    beliefs: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    task: Sequence[str],
    rule: Rule,
    own: Collection[str] = (),
    seed: int = 0,
    folds: int = FOLDS,
) -> list[Outcome]:
    """Judge each clip by the `thresholds` that the other folds choose; None without a threshold."""
    fold = _folds(truth, task, folds, seed)
    verdicts: list[Outcome] = [None] * len(beliefs)
    for k in range(folds):
        is_training = fold != k
        chosen = thresholds(beliefs[is_training], truth[is_training], list(compress(task, is_training)), rule, own)
        for i in np.flatnonzero(fold == k).tolist():
            limit = chosen.of(task[i])
            if np.isfinite(beliefs[i]) and np.isfinite(limit):
                verdicts[i] = bool(beliefs[i] >= limit)
    return verdicts


def _folds(truth: np.ndarray, task: Sequence[str], folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Assign clips to folds, stratified by task and outcome."""
    rng, names = np.random.default_rng(seed), np.array(task)
    fold, offset = np.zeros(len(truth), np.int64), 0
    for name in sorted(set(task)):
        for kind in (True, False):
            rows = rng.permutation(np.flatnonzero((names == name) & (truth == kind)))
            fold[rows] = (offset + np.arange(len(rows))) % folds
            offset += len(rows)
    return fold


# ---------------------------------------------------------------- two sets of verdicts on the same clips


def difference(
    before: Sequence[Outcome], after: Sequence[Outcome], truth: Bool[np.ndarray, " n"], seed: int = 0
) -> Difference:
    """Return the balanced accuracy of `after` minus that of `before`, with the exact McNemar p-value.

    Pairs are resampled within true successes and failures. Clips on which either failed are excluded and counted.
    """
    is_correct = [
        [None if v is None else v == t for v, t in zip(verdicts, truth.tolist(), strict=True)]
        for verdicts in (before, after)
    ]
    result = paired_difference(is_correct[0], is_correct[1], truth, seed)
    if truth.any() and not truth.all():
        return result
    return Difference(_NAN, _NAN, _NAN, result.n, result.p_value, result.errors)


def gains(
    beliefs: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    task: Sequence[str],
    rule: Rule = "safe",
    seed: int = 0,
    at_least: int = ENOUGH,
) -> dict[str | None, Gain]:
    """Return the gain of thresholds per task over a single one, for every task and, under None, for all.

    A task with `at_least` clips of both outcomes has its own threshold; the others use the single one.
    """
    own = tasks_with_enough(beliefs, truth, task, at_least)
    single_verdicts = cross_fit(beliefs, truth, task, rule, (), seed)
    own_verdicts = cross_fit(beliefs, truth, task, rule, own, seed)
    result: dict[str | None, Gain] = {}
    for name, rows in rows_by_task(task).items():
        true = truth[rows]
        before, after = [single_verdicts[i] for i in rows], [own_verdicts[i] for i in rows]
        single = VerdictQuality.of(before, true.tolist(), seed)
        several = VerdictQuality.of(after, true.tolist(), seed)
        result[name] = Gain(single, several, difference(before, after, true, seed))
    return result
