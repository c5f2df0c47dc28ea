"""Whichever Ray worker dies, stalls or fails: no group is lost, none is counted twice, the result is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed; run: pip install -c constraints.txt -e '.[ray]'")
from ray_parts import FAST, STARTS, Impossible, NoisyLamp, Stalling, collect, content, imagination, local, remote

from worldgymnast.errors import Paused
from worldgymnast.surrogates.ray_cluster import connected

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(cpus=2, store_bytes=80 * 2**20) as ray:
        yield ray


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    """What one process collects."""
    return content(collect(local(imagination())))


def test_a_killed_worker_loses_no_group_and_adds_none(ray: Any, expected: list[Any], tmp_path: Path) -> None:
    with remote(imagination(NoisyLamp(trap=tmp_path))) as pool:
        assert content(collect(pool)) == expected
        counts = pool.metrics()
    assert (tmp_path / "trap").exists()
    assert counts["pool/restarts"] == counts["pool/requeued"] == 1
    assert counts["pool/units"] == 2 * STARTS + 2


def test_a_stalled_worker_gets_a_backup_and_is_replaced(ray: Any, expected: list[Any], tmp_path: Path) -> None:
    with remote(imagination(Stalling(trap=tmp_path)), recovery=replace(FAST, patience=3)) as pool:
        pool.wait_until_started()
        assert content(collect(pool)) == expected
        counts = pool.metrics()
    assert counts["pool/backups"] >= 1
    assert counts["pool/units"] == 2 * STARTS + 2


def test_where_no_worker_survives_the_run_pauses(ray: Any) -> None:
    with remote(imagination(Impossible())) as pool, pytest.raises(Paused, match=r"attempts failed|ended in a row"):
        collect(pool)


def test_a_failure_on_every_worker_names_its_cause(ray: Any) -> None:
    class Broken(NoisyLamp):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            raise OSError("no device")

    with remote(imagination(Broken())) as pool, pytest.raises(Paused, match=r"group 0: 3 attempts.*no device"):
        collect(pool)
