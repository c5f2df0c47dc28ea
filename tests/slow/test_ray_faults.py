"""Whichever Ray worker dies, stalls or fails: no group is lost, none is counted twice, the result is the same."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import faulty

pytest.importorskip("ray", reason="the extra 'ray' is not installed; run: pip install -c constraints.txt -e '.[ray]'")
from ray_parts import (
    FAST,
    GROUP,
    QUESTION,
    STARTS,
    Counting,
    Impossible,
    NoisyLamp,
    Outage,
    Raising,
    Stalling,
    collect,
    content,
    imagination,
    local,
    remote,
    small_policy,
    starts,
    train,
)

from worldgymnast.endpoint import BudgetSpent
from worldgymnast.errors import Paused
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.ledger import Budget, Ledger
from worldgymnast.surrogates.ray_cluster import connected, reach

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("ray"), pytest.mark.cluster]


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


def test_a_group_that_fails_on_one_worker_is_tried_on_another(ray: Any, expected: list[Any], tmp_path: Path) -> None:
    """Once in the world model, once in the judge."""
    world, judge = (tmp_path / name for name in ("world", "judge"))
    for folder in (world, judge):
        folder.mkdir()
    with remote(imagination(Raising(trap=world), Outage(trap=judge))) as pool:
        assert content(collect(pool)) == expected
        counts = pool.metrics()
    assert (counts["pool/errors"], counts["pool/requeued"], counts["pool/restarts"]) == (2, 2, 0)


def test_where_no_worker_survives_the_run_pauses(ray: Any) -> None:
    with remote(imagination(Impossible())) as pool, pytest.raises(Paused, match=r"attempts failed|ended in a row"):
        collect(pool)


def test_a_failure_on_every_worker_names_its_cause(ray: Any) -> None:
    class Broken(NoisyLamp):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            raise OSError("no device")

    with remote(imagination(Broken())) as pool, pytest.raises(Paused, match=r"group 0: 3 attempts.*no device"):
        collect(pool)


# ---------------------------------------------------------------- the shared judge


def test_a_killed_judge_is_replaced_and_no_group_is_lost(ray: Any, expected: list[Any], tmp_path: Path) -> None:
    with remote(imagination(judge=Counting(path=tmp_path / "calls", trap=tmp_path))) as pool:
        assert content(collect(pool)) == expected
        counts = pool.metrics()
    assert counts["pool/restarts"] >= 1
    assert counts["pool/units"] == 2 * STARTS + 2


def test_workers_share_one_budget_to_the_last_request(ray: Any, tmp_path: Path) -> None:
    """Seven of 24 questions are paid for, by whichever worker; a larger budget then pays for the others alone."""
    with faulty() as server:
        rooms = [replace(start, instruction=QUESTION) for start in starts(np.random.default_rng(0), STARTS)]
        for budget, answered in ((Budget(requests=7), 7), (Budget(requests=100), GROUP * STARTS)):
            config = VLMConfig(endpoint=server.endpoint("m", budget=budget, concurrency=3))
            judge = VLMJudge(config, Ledger(tmp_path / "ledger.sqlite"))
            with remote(imagination(judge=judge)) as pool:
                pool.sync(small_policy().trainable_state(), 0)
                finish = pool.begin(rooms, GROUP)
                if answered == 7:
                    with pytest.raises(BudgetSpent, match="Budget of m is spent"):
                        finish()
                else:
                    assert all(r.verdict.score is not None for group in finish() for r in group.rollouts)
            assert server.counts()["requests"] == answered
            assert Ledger(tmp_path / "ledger.sqlite").total().requests == answered


# ---------------------------------------------------------------- driver, node and object store


def test_a_killed_driver_leaves_nothing_behind_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")[0]
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER, str(tmp_path / "killed"), "0.2"], env=_environment())
    while not (tmp_path / "killed" / "metrics.jsonl").exists():
        assert driver.poll() is None
        time.sleep(0.05)
    children = {child for child in _descendants(driver.pid) if _is_heavy(child)}
    assert len(children) == 4, "Ray's two servers and two workers"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 60
    while any(_parent(child) is not None for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not (tmp_path / "killed" / "policy.safetensors").exists()
    command = [sys.executable, "-c", _DRIVER, str(tmp_path / "killed"), "0"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == whole


_DRIVER = """
import sys
from pathlib import Path
from ray_parts import FAST, NoisyLamp, train
from worldgymnast.surrogates.ray_pool import RayConfig, workers
make = workers(RayConfig(workers=2, store_mb=80, recovery=FAST))
print(train(Path(sys.argv[1]), make, world=NoisyLamp(pause=float(sys.argv[2])))[0])
"""


def test_a_killed_node_loses_no_group(expected: list[Any]) -> None:
    """Two raylets, one worker on each; one raylet is killed while both roll out."""
    assert _print(_NODES) == f"{_digest(expected)} 1.0"


_NODES = """
import threading, time
from ray_parts import *
from ray.cluster_utils import Cluster
from test_ray_faults import _digest
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
config = RayConfig(workers=2, address=cluster.address, recovery=FAST)
world = imagination(NoisyLamp(pause=0.1))
with ray_pool(small_policy(1), world, config, rows=8, temperature=1.0, seed=0) as pool:
    pool.wait_until_started()
    threading.Timer(1.0, lambda: cluster.remove_node(node, allow_graceful=False)).start()
    print("\\nRESULT", _digest(content(collect(pool))), pool.metrics()["pool/restarts"], flush=True)
cluster.shutdown()
"""


def test_groups_larger_than_the_object_store_are_collected() -> None:
    """A store of 76 MB, and groups of 100 MB."""
    surrogate = imagination(NoisyLamp(size=256))
    pool = local(surrogate)
    pool.sync(small_policy().trainable_state(), 0)
    assert _print(_STORE) == _digest(content(pool.begin(starts(np.random.default_rng(0), 2, 256), 128)()))


_STORE = """
from ray_parts import *
from test_ray_faults import _digest
config = RayConfig(workers=2, store_mb=76)
with ray_pool(small_policy(1), imagination(NoisyLamp(size=256)), config, rows=8, temperature=1.0, seed=0) as pool:
    pool.sync(small_policy().trainable_state(), 0)
    print("\\nRESULT", _digest(content(pool.begin(starts(np.random.default_rng(0), 2, 256), 128)())), flush=True)
"""


def _digest(rows: list[Any]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _environment() -> dict[str, str]:
    """An environment in which a child finds the tests' modules, and no Ray of this process."""
    path = os.pathsep.join(entry for entry in [str(Path(__file__).parent), *sys.path] if entry)
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": path}


def _print(script: str) -> str:
    """What a script prints after "RESULT"."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT ")


def _parent(pid: int) -> int | None:
    """The parent of a process; None if it has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else int(parent)


def _is_heavy(pid: int) -> bool:
    """Whether a process holds models or memory; Ray's small agents take a minute longer to end."""
    command = Path(f"/proc/{pid}/cmdline").read_text()
    return any(name in command for name in ("raylet/raylet", "gcs/gcs_server", "ray::Worker"))


def _descendants(pid: int) -> set[int]:
    """All processes that a process has started, directly or not."""
    found = {pid}
    while new := {int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(int(p.name)) in found} - found:
        found |= new
    return found - {pid}


def test_a_cluster_that_is_not_there_is_seen_soon() -> None:
    """Ray itself tries for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        reach(address)
    began = time.monotonic()
    with pytest.raises(OSError, match="refused"):
        reach(address)
    assert time.monotonic() - began < 12
    reach("auto")  # nothing to ask
