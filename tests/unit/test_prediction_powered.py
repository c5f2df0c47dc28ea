"""Prediction-powered estimates: against ppi_py, and what the exchange rate says."""

import json
import math

import numpy as np
import pytest
from record_ppi_vectors import FILE, outcomes
from simulated_outcomes import TASKS, layouts, simulate

from worldgymnast.evaluation.prediction_powered import powered_difference, powered_rate


@pytest.mark.parametrize("row", json.loads(FILE.read_text())["rows"], ids=lambda r: f"{r['case']} {r['n']} {r['more']}")
def test_large_samples_agree_with_ppi_py(row: dict) -> None:
    new, old = ([x.tolist() for x in outcomes(row["case"], row["n"], row["more"], seed)] for seed in (1, 2))
    rate = powered_rate(*new).powered
    change = powered_difference(*zip(old, new, strict=True)).powered  # pyright: ignore[reportArgumentType]
    near = 1.5 / row["n"]
    for found, expected in ((rate, row["rate"]), (change, row["difference"])):
        assert found.value == pytest.approx(expected[0], abs=near / 2)
        assert (found.low, found.high) == pytest.approx(expected[1:], abs=near)


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
    assert "no additional episodes were imagined" in found.worth


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
    with pytest.raises(ValueError, match="got 2 real and 1 imagined"):
        powered_rate([True, False], [True], [])
    with pytest.raises(ValueError, match="common layouts"):
        powered_difference(([True], [True, False]), ([True], [True]), ([], []))


def test_tasks_weigh_the_same() -> None:
    real = [True] * 30 + [False] * 10
    found = powered_rate(real, real, [], ["a"] * 30 + ["b"] * 10)
    assert found.plain.value == pytest.approx(0.5)
