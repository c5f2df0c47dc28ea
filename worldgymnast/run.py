"""A run folder: the resolved config, the metrics, atomic checkpoints, final weights, and how to go on after a kill.

    RUN/config.json           the resolved config; a later command with another config is refused
    RUN/command.txt           one line for every time the run was started
    RUN/versions.json         of torch, worldgymnast, python, the platform
    RUN/metrics.jsonl         one object a line: step, time (Unix seconds), and the metrics
    RUN/tensorboard/          the same for TensorBoard
    RUN/checkpoints/step-N/   tensors.safetensors and state.json, renamed into place when both are on the disk; a hash
                              in state.json covers both and the config
    RUN/NAME.safetensors      final weights with metadata
    RUN/videos/NAME.mp4
    RUN/ledger.sqlite         what paid judges answered and cost; it outlives a run that was taken back
    RUN/summary.json          written last; its presence means that the run is finished. It holds the hashes of the
                              final weights

Everything is written beside its place, synced and renamed, so a kill at any moment leaves either the old or the new.
A loop logs a step before it saves that step. RUN/.lock keeps a second process out while one is at work; the lock is the
system's, so a kill leaves none behind. A finished run can be read where nothing can be written. Where several processes
train together (`worldgymnast.processes`) each has a `Run`, calls the same methods in the same order, and only the first
process writes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object, short
from worldgymnast.ledger import FILE
from worldgymnast.processes import by_first, first
from worldgymnast.records import HASH, metrics_before, read_metrics, read_sealed, read_seconds, read_state, sealed
from worldgymnast.run_folder import (
    LOCK,
    check_folder,
    command_line,
    finished,
    first_difference,
    readable,
    remove,
    step_of,
    versions,
)
from worldgymnast.staging import TEMPORARY, atomic_path, space_for, sync
from worldgymnast.weights import (
    content_hash,
    generator_state,
    load_into,
    load_optimizer_tensors,
    load_weights,
    optimizer_tensors,
    read_header,
    savable,
    save_weights,
    set_generator_state,
    size_of,
    to_json,
    weights_hash,
    write_bytes,
    write_text,
)

__all__ = [
    "Checkpoint",
    "Run",
    "check_folder",
    "command_line",
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
_WEIGHTS = "weights"
"""The field of summary.json with the hashes of the final weights."""
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_ROOM_TO_LOG = 2**20  # bytes: TensorBoard writes from a thread of its own, whose failure would be a page of traceback


OnLog = Callable[[int, Mapping[str, float]], None]
"""Is told every step and what was logged there."""


@dataclass(frozen=True)
class Checkpoint:
    """What `Run.save` was given: the step, the tensors (on the CPU) and the JSON state."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Run:
    """A run folder, new or resumed.

    Args:
        path: the folder.
        config: the resolved config, JSON.
        command: the exact command line; this process's own if left out.

    Raises:
        InputError: the folder holds something else, or a run with another config, or cannot be used.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], *, command: str | None = None, on_log: OnLog | None = None
    ) -> None:
        self.path = Path(path)
        self.config: dict[str, Any] = json.loads(json.dumps(config))
        self.command = command or command_line()
        self.on_log = on_log
        self._writer: Any = None
        self._purge_from: int | None = None
        self._new = False
        self._lock: FileLock | None = None
        self._read_only = False
        self._begin()

    @by_first
    def _begin(self) -> None:
        """Takes the folder."""
        check_folder(self.path)
        with readable(self.path):
            self._lock = self._locked()
            if self._read_only:
                self._check_config()
                return
            try:
                self._open()
            except BaseException:
                self._lock.release()
                raise

    def _open(self) -> None:
        """Clears what a kill left behind; files the config, or compares it; files the command."""
        for folder in (self.path, self.path / "videos"):
            for left_behind in folder.glob(f"{TEMPORARY}*"):
                remove(left_behind)
        self._saved()
        if (self.path / "config.json").exists():
            self._check_config()
        else:
            self._new = True
            write_text(self.path / "versions.json", to_json(versions()))
            write_text(self.path / "config.json", to_json(self.config))
        earlier = self.path / "command.txt"
        write_text(earlier, (earlier.read_text(errors="replace") if earlier.exists() else "") + self.command + "\n")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None and self._new:
            self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """Takes a new run that failed before it did anything back, so that it refuses no corrected command."""
        own = {"config.json", "versions.json", "command.txt", LOCK}
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
        lock = FileLock(self.path / LOCK)
        with space_for(self.path / LOCK, 0):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.path}: found another process at work in this run folder, expected none; wait for it, stop "
                    "it, or give another path"
                ) from None
            except OSError as error:
                if error.errno not in _READ_ONLY or not finished(self.path):
                    raise
                self._read_only = True
        return lock

    def _check_config(self) -> None:
        file = self.path / "config.json"
        found = read_json_object(file, "use another run folder")
        if difference := first_difference(found, self.config):
            field, old, new = difference
            raise InputError(
                f"{file}: field '{field}': found {short(old)}, expected {short(new)} as in this command; "
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
        with readable(self.path), space_for(self._metrics_file, _ROOM_TO_LOG):
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
        if self.on_log is not None:
            self.on_log(step, values)

    def metrics(self) -> list[dict[str, Any]]:
        """Every row of metrics.jsonl, in order; a line cut off by a kill is left out, null is NaN."""
        return read_metrics(self._metrics_file)

    def _drop_metrics_from(self, step: int) -> None:
        """Removes the lines that a resumed run will write again, and lines that are none."""
        self._close_writer()
        self._purge_from = step
        if not self._metrics_file.exists():
            return
        kept = metrics_before(self._metrics_file, step)
        if kept != self._metrics_file.read_bytes():
            write_bytes(self._metrics_file, kept)

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
            if place.exists():
                remove(path)
            else:
                os.replace(path, place)
        for path in self._checkpoints.glob(f"{TEMPORARY}*"):
            remove(path)
        steps = {step: path for path in self._checkpoints.iterdir() if (step := step_of(path)) is not None}
        return [steps[step] for step in sorted(steps)]

    def _read(self, place: Path) -> Checkpoint:
        """The checkpoint in a folder, whose content is what was written for this run and this step."""
        step = step_of(place) or 0
        state, expected = read_state(place / "state.json", step)
        tensors, _ = load_weights(place / "tensors.safetensors")
        if expected is not None and expected != self._hash(step, tensors, state):
            raise InputError("damaged, or of another run or step: its content has another SHA-256 than was written")
        return Checkpoint(step, tensors, state)

    def _hash(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
        return content_hash(tensors, {"config": self.config, "step": step, "state": dict(state)})

    @by_first
    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> None:
        """Writes a checkpoint, whole or not at all, and removes all but the newest `keep` up to this step.

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
        plain, kept = savable(tensors), json.loads(json.dumps(dict(state)))
        text = to_json({"step": step, "state": kept, HASH: self._hash(step, plain, kept)})
        if self._metrics_file.exists():
            sync(self._metrics_file)
        with readable(self.path), space_for(place, size_of(tensors) + len(text)):
            if self._writer is not None:
                self._writer.flush()
            try:
                temporary.mkdir(parents=True)
                save_file(plain, temporary / "tensors.safetensors")
                (temporary / "state.json").write_text(text)
                for path in (temporary / "tensors.safetensors", temporary / "state.json", temporary):
                    sync(path)
                if place.exists():
                    os.replace(place, place.with_name(_REPLACED + place.name))
                os.replace(temporary, place)
                sync(self._checkpoints)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        places = self._saved()
        newer = [other for other in places if (step_of(other) or 0) > step]  # damaged: `load` went back beyond them
        for old in [*places[: len(places) - len(newer)][: -max(keep, 1)], *newer]:
            remove(old)

    def load(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None; metrics logged after it are dropped, since they will come again.

        A checkpoint that cannot be read is passed over with a line on stderr. A finished run's metrics are left alone.
        Of several processes the first chooses.
        """
        chosen: list[Checkpoint] = []

        def choose() -> Path | None:
            with readable(self.path):
                places = self._saved()
                for place in reversed(places):
                    try:
                        chosen.append(self._read(place))
                    except (InputError, OSError, ValueError) as error:
                        print(f"{place}: checkpoint passed over: {error}", file=sys.stderr)
                        continue
                    break
                if places and not chosen:
                    print(f"{self.path}: no checkpoint can be read; begins again at step 0", file=sys.stderr)
                if not self._summary.exists():
                    self._drop_metrics_from(chosen[0].step if chosen else 0)
                return self._place(chosen[0].step) if chosen else None

        place = first(choose)
        if place is not None and not chosen:
            chosen.append(self._read(place))
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
        with atomic_path(path, frames.nbytes // 20) as temporary:
            encode(temporary, frames, fps, lossless=False)
        return path

    @by_first
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished and keeps its summary (JSON), with the hashes of the weights in the folder."""
        hashes = {path.name: read_header(path).hash for path in sorted(self.path.glob("*.safetensors"))}
        value = dict(summary) | ({_WEIGHTS: hashes} if hashes else {})
        if not self._read_only:
            write_text(self._summary, to_json(sealed(json.loads(json.dumps(value)))))
        self.close()

    @property
    @by_first
    def finished(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None.

        Raises:
            InputError: the summary is damaged, or the final weights are missing or not those of this run.
        """
        if not os.path.lexists(self._summary):
            return None
        hint = f"remove {self._summary} and run the same command again: it resumes from the newest checkpoint"
        found = read_sealed(self._summary, hint)
        hashes = found.pop(_WEIGHTS, {})
        for name, expected in hashes.items() if isinstance(hashes, dict) else ():
            path = self.path / Path(name).name
            if not path.is_file() or read_header(path).hash != expected:
                raise InputError(f"{path}: missing, or not the weights that this run ended with; {hint}")
        return found

    @property
    def _summary(self) -> Path:
        return self.path / "summary.json"


@contextmanager
def stage(out: Path, name: str) -> Iterator[None]:
    """Times a stage and files its seconds in OUT/stages.json, added up over interruptions that ended cleanly."""
    print(f"== {name}", flush=True)
    began = time.perf_counter()
    yield
    file = out / "stages.json"
    seconds = read_seconds(file)
    spent = time.perf_counter() - began
    if spent > seconds.get(name, 0.0) and os.access(out, os.W_OK):  # a finished run may be read where none can write
        write_text(file, json.dumps(seconds | {name: round(spent, 1)}, indent=2) + "\n")
