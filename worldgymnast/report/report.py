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

from worldgymnast.evaluation.success import Difference, Rate, SuccessTable
from worldgymnast.report.answers import answers
from worldgymnast.report.by_task import TaskHistory, TaskScore
from worldgymnast.report.charts import DARK, LIGHT, Curve, Series, dot_plot, draw_bars, draw_curve
from worldgymnast.report.diagnosis import DiagnosisView
from worldgymnast.report.formats import duration, interval, p_value, percent, points, whole
from worldgymnast.report.world import Sheet, gate_sheets
from worldgymnast.video import data_url
from worldgymnast.weights import write_text

__all__ = ["Curve", "GapRow", "Pair", "Report", "Series", "TaskHistory", "TaskScore", "render", "write"]


@dataclass(frozen=True)
class GapRow:
    """Imagined and real success at one scoring, and their gap.

    Attributes:
        when: step of a training, or the evaluation.
        imagined: success in the world model.
        real: success in the real environment.
        gap: imagined minus real.
        is_training: whether it is a scoring during a training; evaluations are on other starts.
    """

    when: str
    imagined: Rate
    real: Rate
    gap: Difference
    is_training: bool = True


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
        agreement: the same over all episodes, as by `diagnosis.plain_loops`; empty if there are none.
        rates: real success of the only policy, if there is no second one to compare it with.
        is_unfinished: whether a comparison was interrupted after its first policy.
        powered: real success, narrowed by imagined episodes.
        tasks: imagined and real success per task during the training of the first seed.
        curves: small charts of trainings.
        fidelity: small charts of the world model.
        gallery: imagined and real videos.
        budget: number of real episodes by kind.
        stages: seconds spent in each stage.
        warnings: sentences on reward hacking.
        costs: sentences on paid judges.
        notes: other sentences.
        seeds: paired difference of each policy after, by name.
        gate: rates of the gate before RL (see `measure.gate`), and "fidelity".
        diagnosis: causes of wrong verdicts on imagined rollouts.
        offline: what is known of a training without a real environment, by section (see `answers.TITLES`).
        offline_notes: sentences about it.
        offline_doubts: reasons not to trust its world model.
    """

    title: str
    command: str
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    versions: Mapping[str, str] = field(default_factory=dict)
    table: SuccessTable | None = None
    gap: Sequence[GapRow] = ()
    loops: Sequence[Sheet] = ()
    agreement: Mapping[str, Any] = field(default_factory=dict)
    rates: Sheet | None = None
    is_unfinished: bool = False
    powered: Sheet | None = None
    tasks: Sequence[TaskHistory] = ()
    curves: Sequence[Curve] = ()
    fidelity: Sequence[Curve] = ()
    gallery: Sequence[Pair] = ()
    budget: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    costs: Sequence[str] = ()
    notes: Sequence[str] = ()
    seeds: Mapping[str, Difference] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    diagnosis: DiagnosisView | None = None
    offline: Mapping[str, Sheet] = field(default_factory=dict)
    offline_notes: Sequence[str] = ()
    offline_doubts: Sequence[str] = ()


def _sort_key(value: float) -> str:
    """Format a number that a column is sorted by; "" for NaN."""
    return "" if math.isnan(value) else f"{value:.6g}"


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
        percent=percent, points=points, interval=interval, p=p_value, duration=duration, number=_sort_key, whole=whole
    )
    page = environment.get_template("report.html").render(
        report=report,
        light=LIGHT,
        dark=DARK,
        table=report.table,
        dots=[dot_plot(report.table, width) for width in (860, 360)] if report.table else [],
        curves=[(curve, draw_curve(curve)) for curve in report.curves],
        gallery=[(pair, _video(pair.imagined, pair.fps), _video(pair.real, pair.fps)) for pair in report.gallery],
        answers=answers(report),
        trust_sheets=[*gate_sheets(report.gate), *report.loops],
        trust_curves=[(curve, draw_curve(curve)) for curve in report.fidelity],
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
