"""The anytime-valid paired test: against numerical integrals, its error with optional stopping, and its power."""

import math

import pytest
from scipy import integrate

from worldgymnast.evaluation.sequential import (
    PairedEvidence,
    by_stratum,
    evidence,
    log_evidence,
    power,
    worse_strata,
)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (0, 1), (5, 2), (2, 9), (30, 12), (12, 30), (40, 40)])
def test_evidence_is_the_integral(wins: int, losses: int) -> None:
    whole, _ = integrate.quad(
        lambda q: 2 * math.exp((wins + losses) * math.log(2)) * q**wins * (1 - q) ** losses, 0.5, 1, epsabs=0
    )
    assert evidence(wins, losses) == pytest.approx(whole, rel=1e-6)


def test_evidence_neither_overflows_nor_vanishes() -> None:
    assert evidence(5000, 0) == math.inf
    assert log_evidence(5000, 0) == pytest.approx(5001 * math.log(2) - math.log(5001))
    assert evidence(0, 5000) == pytest.approx(1 / 5001, rel=1e-6)
    with pytest.raises(ValueError, match="-1 wins"):
        evidence(-1, 0)


def test_the_next_pair_is_a_fair_bet_where_both_policies_are_alike() -> None:
    for wins, losses in [(0, 0), (4, 1), (3, 8), (20, 20)]:
        after = (evidence(wins + 1, losses) + evidence(wins, losses + 1)) / 2
        assert after == pytest.approx(evidence(wins, losses))


def test_the_power_of_96_pairs() -> None:
    """Two of five pairs disagree: shared/WORLD_LEVERS.md has 91, 48 and 11 % from a simulation."""
    found = [power((0.4 + gain) / 2, (0.4 - gain) / 2, 96) for gain in (0.2, 0.1, 0.0)]
    assert found == pytest.approx([0.914, 0.468, 0.119], abs=0.002)


def test_pairs_are_counted_and_unknown_outcomes_left_out() -> None:
    before = [True, True, False, False, None, True]
    after = [True, False, True, True, True, None]
    found = PairedEvidence.of(before, after)
    assert found == PairedEvidence(wins=2, losses=1, ties=1, errors=2)
    assert found.count == 4
    assert found.better == evidence(2, 1)
    assert found.worse == evidence(1, 2)
    assert "2 wins, 1 losses, 1 ties, 2 errors" in str(found)
    with pytest.raises(ValueError, match="6 outcomes before and 1 after"):
        PairedEvidence.of(before, [True])


def test_better_and_worse_are_mirror_images_and_never_both() -> None:
    good, bad = PairedEvidence(14, 3), PairedEvidence(3, 14)
    assert good.is_better()
    assert not good.is_worse()
    assert bad.is_worse()
    assert not bad.is_better()
    assert good.better == bad.worse
    assert not PairedEvidence(0, 0, 96).is_better()


def test_a_task_that_is_lost_is_named_though_the_whole_is_better() -> None:
    before = [True] * 12 + [False] * 40 + [True, False] * 5
    after = [False] * 12 + [True] * 40 + [False, True] * 5
    tasks = ["door"] * 12 + ["button"] * 40 + ["drawer"] * 10
    assert PairedEvidence.of(before, after).is_better()
    assert worse_strata(before, after, tasks) == ["door"]
    assert list(by_stratum(before, after, tasks)) == ["door", "button", "drawer"]
    assert worse_strata([], [], []) == []
