"""What a command that has evaluated policies says at its end."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from worldgymnast.cli.command import REPORT
from worldgymnast.report import tables
from worldgymnast.report.collect import collect, success
from worldgymnast.report.report import write


def conclude(out: Path, evaluation: dict[str, Any]) -> None:
    """Prints the paired table, what imagination adds, and the real-robot budget, and writes the report."""
    page = collect(out)
    table = success(evaluation)
    if table is not None:
        tables.show(tables.success(table))
    for each in tables.gaps(page):
        tables.show(each)
    if page.powered is not None:
        tables.show(tables.sheet(page.powered))
    if page.budget:
        print("Real-robot budget: " + "; ".join(f"{count} {kind}" for kind, count in page.budget.items()) + ".")
    for note in page.notes:
        print(note)
    try:
        write(out / REPORT, page)
        print(f"Report: {out / REPORT}")
    except OSError as error:  # a finished run may lie where nothing can be written
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        print(
            f"{out / REPORT}: cannot be written ({error.strerror}); worldgymnast report {out} --out FILE.html writes it"
        )
