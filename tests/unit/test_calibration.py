"""A judge against the truth: known answers on planted beliefs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldgymnast.evaluation.calibration import (
    FOLDS,
    Rule,
    calibration,
    choose_threshold,
    cross_fit,
    difference,
    gains,
    measure,
    reliability,
    rows_by_task,
    tasks_with_enough,
    thresholds,
)
from worldgymnast.evaluation.success import Outcome, Rate

WON, LOST = [0.9, 0.8, 0.6], [0.7, 0.2, 0.1]
BELIEFS, TRUTH = np.array(WON + LOST), np.array([True] * 3 + [False] * 3)


def said(beliefs: np.ndarray, threshold: float = 0.5) -> list[Outcome]:
    """A judge with that threshold; NaN is a judgement that failed."""
    return [None if math.isnan(b) else bool(b >= threshold) for b in beliefs]


def planted(
    rng: np.random.Generator, count: int, low: float, high: float, spread: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Beliefs near `high` for successes and near `low` for as many failures."""
    truth = np.arange(count) % 2 == 0
    return np.clip(np.where(truth, high, low) + rng.uniform(-spread, spread, count), 0, 1), truth


def test_six_clips_by_hand() -> None:
    found = calibration(BELIEFS, said(BELIEFS), TRUTH)
    assert found.precision == Rate(3, 4)
    assert (found.worth.known, found.worth.refused) == (Rate(3, 3), Rate(2, 3))
    assert found.worth.balanced_accuracy.value == pytest.approx(5 / 6)
    assert found.auroc.value == pytest.approx(8 / 9)
    assert found.auroc.low < found.auroc.value <= found.auroc.high
    assert (found.count, found.errors) == (6, 0)
    # one clip a bin: |0 - .1|, |0 - .2|, |1 - .6|, |0 - .7|, |1 - .8|, |1 - .9|
    assert found.calibration_error.value == pytest.approx(1.7 / 6)
    assert found.best.value.value == pytest.approx(0.75)  # knows 2 of 3, refuses 3 of 3; 0.4 is as good, refuses less
    assert found.safe.value.value == pytest.approx(0.75)


def test_a_judgement_that_failed_is_counted_and_changes_nothing_else() -> None:
    without = calibration(BELIEFS, said(BELIEFS), TRUTH)
    beliefs, truth = np.append(BELIEFS, [np.nan, np.nan]), np.append(TRUTH, [True, False])
    found = calibration(beliefs, said(beliefs), truth)
    assert (found.count, found.errors) == (6, 2)
    assert (found.worth.known, found.worth.refused) == (Rate(3, 3, 1), Rate(2, 3, 1))
    for name in ("precision", "auroc", "calibration_error", "bins", "best", "safe"):
        assert getattr(found, name) == getattr(without, name), name
    assert found.worth.balanced_accuracy == without.worth.balanced_accuracy
    assert gains(beliefs, truth, ["t"] * 8)[None].difference.errors == 2


def test_without_one_of_the_classes_what_needs_both_is_unknown() -> None:
    found = calibration(BELIEFS[:3], said(BELIEFS[:3]), TRUTH[:3])
    unknown = (found.worth.balanced_accuracy, found.auroc, found.best.value, found.safe.value)
    unknown += (found.best.worth.balanced_accuracy, found.safe.worth.balanced_accuracy)
    for estimate in unknown:
        assert all(math.isnan(x) for x in dataclasses.astuple(estimate))
    assert found.worth.known == Rate(3, 3)
    assert found.calibration_error.value == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    nothing = calibration(np.array([np.nan]), [None], np.array([True]))
    assert (nothing.count, nothing.errors) == (0, 1)
    assert math.isnan(nothing.calibration_error.value)


def test_what_is_no_belief_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        calibration(np.array([1.2, 0.1]), [True, False], np.array([True, False]))
    with pytest.raises(ValueError, match="got 2 beliefs, 1 verdicts and 2 true outcomes"):
        calibration(np.array([1.0, 0.1]), [True], np.array([True, False]))


# ---------------------------------------------------------------- reliability


def test_the_reliability_table() -> None:
    beliefs, truth = np.array([0.0, 0.05, 0.72, 0.78, 0.75, 0.71, 1.0]), np.array([0, 1, 1, 1, 1, 0, 1], bool)
    bins, error = reliability(beliefs, truth)
    assert [b.successes.count for b in bins] == [2, 0, 0, 0, 0, 0, 0, 4, 0, 1]
    assert bins[0].successes == Rate(1, 2)
    assert bins[7].belief == pytest.approx(0.74)
    assert math.isnan(bins[1].belief)
    assert bins[7].successes.interval[0] < 0.75 < bins[7].successes.interval[1]
    assert error.value == pytest.approx((2 * (0.5 - 0.025) + 4 * (0.75 - 0.74) + 0) / 7)


def test_an_overconfident_judge_has_the_error_that_was_planted() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0, 1, 20_000)
    truth = rng.random(20_000) < chance
    _, honest = reliability(chance, truth)
    assert honest.value < 0.015
    _, boasting = reliability(np.clip(chance + 0.2, 0, 1), truth)
    assert boasting.value == pytest.approx(np.mean(np.clip(chance + 0.2, 0, 1) - chance), abs=0.01)
    assert boasting.low < boasting.value < boasting.high
    assert boasting.high - boasting.low < 0.03


# ---------------------------------------------------------------- thresholds


def test_a_threshold_stands_in_the_middle_of_the_gap() -> None:
    rng = np.random.default_rng(0)
    beliefs, truth = planted(rng, 40, 0.2, 0.8)
    expected = (beliefs[truth].min() + beliefs[~truth].max()) / 2
    for rule in ("balanced", "safe"):
        assert choose_threshold(beliefs, truth, rule) == pytest.approx(expected)


def test_the_safe_threshold_gives_up_successes_and_not_more_than_it_must() -> None:
    won, lost = np.linspace(0.5, 0.98, 25), np.linspace(0.0, 0.45, 10)
    truth = np.arange(35) < 25
    lost[0] = 0.95  # one of ten failures: allowed
    assert choose_threshold(np.append(won, lost), truth, "safe") == pytest.approx(0.475)
    lost[1] = 0.93  # two are not: the threshold must pass the lower of them
    threshold = choose_threshold(np.append(won, lost), truth, "safe")
    assert 0.93 < threshold < 0.95
    assert choose_threshold(np.append(won, lost), truth, "balanced") == pytest.approx(0.475)


def test_where_no_threshold_is_safe_the_safest_is_taken() -> None:
    """A judge that says 1.0 of half the failures: nothing above parts them."""
    beliefs = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    truth = np.array([True, True, False, False, False, False])
    assert choose_threshold(beliefs, truth, "safe") == 0.5
    assert said(beliefs, choose_threshold(beliefs, truth, "safe")) == [True, True, True, True, False, False]


def test_neighbouring_floats_are_parted() -> None:
    lost, won = 0.3, np.nextafter(0.3, 1)
    threshold = choose_threshold(np.array([won, lost]), np.array([True, False]), "balanced")
    assert lost < threshold <= won


@given(st.lists(st.tuples(st.sampled_from(np.linspace(0, 1, 7).tolist()), st.booleans()), min_size=2, max_size=30))
def test_no_other_threshold_is_better(clips: list[tuple[float, bool]]) -> None:
    beliefs, truth = np.array([b for b, _ in clips]), np.array([t for _, t in clips])

    def rates(threshold: float) -> tuple[float, float]:
        return float((beliefs[truth] >= threshold).mean()), float((beliefs[~truth] < threshold).mean())

    found = choose_threshold(beliefs, truth, "balanced")
    if truth.all() or not truth.any():
        assert math.isnan(found)
        return
    others = [rates(x) for x in np.linspace(0, 1, 200)]
    assert sum(rates(found)) == pytest.approx(max(known + refused for known, refused in others))
    known, refused = rates(choose_threshold(beliefs, truth, "safe"))
    safest = max(refused for _, refused in others)
    assert refused >= min(0.9, safest) - 1e-9
    assert known == pytest.approx(max(k for k, r in others if r >= min(0.9, safest) - 1e-9))


def test_the_interval_of_a_threshold_narrows_with_the_clips_and_is_seeded() -> None:
    widths = []
    for count in (40, 1000):
        beliefs, truth = planted(np.random.default_rng(0), count, 0.4, 0.6, 0.25)
        value = calibration(beliefs, said(beliefs), truth).best.value
        assert value.low <= value.value <= value.high
        assert value == calibration(beliefs, said(beliefs), truth).best.value
        widths.append(value.high - value.low)
    assert widths[1] < widths[0]


# ---------------------------------------------------------------- cross-fitting


@pytest.mark.parametrize("rule", ["balanced", "safe"])
def test_noise_looks_better_than_chance_only_to_the_clips_that_chose(rule: Rule) -> None:
    inside, outside = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        beliefs, truth = rng.random(40), np.arange(40) % 2 == 0
        found = calibration(beliefs, said(beliefs, choose_threshold(beliefs, truth, rule)), truth, seed)
        inside.append(found.worth.balanced_accuracy.value)
        outside.append((found.best if rule == "balanced" else found.safe).worth.balanced_accuracy.value)
    assert np.mean(inside) > 0.52
    assert np.mean(outside) == pytest.approx(0.48, abs=0.03)
    assert np.mean(inside) > np.mean(outside) + 0.03


def test_a_clip_does_not_help_to_choose_its_own_threshold() -> None:
    """One failure far above all successes moves the threshold of the other folds, and not of its own."""
    beliefs, truth = planted(np.random.default_rng(0), 50, 0.3, 0.7)
    task = ["t"] * 50
    before = cross_fit(beliefs, truth, task, "balanced")
    assert before == truth.tolist()
    lost = np.flatnonzero(~truth)
    moved = beliefs.copy()
    moved[lost[:3]] = 0.99
    after = cross_fit(moved, truth, task, "balanced")
    assert [i for i in range(50) if after[i] != before[i]] == lost[:3].tolist()  # called successes: nobody looked


def test_every_fold_has_its_part_of_each_task_and_class() -> None:
    """Were a task's only successes in one fold, the others could not choose its threshold."""
    beliefs, truth = planted(np.random.default_rng(0), 4 * FOLDS, 0.2, 0.8)
    task = ["a"] * (2 * FOLDS) + ["b"] * (2 * FOLDS)
    beliefs[2 * FOLDS :] = np.where(truth[2 * FOLDS :], 0.1, 0.05)  # task b: another scale
    for seed in range(5):
        assert cross_fit(beliefs, truth, task, "balanced", ("a", "b"), seed) == truth.tolist()


def test_small_tasks_do_not_all_meet_in_one_fold() -> None:
    """One success and one failure a task: were they all in the first fold, nobody could choose a threshold for them."""
    beliefs, truth = planted(np.random.default_rng(0), 20, 0.2, 0.8)
    assert cross_fit(beliefs, truth, [str(i // 2) for i in range(20)], "balanced") == truth.tolist()


# ---------------------------------------------------------------- tasks


def two_scales(count: int, few: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A task whose successes are at 0.9 and failures at 0.6, and one with `few` of each at 0.4 and 0.1."""
    rng = np.random.default_rng(0)
    one, two = planted(rng, 2 * count, 0.6, 0.9), planted(rng, 2 * few, 0.1, 0.4)
    return np.append(one[0], two[0]), np.append(one[1], two[1]), ["a"] * (2 * count) + ["b"] * (2 * few)


def test_thresholds_by_task_mend_tasks_of_different_scales() -> None:
    beliefs, truth, task = two_scales(20, 20)
    found = gains(beliefs, truth, task)
    assert found["b"].single.known.value == 0
    assert found["b"].own.balanced_accuracy.value == found[None].own.balanced_accuracy.value == 1
    assert found[None].difference.mean == pytest.approx(0.25)
    assert found[None].difference.low > 0.1
    assert found["b"].difference.p_value < 1e-4
    chosen = thresholds(beliefs, truth, task, "safe", tasks_with_enough(beliefs, truth, task))
    assert chosen.of("b") == pytest.approx(0.25, abs=0.03)
    assert chosen.of("a") == pytest.approx(0.75, abs=0.03)
    assert chosen.of("another") == chosen.overall == pytest.approx(0.75, abs=0.03)


def test_a_task_with_few_labels_keeps_the_single_threshold() -> None:
    beliefs, truth, task = two_scales(20, 9)
    assert tasks_with_enough(beliefs, truth, task) == ["a"]
    assert gains(beliefs, truth, task)["b"].difference.mean == 0
    ten, truth, task = two_scales(20, 10)
    assert tasks_with_enough(ten, truth, task) == ["a", "b"]
    ten[-1] = np.nan  # a judgement that failed is no label
    assert tasks_with_enough(ten, truth, task) == ["a"]


def test_every_task_is_measured_alone() -> None:
    beliefs, truth, task = two_scales(20, 15)
    found = measure(beliefs, said(beliefs), truth, task)
    assert list(found.calibrations) == ["a", "b", None]
    assert found.calibrations["a"].worth.refused == Rate(0, 20)
    assert found.calibrations["b"].worth.known == Rate(0, 15)
    assert found.overall.count == 70
    assert found.calibrations["b"].auroc.value == 1 > found.overall.auroc.value
    assert rows_by_task(["b", "", "b"]) == {"": [1], "b": [0, 2], None: [0, 1, 2]}


# ---------------------------------------------------------------- two judges


def test_two_judges_on_the_same_clips() -> None:
    truth = np.arange(40) < 20
    first: list[Outcome] = truth.tolist()
    second = list(first)
    for i in range(5):
        second[i] = False  # five of twenty successes missed
    found = difference(first, second, truth)
    assert found.mean == pytest.approx(-5 / 40)
    assert found.low < found.mean < found.high < 0
    assert found.p_value == pytest.approx(2 * 0.5**5)
    assert difference(second, first, truth).mean == -found.mean
    second[30] = None
    assert (difference(first, second, truth).n, difference(first, second, truth).errors) == (39, 1)
    assert math.isnan(difference(first[:20], second[:20], truth[:20]).mean)


def test_judges_are_weighed_by_class_not_by_count() -> None:
    truth = np.arange(44) < 4
    first: list[Outcome] = truth.tolist()
    second: list[Outcome] = [False] * 44
    assert difference(first, second, truth).mean == pytest.approx(-0.5)
