"""Beliefs to probabilities: Platt scaling (Platt 1999) with an intercept for each task, drawn toward the common one.

A judge ranks outcomes better than its number says how likely they are, and how far it is off depends on what is shown:
on imagined frames, and in tasks whose success is a few pixels, it is surer of failure than it should be. With few
labels a task the intercepts of tasks stay near zero (a ridge, that is a normal prior), so that none is fitted to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special

_EDGE = 1e-4
"""Beliefs are kept that far from 0 and 1, as the judge does that is scaled."""
_SPREAD = 1.0
"""Standard deviation, in log-odds, of what is expected of tasks' intercepts."""


@dataclass(frozen=True)
class Scaling:
    """log-odds of success = `slope` * log-odds of the belief + `intercept` (+ that of the task).

    Attributes:
        slope: above 0, so that the order stays.
        intercept: of all tasks.
        by_task: what single tasks add.
    """

    slope: float
    intercept: float
    by_task: dict[str, float]

    def of(self, task: str) -> tuple[float, float]:
        """Slope and intercept of a task; the common ones where it is unknown."""
        return self.slope, self.intercept + self.by_task.get(task, 0.0)


def log_odds(belief: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Log-odds of beliefs in [0, 1]."""
    return special.logit(np.clip(belief, _EDGE, 1 - _EDGE))


def fit_scaling(belief: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], task: Sequence[str]) -> Scaling:
    """The most likely scaling of n labelled beliefs under the prior; the identity where one outcome is missing.

    Args:
        belief: of the judge, in [0, 1].
        truth: the outcome.
        task: n names.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.random(400) < 0.5
        >>> belief = special.expit(np.where(truth, -1.0, -4.0) + rng.normal(size=400))  # never sure of success
        >>> found = fit_scaling(belief, truth, [""] * 400)
        >>> round(float(((special.expit(found.slope * log_odds(belief) + found.intercept) > 0.5) == truth).mean()), 2)
        0.95
    """
    if len(set(truth.tolist())) < 2:
        return Scaling(1.0, 0.0, {})
    names = sorted(set(task))
    which = np.array([names.index(name) for name in task])
    x, sign = log_odds(belief), np.where(truth, 1.0, -1.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        slope, shift = np.exp(w[0]), w[2:]
        odds = sign * (slope * x + w[1] + shift[which])
        slack = -sign * special.expit(-odds)
        gradient = np.concatenate([[(slack * x).sum() * slope], [slack.sum()], np.bincount(which, slack, len(names))])
        gradient[0] += w[0]
        gradient[2:] += shift / _SPREAD**2
        return float(np.logaddexp(0, -odds).sum() + 0.5 * w[0] ** 2 + 0.5 * (shift**2).sum() / _SPREAD**2), gradient

    found = optimize.minimize(loss, np.zeros(2 + len(names)), jac=True, method="L-BFGS-B").x
    return Scaling(float(np.exp(found[0])), float(found[1]), dict(zip(names, found[2:].tolist(), strict=True)))
