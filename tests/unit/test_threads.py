"""Threads in which torch computes on one core."""

import threading

import pytest
import torch

from worldgymnast.threads import single_threaded_worker
from worldgymnast.training.fit import Prefetcher


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def converted() -> int:
    """Threads of torch after an operation that runs in parallel if there are several."""
    torch.zeros(300_000).half().float()
    return torch.get_num_threads()


def test_the_worker_computes_on_one_core_and_all_other_threads_as_before() -> None:
    with single_threaded_worker("one") as worker:
        assert worker.submit(converted).result() == 1
        assert torch.get_num_threads() == converted() == 3
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.append(converted()))
        other.start()
        other.join()
        assert seen == [3]
        assert worker.submit(converted).result() == 1
    assert torch.get_num_threads() == 3


def test_batches_are_made_on_one_core() -> None:
    with Prefetcher(lambda _: {"threads": converted()}, iter(range(3))) as prefetcher:
        assert [prefetcher.take()["threads"] for _ in range(3)] == [1, 1, 1]
        assert converted() == 3
