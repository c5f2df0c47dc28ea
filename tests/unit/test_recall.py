"""Where a wrong verdict comes from: the split of recall, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from worldgymnast.evaluation.recall import (
    corrected_rate,
    find_fault,
    operating_point,
    recall,
    split_faults,
    threshold_verdicts,
)
from worldgymnast.evaluation.success import Rate

# ---------------------------------------------------------------- the parts


def test_where_a_wrong_verdict_comes_from() -> None:
    seen = ("real", "round_trip", "imagined")
    by_hand = {
        (True, True, True): "",
        (False, False, True): "",
        (False, True, False): "judge",
        (True, False, False): "round_trip",
        (True, True, False): "dynamics",
        (None, True, False): None,
        (True, None, False): None,
        (True, True, None): None,
    }
    for verdicts, cause in by_hand.items():
        assert find_fault(dict(zip(seen, verdicts, strict=True)), True) == cause
    assert find_fault({"real": True, "imagined": False}, True) == "world"
    assert find_fault({"real": False, "round_trip": False, "imagined": True}, False) == "dynamics"


def test_the_parts_of_a_split_add_up() -> None:
    rng = np.random.default_rng(0)
    said = {name: rng.choice([True, False, None], 200).tolist() for name in ("real", "round_trip", "imagined")}
    truth = (rng.random(200) < 0.5).tolist()
    for kind in (True, False):
        found = split_faults(said, truth, kind)
        assert found.round_trip is not None
        assert found.dynamics is not None
        assert found.wrong.successes == found.judge.successes + found.world.successes > 10
        assert found.world.successes == found.round_trip.successes + found.dynamics.successes
        assert found.wrong.count + found.wrong.errors == truth.count(kind)
        assert found.wrong.errors > 0
        assert found.mended.successes > 5
    assert split_faults({k: v for k, v in said.items() if k != "round_trip"}, truth).round_trip is None


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_an_operating_point_is_the_best_of_all_thresholds(share: float) -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(120) < 0.4
    belief = np.round(np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1), 2)  # with ties
    found = operating_point(belief, truth, "safe", share)
    refused = {t: np.mean(belief[~truth] < t) for t in np.linspace(0, 1.01, 1000)}
    best = max(np.mean(belief[truth] >= t) for t, kept in refused.items() if kept >= share)
    assert found.known.value == pytest.approx(best)
    assert found.refused.value >= share
    assert np.mean(belief[truth] >= found.threshold.value) == pytest.approx(best)
    assert found.known.low < best < found.known.high
    balanced = operating_point(belief, truth, "balanced")
    most = max(np.mean(belief[truth] >= t) + kept for t, kept in refused.items())
    assert balanced.known.value + balanced.refused.value == pytest.approx(most)


def test_recall_where_a_class_or_all_verdicts_are_missing() -> None:
    nothing = recall(np.array([0.2, 0.9]), [False, True], np.array([False, False]))
    assert np.isnan([nothing.auroc.value, nothing.strict.known.value]).all()
    assert nothing.refused == Rate(1, 2)
    assert nothing.brier.value == pytest.approx((0.04 + 0.81) / 2)
    silent = recall(np.full(3, np.nan), [None] * 3, np.array([True, False, True]))
    assert silent.known == Rate(0, 0, 2)
    assert np.isnan([silent.brier.value, silent.base_brier]).all()
    assert threshold_verdicts(np.array([0.5, np.nan]), 0.5) == [True, None]
    assert threshold_verdicts(np.array([0.5]), float("nan")) == [None]


@pytest.mark.parametrize(
    ("true", "known", "refused", "rollouts", "labelled"),
    [(0.3, 0.9, 0.9, 32, 32), (0.5, 0.6, 0.95, 96, 60), (0.05, 0.8, 0.97, 32, 32)],
)
def test_a_corrected_rate_is_unbiased_and_its_interval_holds(
    true: float, known: float, refused: float, rollouts: int, labelled: int
) -> None:
    rng = np.random.default_rng(0)

    def drawn(rate: float, count: int) -> Rate:
        return Rate(int(rng.binomial(count, rate)), count)

    judged = true * known + (1 - true) * (1 - refused)
    found = [
        corrected_rate(drawn(judged, rollouts), drawn(known, labelled // 3), drawn(refused, labelled), seed)
        for seed in range(150)
    ]
    assert np.mean([one.low <= true <= one.high for one in found]) >= 0.9
    assert np.median([one.value for one in found]) == pytest.approx(true, abs=0.06)


@pytest.mark.parametrize(("known", "refused"), [(Rate(0, 0), Rate(9, 9)), (Rate(5, 5), Rate(0, 0))])
def test_a_rate_is_not_corrected_without_labels_of_both_outcomes(known: Rate, refused: Rate) -> None:
    assert np.isnan(corrected_rate(Rate(3, 9), known, refused).value)


def test_a_judge_that_tells_nothing_apart_corrects_nothing() -> None:
    assert np.isnan(corrected_rate(Rate(3, 9), Rate(5, 10), Rate(5, 10)).value)
    perfect = corrected_rate(Rate(50, 100), Rate(1000, 1000), Rate(1000, 1000))
    assert (perfect.value, perfect.low > 0.39, perfect.high < 0.61) == (0.5, True, True)
