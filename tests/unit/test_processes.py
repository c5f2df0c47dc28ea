"""Distributed training as far as one process can test it, and prefetched batches."""

import threading
import time

import pytest

from worldgymnast import processes
from worldgymnast.errors import InputError
from worldgymnast.training.fit import Prefetcher


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
