"""A unit test starts no process and no server, and renders nothing: one that does is told to move."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

REFUSED = frozenset({"subprocess.Popen", "os.fork", "os.posix_spawn", "socket.bind", "socket.connect"})
_running = [False]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _running[0] and event in REFUSED and not _asks_for_the_platform(event, arguments):
        raise AssertionError(f"{event} in a unit test; a test that needs it belongs in tests/integration or tests/slow")


def _asks_for_the_platform(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether it is the `uname` that Python's own `platform.platform` runs."""
    return event in ("subprocess.Popen", "os.fork", "os.posix_spawn") and "uname" in str(arguments)


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Holds the test to its own process."""
    _running[0] = True
    yield
    _running[0] = False


def pytest_itemcollected(item: pytest.Item) -> None:
    if "gl" in getattr(item, "fixturenames", ()):
        raise pytest.UsageError(f"{item.nodeid} renders; it belongs in tests/integration or tests/slow")
