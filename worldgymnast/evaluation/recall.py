"""Attributes wrong verdicts on imagined replays to judge, representation or dynamics. Pure functions.

A judge sees the same rollouts three times: on the real frames, on their round trip through the world model (encoded and
decoded), and on imagined replays of the same actions. A success missed on the imagined frames is attributed to the
judge if it is also missed on the real frames, to the representation if on the round trip, and to the dynamics
otherwise. The same holds for failures that are judged as successes.

`operating_point` is in-sample: the threshold is chosen on the clips that it is measured on, as in an ROC curve. With
few clips that is optimistic; `calibration` has cross-fitted numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from worldgymnast.evaluation.calibration import Rule, best_candidate, candidates, histograms, reliability
from worldgymnast.evaluation.success import RESAMPLES, Estimate, Outcome, Rate, bootstrap_mean
from worldgymnast.evaluation.uncertainty import detection

SOURCES = ("real", "round_trip", "imagined")
"""Sources of the frames of one rollout that the judge sees."""
STRICT = 0.95
"""True negative rate at which the true positive rate is reported."""
_DRAWS = RESAMPLES // 10
_CORRECTIONS = 10_000
"""Draws of `corrected_rate`."""
_NAN = float("nan")
_UNKNOWN = Estimate(_NAN, _NAN, _NAN)


@dataclass(frozen=True)
class Point:
    """A threshold on the success probability, with the rates at it.

    Intervals come from choosing the threshold again in every resample.

    Attributes:
        threshold: the threshold.
        known: true positive rate.
        refused: true negative rate.
    """

    threshold: Estimate
    known: Estimate
    refused: Estimate


@dataclass(frozen=True)
class Recall:
    """Accuracy of a judge on one source of frames.

    Attributes:
        auroc: probability that it ranks a true success above a true failure.
        known: true positive rate of its own verdicts.
        refused: true negative rate of its own verdicts.
        best: the threshold of the highest balanced accuracy.
        strict: the threshold of the highest true positive rate at a true negative rate of at least `STRICT`.
        brier: mean squared error of its probability (Brier 1950); 0 is best, and always saying 0.5 gives 0.25.
        base_brier: the same for always saying the share of successes.
        calibration_error: see `calibration.Calibration`.
    """

    auroc: Estimate
    known: Rate
    refused: Rate
    best: Point
    strict: Point
    brier: Estimate
    base_brier: float
    calibration_error: Estimate


def recall(
    beliefs: Float[np.ndarray, " n"], verdicts: Sequence[Outcome], truth: Bool[np.ndarray, " n"], seed: int = 0
) -> Recall:
    """Compare a judge's probabilities (NaN where it failed) and verdicts on n clips with their true outcomes."""
    known = np.isfinite(beliefs)
    belief, true = beliefs[known], truth[known]
    share = float(true.mean()) if len(true) else _NAN
    return Recall(
        auroc=detection(belief, true, seed).auroc,
        known=Rate.of(v for v, t in zip(verdicts, truth, strict=True) if t),
        refused=Rate.of(None if v is None else not v for v, t in zip(verdicts, truth, strict=True) if not t),
        best=operating_point(belief, true, "balanced", seed=seed),
        strict=operating_point(belief, true, "safe", STRICT, seed),
        brier=bootstrap_mean(np.square(belief - true), np.zeros(len(belief)), seed, _DRAWS),
        base_brier=share * (1 - share),
        calibration_error=reliability(belief, true, seed)[1],
    )


def operating_point(
    belief: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], rule: Rule, safe: float = STRICT, seed: int = 0
) -> Point:
    """Choose a threshold by `rule`, and return the rates at it; NaN if a class is absent.

    Args:
        belief: success probabilities.
        truth: true outcomes.
        rule: see `calibration.Rule`.
        safe: smallest true negative rate of the rule "safe".
        seed: of the bootstrap within successes and failures.
    """
    if truth.all() or not truth.any():
        return Point(_UNKNOWN, _UNKNOWN, _UNKNOWN)
    limits, (won, lost), rng = candidates(belief), histograms(belief, truth), np.random.default_rng(seed)
    drawn = [np.vstack([x, rng.multinomial(int(x.sum()), x / x.sum(), _DRAWS)]) for x in (won, lost)]  # [1+draws u]
    chosen = best_candidate(drawn[0], drawn[1], len(limits), rule, safe)
    above = np.arange(len(won)) >= chosen[:, None]  # candidate i lies below the i-th distinct probability
    known = (drawn[0] * above).sum(1) / won.sum()
    refused = 1 - (drawn[1] * above).sum(1) / lost.sum()
    return Point(*(_with_interval(x) for x in (limits[chosen], known, refused)))


def _with_interval(values: np.ndarray) -> Estimate:
    """Return the first value with the 95% interval of the others."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


def threshold_verdicts(beliefs: Float[np.ndarray, " n"], threshold: float) -> list[Outcome]:
    """Apply a threshold; None where the judge failed, or without a threshold.

    >>> threshold_verdicts(np.array([0.2, 0.7, np.nan]), 0.5)
    [False, True, None]
    """
    if math.isnan(threshold):
        return [None] * len(beliefs)
    return [bool(belief >= threshold) if np.isfinite(belief) else None for belief in beliefs]


# ---------------------------------------------------------------- the split


def corrected_rate(judged: Rate, known: Rate, refused: Rate, seed: int = 0) -> Estimate:
    """Estimate the rate of true successes from that of judged ones (Rogan & Gladen 1978).

    true = (judged + refused - 1) / (known + refused - 1). The interval is that of draws of all three rates from their
    Jeffreys posteriors. It holds if the judge errs on these rollouts as often as on those of `known` and `refused`.

    Args:
        judged: judged successes.
        known: true positive rate, of labelled rollouts.
        refused: true negative rate, of labelled rollouts.
        seed: of the draws.

    Returns:
        The rate, in [0, 1]; NaN without labelled successes or failures, or if the judge does not tell them apart.

    >>> print(corrected_rate(Rate(40, 100), Rate(45, 50), Rate(40, 50)))
    29 % [8, 46]
    """
    if not (judged.count and known.count and refused.count) or known.value + refused.value <= 1:
        return _UNKNOWN
    rng = np.random.default_rng(seed)
    rates = (judged, known, refused)
    draws = [rng.beta(one.successes + 0.5, one.count - one.successes + 0.5, _CORRECTIONS) for one in rates]
    margin = draws[1] + draws[2] - 1
    informative = np.where(margin > 0, margin, np.nan)
    true = ((draws[0] + draws[2] - 1) / informative).clip(0, 1)
    low = np.quantile(np.where(np.isnan(true), 0.0, true), 0.025)
    high = np.quantile(np.where(np.isnan(true), 1.0, true), 0.975)
    value = (judged.value + refused.value - 1) / (known.value + refused.value - 1)
    return Estimate(float(np.clip(value, 0, 1)), float(low), float(high))


@dataclass(frozen=True)
class Split:
    """Causes of the wrong verdicts on imagined replays of one outcome; the parts add up to `wrong`.

    Attributes:
        wrong: share of rollouts judged wrongly on the imagined frames.
        judge: those judged wrongly on the real frames, too.
        world: those judged correctly on the real frames: `round_trip` plus `dynamics`.
        round_trip: those of `world` judged wrongly on the round trip; None for a world model without one.
        dynamics: those of `world` judged correctly on the round trip; None for a world model without one.
        mended: judged wrongly on the real frames and correctly on the imagined ones; part of none of the above.
    """

    wrong: Rate
    judge: Rate
    world: Rate
    round_trip: Rate | None
    dynamics: Rate | None
    mended: Rate


def find_fault(verdicts: Mapping[str, Outcome], truth: bool) -> str | None:
    """Return the cause of a wrong verdict on an imagined replay.

    Args:
        verdicts: by source of frames; "round_trip" may be absent.
        truth: the true outcome.

    Returns:
        "" if the verdict is correct; "judge", "round_trip" or "dynamics"; "world" (one of the latter two) for a world
        model without a round trip; None if a verdict that decides it is unknown.

    >>> find_fault({"real": True, "round_trip": True, "imagined": False}, True)
    'dynamics'
    """
    imagined, real = verdicts["imagined"], verdicts["real"]
    if imagined is None or real is None:
        return None
    if imagined == truth:
        return ""
    if real != truth:
        return "judge"
    if "round_trip" not in verdicts:
        return "world"
    if (decoded := verdicts["round_trip"]) is None:
        return None
    return "dynamics" if decoded == truth else "round_trip"


def split_faults(verdicts: Mapping[str, Sequence[Outcome]], truth: Sequence[bool], kind: bool = True) -> Split:
    """Apply `find_fault` to all true successes, or to all true failures if `kind` is False."""
    each = [dict(zip(verdicts, row, strict=True)) for row in zip(*verdicts.values(), strict=True)]
    causes = [(row, find_fault(row, true)) for row, true in zip(each, truth, strict=True) if true == kind]

    def share(*names: str) -> Rate:
        return Rate.of(None if cause is None else cause in names for _, cause in causes)

    parts = [share(name) for name in ("round_trip", "dynamics")] if "round_trip" in verdicts else [None, None]
    mended = Rate.of(None if cause is None else cause == "" and row["real"] != kind for row, cause in causes)
    world = ("world", "round_trip", "dynamics")
    return Split(share("judge", *world), share("judge"), share(*world), parts[0], parts[1], mended)
