"""Tables of how far several labellers agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldgymnast.episodes.labels import Label
from worldgymnast.evaluation.labellers import Concordance
from worldgymnast.evaluation.success import Outcome, Rate
from worldgymnast.report.world import Sheet

Votes = Mapping[str, Sequence[Label | None]]
"""Labels of every episode, in order, by labeller."""

_SHOWN = 20


def _outcomes(labels: Sequence[Label | None]) -> list[Outcome]:
    return [None if label is None else label.success for label in labels]


def sheets(votes: Votes, numbers: Sequence[int], kinds: Sequence[str]) -> list[Sheet]:
    """Tables: agreement by pair, labels by task, and the episodes that differ.

    Args:
        votes: at least one labeller's labels.
        numbers: number of each episode in the dataset.
        kinds: task of each episode.
    """
    made = [_by_task(votes, kinds)]
    if len(votes) > 1:
        made = [_pairs(votes), *made]
    if rows := _differing(votes, numbers, kinds):
        note = f"{len(rows)} in all; --out writes every label" if len(rows) > _SHOWN else ""
        made.append(Sheet("Episodes on which the labellers differ", ("episode", "task", *votes), rows[:_SHOWN], note))
    return made


def numbers_of(votes: Votes, numbers: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    """The same as plain values, for JSON."""
    return {
        "pairs": [
            {"labellers": [a, b], "concordance": Concordance.of(_outcomes(votes[a]), _outcomes(votes[b]))}
            for a, b in itertools.combinations(votes, 2)
        ],
        "differing": [row[0] for row in _differing(votes, numbers, kinds)],
    }


def _pairs(votes: Votes) -> Sheet:
    rows = []
    for first, second in itertools.combinations(votes, 2):
        found = Concordance.of(_outcomes(votes[first]), _outcomes(votes[second]))
        cells = [f"{found.only_first}", f"{found.only_second}", _apart(votes[first], votes[second])]
        rows.append([first, second, str(found.agreement), _kappa(found), *cells])
    head = ("first", "second", "same label", "Cohen's kappa", "only 1st", "only 2nd", "frames apart")
    note = (
        "only: one alone says success. Kappa: agreement beyond chance, 1 perfect, 0 chance, with a 95% interval. "
        "Frames apart: median distance of the marked frames of success"
    )
    return Sheet("Agreement of labellers", head, rows, note)


def _kappa(found: Concordance) -> str:
    kappa = found.kappa
    if math.isnan(kappa.value):
        return "unknown"
    interval = "" if math.isnan(kappa.low) else f" [{kappa.low:.2f}, {kappa.high:.2f}]"
    return f"{kappa.value:.2f}{interval}"


def _apart(first: Sequence[Label | None], second: Sequence[Label | None]) -> str:
    distances = [
        abs(a.frame - b.frame)
        for a, b in zip(first, second, strict=True)
        if a and b and a.frame is not None and b.frame is not None
    ]
    return f"{np.median(distances):g}" if distances else ""


def _by_task(votes: Votes, kinds: Sequence[str]) -> Sheet:
    rows = []
    groups = {name: [kind == name for kind in kinds] for name in sorted(set(kinds))}
    if len(groups) > 1:
        groups["all"] = [True] * len(kinds)
    for name, members in groups.items():
        cells = [
            Rate.of(o for o in itertools.compress(_outcomes(labels), members) if o is not None)
            for labels in votes.values()
        ]
        rows.append([name, str(sum(members)), *(f"{rate.successes}/{rate.count}" for rate in cells)])
    return Sheet("Successes of labelled episodes", ("task", "episodes", *votes), rows)


def _differing(votes: Votes, numbers: Sequence[int], kinds: Sequence[str]) -> list[list[str]]:
    words = {True: "success", False: "failure", None: ""}
    table = list(zip(*(_outcomes(labels) for labels in votes.values()), strict=True))
    return [
        [str(number), kind, *(words[outcome] for outcome in row)]
        for number, kind, row in zip(numbers, kinds, table, strict=True)
        if {True, False} <= set(row)
    ]
