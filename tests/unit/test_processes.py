"""Distributed training as far as one process can test it, and prefetched batches."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from worldgymnast import processes
from worldgymnast.crew import leader, leading, lost_processes_as_input_errors
from worldgymnast.errors import InputError, ProcessLost
from worldgymnast.sharding import read_full
from worldgymnast.training.fit import Prefetcher
from worldgymnast.weights import read_header, save_weights


def test_a_launcher_with_fsdp_is_refused_with_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"found --use_fsdp, .*--fit\.shard"):
        processes.initialize("cpu")


def test_batches_are_prefetched_in_order_and_waiting_is_counted() -> None:
    made: list[int] = []

    def batches(number: int) -> dict[str, int]:
        made.append(number)
        time.sleep(0.01)
        if number == 3:
            raise KeyboardInterrupt
        return {"number": number, "thread": threading.get_ident()}

    with Prefetcher(batches, iter(range(9))) as prefetcher:
        assert [prefetcher.take()["number"] for _ in range(3)] == [0, 1, 2]
        assert 0.5 < prefetcher.wait_share() <= 1
        with pytest.raises(KeyboardInterrupt):
            prefetcher.take()
    assert made == [0, 1, 2, 3]
    with Prefetcher(batches, iter(range(2))) as prefetcher:
        assert prefetcher.take()["thread"] != threading.get_ident()
        time.sleep(0.1)
        prefetcher.take()
        assert prefetcher.wait_share() < 0.3


def test_shards_of_any_number_of_processes_are_joined_and_a_foreign_or_damaged_one_is_refused(tmp_path: Path) -> None:
    full = torch.arange(15.0).reshape(5, 3)
    hashes = {}
    for rank, (first, last) in enumerate(((0, 2), (2, 4), (4, 5))):
        path = tmp_path / f"shard-{rank}.safetensors"
        places = {"policy.w": [first, [5, 3]]}
        save_weights(path, {"policy.w": full[first:last]}, {"pieces": json.dumps(places)})
        hashes[path.name] = str(read_header(path).hash)
    assert torch.equal(read_full(tmp_path, hashes)["policy.w"], full)
    with pytest.raises(InputError, match=r"of another checkpoint.*Or remove"):
        read_full(tmp_path, hashes | {"shard-1.safetensors": hashes["shard-0.safetensors"]})
    damaged = bytearray((tmp_path / "shard-2.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "shard-2.safetensors").write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged.*Or remove"):
        read_full(tmp_path, hashes)


def test_one_process_leads_nobody() -> None:
    with leading() as crew:
        assert crew is None
        assert leader() is None


def test_a_lost_process_is_one_line_and_other_errors_stay() -> None:
    with (
        pytest.raises(ProcessLost, match=r"another process .* Rerun the same command"),
        lost_processes_as_input_errors(),
    ):
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), lost_processes_as_input_errors():
        raise RuntimeError("shapes do not match")
