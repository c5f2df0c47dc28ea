"""The report's charts: matplotlib draws, and the colours and fonts stay the page's own.

Every colour is drawn as a stand-in and replaced by a CSS variable, so that one SVG serves the light and the dark page;
text stays text. What is left out: anything interactive.
"""

from __future__ import annotations

import contextlib
import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.evaluation.success import SuccessTable

# Stand-ins: colours that nothing else uses, and the variable of the page that each becomes.
_INK, _FAINT, _RULE, _PAPER = "#010203", "#010204", "#010205", "#010206"
_SERIES = ("#010211", "#010212", "#010213", "#010214")
_VARIABLES = {_INK: "ink", _FAINT: "faint", _RULE: "rule", _PAPER: "paper"} | {
    color: f"series-{index}" for index, color in enumerate(_SERIES)
}
_LONGEST = 60
"""Characters of a name in a chart."""
SERIES_COLORS = len(_SERIES)
_BEFORE, _AFTER = _SERIES[1], _SERIES[0]
PRINTED = {
    "paper": "#fcfcfa", "ink": "#1c1e21", "faint": "#64686e", "rule": "#dcdcd6",
    "series-0": "#0b6e80", "series-1": "#8b8f96", "series-2": "#b4701a", "series-3": "#7a4fa3",
}  # fmt: skip
"""The page's colours by day, for a picture outside the page."""


@dataclass(frozen=True)
class Series:
    """One line of a curve.

    Attributes:
        name: a word or two, for the legend.
        steps: n positions.
        values: n numbers; NaN leaves a gap.
        low: n lower ends of an interval, or None.
        high: n upper ends.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Curve:
    """One small chart.

    Attributes:
        title: what is shown.
        series: one to four lines.
        x: what the steps count.
        percent: values are shares in [0, 1], shown as percent on a full axis.
    """

    title: str
    series: Sequence[Series]
    x: str = "step"
    percent: bool = False


@dataclass(frozen=True)
class Bars:
    """Counts that are parted, a bar a row.

    Attributes:
        title: what is shown.
        parts: one to four names, for the legend.
        rows: by name, a count for each part.
        x: what is counted.
    """

    title: str
    parts: Sequence[str]
    rows: Mapping[str, Sequence[int]]
    x: str


_LARGEST = 1e100
"""Of numbers that are drawn: the ticks of an axis lie further apart than its numbers."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _FAINT,
    "axes.labelsize": 11,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.75,
    "xtick.color": _RULE,
    "xtick.labelcolor": _FAINT,
    "xtick.labelsize": 11,
    "ytick.color": _RULE,
    "ytick.labelcolor": _FAINT,
    "ytick.labelsize": 11,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def printed() -> Any:
    """The same style in `PRINTED` colours."""
    return {key: PRINTED.get(_VARIABLES.get(str(value), ""), value) for key, value in _STYLE.items()}


def _svg(figure: Any, name: str) -> str:
    """The figure as an SVG element that takes its colours and its font from the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*(?:; )?", "", text)
    text = re.sub(r"font: (?:\w+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", text)  # how older versions write it
    width, height = (float(x) for x in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
    head = (
        f'<svg class="chart" role="img" aria-label="{html.escape(name)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width:g}px" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    return text.strip()


def _drawn(name: str) -> str:
    """A name as it can be drawn: one line of printable characters, not longer than a chart is wide.

    >>> _drawn("open\\nthe\\x00 drawer")
    'open the drawer'
    """
    text = " ".join("".join(c if c.isprintable() or c.isspace() else "" for c in name).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


@contextlib.contextmanager
def _without_glyphs() -> Iterator[None]:
    """Matplotlib measures text in its own font, which lacks some; the page's font draws it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _figure(width: float, height: float) -> Any:
    """A figure of CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def _interval(axes: Any, y: float, value: float, low: float, high: float, color: str, hollow: bool) -> None:
    if math.isnan(value):
        return
    axes.plot([100 * low, 100 * high], [y, y], color=color, linewidth=2, zorder=2)
    axes.plot(
        [100 * value],
        [y],
        "o",
        markersize=8,
        markerfacecolor=_PAPER if hollow else color,
        markeredgecolor=color,
        markeredgewidth=2,
        zorder=3,
    )


def dot_plot(table: SuccessTable, width: int) -> str:
    """Success before (hollow) and after (filled) with 95 % intervals: a row a task, and the mean below a rule.

    Args:
        table: what is shown.
        width: in CSS pixels.
    """
    import matplotlib

    rows: list[tuple[str, tuple[float, float, float], tuple[float, float, float]]] = [
        (_drawn(r.task), (r.before.value, *r.before.interval), (r.after.value, *r.after.interval)) for r in table.rows
    ]
    mean = table.before, table.after
    rows.append(("mean", *((e.value, e.low, e.high) for e in mean)))  # type: ignore[arg-type]
    height = 44 * len(rows) + 48
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": f"dots{width}"}), _without_glyphs():
        figure = _figure(width, height)
        longest = max(len(name) for name, *_ in rows)
        left = min(0.4, (20 + 7 * longest) / width)
        axes = figure.add_axes((left, 40 / height, 0.97 - left, 1 - 44 / height))
        for index, (_, before, after) in enumerate(rows):
            _interval(axes, index - 0.16, *before, _BEFORE, True)
            _interval(axes, index + 0.16, *after, _AFTER, False)
        axes.axhline(len(rows) - 1.5, color=_RULE, linewidth=1)
        axes.set(xlim=(-2, 102), ylim=(len(rows) - 0.5, -0.5), xlabel="real success, %")
        axes.set_xticks(range(0, 101, 20 if width < 500 else 10))
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows], ha="left")
        axes.tick_params(axis="y", labelcolor=_INK, labelsize=13, pad=left * width)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return _svg(figure, "Success before and after, by task")


def _drawable(values: Sequence[float]) -> Any:
    """The values, NaN in the place of those that no axis can hold."""
    numbers = np.asarray(values, dtype=float)
    return np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan)


def _draw_series(axes: Any, series: Series, color: str, scale: float) -> None:
    x, y = np.asarray(series.steps, dtype=float), scale * _drawable(series.values)
    if series.low is not None and series.high is not None:
        low, high = scale * _drawable(series.low), scale * _drawable(series.high)
        axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
    known = ~np.isnan(y)
    few = int(known.sum()) <= 12
    axes.plot(x[known], y[known], color=color, marker="o" if few else "", markersize=4)


def curve(shown: Curve, width: int = 290, height: int = 190) -> str:
    """A small chart of one to four series; the legend is the page's.

    Raises:
        ValueError: more than four series.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    if len(shown.series) > SERIES_COLORS:
        raise ValueError(f"curve '{shown.title}': found {len(shown.series)} series, expected at most {SERIES_COLORS}")
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": _drawn(shown.title)}), _without_glyphs():
        figure = _figure(width, height)
        axes = figure.add_axes((42 / width, 38 / height, 1 - 54 / width, 1 - 46 / height))
        for series, color in zip(shown.series, _SERIES, strict=False):
            _draw_series(axes, series, color, 100 if shown.percent else 1)
        if shown.percent:
            axes.set_ylim(-2, 102)
            axes.set_yticks(range(0, 101, 25))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel(_drawn(shown.x))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        return _svg(figure, _drawn(shown.title))


def bars(shown: Bars, width: int = 290) -> str:
    """Bars of one to four parts under one another; the legend is the page's.

    Raises:
        ValueError: more than four parts.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    if len(shown.parts) > SERIES_COLORS:
        raise ValueError(f"bars '{shown.title}': found {len(shown.parts)} parts, expected at most {SERIES_COLORS}")
    height = 26 * max(1, len(shown.rows)) + 48
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": _drawn(shown.title)}), _without_glyphs():
        figure = _figure(width, height)
        names = [_drawn(name) for name in shown.rows]
        left = min(0.5, (14 + 6.5 * max(map(len, names), default=0)) / width)
        axes = figure.add_axes((left, 38 / height, 0.96 - left, 1 - 44 / height))
        counts = np.array([list(row) for row in shown.rows.values()], float).reshape(len(names), len(shown.parts))
        begun = np.cumsum(counts, 1) - counts
        for part, color in zip(range(len(shown.parts)), _SERIES, strict=False):
            axes.barh(range(len(names)), counts[:, part], 0.62, begun[:, part], color=color)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=_drawn(shown.x))
        axes.set_yticks(range(len(names)), names, ha="left")
        axes.tick_params(axis="y", labelcolor=_INK, pad=left * width - 4)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return _svg(figure, _drawn(shown.title))
