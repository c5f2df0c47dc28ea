"""What imagined episodes add to the real ones of an evaluation: the prediction-powered table of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldgymnast.evaluation.prediction_powered import Powered, powered_difference, powered_rate
from worldgymnast.report.world import Sheet

Rows = Sequence[Mapping[str, Any]]
_NOTE = (
    "95 % intervals, exact or slightly too wide; real success stays unbiased however wrong the world is (PPI++). "
    "Worth: real episodes that one imagined episode replaces here, those on played layouts counted too."
)
_ADD = " Nothing was imagined beyond the played layouts, so nothing is gained yet: add --imagined N."
_HEAD = [
    "",
    "real episodes alone",
    "with imagined ones",
    "real",
    "imagined alone",
    "correlation",
    "one imagined is worth",
]


def sheet(evaluation: Mapping[str, Rows], unplayed: Mapping[str, Rows], after: Sequence[str]) -> Sheet | None:
    """The table; None where no episode was imagined.

    Args:
        evaluation: rows by policy, the first one's before.
        unplayed: rows of layouts that were imagined alone, by policy.
        after: the policies that are compared with the first.
    """
    groups = {"before": list(evaluation)[:1], "after": list(after)}
    played = {
        when: [r for name in names for r in evaluation[name] if "imagined" in r] for when, names in groups.items()
    }
    alone = {when: [r for name in names for r in unplayed.get(name, ())] for when, names in groups.items()}
    lines = [_line(when, _rate(rows, alone[when])) for when, rows in played.items() if rows]
    if not lines:
        return None
    if all(played.values()):
        lines.append(_line("after minus before", _difference(played, alone)))
    return Sheet("Real success with imagined episodes", _HEAD, lines, _NOTE if any(alone.values()) else _NOTE + _ADD)


def _rate(played: Rows, alone: Rows) -> Powered:
    return powered_rate(
        [row.get("success") for row in played],
        [row["imagined"] for row in played],
        [row["imagined"] for row in alone],
        [row["task"] for row in played],
        [row["task"] for row in alone],
    )


def _difference(played: Mapping[str, Rows], alone: Mapping[str, Rows]) -> Powered:
    both, more = _paired(played), _paired(alone)
    return powered_difference(
        ([x.get("success") for x, _ in both], [y.get("success") for _, y in both]),
        ([x["imagined"] for x, _ in both], [y["imagined"] for _, y in both]),
        ([x["imagined"] for x, _ in more], [y["imagined"] for _, y in more]),
        [x["task"] for x, _ in both],
        [x["task"] for x, _ in more],
    )


def _paired(rows: Mapping[str, Rows]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The rows before and after of the same task, layout and seed."""
    first = {(row["task"], row["layout"], row["seed"]): row for row in rows["before"]}
    second = {(row["task"], row["layout"], row["seed"]): row for row in rows["after"]}
    return [(row, second[key]) for key, row in first.items() if key in second]


def _line(name: str, found: Powered) -> list[str]:
    rho = found.correlation
    said = "unknown" if np.isnan(rho.value) else f"{rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
    powered = found.shown(found.powered) if found.unplayed else ""
    errors = f" ({found.errors} errors)" if found.errors else ""
    return [name, found.shown(found.plain), powered, f"{found.real}{errors}", str(found.unplayed), said, _worth(found)]


def _worth(found: Powered) -> str:
    if not found.is_useful:
        return "nothing"
    if not found.unplayed:
        return f"? (at most {found.limit:.0f} real in all)"
    if not found.exchange:
        return "nothing"
    return f"{found.exchange:.2g} real ({found.real} count as {found.real + found.gained:.0f})"
