"""Where a run's metrics are shown besides metrics.jsonl: TensorBoard always, other trackers if chosen."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.hub import first_line

FLAG = "--tracker"
NAMES = ("wandb",)
"""Trackers to choose, besides TensorBoard."""
PROJECT = "worldgymnast"
"""Project of the runs at Weights & Biases, unless WANDB_PROJECT names another."""
_chosen: list[str] = []


@contextmanager
def use_trackers(names: Sequence[str]) -> Iterator[None]:
    """Log the runs of this process to these trackers too.

    Args:
        names: any of `NAMES`.

    Raises:
        InputError: a tracker is unknown, or its package is not installed.

    >>> with use_trackers([]):
    ...     pass
    """
    for name in names:
        if name not in NAMES:
            found = f"found '{name}'" if name else "its value is missing"
            raise InputError(f"{FLAG}: {found}, expected {' or '.join(NAMES)}. TensorBoard is always written")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{FLAG} {name}: not installed. Run pip install 'worldgymnast[{name}]', or omit the flag")
    before = list(_chosen)
    _chosen.extend(name for name in names if name not in _chosen)
    try:
        yield
    finally:
        _chosen[:] = before


class Trackers:
    """The trackers of one run, opened at its first log.

    Args:
        run: run folder.
        config: its config.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self._run, self._config = run, config
        self._board: Any = None
        self._others: list[Any] | None = None
        self._purge_from: int | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step.

        Raises:
            InputError: a tracker cannot be started, such as without a login.
        """
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._run / "tensorboard"), purge_step=self._purge_from)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._others is None:
            self._others = [_start_wandb(self._run, self._config) for name in _chosen if name == "wandb"]
        for tracker in self._others:
            tracker.log(dict(values), step=step)

    def flush(self) -> None:
        """Write what TensorBoard has buffered."""
        if self._board is not None:
            self._board.flush()

    def restart(self, step: int) -> None:
        """Close TensorBoard's file; the next one replaces the steps from `step` on."""
        self._close_board()
        self._purge_from = step

    def close(self) -> None:
        """Flush and close all; the next log opens them again."""
        self._close_board()
        for tracker in self._others or ():
            tracker.finish()
        self._others = None

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def _start_wandb(run: Path, config: Mapping[str, Any]) -> Any:
    """Start accelerate's tracker for Weights & Biases; a resumed run goes on in its run there."""
    import os

    from accelerate import PartialState
    from accelerate.tracking import WandBTracker

    PartialState()  # the tracker asks it for the rank
    options = {
        "name": run.name,
        "dir": str(run),
        "config": dict(config),
        "id": _identity(run),
        "resume": "allow",
        "reinit": "create_new",
    }
    tracker = WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), **options)
    try:
        tracker.start()
    except Exception as error:  # of the library or the network
        raise InputError(
            f"{FLAG} wandb: cannot be started ({first_line(error)}). Nothing was logged there. Run `wandb login`, set "
            "WANDB_MODE=offline, or omit the flag"
        ) from error
    return tracker


def _identity(run: Path) -> str:
    """Identity of the run at Weights & Biases, kept in its folder."""
    file = run / "wandb" / "id.txt"
    if file.is_file() and (found := file.read_text(errors="replace").strip()):
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    made = secrets.token_hex(8)
    file.write_text(made + "\n")
    return made
