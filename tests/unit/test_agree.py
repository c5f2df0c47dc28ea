"""Agreement over policies and tasks against numbers worked out by hand."""

import numpy as np
import pytest

from worldgymnast.evaluation.agreement import agreement, leave_one_out, permutation_p, reliability
from worldgymnast.evaluation.success import Rate
from worldgymnast.measure.agreement import REAL, AgreeConfig, agreement_by_length, success_rates
from worldgymnast.report.agree import PolicySuccess, agreement_sheets


def test_a_perfect_order_and_a_reversed_one() -> None:
    real = np.array([[0.0, 0.2], [0.4, 0.6], [0.8, 1.0]])
    same = agreement(real, real)
    assert (same.pearson.value, same.spearman.value, same.mmrv.value) == (pytest.approx(1), pytest.approx(1), 0)
    against = agreement(1 - real, real)
    assert against.pearson.value == pytest.approx(-1)
    assert against.mmrv.value == pytest.approx((0.8 + 0.4 + 0.8) / 3)  # each one's largest difference to another


def test_the_interval_knows_of_policies_and_of_tasks() -> None:
    """Where one task of four spoils the order, resampling the tasks must show it, however many policies there are."""
    rng = np.random.default_rng(0)
    real = np.repeat(rng.random((60, 1)), 4, axis=1)
    imagined = real.copy()
    imagined[:, 0] = 1 - 3 * real[:, 0]
    found = agreement(imagined, real, resamples=2000)
    assert found.pearson.low < -0.9
    assert found.pearson.high > 0.9
    certain = agreement(real + 0.02 * rng.standard_normal((60, 4)), real, resamples=2000)
    assert certain.pearson.low > 0.95


def test_what_is_not_comparable_is_refused_and_what_is_constant_unknown() -> None:
    with pytest.raises(ValueError, match="two equal"):
        agreement(np.zeros((3, 2)), np.zeros((2, 3)))
    assert np.isnan(agreement(np.zeros((3, 2)), np.random.default_rng(0).random((3, 2))).pearson.value)


def test_one_policy_can_make_a_correlation() -> None:
    imagined, real = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.3, 0.2, 0.1, 0.9])
    assert np.corrcoef(imagined, real)[0, 1] > 0.85
    low, high = leave_one_out(imagined, real)
    assert low == pytest.approx(-1)  # without the last one
    assert high == pytest.approx(np.corrcoef(imagined[[0, 1, 3]], real[[0, 1, 3]])[0, 1], abs=0.05)
    assert np.isnan(leave_one_out(imagined[:3], real[:3])).all()


def test_the_permutation_p_is_exact_for_few_policies_and_uniform_without_correlation() -> None:
    line = np.arange(4.0)
    assert permutation_p(line, line) == pytest.approx(2 / 24)  # the order itself, and its reverse
    assert permutation_p(line, -line) == pytest.approx(2 / 24)
    assert np.isnan(permutation_p(line, np.ones(4)))
    rng = np.random.default_rng(0)
    found = [permutation_p(*rng.random((2, 10)), resamples=199) for _ in range(200)]
    assert 0.01 < np.mean(np.array(found) <= 0.1) < 0.19
    assert permutation_p(np.arange(12.0), np.arange(12.0) ** 2, resamples=999) <= 0.002


def test_reliability_is_the_correlation_of_two_real_evaluations() -> None:
    """Policies of known spread, played on few and on many starts: Spearman-Brown must find what a repetition shows."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0.3, 0.7, (400, 1, 1))
    for starts, expected in ((8, 0.65), (40, 0.9)):  # variance 0.0133 of 0.0133 + 0.237 / (4 tasks x starts), about
        first, second = ((rng.random((400, 4, starts)) < true).astype(float) for _ in range(2))
        again = np.corrcoef(first.mean((1, 2)), second.mean((1, 2)))[0, 1]
        assert reliability(first) == pytest.approx(again, abs=0.06)
        assert reliability(first) == pytest.approx(expected, abs=0.06)
    first[:, 0, 0] = np.nan
    assert reliability(first) == pytest.approx(again, abs=0.06)
    assert np.isnan(reliability(first[:2]))


def test_policies_of_one_training_count_once() -> None:
    def played(*successes: bool) -> dict[str, list[dict[str, object]]]:
        rows = [{"task": "open", "layout": i, "success": [one]} for i, one in enumerate(successes)]
        return {REAL: rows, "world": rows}

    found = {"a-10": played(True, False), "a-20": played(True, True), "b": played(False, False), "c": played(True)}
    config, trainings = AgreeConfig(lengths=(8,)), {"a-10": "a", "a-20": "a", "b": "b", "c": "c"}
    np.testing.assert_allclose(success_rates(found, REAL, 0, trainings), [[0.75], [0.0], [1.0]])
    assert agreement_by_length(found, config, trainings)["world"][8].count == 3
    assert agreement_by_length(found, config)["world"][8].count == 4
    shown, *_ = agreement_sheets(
        {"all": agreement_by_length(found, config, trainings)}, {n: PolicySuccess(Rate(1, 2), {}) for n in found}, 1
    )
    assert shown.rows[0][3] == "3"
    assert "SIMPLER" in shown.note
