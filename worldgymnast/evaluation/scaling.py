"""Beliefs to probabilities: Platt scaling (Platt 1999) with an intercept for each task, drawn toward the common one.

A judge ranks outcomes better than its number says how likely they are, and how far it is off depends on what is shown:
on imagined frames, and in tasks whose success is a few pixels, it is surer of failure than it should be. With few
labels of a task its intercept stays near zero (a ridge, that is a normal prior), so that none is fitted to chance.
Several beliefs, such as a judge's and the world model's own, are weighed against each other in the same way.
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
    """log-odds of success = sum of `slopes` * log-odds of the beliefs + `intercept` (+ that of the task).

    Attributes:
        slopes: one for each belief, above 0, so that more of a belief is never less of a probability.
        intercept: of all tasks.
        by_task: what single tasks add.
    """

    slopes: tuple[float, ...]
    intercept: float
    by_task: dict[str, float]

    def of(self, task: str) -> tuple[float, ...]:
        """The intercept of a task and the slopes; the common intercept where the task is unknown."""
        return (self.intercept + self.by_task.get(task, 0.0), *self.slopes)


def log_odds(belief: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Log-odds of beliefs in [0, 1]."""
    return special.logit(np.clip(belief, _EDGE, 1 - _EDGE))


def fit_scaling(beliefs: Float[np.ndarray, "k n"], truth: Bool[np.ndarray, " n"], task: Sequence[str]) -> Scaling:
    """The most likely scaling of n labelled clips under the prior; with one outcome alone the first belief as it is.

    Args:
        beliefs: k beliefs in the success of each clip, in [0, 1].
        truth: the outcome.
        task: n names.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.random(400) < 0.5
        >>> belief = special.expit(np.where(truth, -1.0, -4.0) + rng.normal(size=400))  # never sure of success
        >>> intercept, slope = fit_scaling(belief[None], truth, [""] * 400).of("")
        >>> round(float(((special.expit(slope * log_odds(belief) + intercept) > 0.5) == truth).mean()), 2)
        0.95
    """
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
