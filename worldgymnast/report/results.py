"""The tables of `reproduce tables`: methods against one another, the simulator's mismatch; read from its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldgymnast.evaluation.success import EpisodeResult, SuccessTable, success_table
from worldgymnast.report.world import Sheet

METHODS = {
    "sft": "SFT",
    "sft-everything": "SFT on everything",
    "iter-sft": "Iter-SFT",
    "rl-simulator": "RL in the simulator",
    "rl-world": "RL in the world model",
}
OURS = "rl-world"
_WORTH = "Against RL in the world model: difference of mean real success over the tasks, on the same layouts."


def sheets(evaluations: Path) -> list[Sheet]:
    """The tables of the cells whose real evaluations lie in that folder."""
    ours = _rows(evaluations, OURS)
    made: list[Sheet] = []
    if ours:
        rows = [_row(name, found, ours) for method, name in METHODS.items() if (found := _rows(evaluations, method))]
        head = ["", "real success", "RL in the world model, minus it", "tasks where RL in the world model is worse"]
        made.append(Sheet("Methods", head, rows, _WORTH))
        made.append(_tasks(evaluations, ours))
        if mismatched := _mismatches(evaluations, ours):
            made.append(mismatched)
    return made


def _row(name: str, rows: Sequence[EpisodeResult], ours: Sequence[EpisodeResult]) -> list[str]:
    table = _paired(rows, ours)
    if rows == ours:
        return [name, str(table.before), "", ""]
    worse = ", ".join(row.task for row in table.rows if row.worse)
    return [name, str(table.before), str(table.difference), worse]


def _tasks(evaluations: Path, ours: Sequence[EpisodeResult]) -> Sheet:
    """Real success by task, a column a method."""
    tables = {name: _paired(rows, ours) for method, name in METHODS.items() if (rows := _rows(evaluations, method))}
    first = next(iter(tables.values()))
    lines = [[row.task, *(str(table.rows[i].before) for table in tables.values())] for i, row in enumerate(first.rows)]
    return Sheet("By task", ["task", *tables], lines, "Wilson intervals, all seeds together.")


def _mismatches(evaluations: Path, ours: Sequence[EpisodeResult]) -> Sheet | None:
    """RL in simulators that are ever more wrong."""
    rows = []
    for file in sorted(evaluations.glob("rl-simulator-mismatch-*.json")):
        found = _read(file)
        rows.append([file.stem.rpartition("-")[2], *_row("", found, _same(ours, found))[1:]])
    head = ["mismatch", "real success", "RL in the world model, minus it", "tasks where it is worse"]
    said = "One seed each; at 0 the simulator is the real environment, without randomisation."
    return Sheet("RL in the simulator, by its mismatch", head, rows, said) if rows else None


def _paired(rows: Sequence[EpisodeResult], ours: Sequence[EpisodeResult]) -> SuccessTable:
    return success_table(_same(rows, ours), _same(ours, rows))


def _same(rows: Sequence[EpisodeResult], others: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """The episodes whose task, layout and seed are among the others'."""
    there = {(r.task, r.layout, r.seed) for r in others}
    return [r for r in rows if (r.task, r.layout, r.seed) in there]


def _rows(evaluations: Path, method: str) -> list[EpisodeResult]:
    """Every episode of a method's cells, seed after seed."""
    files = sorted(evaluations.glob(f"{method}-*.json"))
    return [row for file in files if file.stem.removeprefix(f"{method}-").isdigit() for row in _read(file)]


def _read(file: Path) -> list[EpisodeResult]:
    rows: list[dict[str, Any]] = json.loads(file.read_text()).get("policy", [])
    return [EpisodeResult(r["task"], r["layout"], r["seed"], r["success"], 0) for r in rows]
