"""Imagined and real success per task during training, and trust."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REAL, _MAX_COLUMNS = "real_success/", 6
"""Prefix of the metric of a task's real success, and the maximum number of scorings in a table."""


@dataclass(frozen=True)
class TaskScore:
    """One task at one scoring; rates in [0, 1], NaN if unknown."""

    step: int
    imagined: float
    real: float
    held: bool

    def __str__(self) -> str:
        hold = ", on hold" if self.held else ""
        return f"{_percent(self.imagined)} / {_percent(self.real)}{hold}"


@dataclass(frozen=True)
class TaskHistory:
    """One task during training.

    Attributes:
        task: name.
        scores: scores in the order of steps; a sample that includes the first and the last.
        standing: whether it is trusted at the end, and since when; "" if trust was not checked.
    """

    task: str
    scores: Sequence[TaskScore]
    standing: str


def histories(rows: Sequence[Mapping[str, Any]]) -> list[TaskHistory]:
    """Read the histories from rows of metrics.jsonl."""
    scored = [row for row in rows if any(key.startswith(_REAL) for key in row)]
    tasks = sorted({key.removeprefix(_REAL) for row in scored for key in row if key.startswith(_REAL)})
    return [
        TaskHistory(task, _sample([_score(row, task) for row in scored]), _standing(scored, task)) for task in tasks
    ]


def _score(row: Mapping[str, Any], task: str) -> TaskScore:
    imagined, real = (float(row.get(f"{name}_success/{task}", math.nan)) for name in ("imagined", "real"))
    return TaskScore(int(row["step"]), imagined, real, row.get(f"held/{task}", 0) == 1)


def _sample(scores: Sequence[TaskScore]) -> list[TaskScore]:
    """Choose at most `_MAX_COLUMNS` scores, evenly spaced."""
    if len(scores) <= _MAX_COLUMNS:
        return list(scores)
    return [scores[round(i * (len(scores) - 1) / (_MAX_COLUMNS - 1))] for i in range(_MAX_COLUMNS)]


def _standing(scored: Sequence[Mapping[str, Any]], task: str) -> str:
    """Describe whether the task is trusted or on hold."""
    rows = [row for row in scored if f"held/{task}" in row]
    if not rows:
        return ""
    now = rows[-1][f"held/{task}"]
    unchanged = next((i for i, row in enumerate(reversed(rows)) if row[f"held/{task}"] != now), len(rows))
    since = rows[len(rows) - unchanged]
    if now != 1:
        return "trusted" if unchanged == len(rows) else f"trusted again since step {int(since['step'])}"
    lost, trust = since.get(f"lost/{task}", math.nan), since.get(f"trust/{task}", math.nan)
    reason = "real success dropped" if lost > 1 - trust else "imagined successes are not real"
    return f"on hold since step {int(since['step'])}: {reason}"


def _percent(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{100 * value:.0f} %"
