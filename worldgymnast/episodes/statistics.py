"""Statistics of actions and states, which scale a policy's inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from worldgymnast.actions import ActionSpec, converter
from worldgymnast.episodes.windows import EpisodeSet

_MEASURES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(0),
    "std": lambda rows: rows.std(0),
    "min": lambda rows: rows.min(0),
    "max": lambda rows: rows.max(0),
    "q01": lambda rows: np.quantile(rows, 0.01, axis=0),
    "q99": lambda rows: np.quantile(rows, 0.99, axis=0),
}


def action_statistics(episodes: EpisodeSet, spec: ActionSpec) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Measure a data set; the result is the content of openpi's `norm_stats.json`.

    Args:
        episodes: the data set.
        spec: meaning of the actions that are measured; the data's are converted to it.

    Returns:
        Mean, standard deviation, smallest, largest, and the 1 % and 99 % quantiles of "actions", and of "state" if the
        data have one.

    Raises:
        ActionSpecMismatch: the actions cannot be converted.
    """
    actions = np.concatenate([episodes.episode(e).actions for e in range(len(episodes))])
    measured = {"actions": numbers(converter(episodes.spec, spec)(actions))}
    if episodes.state is not None:
        measured["state"] = numbers(episodes.state[episodes.rows])
    return {"norm_stats": measured}


def numbers(rows: Float[np.ndarray, "n a"]) -> dict[str, list[float]]:
    """Return mean, standard deviation, ends and quantiles of every column.

    >>> numbers(np.array([[0.0], [2.0]]))["std"]
    [1.0]
    """
    exact = np.asarray(rows, np.float64)
    return {name: measure(exact).tolist() for name, measure in _MEASURES.items()}
