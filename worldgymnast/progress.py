"""Progress of loops, on terminals and in logs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from worldgymnast.processes import on_rank_zero, rank

Item = TypeVar("Item")

_MIN_INTERVAL = 1.0


def track(what: str, items: Sequence[Item]) -> Iterator[Item]:
    """Iterate over `items` with a progress display labeled `what`."""
    with Progress(what, len(items)) as progress:
        for item in items:
            yield item
            progress.advance()


class SaveClock:
    """Tells when a checkpoint is due, so that a kill loses minutes however slow the steps are.

    All processes of a training get the answer of rank 0.

    Args:
        seconds: longest time between two checkpoints.
    """

    def __init__(self, seconds: float = 300.0) -> None:
        self.seconds = seconds
        self.restart()

    def is_due(self) -> bool:
        """Whether so many seconds have passed since the last checkpoint."""
        return on_rank_zero(lambda: time.monotonic() - self._since >= self.seconds)

    def restart(self) -> None:
        """A checkpoint was saved."""
        self._since = time.monotonic()


class Progress:
    """Progress bar on stderr with rate and remaining time.

    If stderr is not a terminal, prints one line every `every` seconds, also during a long step. Use as a context
    manager and call `advance` after each step. Only rank 0 prints.

    Args:
        what: label, such as "training the world".
        total: number of steps.
        done: steps finished before a resume; excluded from the rate, as is the first step.
        every: seconds between two lines without a terminal.
        status: what is under way now, in words; shown during a step. "" if unknown.
    """

    def __init__(
        self, what: str, total: int, *, done: int = 0, every: float = 30.0, status: Callable[[], str] = str
    ) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            RenderableColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self.what, self.total, self.done, self.every, self.status = what, total, done, every, status
        self._counted_from = done, time.monotonic()
        self._last_print, self._note = time.monotonic(), ""
        self._is_first = True
        self._has_ended = threading.Event()
        self._printer: threading.Thread | None = None
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal and rank() == 0:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, TimeRemainingColumn(), RenderableColumn(self), console=console)
            self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        elif rank() == 0:
            self._printer = threading.Thread(target=self._print_regularly, name="progress", daemon=True)
            self._printer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._has_ended.set()
        if self._printer is not None:
            self._printer.join()
        if self._bar is not None:
            self._bar.stop()

    def _print_regularly(self) -> None:
        """Print a line whenever a step takes longer than `every` seconds."""
        while not self._has_ended.wait(max(self.every, _MIN_INTERVAL)):
            if time.monotonic() - self._last_print >= self.every:
                self._print_line()

    def _print_line(self) -> None:
        now = time.monotonic()
        self._last_print = now
        step, since = self._counted_from
        rate = (self.done - step) / max(now - since, 1e-9)
        left = timedelta(seconds=round((self.total - self.done) / rate)) if rate > 0 else "unknown time"
        line = f"{self.what}: step {self.done}/{self.total}, {rate:.3g} steps/s, {left} left"
        words = self.__rich__()
        print(f"{line}, {words}" if words else line, file=sys.stderr, flush=True)

    def __rich__(self) -> str:
        """The end of the bar or line: the note of the last step, and what is under way."""
        return "; ".join(filter(None, (self._note, self.status())))

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` as finished; `note` is appended to the line."""
        self.done, self._note = self.done + steps, note
        if self._is_first:  # the first step also warms up
            self._is_first, self._counted_from = False, (self.done, time.monotonic())
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            return
        if time.monotonic() - self._last_print >= self.every and rank() == 0:
            self._print_line()
