"""Output at the end of a command that evaluated policies."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from worldgymnast.cli.command import REPORT, print_written
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.report import tables
from worldgymnast.report.collect import collect, success
from worldgymnast.report.offline import DO_NOT_USE, NOTHING_REAL
from worldgymnast.report.report import write


def print_results(out: Path, evaluation: dict[str, Any]) -> None:
    """Print the tables of an evaluation, and write the report."""
    page = collect(out)
    table = success(evaluation)
    if table is not None:
        tables.show(tables.success(table))
    if page.rates is not None:
        tables.show(tables.sheet(page.rates))
    for each in tables.gaps(page):
        tables.show(each)
    if page.powered is not None:
        tables.show(tables.sheet(page.powered))
    if page.budget:
        print("Real episodes: " + "; ".join(f"{count} {kind}" for kind, count in page.budget.items()) + ".")
    for note in (*page.warnings, *page.costs, *page.notes):
        print(note)
    try:
        write(out / REPORT, page)
        print(f"Report: {out / REPORT}")
    except OSError as error:  # a finished run may be on a read-only disk
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        print(
            f"{out / REPORT}: cannot be written ({error.strerror}). To write it elsewhere: worldgymnast report {out} "
            "--out FILE.html"
        )


def print_training(out: Path) -> int:
    """Write the report of a training; print its tables without a real environment, and the result's paths."""
    page = collect(out)
    write(out / REPORT, page)
    if page.offline:
        for sheet in page.offline.values():
            tables.show(tables.sheet(sheet))
        print(" ".join([NOTHING_REAL, *page.offline_notes]))
        if page.offline_doubts:
            print(" ".join([f"warning: {DO_NOT_USE}", *page.offline_doubts]))
    print(f"Report: {out / REPORT}")
    return print_written(out / "policy.safetensors")


def print_data_set(path: Path, episodes: EpisodeSet) -> None:
    """Print the size and the success count of a data set."""
    labelled = int(episodes.labelled.sum())
    outcome = "no labels"
    if labelled:
        outcome = f"{int(episodes.succeeded.sum())} of {labelled} labelled episodes succeeded"
    print(f"{path}: {len(episodes)} episodes, {int(episodes.length.sum())} actions, {outcome}")
