"""Which tasks to practise, of many: those that sometimes succeed.

A group of rollouts teaches something only where some succeed and some do not, so a task is drawn in proportion to
p (1 - p) of its newest success rate p (*learnability*, Rutherford et al. 2024, arXiv 2408.15099), and a little beyond,
lest one that cannot be done yet is given up. Rates are read from the run's own log, so a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.protocols import StartSampler
from worldgymnast.types import StartOrLayout

SUCCESS = "success/"
"""What a task's success rate in a step is logged under."""
_NEWEST = 3
"""How many of a task's newest rates count."""
_FLOOR = 0.15
"""Weight of a task that never or always succeeds; one of which half succeeds has 1."""
_MORE = 6
"""How many times as many starts are drawn as are wanted, to choose among."""


def weights(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> np.ndarray:
    """How likely each task is drawn, float [t], sums to 1, after the logged `rows`; a new task counts as half done."""
    found = []
    for task in tasks:
        rates = [row[SUCCESS + task] for row in rows if np.isfinite(row.get(SUCCESS + task, np.nan))][-_NEWEST:]
        p = float(np.mean(rates)) if rates else 0.5
        found.append(_FLOOR + (1 - _FLOOR) * 4 * p * (1 - p))
    return np.array(found) / np.sum(found)


@dataclass(frozen=True)
class LearnableStarts:
    """Draws from a sampler, tasks by their `weights` at that time.

    Attributes:
        starts: the sampler.
        rows: gives the metrics that are logged so far.
    """

    starts: StartSampler
    rows: Callable[[], Sequence[Mapping[str, Any]]]

    @property
    def identity(self) -> str:
        """See `StartSampler`."""
        return f"{self.starts.identity} by learnability"

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """See `StartSampler`."""
        by_task: dict[str, list[StartOrLayout]] = {}
        for start in self.starts(rng, count * _MORE):
            by_task.setdefault(start.task, []).append(start)
        tasks = sorted(by_task)
        chosen = rng.choice(len(tasks), count, p=weights(self.rows(), tasks))
        return [by_task[tasks[i]][int(rng.integers(len(by_task[tasks[i]])))] for i in chosen]
