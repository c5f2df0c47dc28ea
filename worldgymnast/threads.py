"""Threads beside a training or an imagination that uses all cores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def single_threaded_worker(name: str) -> ThreadPoolExecutor:
    """Executor with one thread, in which torch computes on one core.

    Every thread that computes in parallel gets OpenMP workers of its own. As soon as they are more than the cores, all
    OpenMP workers of the process sleep between operations instead of spinning, and small operations take twice as long.

    >>> with single_threaded_worker("batches") as worker:
    ...     worker.submit(torch.get_num_threads).result()
    1
    """
    threads = torch.get_num_threads()
    worker = ThreadPoolExecutor(1, name)
    worker.submit(_use_one_core).result()
    torch.set_num_threads(threads)  # `_use_one_core` has changed the number for threads to come
    return worker


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread takes the number for all at its first operation: this one
    torch.set_num_threads(1)
