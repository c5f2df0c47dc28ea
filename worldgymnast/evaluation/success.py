"""Success rates with intervals, and paired comparisons of policies on the same layouts.

A rate carries the Wilson score interval (Wilson 1927). Two policies on the same layouts are compared by the paired
bootstrap (Efron & Tibshirani 1993, resampling pairs within each task) and the exact McNemar test (McNemar 1947: the
two-sided binomial test on the pairs that disagree). Where all pairs of each task agree, resampling cannot vary, and the
interval is that of Newcombe (1998, method 10). Per-task "significantly worse" flags are one-sided McNemar tests
with Holm's (1979) correction over tasks. Episodes with an unknown outcome (None: robot, simulator or judge failed) are
excluded from every number, and counted.

Not included: sequential testing (see `sequential`), and corrections across metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

Outcome = bool | None
RESAMPLES = 10_000
_LEVEL = 0.95


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one evaluation episode.

    Attributes:
        task: name of the task.
        layout: seed of its scene; with `seed` it pairs the episodes of two policies.
        seed: seed of the policy's sampling.
        success: the outcome, or None if something other than the policy failed.
        frames: length in frames.
    """

    task: str
    layout: int
    seed: int
    success: Outcome
    frames: int


@dataclass(frozen=True)
class Rate:
    """A success rate.

    Attributes:
        successes: number of successes.
        count: number of episodes with a known outcome.
        errors: number of excluded episodes with an unknown outcome.
    """

    successes: int
    count: int
    errors: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Rate:
        """Count outcomes; None is excluded and counted as an error.

        >>> str(Rate.of([True, True, False, None]))
        '67 % [21, 94] (2/3, 1 errors)'
        """
        known = list(outcomes)
        errors = sum(x is None for x in known)
        return cls(sum(bool(x) for x in known), len(known) - errors, errors)

    @property
    def value(self) -> float:
        """Successes over count, in [0, 1]; NaN if count is 0."""
        return self.successes / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95% interval, in [0, 1]; (0, 1) if count is 0."""
        if not self.count:
            return 0.0, 1.0
        from scipy import stats

        interval = stats.binomtest(self.successes, self.count).proportion_ci(_LEVEL, method="wilson")
        return float(interval.low), float(interval.high)

    def __str__(self) -> str:
        errors = f", {self.errors} errors" if self.errors else ""
        if not self.count:
            return f"unknown (0/0{errors})"
        low, high = self.interval
        return f"{100 * self.value:.0f} % [{100 * low:.0f}, {100 * high:.0f}] ({self.successes}/{self.count}{errors})"


@dataclass(frozen=True)
class Estimate:
    """A share with its 95% interval; all three are NaN if it is unknown."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "unknown"
        return f"{100 * self.value:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"


_UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Difference:
    """After minus before, over pairs.

    Attributes:
        mean: in [-1, 1]; given tasks, the mean over tasks, equally weighted; NaN if a task has no pairs.
        low: lower end of the 95% interval: of the paired bootstrap, or where that has no width, of Newcombe.
        high: upper end.
        n: number of pairs with both outcomes known.
        p_value: exact two-sided McNemar test of no difference.
        errors: number of excluded pairs.
    """

    mean: float
    low: float
    high: float
    n: int
    p_value: float
    errors: int = 0

    def __str__(self) -> str:
        errors = f", {self.errors} errors" if self.errors else ""
        if np.isnan(self.mean):
            return f"unknown ({self.n} pairs{errors})"
        points = f"{100 * self.mean:+.0f} points [{100 * self.low:+.0f}, {100 * self.high:+.0f}]"
        p_value = "" if np.isnan(self.p_value) else f", p = {self.p_value:.2g}"
        return f"{points} ({self.n} pairs{errors}{p_value})"


@dataclass(frozen=True)
class TaskRow:
    """One task of a `SuccessTable`; `worse` is the Holm-corrected flag at the 5% level."""

    task: str
    before: Rate
    after: Rate
    difference: Difference
    worse: bool


@dataclass(frozen=True)
class SuccessTable:
    """Success before and after: one row per task, and the equally weighted mean over tasks."""

    rows: tuple[TaskRow, ...]
    before: Estimate
    after: Estimate
    difference: Difference


def mcnemar(before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray, alternative: str) -> float:
    """Return the exact McNemar p-value of [n] paired outcomes; 1.0 if no pair changed.

    Args:
        before: outcomes of the first policy.
        after: outcomes of the second on the same layouts.
        alternative: "two-sided" tests for a change, "less" for `after` being worse, "greater" for better.

    >>> mcnemar([False, False, False, True], [True, True, True, True], "greater")
    0.125
    """
    from scipy import stats

    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    gained, lost = int((~first & second).sum()), int((first & ~second).sum())
    return float(stats.binomtest(gained, gained + lost, 0.5, alternative).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's step-down adjusted p-values [m], in the given order.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def bootstrap_mean(values: np.ndarray, strata: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Return the equally weighted mean over strata, with a stratified percentile bootstrap.

    Args:
        values: float [n].
        strata: [n] labels, such as tasks.
        seed: of the resampling.
        resamples: number of bootstrap resamples.

    Returns:
        NaN three times if n is 0.
    """
    if not len(values):
        return _UNKNOWN
    generator = np.random.default_rng(seed)
    names = np.unique(strata)
    draws = np.zeros(resamples)
    mean = 0.0
    for name in names:
        stratum = np.asarray(values, dtype=np.float64)[strata == name]
        mean += float(stratum.mean()) / len(names)
        levels, counts = np.unique(stratum, return_counts=True)
        # Counts of each distinct value: the same distribution as drawing n indices, without n columns.
        drawn = generator.multinomial(len(stratum), counts / len(stratum), size=resamples)  # [resamples levels]
        draws += drawn @ levels / len(stratum) / len(names)
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(mean, float(low), float(high))


def paired_difference(
    before: Sequence[Outcome] | np.ndarray,
    after: Sequence[Outcome] | np.ndarray,
    strata: Sequence[str] | np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Return after minus before over pairs, with a paired bootstrap interval and the exact McNemar p-value.

    Args:
        before: n outcomes of the first policy.
        after: n outcomes of the second, on the same layouts in the same order.
        strata: n task names; if given, pairs are resampled within tasks, and tasks are equally weighted.
        seed: of the resampling.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: the lengths differ.
    """
    labels = np.zeros(len(before), dtype=int) if strata is None else np.asarray(strata)
    if not len(before) == len(after) == len(labels):
        raise ValueError(
            f"got {len(before)} outcomes before, {len(after)} after and {len(labels)} strata, expected equal lengths"
        )
    pairs = list(zip(before, after, strict=True))
    known = np.array([x is not None and y is not None for x, y in pairs], dtype=bool)
    first = np.array([bool(x) for x, _ in pairs], dtype=bool)[known]
    second = np.array([bool(y) for _, y in pairs], dtype=bool)[known]
    change = bootstrap_mean(second.astype(float) - first.astype(float), labels[known], seed, resamples)
    if change.low == change.high:
        change = _newcombe(change.value, first, second)
    if set(labels) - set(labels[known]):  # without any outcome of a task there is no mean over tasks
        change = _UNKNOWN
    p_value = mcnemar(first, second, "two-sided")
    return Difference(change.value, change.low, change.high, len(first), p_value, int((~known).sum()))


def _newcombe(mean: float, before: np.ndarray, after: np.ndarray) -> Estimate:
    """Return Newcombe's (1998, method 10) interval of the paired difference of bool [n] outcomes, placed at `mean`."""
    first, second = Rate.of(before.tolist()), Rate.of(after.tolist())
    p, q = first.value, second.value
    (p_low, p_high), (q_low, q_high) = first.interval, second.interval
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    excess = both * neither - gained * lost
    if excess > 0:  # his correction for continuity
        excess = max(excess - len(before) / 2, 0)
    spread = math.sqrt((both + lost) * (gained + neither) * (both + gained) * (lost + neither))
    phi = excess / spread if spread else 0.0

    def width(a: float, b: float) -> float:
        return math.sqrt(a * a - 2 * phi * a * b + b * b)

    low, high = mean - width(q - q_low, p_high - p), mean + width(q_high - q, p - p_low)
    return Estimate(mean, max(low, -1.0), min(high, 1.0))


def _pairs(
    before: Sequence[EpisodeResult], after: Sequence[EpisodeResult], tasks: Sequence[str]
) -> list[tuple[EpisodeResult, EpisodeResult]]:
    """Pair the episodes of the same task, layout and seed."""
    first = {(r.task, r.layout, r.seed): r for r in before if r.task in tasks}
    second = {(r.task, r.layout, r.seed): r for r in after if r.task in tasks}
    unpaired = first.keys() ^ second.keys()
    if (
        unpaired
        or len(first) != sum(r.task in tasks for r in before)
        or len(second) != sum(r.task in tasks for r in after)
    ):
        raise ValueError(
            f"{len(unpaired)} of {len(first)} episodes before and {len(second)} after have no partner with the same "
            "task, layout and seed, or some occur twice. Evaluate both policies on the same layouts"
        )
    return [(first[key], second[key]) for key in first]


def mean_over_tasks(results: Sequence[EpisodeResult], tasks: Sequence[str], seed: int = 0) -> Estimate:
    """Return the mean over tasks of their success rates, equally weighted; unknown if a task has no known outcome.

    Args:
        results: n episodes; those of other tasks are ignored.
        tasks: names.
        seed: of the bootstrap.
    """
    known = [r for r in results if r.success is not None and r.task in tasks]
    values, labels = np.array([float(bool(r.success)) for r in known]), np.array([r.task for r in known])
    if set(tasks) - set(labels):
        return _UNKNOWN
    if len(values) and values.min() == values.max():  # resampling would give an interval of zero width
        rate = Rate.of(bool(value) for value in values)
        return Estimate(rate.value, *rate.interval)
    return bootstrap_mean(values, labels, seed)


def success_table(
    before: Sequence[EpisodeResult],
    after: Sequence[EpisodeResult],
    tasks: Sequence[str] | None = None,
    seed: int = 0,
) -> SuccessTable:
    """Compare success per task and its mean over tasks, before and after, on the same layouts.

    Args:
        before: episodes of the first policy.
        after: episodes of the second, with the same tasks, layouts and seeds, in any order.
        tasks: tasks to show, in this order; by default all, in order of appearance.
        seed: of the bootstrap.

    Raises:
        ValueError: an episode has no partner, or occurs twice.
    """
    names = list(dict.fromkeys(r.task for r in before)) if tasks is None else list(tasks)
    pairs = _pairs(before, after, names)
    outcomes = {task: [(x.success, y.success) for x, y in pairs if x.task == task] for task in names}
    known = {t: [(x, y) for x, y in each if x is not None and y is not None] for t, each in outcomes.items()}
    p_worse = holm([mcnemar([x for x, _ in known[t]], [y for _, y in known[t]], "less") for t in names])
    rows = tuple(
        TaskRow(
            task,
            Rate.of(x for x, _ in outcomes[task]),
            Rate.of(y for _, y in outcomes[task]),
            paired_difference([x for x, _ in outcomes[task]], [y for _, y in outcomes[task]], seed=seed),
            bool(p <= 1 - _LEVEL + 1e-12),
        )
        for task, p in zip(names, p_worse, strict=True)
    )
    total = paired_difference(
        [x.success for x, _ in pairs], [y.success for _, y in pairs], [x.task for x, _ in pairs], seed
    )
    return SuccessTable(rows, mean_over_tasks(before, names, seed), mean_over_tasks(after, names, seed), total)


def numbers(value: Any) -> Any:
    """Convert dataclasses, arrays and numbers to plain JSON; rates get value and interval, NaN becomes None.

    >>> numbers({"mean": float("nan"), "count": 3})
    {'mean': None, 'count': 3}
    """
    if isinstance(value, Rate):
        low, high = value.interval
        counts = {"successes": value.successes, "count": value.count, "errors": value.errors}
        return counts | {"value": numbers(value.value), "low": low, "high": high}
    if is_dataclass(value):
        return {field.name: numbers(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {"all" if name is None else name: numbers(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return numbers(value.tolist())
    if isinstance(value, list | tuple):
        return [numbers(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
