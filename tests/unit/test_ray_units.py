"""Units of work, what travels between processes, and what is said without Ray; nothing here starts a process."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray_parts import content, imagination, small_policy, starts

from worldgymnast.cli.main import main
from worldgymnast.endpoint import Endpoint, EndpointConfig
from worldgymnast.errors import FieldError, InputError
from worldgymnast.ledger import Ledger
from worldgymnast.rl.collect import CollectConfig, Collector
from worldgymnast.rl.objective import ObjectiveConfig
from worldgymnast.run import weights_hash
from worldgymnast.surrogates.ray_cluster import load_ray
from worldgymnast.surrogates.ray_worker import Broadcast, Parts, Worker, group_of, pack, unpack
from worldgymnast.surrogates.units import Unit, UnitCounter, begin_unit


def unit(version: int = 0, index: int = 0, seed: int = 0) -> Unit:
    return Unit(seed, version, index, starts(np.random.default_rng(0), 1)[0], 3)


def test_every_unit_has_its_own_stream() -> None:
    seeds = [unit(v, i, s).generator().initial_seed() for v in (0, 1) for i in (0, 1) for s in (0, 1)]
    assert len(set(seeds)) == 8
    assert unit(1, 2, 3).generator().initial_seed() == unit(1, 2, 3).generator().initial_seed()


def test_the_groups_of_a_version_are_numbered_across_calls() -> None:
    counter, room = UnitCounter(0), unit().start
    indices = [[u.index for u in counter.units([room] * n, 2, v)] for n, v in ((2, 0), (1, 1), (2, 0), (1, 1))]
    assert indices == [[0, 1], [0], [2, 3], [1]]


@pytest.mark.parametrize("every", [1, 2])
def test_rollouts_survive_the_way_to_the_driver(every: int) -> None:
    surrogate = replace(imagination(), every=every)
    rolled = begin_unit(unit(), small_policy(), surrogate, surrogate.verdict_source, rows=2, temperature=1.0)()
    packed = pack(rolled, rolled[0].start)
    again = unpack(packed, rolled[0].start)
    assert content([group_of(again)]) == content([group_of(rolled)])
    assert all(rollout.start is rolled[0].start for rollout in again)
    if every == 2:
        assert len(packed) < len(pickle.dumps(rolled)), "frames that the policy saw travel once"


def test_a_worker_refuses_weights_that_are_not_those_sent() -> None:
    worker = Worker(pickle.dumps(Parts(small_policy(), imagination(), True, 4, 1.0, 1)))
    worker.ready()
    weights = small_policy(5).trainable_state()
    digest = weights_hash(weights)

    def rolled(broadcast: Broadcast) -> list[Any]:
        return content([group_of(unpack(worker.roll_out(pickle.dumps(unit()), broadcast), unit().start))])

    first = rolled(Broadcast(digest, lambda: weights))
    assert rolled(Broadcast(digest, lambda: pytest.fail("they are loaded already"))) == first
    damaged = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    with pytest.raises(RuntimeError, match="were sent"):
        rolled(Broadcast("0" * 64, lambda: damaged))
    assert rolled(Broadcast(digest, lambda: weights)) == first


def test_an_endpoint_and_its_ledger_travel_without_connections(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.store("question", {0: "yes"})
    endpoint = Endpoint(EndpointConfig("m", "http://127.0.0.1:1/v1"), ledger)
    again = pickle.loads(pickle.dumps(endpoint))
    assert again.config == endpoint.config
    assert again.ledger.answers("question") == {0: "yes"}


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'worldgymnast\[ray\]'"):
        load_ray()


@pytest.mark.parametrize("flags", [["--workers", "3"], ["--ray-address", "auto"]])
def test_flags_of_workers_without_workers_are_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", "debug", *flags]) == 2
    assert f"{flags[0]}: no effect with --pool local. Add --pool ray" in capsys.readouterr().err


def test_to_fill_a_step_every_group_needs_its_own_stream() -> None:
    with pytest.raises(FieldError, match="fill"):
        CollectConfig(fill=3)

    class Plain:
        def begin(self) -> None: ...

        def sync(self) -> None: ...

    with pytest.raises(ValueError, match="begin_filled"):
        Collector(Plain(), lambda rng, count: [], CollectConfig(fill=3, streams="group"), ObjectiveConfig())  # type: ignore[arg-type]


def test_more_workers_than_the_machine_carries_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    rl = ["rl", "debug", "--pool", "ray", "--workers", "9999", "--unscored", "--out", str(tmp_path / "run")]
    assert main(rl) == 2
    assert "--workers: found 9999, expected at most" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
