"""Sentences on the judges of a training: reward hacking, failed audits, and costs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.evaluation.guard import GuardConfig, find_alarm, read_history
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.registry import from_dict
from worldgymnast.report.folder import config_of, inside

Rows = Sequence[Mapping[str, Any]]


def warnings(run: Path, logs: Mapping[str, Rows]) -> list[str]:
    """Return sentences on possible reward hacking, and on audits that failed.

    Args:
        run: run folder.
        logs: rows of metrics.jsonl by name of the RL run.
    """
    found = []
    for name, rows in logs.items():
        folder = _folder(run, name)
        guard = from_dict(GuardConfig, inside(config_of(folder), "rl", "guard"), str(folder / "config.json"))
        for source, checker in (("audit", "the audit judge"), ("real", "the real environment")):
            if reason := find_alarm(read_history(source, rows), guard):
                found.append(f"Possible reward hacking in {name}, checked by {checker}: {reason}.")
        if failed := sum(claims.errors for claims in read_history("audit", rows)):
            checked = failed + sum(claims.count for claims in read_history("audit", rows))
            found.append(f"{name}: the audit judge failed on {failed} of {checked} claims, which are not counted.")
    return found


def costs(run: Path, logs: Mapping[str, Rows]) -> list[str]:
    """Return sentences on requests to paid judges; arguments as in `warnings`."""
    found = []
    for folder in dict.fromkeys([run, *(_folder(run, name) for name in logs)]):
        if (folder / FILE).is_file():
            try:
                with contextlib.closing(Ledger(folder / FILE)) as ledger:
                    spent = ledger.total()
            except InputError as error:
                found.append(f"Cost of remote judges is unknown: {error}.")
                continue
            money = f", cost {spent.money:.2f}" if spent.money else ""
            found.append(f"Remote judges: {spent.requests} requests, {spent.tokens} tokens{money}.")
    return found


def _folder(run: Path, learner: str) -> Path:
    """Return the folder of a learner, or the run."""
    return run / learner if (run / learner).is_dir() else run
