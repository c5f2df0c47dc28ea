"""What the anytime-valid test promises, over many simulated series of pairs."""

import math

import numpy as np

from worldgymnast.evaluation.sequential import (
    PairedEvidence,
    power,
    worse_strata,
)


def test_a_policy_that_is_no_better_is_accepted_with_probability_below_alpha_whenever_one_looks() -> None:
    for alpha in (0.05, 0.2):
        for discordant in (0.1, 0.5, 1.0):
            assert power(discordant / 2, discordant / 2, 80, alpha) <= alpha
            assert power(discordant * 0.4, discordant * 0.6, 80, alpha) < alpha / 2
    assert power(0.5, 0.5, 80, 0.2) > 0.1  # and the test is not so careful as to be worthless


def test_power_agrees_with_a_simulation() -> None:
    rng, win, loss, pairs = np.random.default_rng(0), 0.25, 0.1, 48
    accepted = 0
    for draws in rng.random((1000, pairs)):
        wins, losses = np.cumsum(draws < win), np.cumsum((draws >= win) & (draws < win + loss))
        accepted += any(PairedEvidence(int(w), int(x)).is_better() for w, x in set(zip(wins, losses, strict=True)))
    exact = power(win, loss, pairs)
    assert abs(accepted / 1000 - exact) < 4 * math.sqrt(exact * (1 - exact) / 1000)


def test_naming_any_task_although_none_is_worse_is_rare() -> None:
    rng, named = np.random.default_rng(1), 0
    tasks = [str(i) for i in range(6) for _ in range(20)]
    for _ in range(200):
        before, after = (rng.random(120) < 0.5).tolist(), (rng.random(120) < 0.5).tolist()
        named += bool(worse_strata(before, after, tasks))
    assert named / 200 <= 0.05
