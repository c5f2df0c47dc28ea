"""Rates, paired differences and tests against values worked out elsewhere or by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from worldgymnast.evaluation.success import (
    EpisodeResult,
    Rate,
    _newcombe,
    bootstrap_mean,
    holm,
    mcnemar,
    paired_difference,
    success_table,
)


def results(task: str, outcomes: Sequence[bool | None]) -> list[EpisodeResult]:
    return [EpisodeResult(task, layout, 0, outcome, 30) for layout, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (10, 50, 0.1124, 0.3304),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_published_values(successes: int, count: int, low: float, high: float) -> None:
    assert Rate(successes, count).interval == pytest.approx((low, high), abs=6e-5)


def test_a_rate_prints_itself_and_counts_errors() -> None:
    assert str(Rate(29, 50)) == "58 % [44, 71] (29/50)"
    assert Rate.of([True, None, False, True]) == Rate(2, 3, errors=1)
    assert "1 errors" in str(Rate(2, 3, 1))
    unknown = Rate.of([None])
    assert math.isnan(unknown.value)
    assert unknown.interval == (0.0, 1.0)


def test_mcnemar_by_hand() -> None:
    before = [True] * 5 + [False] * 10 + [True] * 1 + [False] * 4
    after = [True] * 5 + [True] * 10 + [False] * 1 + [False] * 4
    # 10 gained, 1 lost: 2 * (C(11,0) + C(11,1)) / 2^11
    assert mcnemar(before, after, "two-sided") == pytest.approx(2 * 12 / 2048)
    assert mcnemar(before, after, "less") == pytest.approx(1 - 1 / 2048)
    assert mcnemar(after, before, "less") == pytest.approx(12 / 2048)
    assert mcnemar([True, False], [True, False], "two-sided") == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_the_bootstrap_interval_has_the_textbook_width() -> None:
    values = np.array([1.0] * 60 + [0.0] * 40)
    found = bootstrap_mean(values, np.zeros(100), seed=0)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 100)
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.011)
    assert bootstrap_mean(values, np.zeros(100), seed=0) == found
    assert bootstrap_mean(values[:0], np.zeros(0), seed=0) != found


def test_strata_are_weighted_equally_and_resampled_within_themselves() -> None:
    values = np.array([1.0] * 90 + [0.0] * 10)
    strata = np.array(["a"] * 90 + ["b"] * 10)
    found = bootstrap_mean(values, strata, seed=0)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))  # no variance within a stratum, none in the mean


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(200) < 0.5
    after = before | (generator.random(200) < 0.1)
    paired = paired_difference(before, after)
    unpaired = paired_difference(before, generator.permutation(after))
    assert paired.mean == pytest.approx(unpaired.mean)
    assert paired.low > 0
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_pairs_that_all_agree_do_not_make_the_difference_certain() -> None:
    alike = paired_difference([True] * 54, [True] * 54)
    assert (alike.low, alike.high) == pytest.approx((-0.0664, 0.0664), abs=1e-4)  # Newcombe 1998, table II, method 10
    by_task = paired_difference([False] * 4, [True, True, False, False], ["a", "a", "b", "b"])
    assert by_task.mean == 0.5
    assert by_task.low < 0 < 0.8 < by_task.high <= 1
    assert paired_difference([False] * 2, [True] * 2).low < 0.7


def test_newcombes_interval_is_that_of_his_example() -> None:
    before = np.array([True] * 36 + [False] * 12 + [True] * 2)
    after = np.array([True] * 48 + [False] * 2)
    found = _newcombe(0.2, before, after)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=1e-4)


def test_unknown_outcomes_are_left_out_and_counted() -> None:
    found = paired_difference([True, None, False, False], [True, True, None, True])
    assert (found.n, found.errors, found.mean) == (2, 2, 0.5)
    nothing = paired_difference([None], [True])
    assert math.isnan(nothing.mean)
    assert nothing.p_value == 1.0
    half_known = paired_difference([True, None], [True, True], strata=["a", "b"])
    assert math.isnan(half_known.mean)


def test_the_table_weighs_tasks_equally_and_pairs_by_layout() -> None:
    before = results("open", [True] * 2 + [False] * 18) + results("close", [True] * 5 + [False] * 5)
    after = results("open", [True] * 12 + [False] * 8) + results("close", [True] * 5 + [False] * 5)
    table = success_table(before, after[::-1])
    assert [row.task for row in table.rows] == ["open", "close"]
    assert table.rows[0].before == Rate(2, 20)
    assert table.rows[0].difference.mean == pytest.approx(0.5)
    assert table.rows[0].difference.p_value == pytest.approx(2 / 2**10)
    assert table.before.value == pytest.approx((0.1 + 0.5) / 2)
    assert table.difference.mean == pytest.approx(0.25)
    assert table.difference.low > 0
    assert not any(row.worse for row in table.rows)


def test_the_mean_of_outcomes_that_are_all_alike_is_not_certain() -> None:
    table = success_table(results("open", [True] * 5), results("open", [False] * 5))
    assert (table.before.low, table.before.high) == pytest.approx(Rate(5, 5).interval)
    assert (table.after.low, table.after.high) == pytest.approx(Rate(0, 5).interval)


def test_worse_is_flagged_after_holm() -> None:
    # 5 of 5 changed pairs lost: p = 1/32 alone, 2/32 among two tasks; 6 of 6: 1/64 -> 2/64
    five = (results("a", [True] * 5 + [False] * 5), results("a", [False] * 10))
    assert success_table(*five).rows[0].worse
    still_before, still_after = results("b", [True] * 10), results("b", [True] * 10)
    assert not success_table(five[0] + still_before, five[1] + still_after).rows[0].worse
    six = (results("a", [True] * 6 + [False] * 4), results("a", [False] * 10))
    rows = success_table(six[0] + still_before, six[1] + still_after).rows
    assert [row.worse for row in rows] == [True, False]


def test_a_table_without_partners_is_refused() -> None:
    with pytest.raises(ValueError, match="have no partner"):
        success_table(results("a", [True] * 3), results("a", [True] * 5))
    with pytest.raises(ValueError, match="some occur twice"):
        success_table(results("a", [True]) * 2, results("a", [True]))


def test_the_interval_of_the_difference_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        before = generator.random(60) < 0.4
        after = generator.random(60) < 0.6
        found = paired_difference(before, after, seed=trial, resamples=500)
        covered += found.low <= 0.2 <= found.high
    assert 180 <= covered <= 199
