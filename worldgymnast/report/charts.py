"""Charts of the report: static SVG, light and dark.

The page shows the version for the reader's color scheme. Text stays text, so the reader's fonts draw every script.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldgymnast.evaluation.success import SuccessTable

Colors = Mapping[str, str]
LIGHT: Colors = {
    "paper": "#fcfcfa",
    "ink": "#1c1e21",
    "faint": "#64686e",
    "rule": "#dcdcd6",
    "series-0": "#0b6e80",
    "series-1": "#8b8f96",
    "series-2": "#b4701a",
    "series-3": "#7a4fa3",
}
"""Colors of the light version, and of pictures outside the page."""
DARK: Colors = {
    "paper": "#15171a",
    "ink": "#e6e6e3",
    "faint": "#9a9ea5",
    "rule": "#34383e",
    "series-0": "#4fb6c8",
    "series-1": "#868b93",
    "series-2": "#dba24c",
    "series-3": "#b695d8",
}
_SERIES = ("series-0", "series-1", "series-2", "series-3")
MAX_SERIES = len(_SERIES)
_BEFORE, _AFTER = "series-1", "series-0"
_MAX_NAME = 60
"""Characters of a name in a chart."""
_MAX_VALUE = 1e100
"""Largest drawn number; the ticks of an axis extend beyond its numbers."""


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: name in the legend, one or two words.
        steps: n positions.
        values: n numbers; NaN leaves a gap.
        low: n lower interval ends, or None.
        high: n upper interval ends, or None.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Curve:
    """One small line chart.

    Attributes:
        title: title.
        series: one to four lines.
        x: label of the x axis.
        percent: values are in [0, 1], and shown as percent on an axis from 0 to 100.
    """

    title: str
    series: Sequence[Series]
    x: str = "step"
    percent: bool = False


@dataclass(frozen=True)
class Bars:
    """A chart of stacked bars.

    Attributes:
        title: title.
        parts: one to four names, for the legend.
        rows: by name of the bar, a count per part.
        x: label of the x axis.
    """

    title: str
    parts: Sequence[str]
    rows: Mapping[str, Sequence[int]]
    x: str


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        name: title.
        width: in CSS pixels.
        height: in CSS pixels.
        light: SVG for a light page.
        dark: SVG for a dark page.
        summary: what the chart shows, for readers who do not see it.
    """

    name: str
    width: int
    height: int
    light: str
    dark: str
    summary: str = ""

    @property
    def text(self) -> str:
        """Alternative text."""
        return f"{self.name}: {self.summary}" if self.summary else self.name

    @property
    def urls(self) -> tuple[str, str]:
        """`data:` URLs of the light and the dark version."""
        light, dark = (base64.b64encode(svg.encode()).decode() for svg in (self.light, self.dark))
        return f"data:image/svg+xml;base64,{light}", f"data:image/svg+xml;base64,{dark}"


# ---------------------------------------------------------------- style and figures


def style(colors: Colors = LIGHT) -> Any:
    """Return matplotlib's settings for a chart in these colors."""
    ink, faint, rule, paper = (colors[name] for name in ("ink", "faint", "rule", "paper"))
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": ["sans-serif"],
        "font.sans-serif": ["Segoe UI", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans", "sans-serif"],
        "font.size": 12,
        "text.color": ink,
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "axes.axisbelow": True,
        "axes.edgecolor": rule,
        "axes.labelcolor": faint,
        "axes.labelsize": 11,
        "axes.linewidth": 1,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 12,
        "grid.color": rule,
        "grid.linewidth": 0.75,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "xtick.color": rule,
        "xtick.labelcolor": faint,
        "xtick.labelsize": 11,
        "ytick.color": rule,
        "ytick.labelcolor": faint,
        "ytick.labelsize": 11,
        "ytick.major.size": 0,
        "xtick.major.size": 3,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
    }


def picture(width: float, height: float, legend: str, draw: Callable[[Any], None]) -> bytes:
    """Draw a figure with a caption, as PNG.

    Args:
        width: in inches.
        height: in inches.
        legend: caption below the figure.
        draw: draws into the figure.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(width, height), dpi=160)
        figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.16)
        figure.supxlabel(legend, x=0.02, ha="left", fontsize=9.5, color=LIGHT["faint"])
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _chart(name: str, width: int, height: int, draw: Callable[[Any, Colors], None]) -> Chart:
    """Draw a chart in both versions; sizes in CSS pixels."""
    import matplotlib
    from matplotlib.figure import Figure

    versions = []
    for colors in (LIGHT, DARK):
        with matplotlib.rc_context(style(colors) | {"svg.hashsalt": name}), warnings.catch_warnings():
            # Text is measured in a local font, which may lack glyphs; the reader's fonts draw it.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure = Figure(figsize=(width / 72, height / 72), dpi=72)
            draw(figure, colors)
            svg = io.StringIO()
            figure.savefig(svg, format="svg", transparent=True, metadata={"Title": name, "Date": None, "Creator": None})
            versions.append(svg.getvalue())
    return Chart(name, width, height, *versions)


def _label(name: str, max_length: int = _MAX_NAME) -> str:
    """Reduce a name to one short line of printable characters.

    >>> _label("open\\nthe\\x00 drawer")
    'open the drawer'
    """
    text = " ".join("".join(c if c.isprintable() or c.isspace() else "" for c in name).split())
    return text if len(text) <= max_length else f"{text[: max_length - 1]}\N{HORIZONTAL ELLIPSIS}"


# ---------------------------------------------------------------- charts


def dot_plot(table: SuccessTable, width: int) -> Chart:
    """Draw success before (hollow) and after (filled), per task.

    Args:
        table: success by task.
        width: in CSS pixels.
    """
    names = [_label(row.task, max(12, int(0.4 * width - 20) // 7)) for row in table.rows]
    rates = [[(rate.value, *rate.interval) for rate in (row.before, row.after)] for row in table.rows]
    means = [(mean.value, mean.low, mean.high) for mean in (table.before, table.after)]
    draw = functools.partial(_draw_dots, names=[*names, "mean"], rates=[*rates, means], width=width)
    return _chart("Success before and after, by task", width, 44 * len(names) + 92, draw)


def _draw_dots(
    figure: Any, colors: Colors, names: Sequence[str], rates: Sequence[Sequence[tuple[float, ...]]], width: int
) -> None:
    height = 44 * len(names) + 48
    left = min(0.4, (20 + 7 * max(map(len, names))) / width)
    axes = figure.add_axes((left, 40 / height, 0.97 - left, 1 - 44 / height))
    for index, (before, after) in enumerate(rates):
        _draw_interval(axes, index - 0.16, before, colors[_BEFORE], colors["paper"])
        _draw_interval(axes, index + 0.16, after, colors[_AFTER], colors[_AFTER])
    axes.axhline(len(names) - 1.5, color=colors["rule"], linewidth=1)
    axes.set(xlim=(-2, 102), ylim=(len(names) - 0.5, -0.5), xlabel="real success, %")
    axes.set_xticks(range(0, 101, 20 if width < 500 else 10))
    axes.set_yticks(range(len(names)), names, ha="left")
    axes.tick_params(axis="y", labelcolor=colors["ink"], labelsize=13, pad=left * width)
    axes.grid(axis="x")


def _draw_interval(axes: Any, y: float, rate: tuple[float, ...], color: str, fill: str) -> None:
    value, low, high = (100 * number for number in rate)
    if math.isnan(value):
        return
    axes.plot([low, high], [y, y], color=color, linewidth=2, zorder=2)
    axes.plot([value], [y], "o", markersize=8, markerfacecolor=fill, markeredgecolor=color, markeredgewidth=2, zorder=3)


def draw_curve(curve: Curve, width: int = 290, height: int = 190) -> Chart:
    """Draw a small line chart; the page has the legend.

    Raises:
        ValueError: more than four series.
    """
    if len(curve.series) > MAX_SERIES:
        raise ValueError(f"curve '{curve.title}': found {len(curve.series)} series, expected at most {MAX_SERIES}")
    chart = _chart(_label(curve.title), width, height, functools.partial(_draw_curve, curve=curve))
    return replace(chart, summary="; ".join(filter(None, (_ends(series, curve) for series in curve.series))))


def _ends(series: Series, curve: Curve) -> str:
    """Describe the first and the last known value of a line."""
    known = [(x, y) for x, y in zip(series.steps, series.values, strict=True) if math.isfinite(y)]
    if not known:
        return ""
    (first, low), (last, high) = known[0], known[-1]
    start, end = (f"{100 * y:.0f} %" if curve.percent else f"{y:.3g}" for y in (low, high))
    name = f"{_label(series.name)} " if len(curve.series) > 1 else ""
    ends = f"{name}{start} at {_label(curve.x)} {first:g}"
    return ends if len(known) == 1 else f"{ends}, {end} at {last:g}"


def _draw_curve(figure: Any, colors: Colors, curve: Curve) -> None:
    from matplotlib.ticker import MaxNLocator

    width, height = 72 * figure.get_size_inches()
    axes = figure.add_axes((42 / width, 38 / height, 1 - 62 / width, 1 - 56 / height))
    for series, color in zip(curve.series, _SERIES, strict=False):
        _draw_series(axes, series, colors[color], 100 if curve.percent else 1)
    if curve.percent:
        axes.set_ylim(-2, 102)
        axes.set_yticks(range(0, 101, 25))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel(_label(curve.x))
    axes.grid(axis="y")


def _draw_series(axes: Any, series: Series, color: str, scale: float) -> None:
    x, y = np.asarray(series.steps, dtype=float), scale * _drawable(series.values)
    if series.low is not None and series.high is not None:
        low, high = scale * _drawable(series.low), scale * _drawable(series.high)
        axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
    is_known = ~np.isnan(y)
    marker = "o" if int(is_known.sum()) <= 12 else ""
    axes.plot(x[is_known], y[is_known], color=color, marker=marker, markersize=4)


def _drawable(values: Sequence[float]) -> Any:
    """Replace numbers that are too large for an axis by NaN."""
    numbers = np.asarray(values, dtype=float)
    return np.where(np.abs(numbers) <= _MAX_VALUE, numbers, np.nan)


def draw_bars(bars: Bars, width: int = 290) -> Chart:
    """Draw stacked bars; the page has the legend.

    Raises:
        ValueError: more than four parts.
    """
    if len(bars.parts) > MAX_SERIES:
        raise ValueError(f"bars '{bars.title}': found {len(bars.parts)} parts, expected at most {MAX_SERIES}")
    height = 26 * max(1, len(bars.rows)) + 48
    return _chart(_label(bars.title), width, height, functools.partial(_draw_bars, bars=bars))


def _draw_bars(figure: Any, colors: Colors, bars: Bars) -> None:
    from matplotlib.ticker import MaxNLocator

    width, height = 72 * figure.get_size_inches()
    names = [_label(name, int((0.5 * width - 14) / 6.5)) for name in bars.rows]
    left = min(0.5, (14 + 6.5 * max(map(len, names), default=0)) / width)
    axes = figure.add_axes((left, 38 / height, 0.96 - left, 1 - 44 / height))
    counts = np.array([list(row) for row in bars.rows.values()], float).reshape(len(names), len(bars.parts))
    left_ends = np.cumsum(counts, 1) - counts
    for part, color in zip(range(len(bars.parts)), _SERIES, strict=False):
        axes.barh(range(len(names)), counts[:, part], 0.62, left_ends[:, part], color=colors[color])
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=_label(bars.x))
    axes.set_yticks(range(len(names)), names, ha="left")
    axes.tick_params(axis="y", labelcolor=colors["ink"], pad=left * width - 4)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="x")
