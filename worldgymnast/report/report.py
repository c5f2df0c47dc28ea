"""Self-contained HTML report of a run.

A `Report` is plain data; `collect` builds it from a run folder. The page embeds its charts (SVG) and videos as data
URLs, needs no network, and follows the reader's color scheme.
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
from worldgymnast.report.charts import DARK, LIGHT, Curve, Series, dot_plot, draw_bars, draw_curve
from worldgymnast.report.diagnosis import DiagnosisView
from worldgymnast.report.offline import NOTHING_REAL
from worldgymnast.report.world import Sheet
from worldgymnast.video import data_url
from worldgymnast.weights import write_text

__all__ = ["Curve", "GapRow", "Pair", "Report", "Series", "TaskHistory", "TaskScore", "render", "write"]


@dataclass(frozen=True)
class GapRow:
    """Imagined and real success at one scoring, and their gap."""

    when: str
    imagined: Rate
    real: Rate
    gap: Difference


@dataclass(frozen=True)
class Pair:
    """Imagined and real video of the same start.

    Attributes:
        instruction: instruction.
        imagined: uint8 [t h w 3], or None.
        real: uint8 [t h w 3], or None.
        fps: frames per second of both.
        verdict: the judge's verdict on the imagined video; None if it failed.
        probability: the judge's probability of success in [0, 1], or None.
        real_success: real outcome; None if unknown.
        note: further text, such as the step.
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
    def is_wrong(self) -> bool:
        """Whether verdict and real outcome are known and differ."""
        return None not in (self.verdict, self.real_success) and self.verdict != self.real_success


@dataclass(frozen=True)
class Report:
    """The content of the page; empty parts are omitted.

    Attributes:
        title: title.
        command: command line of the run.
        date: date as shown.
        versions: software versions.
        table: real success before and after.
        gap: imagined and real success, a row per scoring.
        loops: correlation of imagined and real outcomes by episode.
        powered: real success, narrowed by imagined episodes.
        tasks: imagined and real success per task during the training of the first seed.
        curves: small charts.
        gallery: imagined and real videos.
        budget: number of real episodes by kind.
        stages: seconds spent in each stage.
        notes: sentences.
        seeds: paired difference of each policy after, by name.
        gate: rates of the gate before RL (see `measure.gate`), and "fidelity".
        diagnosis: causes of wrong verdicts on imagined rollouts.
        offline: what is known of a training without a real environment.
        offline_notes: sentences about it.
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
    offline: Sequence[Sheet] = ()
    offline_notes: Sequence[str] = ()


_UNKNOWN, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def _percent(value: float) -> str:
    return _UNKNOWN if math.isnan(value) else f"{100 * value:.0f} %"


def _points(value: float) -> str:
    """Format signed percentage points."""
    return _UNKNOWN if math.isnan(value) else f"{round(100 * value):+d}".replace("+0", "0").replace("-", _MINUS)


def _interval(shown: Rate | Estimate | Difference) -> str:
    """Format an interval in percent, or in percentage points for a difference."""
    if isinstance(shown, Difference):
        return "" if math.isnan(shown.mean) else f"[{_points(shown.low)}, {_points(shown.high)}]"
    low, high = shown.interval if isinstance(shown, Rate) else (shown.low, shown.high)
    return "" if math.isnan(shown.value) else f"[{100 * low:.0f}, {100 * high:.0f}]"


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def duration(seconds: float) -> str:
    """Format a duration.

    >>> [duration(seconds) for seconds in (45, 720, 11100)]
    ['45 s', '12 min', '3 h 05 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _conclusion(difference: Difference) -> str:
    """Interpret the interval of the paired difference."""
    if math.isnan(difference.mean):
        return "Difference unknown: a task has no episode with known outcomes before and after."
    if difference.low > 0:
        return "Improved: the 95 % interval of the difference is above zero."
    if difference.high < 0:
        return "Worse: the 95 % interval of the difference is below zero."
    return "Inconclusive: the 95 % interval of the difference contains zero."


def _video(frames: np.ndarray | None, fps: float) -> str | None:
    return None if frames is None else data_url(frames, fps)


def render(report: Report) -> str:
    """Render the page as HTML."""
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
        curves=[(curve, draw_curve(curve)) for curve in report.curves],
        gallery=[(pair, _video(pair.imagined, pair.fps), _video(pair.real, pair.fps)) for pair in report.gallery],
        nothing_real=NOTHING_REAL,
        diagnosis=report.diagnosis,
        diagnosis_bars=[(bars, draw_bars(bars)) for bars in (report.diagnosis.bars if report.diagnosis else ())],
        diagnosis_curves=[
            (curve, draw_curve(curve)) for curve in (report.diagnosis.curves if report.diagnosis else ())
        ],
        has_bands=any(series.low is not None for curve in report.curves for series in curve.series),
        wrong=sum(pair.is_wrong for pair in report.gallery),
        total=sum(report.stages.values()),
    )
    return re.sub(r"\n\s*\n+", "\n", page) + "\n"


def write(path: Path, report: Report) -> None:
    """Write the page atomically.

    Raises:
        InputError: the disk is full.
    """
    write_text(Path(path), render(report).encode(errors="replace").decode())
