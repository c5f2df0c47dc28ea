"""Real episodes that a comparison needs: against simulation, and against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from worldgymnast.evaluation.power import (
    LEVEL,
    POWER,
    _casagrande,
    episodes_needed,
    paired_power,
    unpaired_power,
)
from worldgymnast.evaluation.success import mcnemar

TRIALS = 4000
ERROR = 4 * (0.8 * 0.2 / TRIALS) ** 0.5


@pytest.mark.parametrize(("before", "gain", "lost"), [(0.5, 0.3, None), (0.3, 0.2, 0.05), (0.85, 0.1, 0.02)])
def test_the_paired_test_finds_the_gain_as_often_as_said(before: float, gain: float, lost: float | None) -> None:
    needed = episodes_needed(before, gain, lost)
    assert needed is not None
    assert needed.paired is not None
    rng, found = np.random.default_rng(0), 0
    shares = [needed.gained, needed.lost, 1 - needed.gained - needed.lost]
    for gained, fell, _ in rng.multinomial(needed.paired, shares, TRIALS):
        pairs = [(False, True)] * gained + [(True, False)] * fell
        first, second = zip(*pairs, strict=True) if pairs else ((), ())
        found += gained > fell and mcnemar(first, second, "two-sided") <= LEVEL
    assert abs(found / TRIALS - paired_power(needed.paired, needed.gained, needed.lost)) < ERROR
    assert POWER <= paired_power(needed.paired, needed.gained, needed.lost) < POWER + 0.06


@pytest.mark.parametrize(("before", "gain"), [(0.5, 0.3), (0.2, 0.3), (0.9, 0.1)])
def test_the_unpaired_test_finds_the_gain_as_often_as_said(before: float, gain: float) -> None:
    needed = episodes_needed(before, gain)
    assert needed is not None
    n = needed.unpaired
    assert n is not None
    rng = np.random.default_rng(1)
    first, second = rng.binomial(n, before, TRIALS), rng.binomial(n, min(1.0, before + gain), TRIALS)
    counts: dict[tuple[int, int], bool] = {}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        if (a, b) not in counts:
            counts[a, b] = fisher_exact([[b, n - b], [a, n - a]], "greater").pvalue <= LEVEL / 2
    found = np.mean([counts[a, b] for a, b in zip(first.tolist(), second.tolist(), strict=True)])
    assert abs(found - unpaired_power(n, before, min(1.0, before + gain))) < ERROR
    assert unpaired_power(n, before, min(1.0, before + gain)) >= POWER
    assert unpaired_power(n - 6, before, min(1.0, before + gain)) < POWER


def test_fewer_episodes_have_less_power() -> None:
    for n in (5, 20, 60):
        assert paired_power(n, 0.2, 0.05) < paired_power(4 * n, 0.2, 0.05)
        assert unpaired_power(n, 0.3, 0.5) < unpaired_power(4 * n, 0.3, 0.5)
    assert paired_power(5, 1.0, 0.0) == 0.0, "five of five is p = 0.0625"
    assert paired_power(6, 1.0, 0.0) == pytest.approx(1.0)
    assert paired_power(100, 0.0, 0.0) == 0.0


def test_the_level_is_kept_without_a_gain() -> None:
    for n in (10, 50, 200):
        assert paired_power(n, 0.2, 0.2) <= LEVEL / 2
        assert unpaired_power(n, 0.4, 0.4) <= LEVEL / 2


def test_pairs_that_agree_need_fewer_scenes() -> None:
    alike, independent = episodes_needed(0.5, 0.2, lost=0.02), episodes_needed(0.5, 0.2)
    assert alike is not None
    assert independent is not None
    assert alike.paired is not None
    assert independent.paired is not None
    assert alike.paired < independent.paired / 2
    assert alike.unpaired == independent.unpaired


def test_gains_that_cannot_be() -> None:
    assert episodes_needed(0.95, 0.1) is None
    assert episodes_needed(0.5, 0.0) is None
    assert episodes_needed(float("nan"), 0.1) is None
    full = episodes_needed(0.9, 0.1)
    assert full is not None
    assert full.after == 1.0
    assert full.lost == 0.0
    tiny = episodes_needed(0.5, 0.001)
    assert tiny is not None
    assert tiny.paired is tiny.unpaired is None


def test_the_approximation_is_close_where_it_takes_over() -> None:
    assert abs(_casagrande(0.5, 0.7) - 103) <= 3  # published tables: 103
