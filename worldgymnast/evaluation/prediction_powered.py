"""Prediction-powered evaluation: a real success rate from few real and many imagined episodes.

On n layouts both the real outcome Y and the imagined outcome F of a policy are known, on N more layouts only F. PPI++
(Angelopoulos et al. 2023, arXiv 2311.01453) estimates the mean of Y as

    mean of (Y - lambda F) over the n  +  lambda * mean of F over the N

which is unbiased however wrong the world model is: a bad world model makes the interval no narrower, but not wrong.
Strata (tasks) are equally weighted. Lambda is the slope of Y on F within strata over 1 + n/N, clipped to [0, 1]; with
lambda 0 only the real episodes count. The difference of two policies uses Y_new - Y_old and F_new - F_old on common
layouts.

Three changes for small n, chosen by simulating coverage (`benchmarks/coverage.py`):

- Lambda is fitted without the layout it is applied to (as in cross-prediction, arXiv 2309.16598). So few successes do
  not bias the estimate.
- Two pseudo-layouts are added to the variance, half of their outcomes successes (Agresti & Coull 1998). So identical
  outcomes do not give an interval of zero width.
- A rate carries the Clopper-Pearson interval of the number of episodes with this variance (Korn & Graubard 1998), with
  Student's t for the degrees of freedom. A difference carries the t interval. Both are exact or slightly too wide.

An imagined outcome may be any number in [0, 1], such as a judge's probability. A failed judgment counts as a failure: F
may be any function of an episode, as long as it is the same on the n and the N layouts.

Not supported: n and N layouts from different distributions. Draw both in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldgymnast.evaluation.success import Estimate

Imagined = Sequence[bool | float | None]
"""Imagined outcomes: verdicts or probabilities. None (the judge failed) counts as a failure."""
_TAIL = 0.025
_PSEUDO = 2.0
"""Number of pseudo-layouts added to the variance."""
_NAN = float("nan")


@dataclass(frozen=True)
class PoweredEstimate:
    """A real success rate, or a difference of two, with and without imagined outcomes.

    Attributes:
        powered: estimate and 95% interval from real and imagined outcomes; a rate in [0, 1], a difference in [-1, 1].
        plain: the same from real outcomes only, with the same kind of interval.
        correlation: of real and imagined outcomes within strata, with a 95% interval; NaN if one is constant.
        weight: mean lambda, in [0, 1].
        real: layouts with a real outcome (n).
        unplayed: layouts with only an imagined outcome (N).
        gained: additional real layouts that would narrow `plain` as much; negative if imagined outcomes widen it.
        errors: excluded layouts with an unknown real outcome.
        is_difference: whether it is a difference of two policies.
    """

    powered: Estimate
    plain: Estimate
    correlation: Estimate
    weight: float
    real: int
    unplayed: int
    gained: float
    errors: int = 0
    is_difference: bool = False

    @property
    def is_useful(self) -> bool:
        """Whether imagined and real outcomes are positively correlated (95% interval above 0)."""
        return self.correlation.low > 0

    @property
    def exchange(self) -> float:
        """Real layouts that one imagined layout is worth, at least 0; NaN without additional imagined layouts.

        All imagined layouts are counted, including those with a real outcome.
        """
        if not self.unplayed:
            return _NAN
        return max(0.0, self.gained) / (self.real + self.unplayed) if self.is_useful else 0.0

    @property
    def limit(self) -> float:
        """Upper bound of additional real layouts for any number of imagined ones: n rho^2 / (1 - rho^2)."""
        square = self.correlation.value**2
        if not self.is_useful:
            return 0.0
        return self.real * square / (1 - square) if square < 1 - 1e-9 else float("inf")

    @property
    def worth(self) -> str:
        """Value of imagined episodes, as a sentence."""
        rho = self.correlation
        if np.isnan(rho.value):
            return "worth nothing here: the real or the imagined outcomes are all alike"
        correlation = f"correlation {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
        if not self.is_useful:
            return f"worth nothing here ({correlation}): only real episodes count"
        bound = "unbounded" if np.isinf(self.limit) else f"upper bound: {self.limit:.0f} additional real ones"
        if not self.unplayed:
            return f"no additional episodes were imagined ({correlation}; {bound})"
        if self.gained <= 0:
            return f"worth nothing here ({correlation}, too few or too weak): only real episodes count"
        return (
            f"one imagined episode is worth {self.exchange:.2g} real ones: {self.real} real ones count as "
            f"{self.real + self.gained:.0f} ({correlation}; {bound})"
        )

    def __str__(self) -> str:
        return f"{self.format(self.powered)}, real episodes alone {self.format(self.plain)}; {self.worth}"

    def format(self, estimate: Estimate) -> str:
        """Format an estimate in percent, or in points for a difference."""
        if not self.is_difference or np.isnan(estimate.value):
            return str(estimate)
        return f"{100 * estimate.value:+.0f} points [{100 * estimate.low:+.0f}, {100 * estimate.high:+.0f}]"


def powered_rate(
    real: Sequence[bool | None],
    imagined: Imagined,
    unplayed: Imagined,
    strata: Sequence[str] | None = None,
    unplayed_strata: Sequence[str] | None = None,
) -> PoweredEstimate:
    """Estimate the real success rate of a policy, averaged over strata.

    Args:
        real: n real outcomes; None is excluded and counted.
        imagined: n imagined outcomes on the same layouts.
        unplayed: N imagined outcomes on other layouts, drawn in the same way.
        strata: n task names, weighted equally; one stratum if omitted.
        unplayed_strata: N task names.

    Raises:
        ValueError: lengths differ.

    >>> rate = powered_rate([True] * 12 + [False] * 12, [True] * 11 + [False] * 13, [True, False] * 100)
    >>> rate.powered.high - rate.powered.low < rate.plain.high - rate.plain.low
    True
    """
    y = np.array([_NAN if x is None else float(x) for x in real])
    return _powered(y, _numbers(imagined), _numbers(unplayed), strata, unplayed_strata, is_difference=False)


def powered_difference(
    real: tuple[Sequence[bool | None], Sequence[bool | None]],
    imagined: tuple[Imagined, Imagined],
    unplayed: tuple[Imagined, Imagined],
    strata: Sequence[str] | None = None,
    unplayed_strata: Sequence[str] | None = None,
) -> PoweredEstimate:
    """Estimate the real success of a new policy minus that of an old one, averaged over strata.

    Args:
        real: n real outcomes of the old and of the new policy on common layouts; pairs with a None are excluded.
        imagined: n imagined outcomes of both on the same layouts.
        unplayed: N imagined outcomes of both on other layouts.
        strata: n task names, weighted equally; one stratum if omitted.
        unplayed_strata: N task names.

    Raises:
        ValueError: lengths differ.
    """
    if len({len(one) for one in (*real, *imagined)}) > 1 or len(unplayed[0]) != len(unplayed[1]):
        raise ValueError("the two policies have different numbers of outcomes, expected outcomes on common layouts")
    y = np.array([_NAN if None in pair else float(pair[1]) - float(pair[0]) for pair in zip(*real, strict=True)])  # pyright: ignore[reportArgumentType]
    f, more = (_numbers(new) - _numbers(old) for old, new in (imagined, unplayed))
    return _powered(y, f, more, strata, unplayed_strata, is_difference=True)


def _numbers(outcomes: Imagined) -> np.ndarray:
    return np.array([0.0 if x is None else float(x) for x in outcomes])


@dataclass(frozen=True)
class _Layouts:
    """Outcomes by stratum: y, f [n] with group [n], more [N] with more_group [N].

    Groups count from 0.
    """

    y: np.ndarray
    f: np.ndarray
    group: np.ndarray
    more: np.ndarray
    more_group: np.ndarray
    groups: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum [n] values by stratum."""
        return np.bincount(self.group, values, self.groups)

    def centered(self, values: np.ndarray) -> np.ndarray:
        """Subtract the mean of its stratum from each of [n] values."""
        return values - (self.sums(values) / self.counts)[self.group]

    @property
    def counts(self) -> np.ndarray:
        """Number of layouts with a real outcome, by stratum."""
        return np.bincount(self.group, minlength=self.groups)

    @property
    def more_counts(self) -> np.ndarray:
        """Number of layouts with only an imagined outcome, by stratum."""
        return np.bincount(self.more_group, minlength=self.groups)


def _powered(
    y: np.ndarray,
    f: np.ndarray,
    more: np.ndarray,
    strata: Sequence[str] | None,
    more_strata: Sequence[str] | None,
    *,
    is_difference: bool,
) -> PoweredEstimate:
    labels = np.zeros(len(y), int) if strata is None else np.asarray(strata)
    more_labels = np.zeros(len(more), int) if more_strata is None else np.asarray(more_strata)
    if not len(y) == len(f) == len(labels) or len(more) != len(more_labels):
        raise ValueError(
            f"got {len(y)} real and {len(f)} imagined outcomes with {len(labels)} strata, and {len(more)} additional "
            f"imagined outcomes with {len(more_labels)} strata; expected equal lengths"
        )
    known = np.isfinite(y)
    names = list(dict.fromkeys(labels.tolist()))
    errors = int((~known).sum())
    inside = np.isin(more_labels, names)
    if not names or set(names) - set(labels[known].tolist()):  # a task without any outcome
        unknown = Estimate(_NAN, _NAN, _NAN)
        return PoweredEstimate(unknown, unknown, unknown, 0.0, int(known.sum()), len(more), 0.0, errors, is_difference)
    index = {name: i for i, name in enumerate(names)}
    data = _Layouts(
        y[known],
        f[known],
        np.array([index[name] for name in labels[known].tolist()]),
        more[inside],
        np.array([index[name] for name in more_labels[inside].tolist()], int),
        len(names),
    )
    weight, left_out = _weights(data)
    powered, variance = _estimate(data, weight, left_out, is_difference)
    plain, plain_variance = _estimate(data, 0 * weight, 0 * left_out, is_difference)
    gained = len(data.y) * (plain_variance / variance - 1) if variance > 0 else 0.0
    return PoweredEstimate(
        powered=powered,
        plain=plain,
        correlation=_correlation(data),
        weight=float(weight.mean()),
        real=len(data.y),
        unplayed=len(data.more),
        gained=float(gained),
        errors=errors,
        is_difference=is_difference,
    )


def _weights(data: _Layouts) -> tuple[np.ndarray, np.ndarray]:
    """Return lambda for each stratum, and for each layout the one fitted without it.

    The slope is shared by the strata: covariance and variance within strata, pooled.
    """
    n, extra = data.counts, data.more_counts
    total = n + extra
    mean_f = (data.sums(data.f) + np.bincount(data.more_group, data.more, data.groups)) / total
    dy, df, deviation = data.centered(data.y), data.centered(data.f), data.f - mean_f[data.group]
    products = np.where(n[data.group] > 1, n[data.group] / np.maximum(n[data.group] - 1, 1) * dy * df, 0.0)
    m = total[data.group]
    squares = np.where(m > 1, m / np.maximum(m - 1, 1) * deviation**2, 0.0)
    covariance = float((dy * df).sum())
    variance = float((deviation**2).sum() + ((data.more - mean_f[data.more_group]) ** 2).sum())
    freedom, freedom_f = len(data.y) - data.groups, int(total.sum()) - data.groups
    share = np.where(extra > 0, extra / total, 0.0)  # 1 / (1 + n / N)

    def slope(
        covariance: float | np.ndarray, variance: float | np.ndarray, left_out: int, share: np.ndarray
    ) -> np.ndarray:
        if freedom - left_out < 1:
            return np.zeros(np.broadcast(covariance, share).shape)
        ratio = (covariance / (freedom - left_out)) / np.maximum(variance / max(freedom_f - left_out, 1), 1e-12)
        return np.clip(np.where(np.asarray(variance) > 1e-9, ratio, 0.0) * share, 0.0, 1.0)

    without = slope(covariance - products, variance - squares, 1, share[data.group])
    return slope(covariance, variance, 0, share), without


def _estimate(data: _Layouts, weight: np.ndarray, left_out: np.ndarray, is_difference: bool) -> tuple[Estimate, float]:
    """Return the estimate with its interval, and its variance; `weight` is by stratum, `left_out` by layout."""
    from scipy import special

    n, extra, count = data.counts, data.more_counts, len(data.y)
    mean_more = np.bincount(data.more_group, data.more, data.groups) / np.maximum(extra, 1)
    rectified = data.y - left_out * (data.f - mean_more[data.group])
    value = float((data.sums(rectified) / n).mean())
    freedom = count - data.groups
    if freedom < 1:
        return Estimate(value, -1.0 if is_difference else 0.0, 1.0), _NAN
    squares = data.sums(data.centered(rectified) ** 2) + n / count * _pseudo_squares(data, weight, value, is_difference)
    real = np.where(n > 1, squares / np.maximum(n - 1, 1), squares.sum() / freedom)  # a single layout has no spread
    spread_more = np.bincount(data.more_group, (data.more - mean_more[data.more_group]) ** 2, data.groups)
    imagined = weight**2 * spread_more / np.maximum(extra - 1, 1) / np.maximum(extra, 1)
    variance = float((real / n + imagined).sum()) / data.groups**2
    t = float(special.stdtrit(freedom, 1 - _TAIL))
    if is_difference:
        half = t * np.sqrt(variance)
        return Estimate(value, float(max(-1.0, value - half)), float(min(1.0, value + half))), variance
    return Estimate(value, *_exact(min(max(value, 0.0), 1.0), variance, count, t)), variance


def _pseudo_squares(data: _Layouts, weight: np.ndarray, value: float, is_difference: bool) -> float:
    """Return the squared residuals of pseudo-layouts with every combination of outcomes."""
    mean_f, slope = float(np.concatenate([data.f, data.more]).mean()), float(weight.mean())
    rates, differences = ((0, 0), (0, 1), (1, 0), (1, 1)), ((1, 0), (-1, 0), (0, 1), (0, -1))
    points = differences if is_difference else rates
    return _PSEUDO / 4 * sum((y - value - slope * (f - mean_f)) ** 2 for y, f in points)


def _exact(value: float, variance: float, count: int, t: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate, for the number of episodes with this variance."""
    from scipy import special

    center = (value * count + _PSEUDO / 2) / (count + _PSEUDO)
    normal = float(special.ndtri(1 - _TAIL))
    effective = center * (1 - center) / variance * (normal / t) ** 2
    hits = value * effective
    low = float(special.betaincinv(hits, effective - hits + 1, _TAIL)) if hits > 1e-9 else 0.0
    high = float(special.betaincinv(hits + 1, effective - hits, 1 - _TAIL)) if effective - hits > 1e-9 else 1.0
    return low, high


def _correlation(data: _Layouts) -> Estimate:
    """Return the Pearson correlation of real and imagined outcomes within strata, with Fisher's interval."""
    from scipy import special

    dy, df = data.centered(data.y), data.centered(data.f)
    scale = float(np.sqrt((dy**2).sum() * (df**2).sum()))
    freedom = len(data.y) - data.groups + 1 - 3
    if scale < 1e-9 or freedom < 1:
        return Estimate(_NAN, _NAN, _NAN)
    value = min(max(float((dy * df).sum()) / scale, -1.0), 1.0)
    center, half = np.arctanh(np.clip(value, -0.9999, 0.9999)), special.ndtri(1 - _TAIL) / np.sqrt(freedom)
    return Estimate(value, float(np.tanh(center - half)), float(np.tanh(center + half)))
