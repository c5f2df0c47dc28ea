"""Table of prediction-powered estimates: real success, narrowed by imagined episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldgymnast.evaluation.prediction_powered import PoweredEstimate, powered_difference, powered_rate
from worldgymnast.report.world import Sheet

Rows = Sequence[Mapping[str, Any]]
_TITLE = "Real success, with imagined episodes added"
_NOTE = (
    "95 % intervals, exact or conservative. Estimates are unbiased even if the world model is wrong (PPI++). "
    "The last column counts real episodes that one imagined episode replaces, on real layouts too."
)
_ADD = " No extra layouts were imagined, so there is no gain yet: add --imagined N."
_HEAD = [
    "",
    "real episodes only",
    "with imagined episodes",
    "real",
    "imagined only",
    "correlation",
    "one imagined is worth",
]


def sheet(evaluation: Mapping[str, Rows], unplayed: Mapping[str, Rows], after: Sequence[str]) -> Sheet | None:
    """Make the table; None if no episode was imagined.

    Args:
        evaluation: rows by policy; the first policy is "before".
        unplayed: rows of layouts that were only imagined, by policy.
        after: policies to compare with the first.
    """
    groups = {"before" if after else "the policy": list(evaluation)[:1], "after": list(after)}
    played = {
        when: [r for name in names for r in evaluation[name] if "imagined" in r] for when, names in groups.items()
    }
    alone = {when: [r for name in names for r in unplayed.get(name, ())] for when, names in groups.items()}
    lines = [_line(when, _rate(rows, alone[when])) for when, rows in played.items() if rows]
    if not lines:
        return None
    if all(played.values()):
        lines.append(_line("after minus before", _difference(played, alone)))
    note = _NOTE if any(alone.values()) else _NOTE + _ADD
    return Sheet(_TITLE, _HEAD, lines, note)


def policies_sheet(estimates: Mapping[str, PoweredEstimate]) -> Sheet:
    """Make the table of several policies; see `measure.agreement.powered_by_policy`."""
    note = _NOTE if any(one.unplayed for one in estimates.values()) else _NOTE + _ADD
    return Sheet(_TITLE, ["policy", *_HEAD[1:]], [_line(name, one) for name, one in estimates.items()], note)


def _rate(played: Rows, alone: Rows) -> PoweredEstimate:
    return powered_rate(
        [row.get("success") for row in played],
        [row["imagined"] for row in played],
        [row["imagined"] for row in alone],
        [row["task"] for row in played],
        [row["task"] for row in alone],
    )


def _difference(played: Mapping[str, Rows], alone: Mapping[str, Rows]) -> PoweredEstimate:
    both, more = _paired(played), _paired(alone)
    return powered_difference(
        ([x.get("success") for x, _ in both], [y.get("success") for _, y in both]),
        ([x["imagined"] for x, _ in both], [y["imagined"] for _, y in both]),
        ([x["imagined"] for x, _ in more], [y["imagined"] for _, y in more]),
        [x["task"] for x, _ in both],
        [x["task"] for x, _ in more],
    )


def _paired(rows: Mapping[str, Rows]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Pair the rows before and after by task, layout and seed."""
    first = {(row["task"], row["layout"], row["seed"]): row for row in rows["before"]}
    second = {(row["task"], row["layout"], row["seed"]): row for row in rows["after"]}
    return [(row, second[key]) for key, row in first.items() if key in second]


def _line(name: str, result: PoweredEstimate) -> list[str]:
    rho = result.correlation
    correlation = "unknown" if np.isnan(rho.value) else f"{rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
    powered = result.format(result.powered) if result.unplayed else "\N{EN DASH}"
    errors = f" ({result.errors} errors)" if result.errors else ""
    real, imagined = f"{result.real}{errors}", str(result.unplayed)
    return [name, result.format(result.plain), powered, real, imagined, correlation, _exchange_rate(result)]


def _exchange_rate(result: PoweredEstimate) -> str:
    if not result.is_useful:
        return "nothing"
    if not result.unplayed:
        return f"unknown (at most {result.limit:.0f} real in total)"
    if not result.exchange:
        return "nothing"
    return f"{result.exchange:.2g} real ({result.real} count as {result.real + result.gained:.0f})"
