"""How likely a clip is of each episode: by data set, by task and by outcome."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError


def check_shares(shares: Sequence[float], sets: int) -> None:
    """Raises `InputError` unless there is one positive number per set, or none at all."""
    if shares and (len(shares) != sets or not all(0 < share < np.inf for share in shares)):
        found = " ".join(f"{share:g}" for share in shares)
        raise FieldError(
            "shares", f"found {found} for {sets} data sets, expected one positive number for each; correct them"
        )


def weigh(sets: Sequence[EpisodeSet], shares: Sequence[float]) -> np.ndarray | None:
    """How likely a clip is of each episode of `concatenate(sets)`, float [e], so that each set has its share of clips.

    Within a set an episode is as likely as it is long. None for no shares: then that holds for all sets together.

    Raises:
        InputError: there is not one positive number per set.
    """
    if not shares:
        return None
    check_shares(shares, len(sets))
    return np.concatenate([share * part.length / part.length.sum() for part, share in zip(sets, shares, strict=True)])


def balanced(episodes: EpisodeSet, weights: np.ndarray | None = None) -> np.ndarray:
    """Weights float [e] under which half of each task's clips are of episodes that succeed and half of ones that fail.

    Where a task has only one kind, or no labels, its weights stay.

    Args:
        episodes: e of them.
        weights: how likely each would be otherwise; without, as likely as it is long.
    """
    found = (episodes.length if weights is None else weights).astype(np.float64)
    task = np.array(episodes.kinds)
    for name in set(episodes.kinds):
        labelled = (task == name) & episodes.labelled
        halves = [labelled & (episodes.succeeded == outcome) for outcome in (True, False)]
        if all(found[half].sum() > 0 for half in halves):
            total = found[labelled].sum()
            for half in halves:
                found[half] *= 0.5 * total / found[half].sum()
    return found
