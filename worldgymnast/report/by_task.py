"""Task by task through a training: imagined and real success at each scoring, and which tasks were trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REAL, _SHOWN = "real_success/", 6
"""What a task's real success is logged under, and the most scorings that a table shows."""


@dataclass(frozen=True)
class TaskScore:
    """One task at one scoring; shares in [0, 1], NaN where unknown."""

    step: int
    imagined: float
    real: float
    held: bool

    def __str__(self) -> str:
        return f"{_percent(self.imagined)} / {_percent(self.real)}{', held' if self.held else ''}"


@dataclass(frozen=True)
class TaskHistory:
    """One task through a training.

    Attributes:
        task: its name.
        scores: one a scoring, in the order of steps; of many scorings some, with the first and the last.
        standing: whether it is trusted at the end, and since when; "" where nobody asked.
    """

    task: str
    scores: Sequence[TaskScore]
    standing: str


def histories(rows: Sequence[Mapping[str, Any]]) -> list[TaskHistory]:
    """From the rows of metrics.jsonl; none where there is one task alone, or where nothing was scored by task."""
    scored = [row for row in rows if any(key.startswith(_REAL) for key in row)]
    tasks = sorted({key.removeprefix(_REAL) for row in scored for key in row if key.startswith(_REAL)})
    return [TaskHistory(task, _some([_score(row, task) for row in scored]), _standing(scored, task)) for task in tasks]


def _score(row: Mapping[str, Any], task: str) -> TaskScore:
    imagined, real = (float(row.get(f"{name}_success/{task}", math.nan)) for name in ("imagined", "real"))
    return TaskScore(int(row["step"]), imagined, real, row.get(f"held/{task}", 0) == 1)


def _some(scores: Sequence[TaskScore]) -> list[TaskScore]:
    """At most a few, evenly, with the first and the last."""
    if len(scores) <= _SHOWN:
        return list(scores)
    return [scores[round(i * (len(scores) - 1) / (_SHOWN - 1))] for i in range(_SHOWN)]


def _standing(scored: Sequence[Mapping[str, Any]], task: str) -> str:
    """Trusted or held, since which step, and why."""
    told = [row for row in scored if f"held/{task}" in row]
    if not told:
        return ""
    now = told[-1][f"held/{task}"]
    back = next((i for i, row in enumerate(reversed(told)) if row[f"held/{task}"] != now), len(told))
    since = told[len(told) - back]
    if now != 1:
        return "trusted" if back == len(told) else f"trusted again since step {int(since['step'])}"
    lost, trust = since.get(f"lost/{task}", math.nan), since.get(f"trust/{task}", math.nan)
    why = "its real success is lost" if lost > 1 - trust else "its imagined successes are not real"
    return f"held since step {int(since['step'])}: {why}"


def _percent(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{100 * value:.0f} %"
