"""Coverage and width of 95 % intervals of real success from few real and more imagined episodes, by simulation.

    python benchmarks/coverage.py [RUNS]

Six tasks whose success rates spread around RATE; REAL episodes a task are played and imagined, ALONE are imagined only.
A world is two numbers: the share imagined as success among real successes, and among real failures. Compared are the
interval of `evaluation.prediction_powered`, the same without imagination, PPI++ as published (normal), the percentile
bootstrap over layouts, and betting (Waudby-Smith & Ramdas 2024, arXiv 2010.09686) on whole rounds of the tasks. Below:
how often the test of `evaluation.sequential` replaces a policy. Takes about three minutes for 500 runs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np

from worldgymnast.evaluation.prediction_powered import powered_rate
from worldgymnast.evaluation.sequential import power

TASKS, SPREAD = 6, 1.0
WORLDS = {"near": (0.97, 0.02), "good": (0.85, 0.05), "today": (0.6, 0.05), "blind": (0.4, 0.4), "liar": (0.2, 0.6)}
CASES = [
    (world, rate, real, alone)
    for world in WORLDS
    for rate, real, alone in ((0.5, 4, 40), (0.5, 8, 40), (0.5, 20, 100), (0.95, 8, 40), (0.02, 8, 40))
]
Interval = tuple[float, float]
Layouts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Real [tasks n] and imagined [tasks n] outcomes, and imagined ones of other layouts [tasks N]; floats."""


def draw(rng: np.random.Generator, rates: np.ndarray, world: str, real: int, alone: int) -> Layouts:
    y = rng.random((TASKS, real + alone)) < rates[:, None]
    f = rng.random(y.shape) < np.where(y, *WORLDS[world])
    return y[:, :real].astype(float), f[:, :real].astype(float), f[:, real:].astype(float)


def powered(layouts: Layouts) -> tuple[Interval, Interval]:
    """With imagination, and without."""
    y, f, more = layouts
    names = [[str(t) for t in range(TASKS) for _ in range(one.shape[1])] for one in (y, more)]
    found = powered_rate(y.ravel().tolist(), f.ravel().tolist(), more.ravel().tolist(), *names)
    return (found.powered.low, found.powered.high), (found.plain.low, found.plain.high)


def tuned(y: np.ndarray, f: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PPI++ estimate and its variance; any leading axes."""
    n, extra = y.shape[-1], more.shape[-1]
    both = np.concatenate([f, more], -1)
    covariance = ((y - y.mean(-1, keepdims=True)) * (f - f.mean(-1, keepdims=True))).mean((-2, -1))
    spread = both.var(-1).mean(-1)
    weight = np.clip(covariance / np.maximum(spread, 1e-12) / (1 + n / extra), 0, 1)[..., None, None]
    value = ((y - weight * f).mean(-1) + weight[..., 0] * more.mean(-1)).mean(-1)
    variance = ((y - weight * f).var(-1) / n + weight[..., 0] ** 2 * more.var(-1) / extra).sum(-1) / TASKS**2
    return value, variance


def normal(layouts: Layouts) -> Interval:
    value, variance = tuned(*layouts)
    half = 1.96 * math.sqrt(float(variance))
    return float(value) - half, float(value) + half


def bootstrap(layouts: Layouts, rng: np.random.Generator, resamples: int = 300) -> Interval:
    y, f, more = layouts

    def again(count: int) -> np.ndarray:
        return rng.integers(0, count, (resamples, TASKS, count))

    chosen, other = again(y.shape[1]), again(more.shape[1])
    rows = np.arange(TASKS)[None, :, None]
    low, high = np.quantile(tuned(y[rows, chosen], f[rows, chosen], more[rows, other])[0], [0.025, 0.975])
    return float(low), float(high)


def betting(layouts: Layouts, weight: float = 0.5) -> Interval:
    """Hedged capital over a grid of means; one bet a round, which is an episode of every task."""
    y, f, more = layouts
    each = more.shape[1] // y.shape[1]
    blocks = more[:, : each * y.shape[1]].reshape(TASKS, y.shape[1], each).mean(-1)
    rounds = (y - weight * (f - blocks)).mean(0)
    x, grid = (rounds + weight) / (1 + 2 * weight), np.linspace(0, 1, 201)
    m, count = (grid + weight) / (1 + 2 * weight), len(x)
    means = (0.5 + np.concatenate([[0.0], np.cumsum(x)])) / (1 + np.arange(count + 1))
    variances = (0.25 + np.concatenate([[0.0], np.cumsum((x - means[1:]) ** 2)])) / (1 + np.arange(count + 1))
    up, down = np.zeros(len(grid)), np.zeros(len(grid))
    for i in range(count):
        stake = math.sqrt(2 * math.log(2 / 0.05) / (variances[i] * count))
        up += np.log1p(np.minimum(stake, 0.5 / m) * (x[i] - m))
        down += np.log1p(-np.minimum(stake, 0.5 / (1 - m)) * (x[i] - m))
    kept = grid[np.maximum(up, down) + math.log(0.5) < math.log(1 / 0.05)]
    return (float(kept[0]), float(kept[-1])) if len(kept) else (float("nan"), float("nan"))


def table(runs: int, seed: int = 0) -> list[str]:
    """Markdown lines: coverage and mean width by case and method."""
    rng = np.random.default_rng(seed)
    methods: dict[str, Callable[[Layouts], Interval]] = {
        "PPI++ normal": normal,
        "bootstrap": lambda one: bootstrap(one, rng),
        "betting": betting,
    }
    names = ["prediction-powered", "real alone", *methods]
    lines = [f"| world | real success | real | alone | {' | '.join(names)} |", "|---" * (4 + len(names)) + "|"]
    for world, rate, real, alone in CASES:
        rates = 1 / (1 + np.exp(-(math.log(rate / (1 - rate)) + np.linspace(-SPREAD, SPREAD, TASKS))))
        truth, found = float(rates.mean()), dict[str, list[Interval]]()
        for _ in range(runs):
            layouts = draw(rng, rates, world, real, alone)
            own, plain = powered(layouts)
            for name, interval in (
                {names[0]: own, names[1]: plain} | {n: m(layouts) for n, m in methods.items()}
            ).items():
                found.setdefault(name, []).append(interval)
        cells = [_cell(found[name], truth) for name in names]
        lines.append(f"| {world} | {truth:.0%} | {TASKS * real} | {TASKS * alone} | {' | '.join(cells)} |")
    return lines


def _cell(intervals: list[Interval], truth: float) -> str:
    covered = np.mean([low <= truth <= high for low, high in intervals])
    width = np.mean([min(high, 1) - max(low, 0) for low, high in intervals])
    return f"{100 * covered:.0f} %, {100 * width:.0f}"


def replaced() -> list[str]:
    """Markdown lines: how often a policy replaces the one that is kept, looked at after every pair."""
    lines = ["| pairs | alpha | true 0 | +10 | +20 | +30 |", "|---|---|---|---|---|---|"]
    for pairs in (48, 96, 192):
        for alpha in (0.05, 0.2):
            found = [power((0.4 + gain) / 2, (0.4 - gain) / 2, pairs, alpha) for gain in (0.0, 0.1, 0.2, 0.3)]
            lines.append(f"| {pairs} | {alpha:g} | {' | '.join(f'{one:.0%}' for one in found)} |")
    return lines


if __name__ == "__main__":
    print("\n".join([*table(int(sys.argv[1]) if len(sys.argv) > 1 else 500), "", *replaced()]))
