"""Bounds on processor time."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Assert that the block takes less processor time.

    What exists before is kept from the garbage collector: a collection that falls into the block would walk all that
    other tests left.
    """
    gc.freeze()
    try:
        began = time.process_time()
        yield
        assert time.process_time() - began < seconds
    finally:
        gc.unfreeze()
