"""Sampling weights of episodes by dataset, task and outcome."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError


def check_shares(shares: Sequence[float], sets: int) -> None:
    """Raise `InputError` unless there is one positive number per set."""
    if shares and (len(shares) != sets or not all(0 < share < np.inf for share in shares)):
        found = " ".join(f"{share:g}" for share in shares)
        raise FieldError(
            "shares", f"found {found} for {sets} datasets, expected one positive number for each; correct them"
        )


def share_weights(sets: Sequence[EpisodeSet], shares: Sequence[float]) -> np.ndarray | None:
    """Weights of episodes that give each dataset its share of clips.

    Args:
        sets: the datasets.
        shares: one positive number for each, or none.

    Returns:
        float [e] over the episodes of `concatenate(sets)`, proportional to their lengths within a dataset. None
        without shares; lengths then count over all datasets.

    Raises:
        InputError: there is not one positive number per set.
    """
    if not shares:
        return None
    check_shares(shares, len(sets))
    return np.concatenate([share * part.length / part.length.sum() for part, share in zip(sets, shares, strict=True)])


def balanced_weights(episodes: EpisodeSet, weights: np.ndarray | None = None) -> np.ndarray:
    """Weights that draw successes and failures of each task equally often.

    The weights of a task with one outcome only, or without labels, are unchanged.

    Args:
        episodes: e episodes.
        weights: float [e], weights before balancing; by default the episodes' lengths.

    Returns:
        float [e].
    """
    result = (episodes.length if weights is None else weights).astype(np.float64)
    task = np.array(episodes.kinds)
    for name in set(episodes.kinds):
        labelled = (task == name) & episodes.labelled
        halves = [labelled & (episodes.succeeded == outcome) for outcome in (True, False)]
        if all(result[half].sum() > 0 for half in halves):
            total = result[labelled].sum()
            for half in halves:
                result[half] *= 0.5 * total / result[half].sum()
    return result
