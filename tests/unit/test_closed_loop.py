"""Imagined and real outcome of the same episodes: against numbers worked out by hand, and files of every kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from worldgymnast.evaluation.closed_loop import Episode, by_policy, closed_loop


def rows(pairs: Sequence[tuple[bool | None, bool | None]], policy: str = "a", task: str = "open") -> list[Episode]:
    """Episodes on layouts of their own from pairs of imagined and real outcomes."""
    return [Episode(policy, task, i, imagined, real) for i, (imagined, real) in enumerate(pairs)]


def noisy(count: int, agree: float, seed: int = 0) -> list[tuple[bool, bool]]:
    """Pairs that agree with that probability."""
    rng = np.random.default_rng(seed)
    real = rng.random(count) < 0.5
    return list(zip((real == (rng.random(count) < agree)).tolist(), real.tolist(), strict=True))


def test_phi_is_the_correlation_of_the_table() -> None:
    pairs = [(True, True)] * 30 + [(True, False)] * 5 + [(False, True)] * 15 + [(False, False)] * 50
    found = closed_loop(rows([*pairs, (None, True), (True, None)]))
    assert (found.both, found.only_imagined, found.only_real, found.neither, found.unknown) == (30, 5, 15, 50, 2)
    assert found.count == 100
    assert found.phi.value == pytest.approx((30 * 50 - 5 * 15) / np.sqrt(35 * 65 * 45 * 55))
    assert found.within == found.phi  # one policy in one task
    assert found.phi.low < found.phi.value < found.phi.high


def test_the_interval_covers_the_truth() -> None:
    found = [closed_loop(rows(noisy(80, 0.8, seed)), seed).phi for seed in range(60)]
    inside = np.mean([one.low <= 0.6 <= one.high for one in found])
    assert 0.85 <= inside <= 1


def test_policies_that_share_layouts_do_not_narrow_the_interval() -> None:
    alone = closed_loop(rows(noisy(60, 0.8))).phi
    many = closed_loop([e for name in "abcdefgh" for e in rows(noisy(60, 0.8), name)]).phi
    assert many.high - many.low == pytest.approx(alone.high - alone.low)


def test_a_world_that_knows_the_tasks_alone_knows_nothing_within() -> None:
    rng = np.random.default_rng(0)
    easy, hard = ([(bool(a < p), bool(b < p)) for a, b in rng.random((400, 2))] for p in (0.9, 0.1))
    found = closed_loop([*rows(easy, task="easy"), *rows(hard, task="hard")])
    assert found.phi.low > 0.5
    assert abs(found.within.value) < 0.1
    assert found.within.low < 0 < found.within.high


def test_where_an_outcome_never_varies_phi_is_unknown() -> None:
    found = closed_loop(rows([(True, True), (True, False)] * 5))
    assert np.isnan([found.phi.value, found.within.value]).all()
    assert np.isnan(closed_loop([]).phi.value)
    by = by_policy([*rows(noisy(20, 1.0), "b"), *rows([(None, True)], "a")])
    assert list(by) == ["b", "a"]
    assert by["b"].phi.value == pytest.approx(1)
    assert by["a"].unknown == 1
