"""Agreement of imagination with reality, and of judges with true outcomes. Pure functions.

Frames: PSNR, and SSIM (Wang et al. 2004, Gaussian window of 11 pixels, sigma 1.5, K = 0.01 and 0.03). Verdicts: true
rates, balanced accuracy, and the area under the ROC curve (Hanley & McNeil 1982, ties count one half). Success rates of
several policies or tasks, imagined against real: Pearson, Spearman, and the mean maximum rank violation of SIMPLER
(Li et al. 2024, arXiv 2405.05941, eq. 1 and 2). Intervals are 95% percentile bootstraps with a given seed, over points
or, for several policies in several tasks, over both.

Not included: learned perceptual distances (LPIPS, FVD), which need pretrained weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldgymnast.evaluation.success import (
    RESAMPLES,
    Difference,
    Estimate,
    Outcome,
    Rate,
    bootstrap_mean,
    paired_difference,
)

Numbers = Sequence[float] | np.ndarray
PSNR_CEILING = 60.0
"""Cap in dB for (nearly) identical frames, before PSNRs are averaged."""

GATE = 0.9
"""True positive and true negative rate that world model and judge should reach before RL."""

# ---------------------------------------------------------------- frames


def _same_frames(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"frames are {a.dtype} {a.shape} and {b.dtype} {b.shape}, expected uint8 of equal shapes")


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each frame in dB: uint8 [... h w 3] twice -> float64 [...].

    Equal frames give inf.

    Raises:
        ValueError: shapes differ, or a dtype is not uint8.
    """
    _same_frames(a, b)
    error = np.square(a.astype(np.float32) - b.astype(np.float32)).mean(axis=(-3, -2, -1), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / error)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the structural similarity of each frame: uint8 [... h w 3] twice -> float64 [...], at most 1.

    It is averaged over channels.

    Raises:
        ValueError: shapes differ, a dtype is not uint8, or a frame is smaller than the window of 11 pixels.
    """
    from scipy import ndimage

    _same_frames(a, b)
    if min(a.shape[-3:-1]) < 11:
        raise ValueError(f"ssim needs frames of at least 11x11 pixels, got {a.shape[-3]}x{a.shape[-2]}")
    axes, edge = (a.ndim - 3, a.ndim - 2), 5
    x, y = a.astype(np.float64), b.astype(np.float64)

    def blur(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 1.5, axes=axes, radius=edge)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return np.asarray(similarity[..., edge:-edge, edge:-edge, :].mean(axis=(-3, -2, -1)))


def fidelity_by_horizon(
    real: np.ndarray, imagined: np.ndarray, shuffled: np.ndarray | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the PSNR of imagined replays at every horizon, with two baselines.

    Args:
        real: uint8 [e t+1 h w 3].
        imagined: the same shape; frame 0 is the start and is not scored.
        shuffled: the same shape, imagined with the actions of other episodes (control for action-following).
        seed: of the bootstrap over episodes.

    Returns:
        float64 [t] each: "horizon" (1..t), "psnr" (mean over episodes, dB; every frame at most `PSNR_CEILING`) with
        "psnr_low" and "psnr_high", "copy" (the first frame repeated), and "shuffled" if given.
    """
    _same_frames(real, imagined)
    own = np.minimum(psnr(real[:, 1:], imagined[:, 1:]), PSNR_CEILING)  # [e t]
    first = np.broadcast_to(real[:, :1], real.shape)
    columns = [bootstrap_mean(own[:, t], np.zeros(len(own)), seed + t) for t in range(own.shape[1])]
    out = {
        "horizon": np.arange(1.0, own.shape[1] + 1),
        "psnr": own.mean(0),
        "psnr_low": np.array([c.low for c in columns]),
        "psnr_high": np.array([c.high for c in columns]),
        "copy": np.minimum(psnr(real[:, 1:], first[:, 1:]), PSNR_CEILING).mean(0),
    }
    if shuffled is not None:
        out["shuffled"] = np.minimum(psnr(real[:, 1:], shuffled[:, 1:]), PSNR_CEILING).mean(0)
    return out


# ---------------------------------------------------------------- verdicts


def _known(verdicts: Sequence[Outcome], truth: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Return verdicts and truth, bool [n], where the judge answered."""
    pairs = [(bool(v), bool(t)) for v, t in zip(verdicts, truth, strict=True) if v is not None]
    array = np.array(pairs, dtype=bool).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def true_positive_rate(verdicts: Sequence[Outcome], truth: Sequence[bool]) -> Rate:
    """Return the share of true successes judged as successes.

    None is excluded and counted as an error.
    """
    return Rate.of(v for v, t in zip(verdicts, truth, strict=True) if t)


def true_negative_rate(verdicts: Sequence[Outcome], truth: Sequence[bool]) -> Rate:
    """Return the share of true failures judged as failures.

    None is excluded and counted as an error.
    """
    return Rate.of(None if v is None else not v for v, t in zip(verdicts, truth, strict=True) if not t)


def balanced_accuracy(verdicts: Sequence[Outcome], truth: Sequence[bool], seed: int = 0) -> Estimate:
    """Return the mean of true positive and true negative rate, with a stratified bootstrap interval.

    NaN if a class is absent. None is excluded.
    """
    judged, true = _known(verdicts, truth)
    if len(set(true.tolist())) < 2:
        return Estimate(float("nan"), float("nan"), float("nan"))
    return bootstrap_mean((judged == true).astype(float), true, seed)


def auroc(scores: Numbers, truth: Sequence[bool] | np.ndarray) -> float:
    """Return the probability that a true success outscores a true failure, ties one half.

    NaN if a class is absent.

    Args:
        scores: [n], higher means success.
        truth: bool [n].
    """
    from scipy import stats

    true = np.asarray(truth, dtype=bool)
    positive, negative = int(true.sum()), int((~true).sum())
    if not positive or not negative:
        return float("nan")
    ranks = stats.rankdata(np.asarray(scores, dtype=np.float64))
    return float((ranks[true].sum() - positive * (positive + 1) / 2) / (positive * negative))


# ---------------------------------------------------------------- imagined against real success


def _rows_pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the correlation of each row: [r n] twice -> [r]; NaN for a constant row."""
    dx, dy = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((dx * dx).sum(1) * (dy * dy).sum(1))
    constant = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    return np.where(constant, np.nan, (dx * dy).sum(1) / np.where(constant, 1.0, scale))


def _rows_spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy import stats

    return _rows_pearson(stats.rankdata(x, axis=1), stats.rankdata(y, axis=1))


def _rows_mmrv(imagined: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Compute SIMPLER eq. 1 and 2 for each row: [r n] twice -> [r]."""
    gap = np.abs(real[:, :, None] - real[:, None, :])
    ordered = (imagined[:, :, None] < imagined[:, None, :]) == (real[:, :, None] < real[:, None, :])
    return np.where(ordered, 0.0, gap).max(2).mean(1)


def _bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], x: Numbers, y: Numbers, seed: int, resamples: int
) -> Estimate:
    """Return a statistic of [n] points, with an interval by resampling points; NaN resamples are ignored."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"agreement got shapes {a.shape} and {b.shape}, expected two equal lengths")
    if len(a) < 2:
        return Estimate(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    draws = []
    for size in [1000] * (resamples // 1000) + [resamples % 1000]:  # in batches: MMRV takes [r n n] of memory
        index = generator.integers(0, len(a), (size, len(a)))
        draws.append(statistic(a[index], b[index]))
    values = np.concatenate(draws)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
    return Estimate(float(statistic(a[None], b[None])[0]), float(low), float(high))


def pearson(imagined: Numbers, real: Numbers, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the linear correlation of [n] imagined and real success rates.

    NaN if one is constant or n < 2.
    """
    return _bootstrap(_rows_pearson, imagined, real, seed, resamples)


def spearman(imagined: Numbers, real: Numbers, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the rank correlation of [n] imagined and real success rates.

    NaN if one is constant or n < 2.
    """
    return _bootstrap(_rows_spearman, imagined, real, seed, resamples)


def mmrv(imagined: Numbers, real: Numbers, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean maximum rank violation of [n] success rates.

    0 is a perfect order, NaN if n < 2.
    """
    return _bootstrap(_rows_mmrv, imagined, real, seed, resamples)


MMRV_CONVENTION = (
    "MMRV as in SIMPLER (arXiv 2405.05941, eq. 1 and 2): rates in 0..1, for each policy the largest difference in real "
    "success to any policy on the wrong side of it, averaged over policies; 0 is a perfect order. A tie in only one "
    "place counts as a wrong order."
)
_SPLITS = 200
_EXACT = 7
"""Most policies for which all permutations are enumerated."""


@dataclass(frozen=True)
class Agreement:
    """How well a surrogate ranks policies as reality does.

    Attributes:
        pearson: linear correlation of mean success.
        spearman: rank correlation.
        mmrv: mean maximum rank violation, see `MMRV_CONVENTION`.
        count: policies, each from its own training.
        without_one: lowest and highest Pearson r when one policy is left out; NaN below 4 policies.
        p_value: two-sided permutation test of no correlation; NaN if r is unknown.
        reliability: of the real success rates, see `reliability`; NaN if unknown.
    """

    pearson: Estimate
    spearman: Estimate
    mmrv: Estimate
    count: int = 0
    without_one: tuple[float, float] = (float("nan"), float("nan"))
    p_value: float = float("nan")
    reliability: float = float("nan")


def agreement(imagined: np.ndarray, real: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Agreement:
    """Return the agreement on mean success of p policies over t tasks, resampling policies and tasks.

    Policies are treated as independent: average those of one training (its checkpoints) to one row first.

    Args:
        imagined: success rates in the surrogate, float [p t].
        real: real success rates of the same policies in the same tasks, float [p t].
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: the shapes differ.
    """
    if imagined.shape != real.shape or imagined.ndim != 2:
        raise ValueError(f"agreement got shapes {imagined.shape} and {real.shape}, expected two equal [p t]")
    policies, tasks = imagined.shape
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, policies, (resamples, policies))
    drawn = generator.integers(0, tasks, (resamples, tasks))
    count = np.zeros((resamples, tasks))
    np.add.at(count, (np.arange(resamples)[:, None], drawn), 1 / tasks)  # weight of each task in each resample
    x, y = (np.take_along_axis(count @ rates.T, chosen, axis=1) for rates in (imagined, real))

    def estimate(statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Estimate:
        value = float(statistic(imagined.mean(1)[None], real.mean(1)[None])[0]) if policies > 1 else float("nan")
        draws = np.concatenate([statistic(x[i : i + 1000], y[i : i + 1000]) for i in range(0, resamples, 1000)])
        known = draws[np.isfinite(draws)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) and np.isfinite(value) else (np.nan, np.nan)
        return Estimate(value, float(low), float(high))

    means = imagined.mean(1), real.mean(1)
    return Agreement(
        pearson=estimate(_rows_pearson),
        spearman=estimate(_rows_spearman),
        mmrv=estimate(_rows_mmrv),
        count=policies,
        without_one=leave_one_out(*means),
        p_value=permutation_p(*means, seed, resamples),
    )


def leave_one_out(imagined: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Return the lowest and highest Pearson r when one of [n] points is left out; NaN below 4 points.

    >>> low, high = leave_one_out(np.array([0.0, 0.1, 0.2, 0.9]), np.array([0.1, 0.0, 0.1, 0.8]))
    >>> round(low, 2), round(high, 2)
    (0.0, 1.0)
    """
    count = len(imagined)
    if count < 4:
        return float("nan"), float("nan")
    kept = np.nonzero(~np.eye(count, dtype=bool))[1].reshape(count, count - 1)
    values = _rows_pearson(imagined[kept], real[kept])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (float("nan"), float("nan"))


def permutation_p(imagined: np.ndarray, real: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Return the two-sided permutation p-value of no correlation of [n] points; NaN if r is unknown.

    Up to 7 points all permutations are enumerated; then p is exact and at least 1/n!.
    """
    count = len(imagined)
    observed = float(_rows_pearson(imagined[None], real[None])[0]) if count > 1 else float("nan")
    if np.isnan(observed):
        return float("nan")
    if is_exact := count <= _EXACT:
        order = np.array(list(itertools.permutations(range(count))))
    else:
        order = np.random.default_rng(seed).permuted(np.tile(np.arange(count), (resamples, 1)), axis=1)
    values = _rows_pearson(np.broadcast_to(imagined, order.shape), real[order])
    extreme = int((np.abs(values) >= abs(observed) - 1e-12).sum())
    return extreme / len(order) if is_exact else (extreme + 1) / (len(order) + 1)


def reliability(outcomes: np.ndarray, seed: int = 0, splits: int = _SPLITS) -> float:
    """Return the Pearson r that mean success of p policies would have with itself on as many other starts.

    The starts of every task are split into random halves, the same for all policies. The mean r of the halves is
    stepped up to all starts (Spearman-Brown). Noise of few starts lowers it, and any agreement with it: the r of
    another measure, from other starts, is at most the square root of the product of both reliabilities.

    Args:
        outcomes: success of p policies in t tasks on n starts, float [p t n]; NaN where unknown.
        seed: of the splits.
        splits: number of splits.

    Returns:
        In -1..1; NaN for less than 3 policies or 2 starts, or if a half has equal rates for all policies.

    >>> sure = np.repeat(np.array([0.0, 0.5, 1.0])[:, None, None], 8, axis=2)
    >>> round(reliability(sure), 2)
    1.0
    """
    policies, _, starts = outcomes.shape
    if policies < 3 or starts < 2:
        return float("nan")
    rng, values = np.random.default_rng(seed), []
    for _ in range(splits):
        order = rng.permutation(starts)
        halves = order[: starts // 2], order[starts // 2 :]
        first, second = (_mean_success(outcomes[:, :, half]) for half in halves)
        values.append(_rows_pearson(first[None], second[None])[0])
    half = float(np.mean(values))
    return 2 * half / (1 + half) if half > -1 else -1.0


def _mean_success(outcomes: np.ndarray) -> np.ndarray:
    """Mean over tasks of the rates of [p t n] outcomes, float [p]; NaN if a task has no known outcome."""
    known = np.isfinite(outcomes)
    with np.errstate(invalid="ignore"):
        return (np.where(known, outcomes, 0.0).sum(2) / known.sum(2)).mean(1)


def success_gap(
    imagined: Sequence[Outcome],
    real: Sequence[Outcome],
    strata: Sequence[str] | None = None,
    seed: int = 0,
) -> Difference:
    """Return imagined minus real success on the same starts; positive if world model and judge are optimistic.

    Args:
        imagined: n outcomes in imagination.
        real: n real outcomes of the same policy from the same starts.
        strata: n task names, weighted equally.
        seed: of the bootstrap.
    """
    return paired_difference(real, imagined, strata, seed)
