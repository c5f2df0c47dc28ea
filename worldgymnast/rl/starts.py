"""What a step of RL starts from: draws of starts, tasks in equal parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldgymnast.rl.collect import Sample
from worldgymnast.types import Start


def from_starts(starts: Sequence[Start]) -> Sample:
    """Draws from `starts`, tasks in equal parts."""
    by_task: dict[str, list[Start]] = {}
    for start in starts:
        by_task.setdefault(start.task, []).append(start)

    def sample(rng: np.random.Generator, count: int) -> list[Start]:
        order = rng.permutation(len(by_task))
        tasks = [sorted(by_task)[order[i % len(order)]] for i in range(count)]
        return [by_task[task][int(rng.integers(len(by_task[task])))] for task in tasks]

    return sample


def mixed(first: Sample, second: Sample) -> Sample:
    """Draws from both in equal parts."""

    def sample(rng: np.random.Generator, count: int) -> list[Start]:
        own = count // 2 + count % 2 * int(rng.integers(2))
        return [*first(rng, own), *second(rng, count - own)]

    return sample
