"""Anytime-valid paired tests: replace a policy only when enough pairs of real episodes favor the new one.

Two policies run on the same layouts. Only the pairs that disagree count: w wins and l losses of the new policy. The
null hypothesis is that a pair that disagrees is a win with a probability of at most 1/2, whatever happened before. The
likelihood ratio of a uniform mixture over win probabilities from 1/2 to 1 (Robbins 1970) is then an e-value:

    e = 2^(w+l) * 2 * integral over q from 1/2 to 1 of q^w (1-q)^l dq

By Ville's inequality (1939) it ever reaches 1/alpha with probability at most alpha (Ramdas et al. 2023, arXiv
2210.01948). So it may be checked after every pair, and more pairs may be added depending on the result.

If pairs of several tasks are pooled and checked early, interleave the tasks: after a single task, the pooled evidence
is about that task only. The e-value itself depends on the counts only.

Not included: estimates of the difference (`success.paired_difference`). After optional stopping they are biased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldgymnast.evaluation.success import Outcome, holm

ALPHA_REPLACE = 0.2
"""Largest probability that a policy that is no better replaces the kept one."""
ALPHA_WORSE = 0.05
"""Largest probability that any task is reported as worse although none is."""


def log_evidence(wins: int, losses: int) -> float:
    """Return the natural logarithm of `evidence`; finite for any counts.

    Computed as log B(w+1, l+1) + log of the sum over k > l of C(w+l+1, k): the incomplete beta function at 1/2 for
    whole numbers, without its underflow.
    """
    from scipy import special

    if wins < 0 or losses < 0:
        raise ValueError(f"got {wins} wins and {losses} losses, expected none below 0")
    n = wins + losses + 1
    k = np.arange(losses + 1, n + 1)
    log_binomial = -special.betaln(k + 1, n - k + 1) - np.log(n + 1)
    return float(special.betaln(wins + 1, losses + 1) + special.logsumexp(log_binomial))


def evidence(wins: int, losses: int) -> float:
    """Return the e-value for "the new policy wins more than half of the pairs that disagree".

    It is 1 before any pair, and reaches 1/alpha with probability at most alpha if the new policy is no better.

    Args:
        wins: pairs in which only the new policy succeeded, at least 0.
        losses: pairs in which only the old policy succeeded, at least 0.

    Raises:
        ValueError: a count is negative.

    >>> round(evidence(1, 0), 6), evidence(10, 2) > 5, evidence(2, 10) < 1
    (1.5, True, True)
    """
    value = log_evidence(wins, losses)
    return float(np.exp(value)) if value < 700 else float("inf")


@dataclass(frozen=True)
class PairedEvidence:
    """Counts of paired outcomes of an old and a new policy on the same layouts.

    Attributes:
        wins: pairs in which only the new policy succeeded.
        losses: pairs in which only the old policy succeeded.
        ties: pairs with the same outcome.
        errors: excluded pairs with an unknown outcome.
    """

    wins: int
    losses: int
    ties: int = 0
    errors: int = 0

    @classmethod
    def of(cls, before: Sequence[Outcome], after: Sequence[Outcome]) -> PairedEvidence:
        """Count n paired outcomes of the old and the new policy, in the same order.

        Raises:
            ValueError: the lengths differ.
        """
        if len(before) != len(after):
            raise ValueError(f"got {len(before)} outcomes before and {len(after)} after, expected equal lengths")
        known = [(bool(x), bool(y)) for x, y in zip(before, after, strict=True) if x is not None and y is not None]
        wins, losses = sum(y and not x for x, y in known), sum(x and not y for x, y in known)
        return cls(wins, losses, len(known) - wins - losses, len(before) - len(known))

    def __add__(self, other: PairedEvidence) -> PairedEvidence:
        return PairedEvidence(
            self.wins + other.wins, self.losses + other.losses, self.ties + other.ties, self.errors + other.errors
        )

    @property
    def count(self) -> int:
        """Number of pairs with both outcomes known."""
        return self.wins + self.losses + self.ties

    @property
    def better(self) -> float:
        """E-value for "the new policy is better"."""
        return evidence(self.wins, self.losses)

    @property
    def worse(self) -> float:
        """E-value for "the new policy is worse"."""
        return evidence(self.losses, self.wins)

    def is_better(self, alpha: float = ALPHA_REPLACE) -> bool:
        """Return whether to replace the old policy.

        Wrong with probability at most `alpha`, at any time.
        """
        return self.better >= 1 / alpha

    def is_worse(self, alpha: float = ALPHA_WORSE) -> bool:
        """Return whether the new policy is significantly worse; wrong with probability at most `alpha`."""
        return self.worse >= 1 / alpha

    def __str__(self) -> str:
        errors = f", {self.errors} errors" if self.errors else ""
        side = f"e = {self.better:.3g} for better, {self.worse:.3g} for worse"
        return f"{self.wins} wins, {self.losses} losses, {self.ties} ties{errors}: {side}"


def by_stratum(before: Sequence[Outcome], after: Sequence[Outcome], strata: Sequence[str]) -> dict[str, PairedEvidence]:
    """Count `PairedEvidence` for every stratum (task), in order of appearance.

    Raises:
        ValueError: the lengths differ.
    """
    if not len(before) == len(after) == len(strata):
        raise ValueError(
            f"got {len(before)} outcomes before, {len(after)} after and {len(strata)} strata, expected equal lengths"
        )
    pairs: dict[str, PairedEvidence] = {}
    for x, y, name in zip(before, after, strata, strict=True):
        pairs[name] = pairs.get(name, PairedEvidence(0, 0)) + PairedEvidence.of([x], [y])
    return pairs


def worse_strata(
    before: Sequence[Outcome], after: Sequence[Outcome], strata: Sequence[str], alpha: float = ALPHA_WORSE
) -> list[str]:
    """Return the strata (tasks) in which the new policy is significantly worse, valid at any time.

    The evidence of each stratum gives the anytime-valid p-value 1/e, with Holm's correction over strata.

    Args:
        before: n outcomes of the old policy.
        after: n outcomes of the new policy on the same layouts.
        strata: n task names.
        alpha: largest probability that any returned name is wrong.

    Raises:
        ValueError: the lengths differ.

    >>> worse_strata([True] * 12 + [False] * 4, [False] * 12 + [True] * 4, ["door"] * 12 + ["button"] * 4)
    ['door']
    """
    pairs = by_stratum(before, after, strata)
    p_values = holm([min(1.0, 1 / each.worse) for each in pairs.values()]) if pairs else []
    return [name for name, p in zip(pairs, p_values, strict=True) if p <= alpha + 1e-12]


def power(win: float, loss: float, pairs: int, alpha: float = ALPHA_REPLACE) -> float:
    """Return the probability that the test, checked after every pair, accepts the new policy.

    Exact, by recursion over the counts. Use it to plan how many pairs a given gain needs.

    Args:
        win: probability that a pair is a win; win - loss is the true difference in success.
        loss: probability that a pair is a loss; win + loss at most 1.
        pairs: largest number of pairs.
        alpha: of the test.

    Raises:
        ValueError: the probabilities are not in range.

    >>> round(power(0.3, 0.1, 96), 2), power(0.2, 0.2, 96) <= 0.2
    (0.91, True)
    """
    if min(win, loss) < 0 or win + loss > 1 + 1e-9:
        raise ValueError(f"got win {win:g} and loss {loss:g}, expected two probabilities with a sum of at most 1")
    size, accepted = pairs + 1, 0.0
    accepts, alive = np.zeros((size, size), bool), np.zeros((size, size))  # by wins and losses
    for losses in range(size):
        wins = losses + 1  # with as many losses as wins, the evidence is below 1
        while wins + losses <= pairs and not PairedEvidence(wins, losses).is_better(alpha):
            wins += 1
        accepts[wins:, losses] = True
    alive[0, 0] = 1.0
    for _ in range(pairs):
        new = alive * max(0.0, 1 - win - loss)
        new[1:] += alive[:-1] * win
        new[:, 1:] += alive[:, :-1] * loss
        accepted += float(new[accepts].sum())
        alive = np.where(accepts, 0.0, new)
    return accepted
