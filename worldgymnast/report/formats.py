"""Numbers as a report shows them."""

from __future__ import annotations

import math
import re

from worldgymnast.evaluation.success import Difference, Estimate, Rate

_PARTS = re.compile(r"\[[^][]*\]|\d %|[-+\d.]+ (?:points|dB)")
"""Parts of a cell that are read as one: an interval, and a number with its unit."""
_UNKNOWN, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def percent(value: float) -> str:
    """Format a share in [0, 1]; a dash for NaN.

    >>> percent(0.347)
    '35 %'
    """
    return _UNKNOWN if math.isnan(value) else f"{100 * value:.0f} %"


def points(value: float) -> str:
    """Format a difference of shares in signed percentage points; a dash for NaN.

    >>> points(0.361), points(-0.001)
    ('+36', '0')
    """
    return _UNKNOWN if math.isnan(value) else f"{round(100 * value):+d}".replace("+0", "0").replace("-", _MINUS)


def interval(shown: Rate | Estimate | Difference) -> str:
    """Format an interval in percent, or in percentage points for a difference; "" if it is unknown."""
    if isinstance(shown, Difference):
        return "" if math.isnan(shown.mean) else f"[{points(shown.low)}, {points(shown.high)}]"
    low, high = shown.interval if isinstance(shown, Rate) else (shown.low, shown.high)
    return "" if math.isnan(shown.value) else f"[{100 * low:.0f}, {100 * high:.0f}]"


def p_value(p: float) -> str:
    """Format a p-value.

    >>> p_value(0.0421), p_value(1e-9)
    ('p = 0.042', 'p < 0.001')
    """
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


def whole(cell: object) -> str:
    """Keep numbers, units and intervals of a cell on one line.

    >>> whole("14 % [6, 29] (5/36)").split(" ")
    ['14\\xa0%', '[6,\\xa029]', '(5/36)']
    """
    return _PARTS.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), str(cell))
