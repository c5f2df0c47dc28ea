"""Tables for the terminal, with the numbers of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from worldgymnast.evaluation.success import SuccessTable
from worldgymnast.report.report import GapRow, Report, TaskHistory
from worldgymnast.report.world import Sheet

if TYPE_CHECKING:
    from rich.table import Table


def show(table: Table) -> None:
    """Print a table to stdout, at least 100 columns wide."""
    import shutil

    from rich.console import Console

    Console(width=max(100, shutil.get_terminal_size((120, 40)).columns)).print(table)


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def success(table: SuccessTable, title: str = "Real success") -> Table:
    """Make a table of success before and after, per task."""
    from rich.markup import escape

    shown = _table(f"{title}, 95 % intervals", "task", "before", "after", "paired difference", "")
    for row in table.rows:
        cells = (row.task, str(row.before), str(row.after), str(row.difference), "worse" if row.worse else "")
        shown.add_row(*map(escape, cells))
    shown.add_section()
    shown.add_row(*(escape(str(x)) for x in ("mean over tasks", table.before, table.after, table.difference)))
    return shown


def gap(rows: Sequence[GapRow]) -> Table:
    """Make a table of imagined and real success, and their gap."""
    from rich.markup import escape

    shown = _table("Imagined vs. real success, same starts", "scored", "imagined", "real", "imagined minus real")
    for row in rows:
        shown.add_row(*(escape(str(x)) for x in (row.when, row.imagined, row.real, row.gap)))
    return shown


def tasks(rows: Sequence[TaskHistory]) -> Table:
    """Make a table of success per task during training."""
    from rich.markup import escape

    steps = (f"step {score.step}" for score in rows[0].scores)
    shown = _table("Success by task during training, imagined / real", "task", *steps, "status")
    for row in rows:
        shown.add_row(*map(escape, (row.task, *map(str, row.scores), row.standing)))
    return shown


def gaps(report: Report) -> list[Table]:
    """Make the tables of imagined and real success that a report has."""
    made = list["Table"]()
    if report.gap:
        made.append(gap(report.gap))
    if report.tasks:
        made.append(tasks(report.tasks))
    return made


def sheet(plain: Sheet) -> Table:
    """Make a terminal table of a sheet."""
    from rich.markup import escape

    shown = _table(plain.title, *plain.head)
    for row in plain.rows:
        shown.add_row(*map(escape, row))
    shown.caption, shown.caption_justify = escape(plain.note) or None, "left"
    return shown
