"""Where successes get lost between the real outcome and the judge's verdict on an imagined replay. Pure functions.

A judge sees the same rollouts three times: on the real frames, on the world's round trip of them (encoded and decoded),
and on imagined replays of the same actions. A success that it misses on the imagined frames was missed on the real ones
already (the judge's fault), or only on the round trip (the representation's), or only on the imagined ones (the
dynamics'). The same holds for failures that are called successes.

`operating_point` is in-sample: the threshold is chosen on the very clips that it is then measured on, as in an ROC
curve. Where clips are few that is optimistic; `calibration` has cross-fitted figures.
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
"""Frames that the judge sees of one rollout."""
STRICT = 0.95
"""Share of the failures that must be known where the share of the successes known is reported."""
_DRAWS = RESAMPLES // 10
_NAN = float("nan")
_UNKNOWN = Estimate(_NAN, _NAN, _NAN)


@dataclass(frozen=True)
class Point:
    """A threshold on the belief and what is known with it, intervals by choosing it again in every resample."""

    threshold: Estimate
    known: Estimate
    refused: Estimate


@dataclass(frozen=True)
class Recall:
    """What a judge knows from one source of frames.

    Attributes:
        auroc: chance that it believes more in a true success than in a true failure.
        known: share of the true successes that its own verdict calls so.
        refused: share of the true failures that its own verdict calls so.
        best: the threshold of the highest balanced accuracy.
        strict: the threshold that knows most successes where at least `STRICT` of the failures are known.
        brier: mean squared distance of belief and outcome (Brier 1950); 0 is best, and 0.25 is to say 0.5 always.
        base_brier: the same of a belief that is always the share of successes.
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
    """A judge's beliefs (NaN where it failed) and verdicts on n clips of one source, against their truth."""
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
    """The threshold that `rule` takes and the shares known with it; unknown where a class is absent.

    Args:
        belief: in [0, 1].
        truth: whether they succeeded.
        rule: see `calibration.Rule`.
        safe: share of the failures that "safe" refuses at least.
        seed: of the bootstrap within successes and failures.
    """
    if truth.all() or not truth.any():
        return Point(_UNKNOWN, _UNKNOWN, _UNKNOWN)
    limits, (won, lost), rng = candidates(belief), histograms(belief, truth), np.random.default_rng(seed)
    drawn = [np.vstack([x, rng.multinomial(int(x.sum()), x / x.sum(), _DRAWS)]) for x in (won, lost)]  # [1+draws u]
    chosen = best_candidate(drawn[0], drawn[1], len(limits), rule, safe)
    above = np.arange(len(won)) >= chosen[:, None]  # candidate i lies below the i-th distinct belief
    known = (drawn[0] * above).sum(1) / won.sum()
    refused = 1 - (drawn[1] * above).sum(1) / lost.sum()
    return Point(*(_with_interval(x) for x in (limits[chosen], known, refused)))


def _with_interval(values: np.ndarray) -> Estimate:
    """The first value, with the 95 % interval of the others."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


def called(beliefs: Float[np.ndarray, " n"], threshold: float) -> list[Outcome]:
    """Verdicts by a threshold; None where the judge failed, or where there is no threshold."""
    if math.isnan(threshold):
        return [None] * len(beliefs)
    return [bool(belief >= threshold) if np.isfinite(belief) else None for belief in beliefs]


# ---------------------------------------------------------------- the split


@dataclass(frozen=True)
class Split:
    """Where the wrong verdicts on imagined replays of one outcome come from; the parts add up to `wrong`.

    Attributes:
        wrong: of the rollouts, those called wrongly on the imagined frames.
        judge: called wrongly on the real frames already.
        world: called rightly on the real frames; the round trip's and the dynamics' together.
        round_trip: of `world`, those called wrongly on the round trip; None for a world that has none.
        dynamics: of `world`, those called rightly on the round trip; None for a world that has none.
        mended: called wrongly on the real frames and rightly on the imagined ones; in none of the above.
    """

    wrong: Rate
    judge: Rate
    world: Rate
    round_trip: Rate | None
    dynamics: Rate | None
    mended: Rate


def fault(verdicts: Mapping[str, Outcome], truth: bool) -> str | None:
    """Why one rollout is called wrongly on its imagined replay.

    Args:
        verdicts: by source of frames; "round_trip" may be absent.
        truth: whether it really succeeded.

    Returns:
        "" where the replay is called rightly, "judge", "round_trip", "dynamics", or "world" (one of the latter two)
        where the world has no round trip; None where a verdict that decides it is unknown.

    >>> fault({"real": True, "round_trip": True, "imagined": False}, True)
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
    if (seen := verdicts["round_trip"]) is None:
        return None
    return "dynamics" if seen == truth else "round_trip"


def split(verdicts: Mapping[str, Sequence[Outcome]], truth: Sequence[bool], kind: bool = True) -> Split:
    """`fault` of all rollouts that truly succeeded, or failed where `kind` is False; unknown ones are counted."""
    each = [dict(zip(verdicts, row, strict=True)) for row in zip(*verdicts.values(), strict=True)]
    own = [(row, fault(row, true)) for row, true in zip(each, truth, strict=True) if true == kind]

    def share(*causes: str) -> Rate:
        return Rate.of(None if cause is None else cause in causes for _, cause in own)

    parts = [share(name) for name in ("round_trip", "dynamics")] if "round_trip" in verdicts else [None, None]
    mended = Rate.of(None if cause is None else cause == "" and row["real"] != kind for row, cause in own)
    world = ("world", "round_trip", "dynamics")
    return Split(share("judge", *world), share("judge"), share(*world), parts[0], parts[1], mended)
