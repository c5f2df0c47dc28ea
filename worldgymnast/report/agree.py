"""Tables and scatter plot of `agree`."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.evaluation.agreement import MMRV_CONVENTION, Agreement
from worldgymnast.evaluation.success import Estimate, Rate
from worldgymnast.report.charts import LIGHT, picture
from worldgymnast.report.world import Sheet

_COLORS = [LIGHT[f"series-{index}"] for index in (0, 2, 3)]
_LEGEND = "Each dot is a policy: mean success over tasks at the longest horizon, with 95 % intervals over starts."
_HOLLOW = " Hollow: the world model was trained on its rollouts; r is over the other policies."


@dataclass(frozen=True)
class PolicySuccess:
    """Success of a policy at the longest horizon, over all starts."""

    real: Rate
    surrogates: Mapping[str, Rate]


def success_rates(places: Mapping[str, Sequence[Mapping[str, Any]]]) -> PolicySuccess:
    """Compute a policy's success at the longest horizon from its rows."""
    rates = {place: Rate.of(row["success"][-1] for row in rows) for place, rows in places.items()}
    return PolicySuccess(rates["real"], {place: rate for place, rate in rates.items() if place != "real"})


def agreement_sheets(
    groups: Mapping[str, Mapping[str, Mapping[int, Agreement]]], policies: Mapping[str, PolicySuccess], tasks: int
) -> list[Sheet]:
    """Make the tables of agreement and of success.

    Args:
        groups: agreement by group of policies, surrogate and rollout length.
        policies: success by policy.
        tasks: number of tasks.
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
            "unknown" if np.isnan(one.reliability) else f"{one.reliability:.2f}",
            _number(one.spearman),
            _number(one.mmrv),
        ]
        for name, places in groups.items()
        for place, lengths in places.items()
        for length, one in lengths.items()
    ]
    note = (
        f"Mean success of policies over {tasks} tasks, with 95 % intervals that resample both. Policies of one "
        "training are averaged to one point. Leave-one-out: lowest and highest r with one training left out. p: "
        "two-sided permutation test of no correlation, one test per row. Reliability: r of real success with itself "
        "on as many other starts (split-half, Spearman-Brown); an r close to it is all that so few starts can show. "
        f"{MMRV_CONVENTION}"
    )
    head = ["policies", "in", "actions", "trainings", "Pearson r", "leave-one-out", "p"]
    head += ["reliability", "Spearman", "MMRV"]
    places = list(next(iter(policies.values())).surrogates)
    success = [
        [name, str(one.real), *(str(one.surrogates[place]) for place in places)] for name, one in policies.items()
    ]
    return [Sheet("Agreement with reality", head, rows, note), Sheet("Success", ["policy", "real", *places], success)]


def _number(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "unknown"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _range(ends: tuple[float, float]) -> str:
    return "unknown" if np.isnan(ends[0]) else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _p_value(p: float) -> str:
    return "unknown" if np.isnan(p) else f"{p:.2g}"


def scatter(
    agreement: Mapping[str, Mapping[int, Agreement]], policies: Mapping[str, PolicySuccess], solid: Collection[str]
) -> bytes:
    """Draw real against imagined success, and Pearson's r by length if there are several (PNG).

    Args:
        agreement: agreement by surrogate and rollout length.
        policies: success by policy.
        solid: names of the policies that `agreement` is about; the others are drawn hollow.
    """
    legend = _LEGEND + (_HOLLOW if len(solid) < len(policies) else "")
    draw = functools.partial(_draw, agreement=agreement, policies=policies, solid=solid)
    width = 4.4 * (len(agreement) + _has_lengths(agreement))
    return picture(width, 4.9, textwrap.fill(legend, int(15 * width)), draw)


def _draw(
    figure: Any,
    agreement: Mapping[str, Mapping[int, Agreement]],
    policies: Mapping[str, PolicySuccess],
    solid: Collection[str],
) -> None:
    panels = figure.subplots(1, len(agreement) + _has_lengths(agreement), squeeze=False)[0]
    for axes, (index, place) in zip(panels, enumerate(agreement), strict=False):
        longest = agreement[place][max(agreement[place])]
        points = {name: (one.surrogates[place], one.real) for name, one in policies.items()}
        _draw_points(axes, points, solid, _COLORS[index])
        axes.set_title(f"{place}: r = {_number(longest.pearson)}, n = {longest.count}")
        axes.set(xlabel=f"success in {place}", ylabel="real success" if index == 0 else "")
    if _has_lengths(agreement):
        _draw_lengths(panels[-1], agreement)


def _has_lengths(agreement: Mapping[str, Mapping[int, Agreement]]) -> bool:
    """Whether there are several rollout lengths to draw."""
    return max(map(len, agreement.values())) > 1


def _draw_points(axes: Any, points: Mapping[str, tuple[Rate, Rate]], solid: Collection[str], color: str) -> None:
    axes.plot([0, 1], [0, 1], color=LIGHT["series-1"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for name, (x, y) in points.items():
        axes.plot(x.interval, [y.value] * 2, color=color, linewidth=1, alpha=0.4)
        axes.plot([x.value] * 2, y.interval, color=color, linewidth=1, alpha=0.4)
        fill = color if name in solid else LIGHT["paper"]
        axes.scatter(x.value, y.value, 36, color=fill, edgecolors=color, linewidths=1.5, zorder=3)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid()


def _draw_lengths(axes: Any, agreement: Mapping[str, Mapping[int, Agreement]]) -> None:
    for index, (place, lengths) in enumerate(agreement.items()):
        color, x = _COLORS[index], list(lengths)
        pearson = [one.pearson for one in lengths.values()]
        axes.plot(x, [r.value for r in pearson], "o-", color=color, label=place)
        axes.fill_between(x, [r.low for r in pearson], [r.high for r in pearson], color=color, alpha=0.15)
    axes.set(ylim=(min(0.0, axes.get_ylim()[0]), 1.02), xlabel="actions per rollout")
    axes.set_title("Pearson's r by rollout length")
    axes.legend(loc="lower right")
    axes.grid()
