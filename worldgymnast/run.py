"""Run folders: resolved config, metrics, atomic checkpoints, final weights, and crash-safe resume.

    RUN/config.json           the resolved config; a later command with a different config is rejected
    RUN/command.txt           one line per start of the run
    RUN/versions.json         of torch, worldgymnast, python, the platform
    RUN/metrics.jsonl         one object per line: step, time (Unix seconds), and the metrics
    RUN/tensorboard/          the same for TensorBoard
    RUN/wandb/                the same for Weights & Biases, if chosen (see `trackers`)
    RUN/checkpoints/step-N/   tensors.safetensors and state.json, renamed into place once both are synced; a hash in
                              state.json covers both and the config. Sharded training adds shards/, one file per
                              process, whose hashes are in state.json
    RUN/NAME.safetensors      final weights with metadata
    RUN/videos/NAME.mp4
    RUN/ledger.sqlite         answers and costs of paid judges; kept even if an unused run is removed
    RUN/summary.json          written last, marks the run as finished; contains the hashes of the final weights

All writes are atomic: a kill at any moment leaves either the old or the new file. A loop logs a step before it saves a
checkpoint of that step. RUN/.lock keeps other processes out; it is a lock of the operating system, so a kill releases
it. A finished run can be read from a read-only folder.

In distributed training (`worldgymnast.processes`) each process has a `Run` and calls the same methods in the same
order; only rank 0 writes.
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
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import read_json_object, short
from worldgymnast.ledger import FILE
from worldgymnast.processes import on_rank_zero, rank_zero_only
from worldgymnast.records import HASH, metrics_before, read_hashed, read_metrics, read_seconds, read_state, with_hash
from worldgymnast.run_folder import (
    LOCK,
    check_folder,
    check_writable,
    checkpoint_step,
    command_line,
    first_difference,
    is_finished,
    os_errors_as_input_errors,
    remove_path,
    versions,
)
from worldgymnast.staging import TEMPORARY, atomic_path, space_for, sync
from worldgymnast.trackers import Trackers
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
    some_of,
    to_json,
    weights_hash,
    write_bytes,
    write_text,
)

__all__ = [
    "Checkpoint",
    "Run",
    "check_folder",
    "check_writable",
    "command_line",
    "generator_state",
    "is_finished",
    "load_into",
    "load_optimizer_tensors",
    "load_weights",
    "optimizer_tensors",
    "save_weights",
    "set_generator_state",
    "weights_hash",
]

_OLD = ".old-"
"""Prefix of a checkpoint that is being replaced."""
_SHARDS = "shards"
"""Folder of a checkpoint with shards, and field of its state with their hashes."""
_WEIGHTS = "weights"
"""Field of summary.json with the hashes of the final weights."""
_READ_ONLY_ERRORS = (errno.EROFS, errno.EACCES, errno.EPERM)
_LOG_SPACE = 2**20
"""Free bytes required to log; TensorBoard's writer thread would otherwise fail with a long traceback."""


LogCallback = Callable[[int, Mapping[str, float]], None]
"""Called with each logged step and its metrics."""


WriteShards = Callable[[Path], Mapping[str, str]]
"""Writes files into a folder, and returns the hash of each by name."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Attributes:
        step: number of finished steps.
        tensors: on the CPU.
        state: JSON.
        shards: folder of shards; None without any.
        hashes: content hash of each file of shards.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    shards: Path | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)


class Run:
    """A new or resumed run folder; a context manager.

    Args:
        path: the folder.
        config: the resolved config, as JSON.
        command: the exact command line; defaults to that of this process.
        on_log: called after each `log`.

    Raises:
        InputError: the folder has other content or a run with a different config, is locked, or is not accessible.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], *, command: str | None = None, on_log: LogCallback | None = None
    ) -> None:
        self.path = Path(path)
        self.config: dict[str, Any] = json.loads(json.dumps(config))
        self.command = command or command_line()
        self.on_log = on_log
        self._trackers = Trackers(self.path, self.config)
        self._is_new = False
        self._lock: FileLock | None = None
        self._is_read_only = False
        self._open()

    @rank_zero_only
    def _open(self) -> None:
        """Lock the folder and prepare it."""
        check_folder(self.path)
        with os_errors_as_input_errors(self.path):
            self._lock = self._acquire_lock()
            if self._is_read_only:
                self._check_config()
                return
            try:
                self._prepare()
            except BaseException:
                self._lock.release()
                raise

    def _prepare(self) -> None:
        """Remove leftovers of a kill, and write or compare config and command."""
        for folder in (self.path, self.path / "videos"):
            for leftover in folder.glob(f"{TEMPORARY}*"):
                remove_path(leftover)
        self._recover_checkpoints()
        if (self.path / "config.json").exists():
            self._check_config()
        else:
            self._is_new = True
            write_text(self.path / "versions.json", to_json(versions()))
            write_text(self.path / "config.json", to_json(self.config))
        file = self.path / "command.txt"
        write_text(file, (file.read_text(errors="replace") if file.exists() else "") + f"{self.command}\n")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None and self._is_new:
            self._remove_if_unused()
        self.close()

    def _remove_if_unused(self) -> None:
        """Remove a run that failed early, which frees the folder."""
        own = {"config.json", "versions.json", "command.txt", LOCK}
        names = {path.name for path in self.path.iterdir()}
        if all(name in own or name.startswith(FILE) for name in names):
            for name in own:
                (self.path / name).unlink(missing_ok=True)
            if names <= own:
                self.path.rmdir()

    def close(self) -> None:
        """Close the trackers and release the lock."""
        self._trackers.close()
        if self._lock is not None:
            self._lock.release()

    def _acquire_lock(self) -> FileLock:
        """Lock the folder, unless it is finished and read-only."""
        lock = FileLock(self.path / LOCK)
        with space_for(self.path / LOCK, 0):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.path}: another process is using this run folder; wait for it, stop it, or give another path"
                ) from None
            except OSError as error:
                if error.errno not in _READ_ONLY_ERRORS or not is_finished(self.path):
                    raise
                self._is_read_only = True
        return lock

    def _check_config(self) -> None:
        file = self.path / "config.json"
        saved = read_json_object(file, "use another run folder")
        if difference := first_difference(saved, self.config):
            field, old, new = difference
            problem = f"{self.path} was started with {short(old)}; this command has {short(new)}"
            fix = f"rerun the first command in {self.path / 'command.txt'}. To start anew, give another run folder"
            raise FieldError(field, f"{problem}. To resume it, {fix}")

    # ------------------------------------------------------------ metrics

    @property
    def _metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @rank_zero_only
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append metrics to metrics.jsonl and the trackers; NaN is written as null."""
        values = {k: float(v) for k, v in metrics.items()}
        row = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = (json.dumps({"step": step, "time": round(time.time(), 3), **row}) + "\n").encode()
        with os_errors_as_input_errors(self.path), space_for(self._metrics_file, _LOG_SPACE):
            with self._metrics_file.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, "short write")
                except OSError:
                    file.truncate(end)
                    raise
            self._trackers.log(step, values)
        if self.on_log is not None:
            self.on_log(step, values)

    def metrics(self) -> list[dict[str, Any]]:
        """All valid rows of metrics.jsonl in order; null is NaN."""
        return read_metrics(self._metrics_file)

    def _drop_metrics_from(self, step: int) -> None:
        """Remove invalid lines, and those that a resumed run will write again."""
        self._trackers.restart(step)
        if not self._metrics_file.exists():
            return
        kept = metrics_before(self._metrics_file, step)
        if kept != self._metrics_file.read_bytes():
            write_bytes(self._metrics_file, kept)

    # ------------------------------------------------------------ checkpoints

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _checkpoint_path(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:08d}"

    def _recover_checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first; leftovers of a kill are restored or removed."""
        if not self._checkpoints.exists():
            return []
        for old in self._checkpoints.glob(f"{_OLD}*"):
            path = old.with_name(old.name.removeprefix(_OLD))
            if path.exists():
                remove_path(old)
            else:  # killed between the two renames of `save`
                os.replace(old, path)
        for path in self._checkpoints.glob(f"{TEMPORARY}*"):
            remove_path(path)
        steps = {step: path for path in self._checkpoints.iterdir() if (step := checkpoint_step(path)) is not None}
        return [steps[step] for step in sorted(steps)]

    def _read(self, path: Path) -> Checkpoint:
        """Read a checkpoint and verify its hash."""
        step = checkpoint_step(path) or 0
        state, expected = read_state(path / "state.json", step)
        tensors, _ = load_weights(path / "tensors.safetensors")
        if expected is not None and expected != self._hash(step, tensors, state):
            raise InputError("damaged, or of another run or step (SHA-256 mismatch)")
        hashes = state.pop(_SHARDS, None)
        if hashes is None:
            return Checkpoint(step, tensors, state)
        if missing := [name for name in hashes if not (path / _SHARDS / name).is_file()]:
            raise InputError(f"{path / _SHARDS}: found no {some_of(missing)}")
        return Checkpoint(step, tensors, state, path / _SHARDS, hashes)

    def _hash(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
        return content_hash(tensors, {"config": self.config, "step": step, "state": dict(state)})

    @rank_zero_only
    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        keep: int = 2,
        write_shards: WriteShards | None = None,
    ) -> None:
        """Write a checkpoint atomically; keeps the newest `keep` up to this step.

        Args:
            step: number of finished steps. Their metrics must be logged before; the first step is logged as 0.
            tensors: any dtype and device.
            state: JSON.
            keep: number of checkpoints to keep.
            write_shards: writes the tensors that several processes hold.

        Raises:
            InputError: the disk is full; earlier checkpoints are kept.
        """
        self._recover_checkpoints()
        path = self._checkpoint_path(step)
        temporary = path.with_name(TEMPORARY + path.name)
        cpu_tensors, json_state = savable(tensors), json.loads(json.dumps(dict(state)))
        if self._metrics_file.exists():
            sync(self._metrics_file)
        size = size_of(tensors) + len(to_json(json_state))
        with os_errors_as_input_errors(self.path), space_for(path, size):
            self._trackers.flush()
            try:
                temporary.mkdir(parents=True)
                if write_shards is not None:
                    (temporary / _SHARDS).mkdir()
                    json_state[_SHARDS] = dict(write_shards(temporary / _SHARDS))
                    sync(temporary / _SHARDS)
                digest = self._hash(step, cpu_tensors, json_state)
                save_file(cpu_tensors, temporary / "tensors.safetensors")
                (temporary / "state.json").write_text(to_json({"step": step, "state": json_state, HASH: digest}))
                for part in (temporary / "tensors.safetensors", temporary / "state.json", temporary):
                    sync(part)
                if path.exists():
                    os.replace(path, path.with_name(_OLD + path.name))
                os.replace(temporary, path)
                sync(self._checkpoints)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self._remove_old_checkpoints(step, max(keep, 1))

    def _remove_old_checkpoints(self, step: int, keep: int) -> None:
        """Remove old checkpoints, and later ones, which `load` found damaged."""
        paths = self._recover_checkpoints()
        later = [path for path in paths if (checkpoint_step(path) or 0) > step]
        earlier = paths[: len(paths) - len(later)]
        for path in [*earlier[:-keep], *later]:
            remove_path(path)

    def load(self) -> Checkpoint | None:
        """Load the newest complete checkpoint; None if there is none.

        Metrics logged after the checkpoint are dropped, unless the run is finished. An unreadable checkpoint is
        skipped with a line on stderr. In distributed training rank 0 chooses the checkpoint.
        """
        loaded: list[Checkpoint] = []

        def choose() -> Path | None:
            with os_errors_as_input_errors(self.path):
                paths = self._recover_checkpoints()
                for path in reversed(paths):
                    try:
                        loaded.append(self._read(path))
                    except (InputError, OSError, ValueError) as error:
                        print(f"{path}: checkpoint skipped: {error}", file=sys.stderr)
                        continue
                    break
                if paths and not loaded:
                    print(f"{self.path}: no readable checkpoint; restarting at step 0", file=sys.stderr)
                if not self._summary_file.exists():
                    self._drop_metrics_from(loaded[0].step if loaded else 0)
                return self._checkpoint_path(loaded[0].step) if loaded else None

        path = on_rank_zero(choose)
        if path is not None and not loaded:
            loaded.append(self._read(path))
        return loaded[0] if loaded else None

    # ------------------------------------------------------------ results

    @rank_zero_only
    def export(self, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> Path:
        """Write final weights to NAME.safetensors and return the path."""
        path = self.path / f"{name}.safetensors"
        save_weights(path, tensors, meta)
        return path

    @rank_zero_only
    def video(self, name: str, frames: np.ndarray, fps: float) -> Path:
        """Write uint8 [t h w 3] frames to videos/NAME.mp4 and return the path."""
        from worldgymnast.video import encode

        path = self.path / "videos" / f"{name}.mp4"
        with atomic_path(path, frames.nbytes // 20) as temporary:
            encode(temporary, frames, fps, lossless=False)
        return path

    @rank_zero_only
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as finished, with a JSON summary."""
        hashes = {path.name: read_header(path).hash for path in sorted(self.path.glob("*.safetensors"))}
        value = dict(summary) | ({_WEIGHTS: hashes} if hashes else {})
        if not self._is_read_only:
            write_text(self._summary_file, to_json(with_hash(json.loads(json.dumps(value)))))
        self.close()

    @property
    @rank_zero_only
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run.

        None if the run is not finished.

        Raises:
            InputError: the summary is damaged, or the final weights are missing or of another run.
        """
        if not os.path.lexists(self._summary_file):
            return None
        hint = f"remove {self._summary_file}, then rerun the same command to resume from the newest checkpoint"
        summary = read_hashed(self._summary_file, hint)
        hashes = summary.pop(_WEIGHTS, {})
        for name, expected in hashes.items() if isinstance(hashes, dict) else ():
            path = self.path / Path(name).name
            if not path.is_file() or read_header(path).hash != expected:
                raise InputError(f"{path}: missing, or not the final weights of this run; {hint}")
        return summary

    @property
    def _summary_file(self) -> Path:
        return self.path / "summary.json"


@contextmanager
def stage(out: Path, name: str) -> Iterator[None]:
    """Write the (longest) duration of a stage to OUT/stages.json."""
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    yield
    file = out / "stages.json"
    seconds = read_seconds(file)
    duration = time.perf_counter() - start
    if duration > seconds.get(name, 0.0) and os.access(out, os.W_OK):  # a finished run may be in a read-only folder
        write_text(file, json.dumps(seconds | {name: round(duration, 1)}, indent=2) + "\n")
