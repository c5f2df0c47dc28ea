"""Curriculum over tasks: prefers those that sometimes succeed.

A group of rollouts carries signal only if some succeed and some fail. So a task is drawn in proportion to p (1 - p) of
its newest success rate p (*learnability*, Rutherford et al. 2024, arXiv 2408.15099), plus a floor, so that no task is
given up. Rates are read from the run's own log, so a resumed run draws the same tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.protocols import StartSampler
from worldgymnast.types import StartOrLayout

SUCCESS = "success/"
"""Prefix of the logged success rate of a task."""
_NEWEST = 3
"""Newest success rates of a task that are averaged."""
_FLOOR = 0.15
"""Weight of a task that never or always succeeds; at a success rate of one half it is 1."""
_OVERSAMPLE = 6
"""Candidate starts drawn per start needed."""


def task_probabilities(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> np.ndarray:
    """Return the probability of drawing each task, float [t], from the logged `rows`.

    A task without a success rate counts as one that succeeds half the time.

    >>> task_probabilities([{"success/open": 1.0, "success/close": 0.5}], ["open", "close"]).round(2).tolist()
    [0.13, 0.87]
    """
    weights = []
    for task in tasks:
        rates = [row[SUCCESS + task] for row in rows if np.isfinite(row.get(SUCCESS + task, np.nan))][-_NEWEST:]
        p = float(np.mean(rates)) if rates else 0.5
        weights.append(_FLOOR + (1 - _FLOOR) * 4 * p * (1 - p))
    return np.array(weights) / np.sum(weights)


@dataclass(frozen=True)
class LearnableStarts:
    """Draws from a sampler, tasks by their current `task_probabilities`.

    Attributes:
        starts: the sampler.
        rows: returns the metrics logged so far.
    """

    starts: StartSampler
    rows: Callable[[], Sequence[Mapping[str, Any]]]

    @property
    def identity(self) -> str:
        """Identity of the sampler, and that it is reweighted."""
        return f"{self.starts.identity} by learnability"

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """Draw `count` starts; tasks follow their learnability."""
        by_task: dict[str, list[StartOrLayout]] = {}
        for start in self.starts(rng, count * _OVERSAMPLE):
            by_task.setdefault(start.task, []).append(start)
        tasks = sorted(by_task)
        chosen = rng.choice(len(tasks), count, p=task_probabilities(self.rows(), tasks))
        return [by_task[tasks[i]][int(rng.integers(len(by_task[tasks[i]])))] for i in chosen]
