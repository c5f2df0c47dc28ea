"""Rollouts in Ray workers equal those of one process, whichever worker dies, stalls or fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed; run: pip install -c constraints.txt -e '.[ray]'")
from ray_parts import (
    imagination,
    small_policy,
    starts,
)

from worldgymnast.run import weights_hash
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.surrogates.ray_cluster import connected
from worldgymnast.surrogates.ray_dispatch import RecoveryConfig
from worldgymnast.surrogates.ray_pool import RayConfig, RayPool, ray_pool
from worldgymnast.types import RolloutGroup

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("ray")]
STARTS, SIZE = 6, 4
FAST = RecoveryConfig(patience=1.0, slow=2.0, attempts=3, restarts=3)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(cpus=2, store_bytes=80 * 2**20) as ray:
        yield ray


def local(surrogate: Imagination, **kwargs: Any) -> LocalPool:
    source = surrogate.verdict_source
    return LocalPool(small_policy(), surrogate, source, rows=8, temperature=1.0, seed=0, streams="group", **kwargs)


def remote(surrogate: Imagination, workers: int = 2, recovery: RecoveryConfig = FAST) -> Any:
    config = RayConfig(workers=workers, recovery=recovery)
    return ray_pool(small_policy(1), surrogate, config, rows=8, temperature=1.0, seed=0)


def collect(pool: LocalPool | RayPool) -> list[RolloutGroup]:
    """Groups of two versions, and of a second begin at the last."""
    rng, groups = np.random.default_rng(0), []
    for version in (3, 4):
        pool.sync(small_policy(version).trainable_state(), version)
        groups += pool.begin(starts(rng, STARTS), SIZE)()
    return groups + pool.begin(starts(rng, 2), SIZE)()


def content(groups: Sequence[RolloutGroup]) -> list[Any]:
    """All that a group contains, as values that can be compared."""
    rows = []
    for rollout in (r for group in groups for r in group.rollouts):
        chunk = rollout.chunks
        tensors = {"actions": chunk.actions, "logprobs": chunk.logprobs}
        pixels = {name: images.tobytes() for name, images in rollout.images.items()}
        rows.append([weights_hash(tensors), pixels, rollout.frames.tobytes(), rollout.verdict, rollout.policy_version])
        rows[-1] += [rollout.start.frame.tobytes(), rollout.looks_until_success]
    return rows


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    """What one process collects."""
    return content(collect(local(imagination())))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_collect_what_one_process_collects(ray: Any, expected: list[Any], workers: int) -> None:
    with remote(imagination(), workers) as pool:
        assert content(collect(pool)) == expected
        assert pool.metrics()["pool/units"] == 2 * STARTS + 2
        assert pool.metrics()["pool/restarts"] == 0


def test_groups_do_not_depend_on_their_companions() -> None:
    pool = local(imagination())
    pool.sync(small_policy().trainable_state(), 0)
    one, two = starts(np.random.default_rng(0), 2)
    both = pool.begin([one, two], SIZE)()
    again = local(imagination())
    again.sync(small_policy().trainable_state(), 0)
    assert content(again.begin([one], SIZE)() + again.begin([two], SIZE)()) == content(both)
    assert content([both[0]]) != content(again.begin([one], SIZE)()), "a third group has a stream of its own"
