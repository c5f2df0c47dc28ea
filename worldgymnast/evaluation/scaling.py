"""Platt scaling of judge outputs (Platt 1999), with a regularized intercept for each task.

A judge's ranking is better than its calibration, and its miscalibration depends on the input. It is overconfident of
failure on imagined frames, and in tasks whose success shows in a few pixels. Each task has its own intercept with a
normal prior (ridge), so with few labels it stays near zero. Several inputs, such as a judge's and the world model's
own, are weighted in the same fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_EDGE = 1e-4
"""Inputs are clipped to this distance from 0 and 1, as in the scaled judge."""
_SPREAD = 1.0
"""Standard deviation of the prior of task intercepts, in log-odds."""


@dataclass(frozen=True)
class Scaling:
    """Log-odds of success = sum of `slopes` * log-odds of the inputs + `intercept` (+ that of the task).

    Attributes:
        slopes: one per input, above 0, so the scaling is monotone.
        intercept: shared by all tasks.
        by_task: added intercept of each task.
    """

    slopes: tuple[float, ...]
    intercept: float
    by_task: dict[str, float]

    def of(self, task: str) -> tuple[float, ...]:
        """Return the intercept of a task and the slopes.

        The shared intercept for an unknown task.
        """
        return (self.intercept + self.by_task.get(task, 0.0), *self.slopes)


def log_odds(belief: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Return the log-odds of probabilities in [0, 1]."""
    from scipy import special

    return special.logit(np.clip(belief, _EDGE, 1 - _EDGE))


def fit_scaling(beliefs: Float[np.ndarray, "k n"], truth: Bool[np.ndarray, " n"], task: Sequence[str]) -> Scaling:
    """Fit the scaling to n labeled clips (maximum a posteriori).

    With only successes or only failures, the first input is returned unscaled.

    Args:
        beliefs: k success probabilities of each clip, in [0, 1].
        truth: true outcomes.
        task: n names.

    Example:
        >>> from scipy import special
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.random(400) < 0.5
        >>> belief = special.expit(np.where(truth, -1.0, -4.0) + rng.normal(size=400))  # never sure of success
        >>> intercept, slope = fit_scaling(belief[None], truth, [""] * 400).of("")
        >>> round(float(((special.expit(slope * log_odds(belief) + intercept) > 0.5) == truth).mean()), 2)
        0.95
    """
    from scipy import optimize, special

    k = len(beliefs)
    if len(set(truth.tolist())) < 2:
        return Scaling((1.0, *(0.0,) * (k - 1)), 0.0, {})
    names = sorted(set(task))
    which = np.array([names.index(name) for name in task])
    x, sign = log_odds(beliefs), np.where(truth, 1.0, -1.0)
    expected = np.concatenate([np.full(k, -np.log(k)), np.zeros(1 + len(names))])
    tightness = np.concatenate([np.ones(k), np.zeros(1), np.full(len(names), 1 / _SPREAD**2)])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        slopes, away = np.exp(w[:k]), w - expected
        odds = sign * (slopes @ x + w[k] + w[k + 1 :][which])
        slack = -sign * special.expit(-odds)
        gradient = np.concatenate([(x @ slack) * slopes, [slack.sum()], np.bincount(which, slack, len(names))])
        prior = 0.5 * float((tightness * away**2).sum())
        return float(np.logaddexp(0, -odds).sum()) + prior, gradient + tightness * away

    found = optimize.minimize(loss, expected, jac=True, method="L-BFGS-B").x
    shifts = dict(zip(names, found[k + 1 :].tolist(), strict=True))
    return Scaling(tuple(np.exp(found[:k]).tolist()), float(found[k]), shifts)
