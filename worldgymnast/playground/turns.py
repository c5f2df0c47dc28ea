"""Sessions that share one model take turns, in the order in which they ask."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A semaphore that serves threads in their order of arrival, so that no session starves.

    >>> turns = Turns()
    >>> with turns():
    ...     turns.waiting
    0
    """

    def __init__(self, parallel: int = 1):
        """Allow `parallel` threads at a time."""
        self._free, self._lock = parallel, threading.Lock()
        self._queue: deque[threading.Event] = deque()

    @property
    def waiting(self) -> int:
        """Number of threads that wait."""
        return len(self._queue)

    def widen(self, parallel: int) -> None:
        """Allow `parallel` threads at a time instead of one, before the first turn."""
        self._free = parallel

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        ticket = threading.Event()
        with self._lock:
            if self._free and not self._queue:
                self._free -= 1
                ticket.set()
            else:
                self._queue.append(ticket)
        ticket.wait()
        try:
            yield
        finally:
            with self._lock:
                if self._queue:
                    self._queue.popleft().set()
                else:
                    self._free += 1
