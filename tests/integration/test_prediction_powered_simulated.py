"""What prediction-powered intervals promise, over many simulated evaluations."""

import math

import numpy as np
import pytest
from simulated_outcomes import TASKS, layouts, names, simulate

from worldgymnast.evaluation.prediction_powered import powered_difference


@pytest.mark.parametrize(
    ("world", "rate", "spread", "n", "more"),
    [
        ("today", 0.5, 1.0, 8, 40),
        ("near", 0.9, 1.0, 8, 40),
        ("good", 0.01, 0.0, 4, 40),
        ("today", 0.98, 0.0, 8, 0),
        ("blind", 0.3, 1.0, 8, 40),
        ("liar", 0.5, 1.0, 8, 40),
    ],
)
def test_intervals_cover_the_truth(world: str, rate: float, spread: float, n: int, more: int) -> None:
    """Whatever the world says; `benchmarks/coverage.py` prints the whole table."""
    rng, runs = np.random.default_rng(0), 150
    logits = math.log(rate / (1 - rate)) + np.linspace(-spread, spread, TASKS)
    rates = 1 / (1 + np.exp(-logits))
    found = [simulate(rng, rates, world, n, more) for _ in range(runs)]
    truth = rates.mean()
    for each in ([f.powered for f in found], [f.plain for f in found]):
        covered = np.mean([e.low <= truth <= e.high for e in each])
        assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)
    values = np.array([f.powered.value for f in found])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(runs) + 1e-3  # unbiased however wrong the world
    width = [np.mean([e.high - e.low for e in each]) for each in ([f.powered for f in found], [f.plain for f in found])]
    if world in ("near", "good", "today") and more > n and 0.05 < rate < 0.95:
        assert width[0] < 0.95 * width[1]
    if world in ("blind", "liar"):
        assert width[0] < 1.03 * width[1]  # a lie costs nearly nothing


@pytest.mark.parametrize(("world", "old", "new"), [("today", 0.4, 0.6), ("near", 0.05, 0.05), ("liar", 0.3, 0.5)])
def test_intervals_of_differences_cover_the_truth(world: str, old: float, new: float) -> None:
    rng, runs, n, more = np.random.default_rng(1), 150, 8, 40
    covered = 0
    for _ in range(runs):
        before, after = (
            [layouts(rng, np.full(TASKS, rate), world, count) for count in (n, more)] for rate in (old, new)
        )
        found = powered_difference(
            (before[0][0].tolist(), after[0][0].tolist()),
            (before[0][1].tolist(), after[0][1].tolist()),
            (before[1][1].tolist(), after[1][1].tolist()),
            names(n),
            names(more),
        )
        covered += found.powered.low <= new - old <= found.powered.high
    assert covered / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)
