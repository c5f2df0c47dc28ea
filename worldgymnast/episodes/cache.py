"""Decoded frames kept on disk as one array, so that a data set is decoded once and then memory-mapped."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from worldgymnast.types import InputError


def fingerprint(files: Iterable[Path], *extra: object) -> str:
    """A short hash of the files' names, sizes and times of change, and of `extra`."""
    digest = hashlib.sha256(repr(extra).encode())
    for path in sorted(files):
        try:
            state = path.stat()
        except OSError as error:
            raise InputError(f"{path}: no such file, expected it by the metadata; copy the folder again") from error
        digest.update(f"{path.name}:{state.st_size}:{state.st_mtime_ns};".encode())
    return digest.hexdigest()[:16]


Decode = Callable[[], Iterator[tuple[object, np.ndarray]]]
"""Gives the frames uint8 [h w 3] in their order, each with where it is, for messages."""


def cached_frames(root: Path, name: str, key: str, count: int, decode: Decode) -> np.ndarray:
    """The `count` frames as a read-only memory map, decoded by `decode` unless a file for `key` exists.

    The file is `root/.cache/NAME-KEY.npy`, or one in the temporary folder where `root` cannot be written; it appears
    whole or not at all, and replaces those of other keys with the same name; of several processes one decodes while the
    others wait. Where the disk is full the frames are
    decoded into memory instead, and a line on stderr says so.

    Raises:
        InputError: frames differ in size, or there are not `count` of them.
    """
    folders = (root / ".cache", Path(tempfile.gettempdir()) / f"worldgymnast-cache-{os.getuid()}")
    for folder in folders:
        path = folder / f"{name}-{key}.npy"
        if path.is_file():
            return np.load(path, mmap_mode="r")
    folder = _writable(folders)
    if folder is None:
        return _in_memory(root, "no folder for a cache can be written", count, decode)
    path = folder / f"{name}-{key}.npy"
    with FileLock(folder / f".{name}.lock") as lock:
        try:
            full = not path.is_file() and not _written(path, _alike(decode(), count, root), count)
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
    if full:
        return _in_memory(root, "no space left on the disk", count, decode)
    for stale in folder.glob(f"{name}-*.npy"):
        if stale != path and folder == folders[0] and len(stale.stem) == len(path.stem):
            stale.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _written(path: Path, frames: Iterator[np.ndarray], count: int) -> bool:
    """Writes the file, whole or not at all; False where the disk is full."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _write(temporary, frames, count)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _writable(folders: Sequence[Path]) -> Path | None:
    """The first folder that can be written; one marked read-only is left alone even by the superuser."""
    for folder in folders:
        if folder.parent.is_dir() and not folder.parent.stat().st_mode & 0o222:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


def _in_memory(root: Path, why: str, count: int, decode: Decode) -> np.ndarray:
    print(f"{root}: {why}; decoded frames are not cached but held in memory", file=sys.stderr, flush=True)
    held: np.ndarray | None = None
    for index, frame in enumerate(_alike(decode(), count, root)):
        held = np.empty((count, *frame.shape), np.uint8) if held is None else held
        held[index] = frame
    assert held is not None
    held.flags.writeable = False
    return held


def _alike(frames: Iterator[tuple[object, np.ndarray]], count: int, root: Path) -> Iterator[np.ndarray]:
    """The frames alone; raises InputError where one differs in size from the first or there are not `count`."""
    found = 0
    begin: object = None
    size: tuple[int, ...] | None = None
    for where, frame in frames:
        if size is None:
            begin, size = where, frame.shape
        if frame.shape != size:
            raise InputError(
                f"{where}: found a frame of {frame.shape[0]}x{frame.shape[1]} pixels, expected {size[0]}x{size[1]} as "
                f"in {begin}; resize all, with --size {size[0]} or `size`"
            )
        found += 1
        if found <= count:
            yield frame
    if found != count:
        raise InputError(f"{root}: found {found} frames, expected {count} by the metadata; copy the folder again")


def _write(path: Path, frames: Iterator[np.ndarray], count: int) -> None:
    """Plain writes rather than a memory map: on a full disk those raise, where a memory map would kill the process."""
    with open(path, "wb") as file:
        for index, frame in enumerate(frames):
            if not index:
                header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (count, *frame.shape)}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(frame).data)
