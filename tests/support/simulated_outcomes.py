"""Real and imagined outcomes of layouts, drawn as a world model of known quality would give them."""

import numpy as np

from worldgymnast.evaluation.prediction_powered import PoweredEstimate, powered_rate

TASKS = 6
WORLDS = {"near": (0.97, 0.02), "good": (0.85, 0.05), "today": (0.6, 0.05), "blind": (0.4, 0.4), "liar": (0.2, 0.6)}
"""Share that is imagined as success among real successes, and among real failures."""


def layouts(rng: np.random.Generator, rates: np.ndarray, world: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imagined outcomes of `count` layouts a task, bool [tasks * count]."""
    real = rng.random((len(rates), count)) < rates[:, None]
    imagined = rng.random(real.shape) < np.where(real, *WORLDS[world])
    return real.ravel(), imagined.ravel()


def names(count: int) -> list[str]:
    """The task of each of `count` layouts a task."""
    return [str(task) for task in range(TASKS) for _ in range(count)]


def simulate(rng: np.random.Generator, rates: np.ndarray, world: str, n: int, more: int) -> PoweredEstimate:
    """The estimate from `n` layouts a task that are played, and `more` that are imagined alone."""
    (real, imagined), (_, unplayed) = layouts(rng, rates, world, n), layouts(rng, rates, world, more)
    return powered_rate(real.tolist(), imagined.tolist(), unplayed.tolist(), names(n), names(more))
