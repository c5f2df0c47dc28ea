"""First table of `python -m studies.tables` and its figure: methods, and the simulator by its mismatch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldgymnast.evaluation.success import EpisodeResult, Estimate, SuccessTable, success_table
from worldgymnast.records import read_outcomes
from worldgymnast.report import charts
from worldgymnast.report.charts import LIGHT
from worldgymnast.report.world import Sheet

METHODS = {
    "sft": "SFT",
    "sft-everything": "SFT on everything",
    "iter-sft": "Iter-SFT",
    "rl-simulator": "RL in the simulator",
    "rl-world": "RL in the world model",
}
OURS, _SIMULATED = "rl-world", "rl-simulator"
_CAPTION = "Mean over tasks with 95 % intervals over layouts; hollow: single seeds. Right: one seed."
_NOTE = "Difference to RL in the world model: mean real success over tasks, on the same layouts."


def sheets(evaluations: Path, mismatch: float) -> list[Sheet]:
    """Make the tables from the real evaluations of the cells.

    Args:
        evaluations: folder of the evaluations.
        mismatch: mismatch of the simulator that is one of the methods.
    """
    ours = rows_of(evaluations, OURS)
    if not ours:
        return []
    result = [_methods(evaluations, ours), _tasks(evaluations, ours)]
    if mismatched := _mismatches(evaluations, mismatch):
        head = ["mismatch", "real success", "RL in the world model, minus it", "tasks where the simulator is better"]
        rows = [[f"{x:g}", *_comparison(paired(found, ours))] for x, found in mismatched]
        note = "One seed; at 0 the simulator is the real environment, without randomization."
        result.append(Sheet("RL in the simulator, by its mismatch", head, rows, note))
    return result


def _methods(evaluations: Path, ours: Sequence[EpisodeResult]) -> Sheet:
    rows = []
    for method, name in METHODS.items():
        if found := rows_of(evaluations, method):
            each = [paired(part, ours) for part in _by_seed(found)]
            success, difference, worse = _comparison(paired(found, ours))
            own = [name, success, ", ".join(f"{100 * one.before.value:.0f}" for one in each)]
            gains = ", ".join(f"{100 * one.difference.mean:+.0f}" for one in each)
            rows.append([*own, "", "", ""] if method == OURS else [*own, difference, gains, worse])
    head = ["", "real success", "by seed", "RL in the world model, minus it", "by seed", "tasks where it is worse"]
    return Sheet("Methods", head, rows, _NOTE)


def _comparison(table: SuccessTable) -> tuple[str, str, str]:
    """Return real success, the gain of RL in the world model, and the tasks in which it is significantly worse."""
    return str(table.before), str(table.difference), ", ".join(row.task for row in table.rows if row.worse)


def _by_seed(rows: Sequence[EpisodeResult]) -> list[list[EpisodeResult]]:
    return [[row for row in rows if row.seed == seed] for seed in sorted({row.seed for row in rows})]


def _tasks(evaluations: Path, ours: Sequence[EpisodeResult]) -> Sheet:
    """Make the table of real success by task, a column per method."""
    tables = {name: paired(rows, ours) for method, name in METHODS.items() if (rows := rows_of(evaluations, method))}
    first = next(iter(tables.values()))
    lines = [[row.task, *(str(table.rows[i].before) for table in tables.values())] for i, row in enumerate(first.rows)]
    return Sheet("By task", ["task", *tables], lines, "Wilson intervals, all seeds together.")


def _mismatches(evaluations: Path, mismatch: float) -> list[tuple[float, list[EpisodeResult]]]:
    """Return RL in simulators by mismatch.

    The one of the methods on the layouts of the others.
    """
    files = evaluations.glob("rl-simulator-mismatch-*.json")
    found = [(float(file.stem.rpartition("-")[2]), read(file)) for file in files]
    if found and (own := same(rows_of(evaluations, _SIMULATED), found[0][1])):
        found.append((mismatch, own))
    return sorted(found, key=lambda one: one[0])


def picture(evaluations: Path, mismatch: float) -> bytes | None:
    """Return a PNG: real success of every method, and of RL in simulators by mismatch."""
    rows = {name: found for method, name in METHODS.items() if (found := rows_of(evaluations, method))}
    mismatched = _mismatches(evaluations, mismatch)
    if METHODS[OURS] not in rows:
        return None
    return charts.picture(10, 3.9, _CAPTION, functools.partial(_draw, rows=rows, mismatched=mismatched))


def _draw(
    figure: Any, rows: dict[str, list[EpisodeResult]], mismatched: Sequence[tuple[float, list[EpisodeResult]]]
) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_methods(left, rows)
    _draw_mismatches(right, mismatched, rows[METHODS[OURS]])
    left.grid(axis="x")
    right.grid(axis="y")


def _draw_methods(axes: Any, rows: dict[str, list[EpisodeResult]]) -> None:
    """Draw a row per method: mean and interval, and hollow markers for seeds."""
    ours = METHODS[OURS]
    for y, (name, found) in enumerate(rows.items()):
        color = LIGHT["series-0" if name == ours else "series-1"]
        total = _success(found)
        axes.plot([100 * total.low, 100 * total.high], [y, y], color=color, linewidth=2.5)
        axes.plot([100 * total.value], [y], "o", color=color, markersize=8)
        seeds = [100 * _success(part).value for part in _by_seed(found)]
        axes.plot(seeds, [y + 0.22] * len(seeds), "o", color=color, markersize=4.5, markerfacecolor="none")
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel="real success, %")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"])


def _draw_mismatches(
    axes: Any, mismatched: Sequence[tuple[float, list[EpisodeResult]]], ours: Sequence[EpisodeResult]
) -> None:
    """Draw RL in the simulator by mismatch, with the level of RL in the world model on the same layouts."""
    if not mismatched:
        axes.set_axis_off()
        return
    shown, level = [_success(found) for _, found in mismatched], _success(same(ours, mismatched[0][1]))
    axes.axhspan(100 * level.low, 100 * level.high, color=LIGHT["series-0"], alpha=0.16, linewidth=0)
    axes.axhline(100 * level.value, color=LIGHT["series-0"], label=METHODS[OURS])
    x = [x for x, _ in mismatched]
    for at, one in zip(x, shown, strict=True):
        axes.plot([at, at], [100 * one.low, 100 * one.high], color=LIGHT["series-1"], linewidth=2.5)
    axes.plot(x, [100 * one.value for one in shown], "o-", color=LIGHT["series-1"], label=METHODS[_SIMULATED])
    axes.set(ylim=(0, 100), xlabel="mismatch of the simulator", ylabel="real success, %")
    axes.legend(loc="lower left")


def _success(rows: Sequence[EpisodeResult]) -> Estimate:
    """Return the mean real success over tasks."""
    return success_table(rows, rows).before


def paired(rows: Sequence[EpisodeResult], ours: Sequence[EpisodeResult]) -> SuccessTable:
    """Compare both on their common layouts: `rows` before, `ours` after."""
    return success_table(same(rows, ours), same(ours, rows))


def same(rows: Sequence[EpisodeResult], others: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """Return the episodes whose task, layout and seed also occur in `others`."""
    keys = {(r.task, r.layout, r.seed) for r in others}
    return [r for r in rows if (r.task, r.layout, r.seed) in keys]


def rows_of(evaluations: Path, method: str) -> list[EpisodeResult]:
    """Return every episode of a method's cells, by seed."""
    return [row for file in files_of(evaluations, method) for row in read(file)]


def files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of a name's cells, by seed."""
    return [f for f in sorted(folder.glob(f"{name}-*.json")) if f.stem.removeprefix(f"{name}-").isdigit()]


def read(file: Path, key: str = "policy") -> list[EpisodeResult]:
    """Read the episodes of a policy from an evaluation file; empty if it is missing."""
    rows = read_outcomes(file).get(key, [])
    return [EpisodeResult(r["task"], r["layout"], r["seed"], r.get("success"), 0) for r in rows]
