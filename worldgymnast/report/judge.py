"""What `judge calibrate` and `judge compare` found: tables of words, plain numbers, and the reliability diagram.

Kinds of clips are "real" (the frames of the robot) and "imagined" (replays of the same actions in a world model).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.evaluation.calibration import ENOUGH, SAFE, Bin, Calibration, Measured, Worth
from worldgymnast.evaluation.success import Difference, Estimate, Rate
from worldgymnast.report.charts import LIGHT, picture
from worldgymnast.report.world import Sheet

KINDS = {"real": "real frames", "imagined": "imagined replays"}
_LEGEND = "Dots: the clips of a tenth of the belief, with 95 % intervals. Dashed: belief and truth agree."


@dataclass(frozen=True)
class Found:
    """A judge on one kind of clips, the seconds of wall clock a clip, and what a clip cost."""

    measured: Measured
    seconds: float
    cost: float


@dataclass(frozen=True)
class Compared:
    """Two judges on the same clips of a task, and the second minus the first in balanced accuracy."""

    first: Worth
    second: Worth
    difference: Difference


def sheets(found: Mapping[str, Found]) -> list[Sheet]:
    """The tables of a calibration, by kind of clip."""
    made: list[Sheet] = []
    for kind, one in found.items():
        rows = {_name(task): c for task, c in one.measured.calibrations.items()}
        made += [_verdicts(kind, rows), _beliefs(kind, rows), _thresholds(kind, rows)]
        made += [_gains(kind, one.measured)] if len(rows) > 2 else []
    return [*made, _reliability(found), _effort(found)]


def compared(found: Mapping[str, Mapping[str | None, Compared]], first: str, second: str) -> list[Sheet]:
    """The tables of two judges, by kind of clip; a row a task, and under None all."""
    made = []
    for kind, tasks in found.items():
        rows = [
            [_name(task), str(one.first.balanced_accuracy), str(one.second.balanced_accuracy), str(one.difference)]
            for task, one in tasks.items()
        ]
        note = f"A: {first}; B: {second}. p is the exact McNemar test of no difference."
        head = ["task", "A", "B", "B minus A"]
        made.append(Sheet(f"Balanced accuracy on {KINDS[kind]}, the same clips", head, rows, note))
    return made


# ---------------------------------------------------------------- tables


def _name(task: str | None) -> str:
    return "all" if task is None else task or "no task"


def _share(rate: Rate) -> str:
    if not rate.count:
        return "unknown"
    return str(Estimate(rate.value, *rate.interval))


def _number(found: Estimate) -> str:
    if math.isnan(found.value):
        return "unknown"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _verdicts(kind: str, rows: Mapping[str, Calibration]) -> Sheet:
    head = ["task", "succeeded", "precision", "recall", "failures refused", "balanced accuracy"]
    table = [
        [
            task, f"{c.worth.known.count} of {c.count}" + f", {c.errors} errors" * bool(c.errors), _share(c.precision),
            _share(c.worth.known), _share(c.worth.refused), str(c.worth.balanced_accuracy),
        ]
        for task, c in rows.items()
    ]  # fmt: skip
    return Sheet(f"Verdicts on {KINDS[kind]}, 95 % intervals", head, table)


def _beliefs(kind: str, rows: Mapping[str, Calibration]) -> Sheet:
    table = [[task, _number(c.auroc), _number(c.calibration_error)] for task, c in rows.items()]
    note = "AUROC: 0.50 is chance. Calibration error: mean distance of belief and truth; too high where clips are few."
    return Sheet(f"Beliefs on {KINDS[kind]}", ["task", "AUROC", "expected calibration error"], table, note)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _worth(found: Worth) -> str:
    """Balanced accuracy, and in brackets what it is the mean of."""
    if math.isnan(found.balanced_accuracy.value):
        return "unknown"
    return f"{_percent(found.balanced_accuracy.value)} ({_percent(found.known.value)}, {_percent(found.refused.value)})"


def _thresholds(kind: str, rows: Mapping[str, Calibration]) -> Sheet:
    table = [
        [
            task, _number(c.best.value), str(c.best.worth.balanced_accuracy), _number(c.safe.value),
            _worth(c.safe.worth),
        ]
        for task, c in rows.items()
    ]  # fmt: skip
    head = ["task", "most balanced", "worth", f"refuses {_percent(SAFE)}", "worth (known, refused)"]
    note = (
        "Thresholds on the belief. Worth is the balanced accuracy (and the share of successes known and of failures "
        "refused) on clips that did not choose the threshold: cross-fitted."
    )
    return Sheet(f"Thresholds on {KINDS[kind]}", head, table, note)


def _gains(kind: str, found: Measured) -> Sheet:
    table = [
        [_name(task), _worth(gain.single), _worth(gain.own), str(gain.difference)] for task, gain in found.gains.items()
    ]
    head = ["task", "single (known, refused)", "by task", "difference"]
    note = (
        f"Balanced accuracy, cross-fitted. A task with fewer than {ENOUGH} successes or failures keeps the single "
        "threshold."
    )
    return Sheet(f"One threshold that refuses {_percent(SAFE)}, or one a task; {KINDS[kind]}", head, table, note)


def _reliability(found: Mapping[str, Found]) -> Sheet:
    bins = {kind: one.measured.overall.bins for kind, one in found.items()}
    rows = [
        [f"{group[0].low:.1f}-{group[0].high:.1f}", *(cell for one in group for cell in _bin(one))]
        for group in zip(*bins.values(), strict=True)
    ]
    head = ["belief", *(word for kind in bins for word in (f"{KINDS[kind]}", "mean belief", "true successes"))]
    return Sheet("Reliability: clips, their mean belief and how many truly succeeded", head, rows)


def _bin(found: Bin) -> tuple[str, str, str]:
    mean = "-" if math.isnan(found.belief) else f"{found.belief:.2f}"
    return str(found.successes.count), mean, _share(found.successes) if found.successes.count else "-"


def _effort(found: Mapping[str, Found]) -> Sheet:
    rows = [
        [KINDS[kind], str(c.count + c.errors), str(c.errors), f"{one.seconds:.3g}", f"{one.cost:.3g}"]
        for kind, one in found.items()
        for c in (one.measured.overall,)
    ]
    head = ["", "clips", "errors", "seconds a clip", "cost a clip"]
    return Sheet("What judging takes", head, rows, "Errors are judgements that failed; they count in no share above.")


# ---------------------------------------------------------------- the reliability diagram


def diagram(found: Mapping[str, Found], title: str) -> bytes:
    """The reliability diagram as a PNG file's content: share of true successes against belief, clips below."""
    legend = _LEGEND.replace(". ", ".\n", len(found) == 1)
    return picture(0.9 + 4.5 * len(found), 6.9, legend, functools.partial(_draw, found=found, title=title))


def _draw(figure: Any, found: Mapping[str, Found], title: str) -> None:
    figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold")
    panels = figure.subplots(2, len(found), squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1.2))
    for column, (kind, one) in enumerate(found.items()):
        upper, lower = panels[0][column], panels[1][column]
        _points(upper, one.measured.overall, KINDS[kind])
        _counts(lower, one.measured.overall.bins)
        if column == 0:
            upper.set_ylabel("share of true successes")
            lower.set_ylabel("clips")
            lower.legend(loc="upper center", ncols=2, handlelength=0.9)


def _points(axes: Any, found: Calibration, name: str) -> None:
    color = LIGHT["series-0"]
    shown = [one for one in found.bins if one.successes.count]
    x, y = [one.belief for one in shown], [one.successes.value for one in shown]
    # As large as the bin is full: a bin of three clips must not look like one of a hundred.
    area = [24 + 180 * one.successes.count / found.count for one in shown]
    axes.plot([0, 1], [0, 1], color=LIGHT["series-1"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ends = [one.successes.interval for one in shown]
    axes.vlines(x, [low for low, _ in ends], [high for _, high in ends], color=color, linewidth=1.5, alpha=0.5)
    axes.plot(x, y, color=color, linewidth=1, alpha=0.5, zorder=2)
    axes.scatter(x, y, area, color=color, edgecolor=LIGHT["paper"], zorder=3)
    said = f"AUROC {_number(found.auroc)}, calibration error {_number(found.calibration_error)}"
    under = axes.text(0, 1.02, said, transform=axes.transAxes, va="bottom", fontsize=10, color=LIGHT["faint"])
    under.set_in_layout(False)
    axes.set_title(name, fontsize=12.5, pad=24)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid()


def _counts(axes: Any, bins: Sequence[Bin]) -> None:
    left, width = [one.low for one in bins], [one.high - one.low for one in bins]
    won = [one.successes.successes for one in bins]
    lost = [one.successes.count - one.successes.successes for one in bins]
    style = {"align": "edge", "edgecolor": LIGHT["paper"], "linewidth": 1}
    axes.bar(left, won, width, color=LIGHT["series-0"], label="succeeded", **style)
    axes.bar(left, lost, width, bottom=won, color=LIGHT["series-2"], label="failed", **style)
    for x, w, total in zip(left, width, np.add(won, lost).tolist(), strict=True):
        if total:
            axes.text(x + w / 2, total, f"{total:.0f}", ha="center", va="bottom", fontsize=9, color=LIGHT["faint"])
    axes.set(xlabel="judge's belief in success", xticks=np.linspace(0, 1, 6))
    axes.margins(y=0.25)
    axes.grid(axis="y")
