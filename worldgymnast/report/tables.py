"""The same numbers as on the page, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from worldgymnast.evaluation.agreement import GATE
from worldgymnast.evaluation.success import SuccessTable
from worldgymnast.report.report import GapRow

if TYPE_CHECKING:
    from rich.table import Table


def show(table: Table) -> None:
    """Prints a table to stdout, never narrower than 100 columns."""
    import shutil

    from rich.console import Console

    Console(width=max(100, shutil.get_terminal_size((120, 40)).columns)).print(table)


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def success(table: SuccessTable) -> Table:
    """Real success per task before and after with 95 % intervals and counts, and the paired difference."""
    from rich.markup import escape

    shown = _table("Real success, 95 % intervals", "task", "before", "after", "paired difference", "")
    for row in table.rows:
        cells = (row.task, str(row.before), str(row.after), str(row.difference), "worse" if row.worse else "")
        shown.add_row(*map(escape, cells))
    shown.add_section()
    shown.add_row(*(escape(str(x)) for x in ("mean over tasks", table.before, table.after, table.difference)))
    return shown


def gap(rows: Sequence[GapRow]) -> Table:
    """Imagined beside real success of the same policy on the same starts, and their difference."""
    from rich.markup import escape

    shown = _table("Imagined against real success", "scored", "imagined", "real", "gap")
    for row in rows:
        shown.add_row(*(escape(str(x)) for x in (row.when, row.imagined, row.real, row.gap)))
    return shown


def gate(found: Mapping[str, float]) -> Table:
    """How often the true outcome is known, on real frames and on imagined replays."""
    shown = _table("Judge against the truth", "", "real frames", "imagined replays", f"asked for: {100 * GATE:.0f} %")
    for name in ("true_positive", "true_negative", "balanced_accuracy"):
        real, imagined = found[f"real_{name}"], found[f"imagined_{name}"]
        passed = "-" if math.isnan(imagined) else "yes" if imagined >= GATE else "no"
        shown.add_row(name.replace("_", " "), _percent(real), _percent(imagined), passed)
    return shown


def _percent(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{100 * value:.1f} %"


def fidelity(found: Mapping[str, np.ndarray]) -> Table:
    """PSNR of imagined replays by horizon, beside a copy of the first frame and shuffled actions."""
    shown = _table("PSNR of imagined replays, dB", "frame", "world [95 %]", "copy of the first", "shuffled actions")
    steps = len(found["horizon"])
    for t in sorted({0, *range(4, steps, 5), steps - 1}):
        interval = f"\\[{found['psnr_low'][t]:.1f}, {found['psnr_high'][t]:.1f}]"
        world = f"{found['psnr'][t]:.1f} {interval}"
        shown.add_row(str(t + 1), world, f"{found['copy'][t]:.1f}", f"{found['shuffled'][t]:.1f}")
    return shown
