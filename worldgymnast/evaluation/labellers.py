"""Agreement of labellers beyond chance: Cohen's kappa.

Cohen 1960: kappa = (observed - expected agreement) / (1 - expected agreement). Its interval is the central 95 % of the
posterior under Jeffreys' prior (Dirichlet, 1/2 for each of the four cells), drawn with a seed. Unlike a bootstrap it
does not claim certainty for a handful of equal labels. Where one of the two always gives the same label, chance alone
explains the agreement and kappa is 0; where both always give the same one, it is unknown (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldgymnast.evaluation.success import RESAMPLES, Estimate, Outcome, Rate


@dataclass(frozen=True)
class Concordance:
    """Agreement of two labellers on the episodes that both labelled.

    Attributes:
        agreement: share of equal labels.
        kappa: Cohen's kappa with its interval, as a fraction; NaN if unknown.
        both: both say success.
        only_first: only the first says success.
        only_second: only the second says success.
        neither: both say failure.
    """

    agreement: Rate
    kappa: Estimate
    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[Outcome], second: Sequence[Outcome], seed: int = 0) -> Concordance:
        """Compare the labels of the same episodes; None is left out.

        >>> compared = Concordance.of([True, True, False, False, None], [True, False, False, False, True])
        >>> compared.both, compared.only_first, compared.neither, round(compared.kappa.value, 2)
        (1, 1, 2, 0.5)
        """
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        cells = [sum(pair == kind for pair in pairs) for kind in _KINDS]
        return cls(Rate.of([a == b for a, b in pairs]), kappa(np.array(cells), seed), *cells)


_KINDS = ((True, True), (True, False), (False, True), (False, False))


def kappa(cells: np.ndarray, seed: int = 0, draws: int = RESAMPLES) -> Estimate:
    """Cohen's kappa of a 2x2 table, with an interval that contains it.

    Args:
        cells: int [4], counts of both, only the first, only the second, neither.
        seed: of the draws.
        draws: number of draws from the posterior.

    >>> str(kappa(np.array([5, 0, 0, 0]))), kappa(np.array([20, 0, 0, 20])).value
    ('unknown', 1.0)
    """
    count = int(cells.sum())
    if not count:
        return Estimate(float("nan"), float("nan"), float("nan"))
    value = float(_kappa(cells[None])[0])
    posterior = _kappa(np.random.default_rng(seed).dirichlet(cells + 0.5, size=draws))
    low, high = np.nanquantile(posterior, [0.025, 0.975])
    if np.isnan(value):
        return Estimate(value, float("nan"), float("nan"))
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _kappa(cells: np.ndarray) -> np.ndarray:
    """Kappa of tables [n 4]; NaN if both labellers always give the same label."""
    both, first, second, neither = (cells / cells.sum(-1, keepdims=True)).T
    expected = (both + first) * (both + second) + (second + neither) * (first + neither)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected < 1 - 1e-12, (both + neither - expected) / (1 - expected), np.nan)
