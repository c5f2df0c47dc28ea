"""A run folder: the resolved config, the metrics, atomic checkpoints, final weights, and how to go on after a kill.

    RUN/config.json           the resolved config; a later command with another config is refused
    RUN/command.txt           one line for every time the run was started
    RUN/versions.json         of torch, worldgymnast, python, the platform
    RUN/metrics.jsonl         one object a line: step, time (Unix seconds), and the metrics
    RUN/tensorboard/          the same for TensorBoard
    RUN/checkpoints/step-N/   tensors.safetensors and state.json, renamed into place when both are on the disk
    RUN/NAME.safetensors      final weights with metadata
    RUN/videos/NAME.mp4
    RUN/ledger.sqlite         what paid judges answered and cost; it outlives a run that was taken back
    RUN/summary.json          written last; its presence means that the run is finished

Everything is written beside its place, synced and renamed, so a kill at any moment leaves either the old or the new.
A loop logs a step before it saves that step. RUN/.lock keeps a second process out while one is at work; the lock is the
system's, so a kill leaves none behind. Where several processes train together (`worldgymnast.processes`) each has a
`Run`, calls the same methods in the same order, and only the first process writes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from worldgymnast import __version__
from worldgymnast.ledger import FILE
from worldgymnast.processes import by_first, first
from worldgymnast.types import InputError
from worldgymnast.weights import (
    TEMPORARY,
    atomic,
    generator_state,
    load_into,
    load_optimizer_tensors,
    load_weights,
    optimizer_tensors,
    savable,
    save_weights,
    set_generator_state,
    size_of,
    some_of,
    space_for,
    sync,
    to_json,
    weights_hash,
    write_text,
)

__all__ = [
    "Checkpoint",
    "Run",
    "check_folder",
    "finished",
    "generator_state",
    "load_into",
    "load_optimizer_tensors",
    "load_weights",
    "optimizer_tensors",
    "save_weights",
    "set_generator_state",
    "weights_hash",
]

_REPLACED = ".old-"
_LOCK = ".lock"
_ROOM_TO_LOG = 2**20  # bytes: TensorBoard writes from a thread of its own, whose failure would be a page of traceback


@dataclass(frozen=True)
class Checkpoint:
    """What `Run.save` was given: the step, the tensors (on the CPU) and the JSON state."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def _first_difference(found: Any, expected: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first field (in sorted order) that differs, or None."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            field = f"{name}.{key}" if name else str(key)
            if key not in found or key not in expected:
                return field, found.get(key, "nothing"), expected.get(key, "nothing")
            if difference := _first_difference(found[key], expected[key], field):
                return difference
        return None
    return None if found == expected else (name, found, expected)


def check_folder(path: Path) -> None:
    """Raises `InputError` unless a run could be begun, or gone on with, in that folder; writes nothing."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: found a file, expected a run folder; give another path")
    names = sorted(p.name for p in path.iterdir()) if path.exists() else []
    if "config.json" in names:
        return
    if others := [n for n in names if n not in ("versions.json", _LOCK) and not n.startswith((TEMPORARY, FILE))]:
        raise InputError(
            f"{path}: field 'config.json': found none beside {some_of(others)}, expected an empty folder or a run; "
            "give another path"
        )


def finished(path: Path) -> bool:
    """Whether that folder holds a run that came to its end."""
    return (path / "summary.json").is_file()


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "worldgymnast": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _read(place: Path) -> Checkpoint:
    """The checkpoint in a folder."""
    saved = json.loads((place / "state.json").read_text())
    tensors, _ = load_weights(place / "tensors.safetensors")
    return Checkpoint(saved["step"], tensors, saved["state"])


def command_line() -> str:
    """How this process was started, fit to be pasted into a shell."""
    name = Path(sys.argv[0]).name
    return shlex.join(["worldgymnast" if name == "__main__.py" else name, *sys.argv[1:]])


class Run:
    """A run folder, new or resumed.

    Args:
        path: the folder.
        config: the resolved config, JSON.
        command: the exact command line; this process's own if left out.

    Raises:
        InputError: the folder holds something else, or a run with another config.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, command: str | None = None) -> None:
        self.path = Path(path)
        self.config: dict[str, Any] = json.loads(json.dumps(config))
        self.command = command or command_line()
        self._writer: Any = None
        self._purge_from: int | None = None
        self._new = False
        self._lock: FileLock | None = None
        self._begin()

    @by_first
    def _begin(self) -> None:
        """Takes the folder."""
        check_folder(self.path)
        self._lock = self._locked()
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        """Clears what a kill left behind; files the config, or compares it; files the command."""
        for left_behind in self.path.glob(f"{TEMPORARY}*"):
            left_behind.unlink()
        if (self.path / "config.json").exists():
            self._check_config()
        else:
            self._new = True
            write_text(self.path / "versions.json", to_json(_versions()))
            write_text(self.path / "config.json", to_json(self.config))
        earlier = self.path / "command.txt"
        write_text(earlier, (earlier.read_text() if earlier.exists() else "") + self.command + "\n")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None and self._new:
            self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """Takes a new run that failed before it did anything back, so that it refuses no corrected command."""
        own = {"config.json", "versions.json", "command.txt", _LOCK}
        names = {path.name for path in self.path.iterdir()}
        if all(name in own or name.startswith(FILE) for name in names):
            for name in own:
                (self.path / name).unlink(missing_ok=True)
            if names <= own:
                self.path.rmdir()

    def close(self) -> None:
        """Flushes the TensorBoard file and lets another process have the folder."""
        self._close_writer()
        if self._lock is not None:
            self._lock.release()

    def _close_writer(self) -> None:
        """Flushes the TensorBoard file; logging again opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _locked(self) -> FileLock:
        """The folder's lock, held."""
        lock = FileLock(self.path / _LOCK)
        with space_for(self.path / _LOCK, 0):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.path}: found another process at work in this run folder, expected none; wait for it, stop "
                    "it, or give another path"
                ) from None
        return lock

    def _check_config(self) -> None:
        file = self.path / "config.json"
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise InputError(f"{file}: found no JSON ({error}), expected a run's config; use another folder") from error
        if difference := _first_difference(found, self.config):
            field, old, new = difference
            raise InputError(
                f"{file}: field '{field}': found {json.dumps(old)}, expected {json.dumps(new)} as in this command; "
                "repeat the first command to go on, or give another run folder"
            )

    # ------------------------------------------------------------ metrics

    @property
    def _metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @by_first
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line to metrics.jsonl and to TensorBoard; what is not a finite number is written as null."""
        values = {k: float(v) for k, v in metrics.items()}
        row = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = (json.dumps({"step": step, "time": round(time.time(), 3), **row}) + "\n").encode()
        with space_for(self._metrics_file, _ROOM_TO_LOG):
            with self._metrics_file.open("ab", buffering=0) as file:
                before = file.tell()
                try:
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, "short write")
                except OSError:
                    file.truncate(before)
                    raise
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=self._purge_from)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl, in order; a last line cut off by a kill is left out, null is NaN."""
        if not self._metrics_file.exists():
            return []
        rows = []
        for line in self._metrics_file.read_text().split("\n")[:-1]:
            rows.append({k: math.nan if v is None else v for k, v in json.loads(line).items()})
        return rows

    def _drop_metrics_from(self, step: int) -> None:
        """Removes the lines that a resumed run will write again, and a line that a kill cut off."""
        self._close_writer()
        self._purge_from = step
        if not self._metrics_file.exists():
            return
        lines = self._metrics_file.read_text().split("\n")[:-1]
        kept = "".join(f"{line}\n" for line in lines if json.loads(line)["step"] < step)
        if kept != self._metrics_file.read_text():
            write_text(self._metrics_file, kept)

    # ------------------------------------------------------------ checkpoints

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _place(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:08d}"

    def _saved(self) -> list[Path]:
        """Complete checkpoints, oldest first; what a kill left behind is put back or removed."""
        if not self._checkpoints.exists():
            return []
        for path in self._checkpoints.glob(f"{_REPLACED}*"):
            place = path.with_name(path.name.removeprefix(_REPLACED))
            shutil.rmtree(path) if place.exists() else os.replace(path, place)
        for path in self._checkpoints.glob(f"{TEMPORARY}*"):
            shutil.rmtree(path)
        return sorted(self._checkpoints.glob("step-*"))

    @by_first
    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> None:
        """Writes a checkpoint, whole or not at all, and removes all but the newest `keep`.

        Args:
            step: number of finished steps; log them before, the first as 0.
            tensors: any dtype and device.
            state: JSON.

        Raises:
            InputError: the disk is full; the earlier checkpoints are still there.
        """
        self._saved()
        place = self._place(step)
        temporary = place.with_name(TEMPORARY + place.name)
        text = to_json({"step": step, "state": dict(state)})
        if self._metrics_file.exists():
            sync(self._metrics_file)
        with space_for(place, size_of(tensors) + len(text)):
            if self._writer is not None:
                self._writer.flush()
            try:
                temporary.mkdir(parents=True)
                save_file(savable(tensors), temporary / "tensors.safetensors")
                (temporary / "state.json").write_text(text)
                for path in (temporary / "tensors.safetensors", temporary / "state.json", temporary):
                    sync(path)
                if place.exists():
                    os.replace(place, place.with_name(_REPLACED + place.name))
                os.replace(temporary, place)
                sync(self._checkpoints)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        for old in self._saved()[: -max(keep, 1)]:
            shutil.rmtree(old)

    def load(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None; metrics logged after it are dropped, since they will come again.

        A checkpoint that cannot be read is passed over with a line on stderr. A finished run's metrics are left alone.
        Of several processes the first chooses.
        """
        chosen: list[Checkpoint] = []

        def choose() -> Path | None:
            for place in reversed(self._saved()):
                try:
                    chosen.append(_read(place))
                except (InputError, OSError, ValueError) as error:
                    print(f"{place}: checkpoint passed over: {error}", file=sys.stderr)
                    continue
                break
            if not self._summary.exists():
                self._drop_metrics_from(chosen[0].step if chosen else 0)
            return self._place(chosen[0].step) if chosen else None

        place = first(choose)
        if place is not None and not chosen:
            chosen.append(_read(place))
        return chosen[0] if chosen else None

    # ------------------------------------------------------------ results

    @by_first
    def export(self, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> Path:
        """Writes final weights as NAME.safetensors and gives their path."""
        path = self.path / f"{name}.safetensors"
        save_weights(path, tensors, meta)
        return path

    @by_first
    def video(self, name: str, frames: np.ndarray, fps: float) -> Path:
        """Writes uint8 [t h w 3] frames as videos/NAME.mp4 and gives its path."""
        from worldgymnast.video import encode

        path = self.path / "videos" / f"{name}.mp4"
        with atomic(path, frames.nbytes // 20) as temporary:
            encode(temporary, frames, fps, lossless=False)
        return path

    @by_first
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished and keeps its summary (JSON)."""
        write_text(self._summary, to_json(dict(summary)))
        self.close()

    @property
    @by_first
    def finished(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        return json.loads(self._summary.read_text()) if self._summary.exists() else None

    @property
    def _summary(self) -> Path:
        return self.path / "summary.json"
