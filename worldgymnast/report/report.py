"""One self-contained HTML page about a run: what changed for real, whether imagination can be trusted, what it cost.

A `Report` is plain data, filled in by whoever has read the run folder; nothing here reads one. The page holds its
charts (SVG) and videos in data URLs, needs no network, and follows the reader's light or dark setting.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.evaluation.success import Difference, Estimate, Rate, SuccessTable
from worldgymnast.report.by_task import TaskHistory, TaskScore
from worldgymnast.report.charts import DARK, LIGHT, Curve, Series, bars, curve, dot_plot
from worldgymnast.report.diagnosis import DiagnosisView
from worldgymnast.report.world import Sheet
from worldgymnast.video import data_url
from worldgymnast.weights import write_text

__all__ = ["Curve", "GapRow", "Pair", "Report", "Series", "TaskHistory", "TaskScore", "render", "write"]


@dataclass(frozen=True)
class GapRow:
    """Imagined against real success at one scoring; `gap` is imagined minus real on the same starts."""

    when: str
    imagined: Rate
    real: Rate
    gap: Difference


@dataclass(frozen=True)
class Pair:
    """The same start, imagined and real, side by side.

    Attributes:
        instruction: the sentence.
        imagined: uint8 [t h w 3], or None.
        real: uint8 [t h w 3], or None.
        fps: of both.
        verdict: what the judge said of the imagined clip; None where the judge failed.
        probability: the judge's belief in success in [0, 1], or None.
        real_success: what happened for real; None where unknown.
        note: anything else, such as the step.
    """

    instruction: str
    imagined: np.ndarray | None
    real: np.ndarray | None
    fps: float
    verdict: bool | None = None
    probability: float | None = None
    real_success: bool | None = None
    note: str = ""

    @property
    def wrong(self) -> bool:
        """Whether judge and reality are both known and differ."""
        return None not in (self.verdict, self.real_success) and self.verdict != self.real_success


@dataclass(frozen=True)
class Report:
    """Everything on the page; what is empty is left out of it.

    Attributes:
        title: a few words.
        command: the exact command line.
        date: when, as it should be read.
        versions: of the software.
        table: real success before and after.
        gap: imagined against real, a row an evaluation.
        loops: the same episode by episode: the correlation of both outcomes.
        powered: what imagined episodes add to the real ones of the evaluation.
        tasks: the same of every task through the training of the first seed, and which tasks were trusted.
        curves: small charts.
        gallery: imagined and real videos.
        budget: how many real episodes of each kind were used.
        stages: seconds spent in each stage.
        notes: sentences.
        seeds: the paired difference of every policy after, by its name.
        gate: what the gate before RL found, see `measure.real.gate`, and "fidelity".
        diagnosis: what costs imagined rollouts their right verdicts.
    """

    title: str
    command: str
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    versions: Mapping[str, str] = field(default_factory=dict)
    table: SuccessTable | None = None
    gap: Sequence[GapRow] = ()
    loops: Sequence[Sheet] = ()
    powered: Sheet | None = None
    tasks: Sequence[TaskHistory] = ()
    curves: Sequence[Curve] = ()
    gallery: Sequence[Pair] = ()
    budget: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seeds: Mapping[str, Difference] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    diagnosis: DiagnosisView | None = None


_NOTHING, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def _percent(value: float) -> str:
    return _NOTHING if math.isnan(value) else f"{100 * value:.0f} %"


def _points(value: float) -> str:
    """Percentage points with their sign, the minus a typographic one."""
    return _NOTHING if math.isnan(value) else f"{round(100 * value):+d}".replace("+0", "0").replace("-", _MINUS)


def _interval(shown: Rate | Estimate | Difference) -> str:
    """An interval in percent, or in points for a difference."""
    if isinstance(shown, Difference):
        return "" if math.isnan(shown.mean) else f"[{_points(shown.low)}, {_points(shown.high)}]"
    low, high = shown.interval if isinstance(shown, Rate) else (shown.low, shown.high)
    return "" if math.isnan(shown.value) else f"[{100 * low:.0f}, {100 * high:.0f}]"


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _conclusion(found: Difference) -> str:
    """What the interval of the paired difference allows one to say."""
    if math.isnan(found.mean):
        return "The difference is unknown: a task has no episode whose outcome is known both before and after."
    if found.low > 0:
        return "The policy got better: the interval of the difference lies above zero."
    if found.high < 0:
        return "The policy got worse: the interval of the difference lies below zero."
    return "No difference is shown: its interval holds zero."


def _video(frames: np.ndarray | None, fps: float) -> str | None:
    return None if frames is None else data_url(frames, fps)


def render(report: Report) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worldgymnast", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=_percent, points=_points, interval=_interval, p=_p_value, duration=duration, conclusion=_conclusion
    )
    page = environment.get_template("report.html").render(
        report=report,
        light=LIGHT,
        dark=DARK,
        table=report.table,
        dots=[dot_plot(report.table, width) for width in (860, 360)] if report.table else [],
        curves=[(shown, curve(shown)) for shown in report.curves],
        gallery=[(pair, _video(pair.imagined, pair.fps), _video(pair.real, pair.fps)) for pair in report.gallery],
        diagnosis=report.diagnosis,
        diagnosis_bars=[(shown, bars(shown)) for shown in (report.diagnosis.bars if report.diagnosis else ())],
        diagnosis_curves=[(shown, curve(shown)) for shown in (report.diagnosis.curves if report.diagnosis else ())],
        wrong=sum(pair.wrong for pair in report.gallery),
        total=sum(report.stages.values()),
    )
    return re.sub(r"\n\s*\n+", "\n", page) + "\n"


def write(path: Path, report: Report) -> None:
    """Writes the page, whole or not at all.

    Raises:
        InputError: the disk is full.
    """
    write_text(Path(path), render(report).encode(errors="replace").decode())
