"""What `agree` found: a table by stand-in and rollout length, a row a policy, and the scatter of all policies."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.evaluation.agreement import MMRV_CONVENTION, Agreement
from worldgymnast.evaluation.success import Estimate, Rate
from worldgymnast.report.charts import LIGHT, picture
from worldgymnast.report.world import Sheet

_COLORS = [LIGHT[f"series-{index}"] for index in (0, 2, 3)]
_LEGEND = "A dot is a policy: mean success over the tasks by the longest horizon, with 95 % intervals over its starts."
_HOLLOW = " Hollow: the world has learned from rollouts of it; r is over the others."


@dataclass(frozen=True)
class Seen:
    """A policy's success by the longest horizon: over all starts, in reality and in each stand-in."""

    real: Rate
    others: Mapping[str, Rate]


def seen(places: Mapping[str, Sequence[Mapping[str, Any]]]) -> Seen:
    """A policy's success by the longest horizon, from its rows by place."""
    rates = {place: Rate.of(row["success"][-1] for row in rows) for place, rows in places.items()}
    return Seen(rates["real"], {place: rate for place, rate in rates.items() if place != "real"})


def sheets(
    found: Mapping[str, Mapping[str, Mapping[int, Agreement]]], policies: Mapping[str, Seen], tasks: int
) -> list[Sheet]:
    """The tables.

    Args:
        found: by name of some policies, agreement by stand-in and rollout length.
        policies: each one's success.
        tasks: over how many.
    """
    rows = [
        [
            name,
            place,
            str(length),
            str(one.count),
            _number(one.pearson),
            _range(one.without_one),
            _p_value(one.p_value),
            _number(one.spearman),
            _number(one.mmrv),
        ]
        for name, places in found.items()
        for place, lengths in places.items()
        for length, one in lengths.items()
    ]
    note = (
        f"Of the mean success of policies over {tasks} tasks, with 95 % intervals by resampling both. Trainings: of "
        "which the policies come; those of one training are averaged to one point. Without one: lowest and highest r "
        "when one training is left out. p: two-sided permutation test of no correlation, one test a row. "
        f"{MMRV_CONVENTION}"
    )
    head = ["policies", "in", "actions", "trainings", "Pearson r", "without one", "p", "Spearman", "MMRV"]
    places = list(next(iter(policies.values())).others)
    each = [[name, str(one.real), *(str(one.others[place]) for place in places)] for name, one in policies.items()]
    return [Sheet("Agreement with reality", head, rows, note), Sheet("Success", ["policy", "real", *places], each)]


def _number(found: Estimate) -> str:
    return "unknown" if np.isnan(found.value) else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _range(found: tuple[float, float]) -> str:
    return "unknown" if np.isnan(found[0]) else f"{found[0]:.2f} to {found[1]:.2f}"


def _p_value(found: float) -> str:
    return "unknown" if np.isnan(found) else f"{found:.2g}"


def scatter(
    found: Mapping[str, Mapping[int, Agreement]], policies: Mapping[str, Seen], solid: Collection[str]
) -> bytes:
    """A PNG file's content: real against imagined success, a panel a stand-in, and Pearson's r by rollout length.

    Args:
        found: agreement by stand-in and rollout length.
        policies: each one's success.
        solid: the policies that `found` is about; others are drawn hollow.
    """
    legend = _LEGEND + (_HOLLOW if len(solid) < len(policies) else "")
    draw = functools.partial(_draw, found=found, policies=policies, solid=solid)
    return picture(4.4 * (len(found) + 1), 4.9, legend, draw)


def _draw(
    figure: Any, found: Mapping[str, Mapping[int, Agreement]], policies: Mapping[str, Seen], solid: Collection[str]
) -> None:
    panels = figure.subplots(1, len(found) + 1, squeeze=False)[0]
    for axes, (index, place) in zip(panels, enumerate(found), strict=False):
        longest = found[place][max(found[place])]
        points = {name: (one.others[place], one.real) for name, one in policies.items()}
        _points(axes, points, solid, _COLORS[index])
        axes.set_title(f"{place}: r = {_number(longest.pearson)}, n = {longest.count}")
        axes.set(xlabel=f"success in {place}", ylabel="real success" if index == 0 else "")
    _lengths(panels[-1], found)


def _points(axes: Any, points: Mapping[str, tuple[Rate, Rate]], solid: Collection[str], color: str) -> None:
    axes.plot([0, 1], [0, 1], color=LIGHT["series-1"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for name, (x, y) in points.items():
        axes.plot(x.interval, [y.value] * 2, color=color, linewidth=1, alpha=0.4)
        axes.plot([x.value] * 2, y.interval, color=color, linewidth=1, alpha=0.4)
        inside = color if name in solid else LIGHT["paper"]
        axes.scatter(x.value, y.value, 36, color=inside, edgecolors=color, linewidths=1.5, zorder=3)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid()


def _lengths(axes: Any, found: Mapping[str, Mapping[int, Agreement]]) -> None:
    for index, (place, lengths) in enumerate(found.items()):
        color, x = _COLORS[index], list(lengths)
        shown = [one.pearson for one in lengths.values()]
        axes.plot(x, [one.value for one in shown], "o-", color=color, label=place)
        axes.fill_between(x, [one.low for one in shown], [one.high for one in shown], color=color, alpha=0.15)
    axes.set(ylim=(min(0.0, axes.get_ylim()[0]), 1.02), xlabel="actions in a rollout")
    axes.set_title("Pearson's r by length")
    axes.legend(loc="lower right")
    axes.grid()
