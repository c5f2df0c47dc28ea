"""Tables and reliability diagram of `judge calibrate` and `judge compare`.

Kinds of clips are "real" (frames of the robot) and "imagined" (replays of the same actions in a world model).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.evaluation.calibration import ENOUGH, SAFE, Bin, Calibration, TaskCalibrations, VerdictQuality
from worldgymnast.evaluation.success import Difference, Estimate, Rate
from worldgymnast.report.charts import LIGHT, picture
from worldgymnast.report.world import Sheet

KINDS = {"real": "real frames", "imagined": "imagined replays"}
_LEGEND = "Dots: clips in a bin of width 0.1, with 95 % intervals. Dashed: perfect calibration."


@dataclass(frozen=True)
class JudgeResult:
    """Results of a judge, with seconds and cost per clip."""

    measured: TaskCalibrations
    seconds: float
    cost: float


@dataclass(frozen=True)
class Comparison:
    """Results of two judges on the same clips, and their difference."""

    first: VerdictQuality
    second: VerdictQuality
    difference: Difference


def sheets(results: Mapping[str, JudgeResult]) -> list[Sheet]:
    """Make the tables of a calibration, by kind of clip."""
    made: list[Sheet] = []
    for kind, result in results.items():
        rows = {_name(task): c for task, c in result.measured.calibrations.items()}
        made += [_verdicts(kind, rows), _probabilities(kind, rows), _thresholds(kind, rows)]
        if len(rows) > 2:
            made.append(_gains(kind, result.measured))
    return [*made, _reliability(results), _effort(results)]


def comparison_sheets(results: Mapping[str, Mapping[str | None, Comparison]], first: str, second: str) -> list[Sheet]:
    """Make the tables of two judges, by kind of clip."""
    made = []
    for kind, tasks in results.items():
        rows = [
            [_name(task), str(one.first.balanced_accuracy), str(one.second.balanced_accuracy), str(one.difference)]
            for task, one in tasks.items()
        ]
        note = f"A: {first}; B: {second}. p: exact McNemar test of no difference."
        head = ["task", "A", "B", "B minus A"]
        made.append(Sheet(f"Balanced accuracy on {KINDS[kind]}, same clips", head, rows, note))
    return made


# ---------------------------------------------------------------- tables


def _name(task: str | None) -> str:
    return "all" if task is None else task or "no task"


def _share(rate: Rate) -> str:
    if not rate.count:
        return "unknown"
    return str(Estimate(rate.value, *rate.interval))


def _number(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "unknown"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _verdicts(kind: str, rows: Mapping[str, Calibration]) -> Sheet:
    head = ["task", "succeeded", "precision", "recall", "true-negative rate", "balanced accuracy"]
    table = []
    for task, c in rows.items():
        errors = f", {c.errors} errors" if c.errors else ""
        rates = [_share(c.precision), _share(c.worth.known), _share(c.worth.refused), str(c.worth.balanced_accuracy)]
        table.append([task, f"{c.worth.known.count} of {c.count}{errors}", *rates])
    return Sheet(f"Verdicts on {KINDS[kind]}, 95 % intervals", head, table)


def _probabilities(kind: str, rows: Mapping[str, Calibration]) -> Sheet:
    table = [[task, _number(c.auroc), _number(c.calibration_error)] for task, c in rows.items()]
    note = "AUROC 0.50 is chance. The calibration error is biased upward if there are few clips."
    head = ["task", "AUROC", "expected calibration error"]
    return Sheet(f"Probabilities on {KINDS[kind]}", head, table, note)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _accuracy(worth: VerdictQuality) -> str:
    """Format balanced accuracy, with true-positive and true-negative rate in parentheses."""
    if math.isnan(worth.balanced_accuracy.value):
        return "unknown"
    rates = f"{_percent(worth.known.value)}, {_percent(worth.refused.value)}"
    return f"{_percent(worth.balanced_accuracy.value)} ({rates})"


def _thresholds(kind: str, rows: Mapping[str, Calibration]) -> Sheet:
    table = []
    for task, c in rows.items():
        best = [_number(c.best.value), str(c.best.worth.balanced_accuracy)]
        table.append([task, *best, _number(c.safe.value), _accuracy(c.safe.worth)])
    head = ["task", "most balanced", "accuracy", f"TNR {_percent(SAFE)}", "accuracy (TPR, TNR)"]
    note = (
        "Thresholds on the judge's probability: for the best balanced accuracy, and for a true-negative rate of "
        f"{_percent(SAFE)}. Balanced accuracies are cross-fitted: on clips that did not choose the threshold."
    )
    return Sheet(f"Thresholds on {KINDS[kind]}", head, table, note)


def _gains(kind: str, measured: TaskCalibrations) -> Sheet:
    table = [
        [_name(task), _accuracy(gain.single), _accuracy(gain.own), str(gain.difference)]
        for task, gain in measured.gains.items()
    ]
    head = ["task", "single (TPR, TNR)", "per task", "difference"]
    note = (
        f"Balanced accuracy at {_percent(SAFE)} true-negative rate, cross-fitted. A task with fewer than {ENOUGH} "
        "successes or failures keeps the single threshold."
    )
    return Sheet(f"Single threshold vs. one per task, {KINDS[kind]}", head, table, note)


def _reliability(results: Mapping[str, JudgeResult]) -> Sheet:
    bins = {kind: result.measured.overall.bins for kind, result in results.items()}
    rows = [
        [f"{group[0].low:.1f}-{group[0].high:.1f}", *(cell for one in group for cell in _bin(one))]
        for group in zip(*bins.values(), strict=True)
    ]
    head = ["bin", *(word for kind in bins for word in (f"{KINDS[kind]}", "mean probability", "true successes"))]
    return Sheet("Reliability: clips per bin, their mean probability and share of true successes", head, rows)


def _bin(one: Bin) -> tuple[str, str, str]:
    mean = "-" if math.isnan(one.belief) else f"{one.belief:.2f}"
    return str(one.successes.count), mean, _share(one.successes) if one.successes.count else "-"


def _effort(results: Mapping[str, JudgeResult]) -> Sheet:
    rows = []
    for kind, result in results.items():
        overall = result.measured.overall
        counts = [str(overall.count + overall.errors), str(overall.errors)]
        rows.append([KINDS[kind], *counts, f"{result.seconds:.3g}", f"{result.cost:.3g}"])
    head = ["", "clips", "errors", "seconds per clip", "cost per clip"]
    return Sheet("Time and cost", head, rows, "Errors are failed judgements; no rate above counts them.")


# ---------------------------------------------------------------- the reliability diagram


def diagram(results: Mapping[str, JudgeResult], title: str) -> bytes:
    """Draw the reliability diagram, with the number of clips below, as PNG."""
    legend = _LEGEND.replace(". ", ".\n", 1) if len(results) == 1 else _LEGEND
    return picture(0.9 + 4.5 * len(results), 6.9, legend, functools.partial(_draw, results=results, title=title))


def _draw(figure: Any, results: Mapping[str, JudgeResult], title: str) -> None:
    figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold")
    panels = figure.subplots(2, len(results), squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1.2))
    for column, (kind, result) in enumerate(results.items()):
        upper, lower = panels[0][column], panels[1][column]
        _draw_points(upper, result.measured.overall, KINDS[kind])
        _draw_counts(lower, result.measured.overall.bins)
        if column == 0:
            upper.set_ylabel("share of true successes")
            lower.set_ylabel("clips")
            lower.legend(loc="upper center", ncols=2, handlelength=0.9)


def _draw_points(axes: Any, calibration: Calibration, name: str) -> None:
    color = LIGHT["series-0"]
    bins = [one for one in calibration.bins if one.successes.count]
    x, y = [one.belief for one in bins], [one.successes.value for one in bins]
    # The area of a dot grows with the clips in its bin.
    area = [24 + 180 * one.successes.count / calibration.count for one in bins]
    axes.plot([0, 1], [0, 1], color=LIGHT["series-1"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ends = [one.successes.interval for one in bins]
    axes.vlines(x, [low for low, _ in ends], [high for _, high in ends], color=color, linewidth=1.5, alpha=0.5)
    axes.plot(x, y, color=color, linewidth=1, alpha=0.5, zorder=2)
    axes.scatter(x, y, area, color=color, edgecolor=LIGHT["paper"], zorder=3)
    scores = f"AUROC {_number(calibration.auroc)}, calibration error {_number(calibration.calibration_error)}"
    subtitle = axes.text(0, 1.02, scores, transform=axes.transAxes, va="bottom", fontsize=10, color=LIGHT["faint"])
    subtitle.set_in_layout(False)
    axes.set_title(name, fontsize=12.5, pad=24)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid()


def _draw_counts(axes: Any, bins: Sequence[Bin]) -> None:
    left, width = [one.low for one in bins], [one.high - one.low for one in bins]
    won = [one.successes.successes for one in bins]
    lost = [one.successes.count - one.successes.successes for one in bins]
    style = {"align": "edge", "edgecolor": LIGHT["paper"], "linewidth": 1}
    axes.bar(left, won, width, color=LIGHT["series-0"], label="succeeded", **style)
    axes.bar(left, lost, width, bottom=won, color=LIGHT["series-2"], label="failed", **style)
    for x, w, total in zip(left, width, np.add(won, lost).tolist(), strict=True):
        if total:
            axes.text(x + w / 2, total, f"{total:.0f}", ha="center", va="bottom", fontsize=9, color=LIGHT["faint"])
    axes.set(xlabel="judge's probability of success", xticks=np.linspace(0, 1, 6))
    axes.margins(y=0.25)
    axes.grid(axis="y")
