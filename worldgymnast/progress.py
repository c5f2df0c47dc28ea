"""How far a loop is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from worldgymnast.processes import rank

Item = TypeVar("Item")

_SHORTEST_TICK = 1.0


def counted(what: str, items: Sequence[Item]) -> Iterator[Item]:
    """Goes through `items` with their progress; `what` says what is done with them."""
    with Progress(what, len(items)) as progress:
        for item in items:
            yield item
            progress.advance()


class Progress:
    """A progress bar on stderr with rate and time left; where stderr is no terminal, one line every `every` seconds.

    Used as a context manager, `advance` called after each step; a line also comes while a single step takes longer.
    Of several processes only the first says anything.

    Args:
        what: a few words, such as "training the world".
        total: number of steps.
        done: steps finished before, by an earlier process; they do not count for the rate.
        every: seconds between two lines where there is no terminal.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, every: float = 30.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.what, self.total, self.done, self.every = what, total, done, every
        self._first, self._began = done, time.monotonic()
        self._spoke, self._note = self._began, ""
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal and rank() == 0:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        elif rank() == 0:
            self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._bar is not None:
            self._bar.stop()

    def _tick(self) -> None:
        """Speaks while a step takes longer than `every` seconds."""
        while not self._ended.wait(max(self.every, _SHORTEST_TICK)):
            if time.monotonic() - self._spoke >= self.every:
                self._speak()

    def _speak(self) -> None:
        """Prints one line."""
        now = time.monotonic()
        self._spoke = now
        rate = (self.done - self._first) / (now - self._began)
        left = timedelta(seconds=round((self.total - self.done) / rate)) if rate > 0 else "unknown time"
        line = f"{self.what}: step {self.done}/{self.total}, {rate:.3g} steps/s, {left} left"
        print(f"{line}, {self._note}" if self._note else line, file=sys.stderr, flush=True)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts `steps` as finished; `note` is shown at the end of the line."""
        self.done, self._note = self.done + steps, note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
            return
        if time.monotonic() - self._spoke >= self.every and rank() == 0:
            self._speak()
