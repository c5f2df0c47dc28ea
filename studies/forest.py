"""The forest plot of README.md: `python -m studies.forest docs/results/seeds.json docs/pictures/forest.png`.

The file has rows of "name", "seeds" (real success of each training, percent) and "note". A dot is a seed; the bar is
the 95% t interval over seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of the 95% t interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, 0.0
    return mean, float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def draw(source: Path, target: Path) -> None:
    """Draw the rows of `source`, the first on top."""
    rows = json.loads(source.read_text())
    figure, axis = plt.subplots(figsize=(8, 0.62 * len(rows) + 1.1), layout="constrained")
    for y, row in enumerate(reversed(rows)):
        mean, half = interval(row["seeds"])
        spread = np.linspace(-0.13, 0.13, len(row["seeds"])) if len(row["seeds"]) > 1 else [0.0]
        axis.errorbar(mean, y, xerr=half, fmt="s", color="#1f4e79", capsize=4, markersize=7, zorder=2)
        axis.scatter(row["seeds"], y + np.asarray(spread), s=22, color="#e07b39", zorder=3)
        count = len(row["seeds"])
        shown = f"{mean:.0f} ± {half:.0f} %  (n = {count})" if count > 1 else f"{mean:.0f} %"
        axis.text(101, y, shown, va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axis.set(xlim=(0, 100), xlabel="real success over six tasks, %", ylim=(-0.6, len(rows) - 0.4))
    axis.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
