"""Beliefs become probabilities, task by task as far as labels allow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from worldgymnast.evaluation.scaling import fit_scaling, log_odds


def drawn(count: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Beliefs whose log-odds are half of the true ones and lie `shift` too low, and outcomes."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 3, count)
    return special.expit(odds / 2 - shift), rng.random(count) < special.expit(odds)


def test_a_belief_that_is_too_low_and_too_flat_is_set_right() -> None:
    belief, truth = drawn(4000, 2.0, 0)
    intercept, slope = fit_scaling(belief[None], truth, ["t"] * 4000).of("t")
    assert slope == pytest.approx(2, abs=0.15)
    assert intercept == pytest.approx(4, abs=0.4)


def test_tasks_are_told_apart_by_their_labels_and_kept_together_without() -> None:
    (one, won), (other, lost) = drawn(300, 2.0, 1), drawn(300, 0.0, 2)
    belief, truth = np.concatenate([one, other]), np.concatenate([won, lost])
    found = fit_scaling(belief[None], truth, ["one"] * 300 + ["other"] * 300)
    assert found.of("one")[0] - found.of("other")[0] > 2
    few = fit_scaling(
        np.concatenate([one, other[:2]])[None], np.concatenate([won, lost[:2]]), ["one"] * 300 + ["other"] * 2
    )
    assert abs(few.of("one")[0] - few.of("other")[0]) < 2
    assert found.of("unheard of") == (found.intercept, *found.slopes)


@pytest.mark.parametrize("truth", [np.zeros(5, bool), np.ones(5, bool), np.zeros(0, bool)])
def test_one_outcome_alone_changes_nothing(truth: np.ndarray) -> None:
    found = fit_scaling(np.full((1, len(truth)), 0.3), truth, ["t"] * len(truth))
    assert found.of("t") == (0, 1)


def test_labels_that_contradict_the_belief_do_not_turn_it_round() -> None:
    belief, truth = drawn(500, 0.0, 3)
    assert 0 < fit_scaling(belief[None], ~truth, ["t"] * 500).slopes[0] < 0.3


def test_a_belief_of_0_or_1_is_a_number() -> None:
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    found = fit_scaling(np.array([[0.0, 1.0, 1.0, 0.0]]), np.array([False, True, True, True]), ["t"] * 4)
    assert np.isfinite(found.of("t")).all()


def test_of_two_beliefs_the_better_one_weighs_more() -> None:
    good, truth = drawn(1000, 0.0, 4)
    chance = np.random.default_rng(5).random(1000)
    own, other = fit_scaling(np.stack([good, chance]), truth, ["t"] * 1000).slopes
    assert own > 1.5
    assert other < 0.3
