"""Rollouts in Ray workers equal those of one process, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray", reason="the extra 'ray' is not installed; run: pip install -c constraints.txt -e '.[ray]'")
from ray_parts import (
    FAST,
    GROUP,
    STARTS,
    Bright,
    Counting,
    collect,
    content,
    imagination,
    local,
    remote,
    small_policy,
    starts,
    train,
)

from worldgymnast.errors import InputError
from worldgymnast.rl.objective import ObjectiveConfig, has_signal
from worldgymnast.rl.trainer import stack
from worldgymnast.run import weights_hash
from worldgymnast.surrogates.ray_cluster import connected
from worldgymnast.surrogates.ray_pool import RayConfig, RayPool, workers
from worldgymnast.types import RolloutGroup, Start

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(cpus=2, store_bytes=80 * 2**20) as ray:
        yield ray


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    """What one process collects."""
    return content(collect(local(imagination())))


def test_workers_collect_what_one_process_collects(ray: Any, expected: list[Any]) -> None:
    with remote(imagination()) as pool:
        assert content(collect(pool)) == expected
        counts = pool.metrics()
        assert counts["pool/units"] == 2 * STARTS + 2
        assert counts["pool/restarts"] == 0
        assert counts["pool/rate/0"] + counts["pool/rate/1"] > 0
        assert pool.metrics()["pool/rate/0"] == 0, "nothing was rolled out since"
        check_ratios_of_stale_rollouts(pool)
        pool.wait_until_started()  # on a busy machine one worker can do all of this before the other has started
        assert pool.status() == "", "nothing is under way"


def check_ratios_of_stale_rollouts(pool: RayPool) -> None:
    """Groups begun before a sync record the log-probabilities of the weights before it."""
    old, new = small_policy(7), small_policy(8)
    rooms = starts(np.random.default_rng(5), STARTS)
    pool.sync(old.trainable_state(), 7)
    stale = pool.begin(rooms, GROUP)
    assert pool.status().startswith("groups: "), "they wait for a worker, or are in rollout"
    pool.sync(new.trainable_state(), 8)
    fresh = pool.begin(rooms, GROUP)
    for groups, version, acting, other in ((fresh(), 8, new, old), (stale(), 7, old, new)):
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        assert {rollout.policy_version for rollout in rollouts} == {version}
        obs, chunk, _ = stack(rollouts)
        with torch.no_grad():
            ratio, wrong = (torch.exp(p.logprobs(obs, chunk) - chunk.logprobs) for p in (acting, other))
        assert torch.allclose(ratio, torch.ones(()), atol=1e-4)
        assert not torch.allclose(wrong, torch.ones(()), atol=1e-2)


def test_groups_do_not_depend_on_their_companions() -> None:
    pool = local(imagination())
    pool.sync(small_policy().trainable_state(), 0)
    one, two = starts(np.random.default_rng(0), 2)
    both = pool.begin([one, two], GROUP)()
    again = local(imagination())
    again.sync(small_policy().trainable_state(), 0)
    assert content(again.begin([one], GROUP)() + again.begin([two], GROUP)()) == content(both)
    assert content([both[0]]) != content(again.begin([one], GROUP)()), "a third group has a stream of its own"


def test_a_part_that_cannot_travel_is_one_line(ray: Any) -> None:
    judge = Bright()
    object.__setattr__(judge, "lock", threading.Lock())
    with pytest.raises(InputError, match="cannot be sent to a worker"), remote(imagination(judge=judge)):
        pass


# ---------------------------------------------------------------- the shared judge


def test_a_remote_judge_is_asked_once_per_rollout_by_all_workers(ray: Any, expected: list[Any], tmp_path: Path) -> None:
    with remote(imagination(judge=Counting(path=tmp_path / "calls"))) as pool:
        assert content(collect(pool)) == expected
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) == (2 * STARTS + 2) * GROUP
    assert len(set(calls)) == 1, "one process asks"


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("ahead", [0, 1])
def test_training_with_workers_equals_training_in_one_process(ray: Any, ahead: int, tmp_path: Path) -> None:
    one = train(tmp_path / "one", ahead=ahead, fill=6)
    two = train(tmp_path / "two", workers(RayConfig(workers=2, recovery=FAST)), ahead=ahead, fill=6)
    assert max(row.get("groups", 0) for row in one[1]) > 4, "some groups were replaced"
    assert one[0] == two[0] != weights_hash(small_policy().trainable_state())
    assert repr(one[1]) == repr(two[1])


def test_groups_without_signal_are_replaced_until_the_step_is_full() -> None:
    """Those of the step itself and of its replacements; as many as the limit allows."""
    for limit in (0, 1, 50):
        pool, asked = local(imagination()), list[int]()
        pool.sync(small_policy().trainable_state(), 0)
        rng = np.random.default_rng(1)

        def replace(group: RolloutGroup, asked: list[int] = asked, limit: int = limit, rng: Any = rng) -> list[Start]:
            if has_signal(group, ObjectiveConfig()) or len(asked) == limit:
                return []
            asked.append(1)
            return starts(rng, 1)

        groups = pool.begin_filled(starts(rng, STARTS), GROUP, replace)()
        signals = sum(has_signal(group, ObjectiveConfig()) for group in groups)
        assert len(groups) == STARTS + len(asked)
        assert signals == STARTS or len(asked) == limit
        assert len(asked) > 1 or limit < 50, "the case is worth a test"


def test_workers_need_a_stream_per_group(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="streams"):
        train(tmp_path / "run", workers(RayConfig()), streams="step")
