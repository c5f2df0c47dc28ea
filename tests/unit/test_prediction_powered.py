"""Prediction-powered estimates: against ppi_py, their coverage by simulation, and what the exchange rate says."""

import json
import math

import numpy as np
import pytest
from record_ppi_vectors import FILE, outcomes

from worldgymnast.evaluation.prediction_powered import Powered, powered_difference, powered_rate

TASKS = 6
WORLDS = {"near": (0.97, 0.02), "good": (0.85, 0.05), "today": (0.6, 0.05), "blind": (0.4, 0.4), "liar": (0.2, 0.6)}
"""Share that is imagined as success among real successes, and among real failures."""


@pytest.mark.parametrize("row", json.loads(FILE.read_text())["rows"], ids=lambda r: f"{r['case']} {r['n']} {r['more']}")
def test_large_samples_agree_with_ppi_py(row: dict) -> None:
    new, old = ([x.tolist() for x in outcomes(row["case"], row["n"], row["more"], seed)] for seed in (1, 2))
    rate = powered_rate(*new).powered
    change = powered_difference(*zip(old, new, strict=True)).powered  # pyright: ignore[reportArgumentType]
    near = 1.5 / row["n"]
    for found, expected in ((rate, row["rate"]), (change, row["difference"])):
        assert found.value == pytest.approx(expected[0], abs=near / 2)
        assert (found.low, found.high) == pytest.approx(expected[1:], abs=near)


def layouts(rng: np.random.Generator, rates: np.ndarray, world: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imagined outcomes of `count` layouts a task, bool [tasks * count]."""
    real = rng.random((len(rates), count)) < rates[:, None]
    imagined = rng.random(real.shape) < np.where(real, *WORLDS[world])
    return real.ravel(), imagined.ravel()


def names(count: int) -> list[str]:
    return [str(task) for task in range(TASKS) for _ in range(count)]


def simulate(rng: np.random.Generator, rates: np.ndarray, world: str, n: int, more: int) -> Powered:
    (real, imagined), (_, unplayed) = layouts(rng, rates, world, n), layouts(rng, rates, world, more)
    return powered_rate(real.tolist(), imagined.tolist(), unplayed.tolist(), names(n), names(more))


@pytest.mark.parametrize(
    ("world", "rate", "spread", "n", "more"),
    [
        ("today", 0.5, 1.0, 8, 40),
        ("good", 0.5, 0.0, 8, 8),
        ("near", 0.9, 1.0, 8, 40),
        ("near", 0.05, 0.0, 8, 40),
        ("good", 0.01, 0.0, 4, 40),
        ("today", 0.98, 0.0, 8, 0),
        ("blind", 0.3, 1.0, 8, 40),
        ("liar", 0.5, 1.0, 8, 40),
        ("liar", 0.95, 0.0, 20, 40),
    ],
)
def test_intervals_cover_the_truth(world: str, rate: float, spread: float, n: int, more: int) -> None:
    """Whatever the world says; `benchmarks/coverage.py` prints the whole table."""
    rng, runs = np.random.default_rng(0), 300
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
    rng, runs, n, more = np.random.default_rng(1), 300, 8, 40
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


def test_the_exchange_rate_is_that_of_the_theory() -> None:
    """Variance falls by the factor 1 - rho^2 / (1 + n/N)."""
    rng = np.random.default_rng(2)
    real, imagined = layouts(rng, np.full(1, 0.5), "good", 2000)
    _, unplayed = layouts(rng, np.full(1, 0.5), "good", 6000)
    found = powered_rate(real.tolist(), imagined.tolist(), unplayed.tolist())
    factor = 1 - found.correlation.value**2 / (1 + 2000 / 6000)
    assert found.gained == pytest.approx(2000 * (1 / factor - 1), rel=0.03)
    assert found.exchange == found.gained / 8000
    assert found.limit > found.gained
    assert f"one imagined episode is worth {found.exchange:.2g} real ones: 2000 real ones count as" in str(found)


@pytest.mark.parametrize("world", ["blind", "liar"])
def test_a_world_that_does_not_know_is_said_to_be_worth_nothing(world: str) -> None:
    found = simulate(np.random.default_rng(3), np.full(TASKS, 0.5), world, 16, 50)
    assert not found.is_useful
    assert found.exchange == found.limit == 0
    assert "worth nothing here (correlation" in found.worth


def test_without_further_layouts_the_real_episodes_stand_alone() -> None:
    found = simulate(np.random.default_rng(4), np.full(TASKS, 0.5), "good", 10, 0)
    assert found.powered == found.plain
    assert found.weight == 0
    assert math.isnan(found.exchange)
    assert "nothing was imagined alone" in found.worth


def test_outcomes_that_all_agree_claim_no_certainty() -> None:
    found = powered_rate([True] * 48, [True] * 48, [True] * 300)
    assert found.powered.value == found.powered.high == 1
    assert 0.85 < found.powered.low < 0.96
    assert "all alike" in found.worth
    few = powered_rate([True], [True], [True, False])
    assert (few.powered.low, few.powered.high) == (0, 1)


def test_unknown_outcomes() -> None:
    real, imagined = [True, False, None, True, False, True], [True, None, True, True, False, False]
    found = powered_rate(real, imagined, [None, True])
    assert (found.real, found.unplayed, found.errors) == (5, 2, 1)
    known = powered_rate([x for x in real if x is not None], [True, False, True, False, False], [False, True])
    assert found.powered == known.powered  # a failed judgement counts as no success
    missing = powered_rate([True, None], [True, True], [True], ["a", "b"], ["a"])
    assert math.isnan(missing.powered.value)
    assert str(missing.powered) == "unknown"
    with pytest.raises(ValueError, match="found 2 real and 1 imagined"):
        powered_rate([True, False], [True], [])
    with pytest.raises(ValueError, match="common layouts"):
        powered_difference(([True], [True, False]), ([True], [True]), ([], []))


def test_tasks_weigh_the_same() -> None:
    real = [True] * 30 + [False] * 10
    found = powered_rate(real, real, [], ["a"] * 30 + ["b"] * 10)
    assert found.plain.value == pytest.approx(0.5)
