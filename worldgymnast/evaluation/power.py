"""Real episodes that it takes to show that one policy is better than another.

Power is the probability that a test finds a gain that exists. It is computed exactly, for the tests of `success`:

- Paired: both policies act in the same scenes, and the exact McNemar test compares them (two-sided). Only scenes with
  different outcomes count, so the number of scenes depends on how often the outcomes differ.
- Unpaired: scenes cannot be set up again. Fisher's exact test compares the two rates, one-sided at half the level.
  Above `MAX_EXACT` episodes per policy, the approximation of Casagrande, Pike & Smith (1978) replaces it.

A test counts as successful only if it finds the gain, not a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
"""Level of the two-sided test."""
POWER = 0.8
"""Probability of finding the gain."""
MAX_EXACT = 500
"""Most episodes per policy for which the unpaired power is computed exactly."""
MAX_EPISODES = 20_000
"""Most episodes that are considered."""
_WINDOW = 5
"""Power of exact tests falls slightly at some sizes; it must stay high for this many more episodes."""


@dataclass(frozen=True)
class EpisodesNeeded:
    """Real episodes that show a gain with probability `POWER`.

    Attributes:
        before: real success of the first policy, in [0, 1].
        after: real success of the second.
        gained: share of scenes in which only the second succeeds.
        lost: share of scenes in which only the first succeeds.
        paired: scenes that both policies play, or None above `MAX_EPISODES`. It takes twice as many episodes.
        unpaired: episodes of each policy without common scenes, or None above `MAX_EPISODES`.
    """

    before: float
    after: float
    gained: float
    lost: float
    paired: int | None
    unpaired: int | None


def episodes_needed(before: float, gain: float, lost: float | None = None) -> EpisodesNeeded | None:
    """Return the episodes needed to show a gain; None if success would exceed 1.

    Args:
        before: success of the first policy.
        gain: after minus before, above 0.
        lost: share of scenes that only the first policy solves. By default the outcomes are independent, which needs
            the most scenes unless one policy solves just what the other does not.

    >>> needed = episodes_needed(0.85, 0.1)
    >>> needed.paired, needed.unpaired
    (156, 151)
    >>> episodes_needed(0.85, 0.1, lost=0.0).paired
    78
    """
    after = before + gain
    if not gain > 0 or not before >= 0 or after > 1 + 1e-9:
        return None
    after = min(after, 1.0)
    lost = before * (1 - after) if lost is None else min(max(lost, 0.0), before, 1 - after)
    gained = lost + gain
    paired = _smallest(lambda n: paired_power(n, gained, lost), 1)
    return EpisodesNeeded(before, after, gained, lost, paired, _unpaired(before, after))


def paired_power(episodes: int, gained: float, lost: float, level: float = LEVEL) -> float:
    """Return the power of the exact two-sided McNemar test.

    Args:
        episodes: scenes that both policies play.
        gained: probability that only the second policy succeeds in a scene.
        lost: probability that only the first does.
        level: of the test.

    >>> round(paired_power(168, 0.15, 0.05), 2)
    0.8
    """
    from scipy.stats import binom

    if gained + lost == 0:
        return 0.0
    changed = np.arange(episodes + 1)
    critical = binom.isf(level / 2, changed, 0.5)  # P(X > critical) <= level / 2
    found = binom.sf(critical, changed, gained / (gained + lost))
    return float((binom.pmf(changed, episodes, min(gained + lost, 1.0)) * found).sum())


def unpaired_power(episodes: int, before: float, after: float, level: float = LEVEL) -> float:
    """Return the power of Fisher's exact test, one-sided at level / 2, with `episodes` of each policy."""
    from scipy.stats import binom, hypergeom

    counts = np.arange(episodes + 1)
    total = np.arange(2 * episodes + 1)
    critical = hypergeom.isf(level / 2, 2 * episodes, total, episodes)  # successes after, given those of both
    pmf = binom.pmf(counts, episodes, before)[:, None] * binom.pmf(counts, episodes, after)
    return float(pmf[counts > critical[counts[:, None] + counts]].sum())


def _unpaired(before: float, after: float) -> int | None:
    """Return the episodes per policy of the unpaired comparison."""
    about = _casagrande(before, after)
    if about > MAX_EPISODES:
        return None
    if about > MAX_EXACT:
        return about
    return _smallest(lambda n: unpaired_power(n, before, after), max(1, about - 15))


def _casagrande(before: float, after: float, level: float = LEVEL, power: float = POWER) -> int:
    """Approximate the episodes per policy of Fisher's exact test (Casagrande, Pike & Smith 1978)."""
    from scipy.stats import norm

    mean, gain = (before + after) / 2, after - before
    spread = math.sqrt(2 * mean * (1 - mean))
    own = math.sqrt(before * (1 - before) + after * (1 - after))
    a = (norm.isf(level / 2) * spread + norm.ppf(power) * own) ** 2
    return math.ceil(a * (1 + math.sqrt(1 + 4 * gain / a)) ** 2 / (4 * gain**2)) if a else 1


def _smallest(power: Callable[[int], float], first: int) -> int | None:
    """Return the smallest number of at least `first` from which the power stays at `POWER`; None if there is none."""
    low, high = first - 1, first
    while power(high) < POWER:
        low, high = high, 2 * high
        if high > MAX_EPISODES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    while any(power(high + more) < POWER for more in range(1, _WINDOW + 1)):
        high += 1
    return high
