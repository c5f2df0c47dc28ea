"""Decoded frames kept on disk as one array, so that a data set is decoded once and then memory-mapped."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.types import InputError
from worldgymnast.video import disk_error


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


def cached_frames(root: Path, name: str, key: str, count: int, frames: Iterator[np.ndarray]) -> np.ndarray:
    """The `count` frames as a read-only memory map, decoded from `frames` unless a file for `key` exists.

    The file is `root/.cache/NAME-KEY.npy`, or one in the temporary folder where `root` cannot be written; it appears
    whole or not at all, and replaces those of other keys with the same name.

    Raises:
        InputError: the disk is full, frames differ in size, or there are not `count` of them.
    """
    folders = (root / ".cache", Path(tempfile.gettempdir()) / f"worldgymnast-cache-{os.getuid()}")
    for folder in folders:
        path = folder / f"{name}-{key}.npy"
        if path.is_file():
            return np.load(path, mmap_mode="r")
    folder = _writable(folders)
    path = folder / f"{name}-{key}.npy"
    temporary = folder / f".{path.name}.{os.getpid()}.partial"
    try:
        _write(temporary, count, frames, root)
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
    for stale in folder.glob(f"{name}-*.npy"):
        if stale != path and folder == folders[0] and len(stale.stem) == len(path.stem):
            stale.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _writable(folders: Sequence[Path]) -> Path:
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
    raise InputError(f"{folders[0]}: cannot be written and neither can {folders[-1]}; make one of them writable")


def _write(path: Path, count: int, frames: Iterator[np.ndarray], root: Path) -> None:
    """Plain writes rather than a memory map: on a full disk those raise, where a memory map would kill the process."""
    found = 0
    size: tuple[int, ...] | None = None
    with open(path, "wb") as file:
        for frame in frames:
            if size is None:
                size = frame.shape
                header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (count, *size)}
                np.lib.format.write_array_header_1_0(file, header)
            if frame.shape != size:
                raise InputError(
                    f"{root}: frame {found} is {frame.shape[0]}x{frame.shape[1]}, expected {size[0]}x{size[1]} as the "
                    "others; read with a `size`"
                )
            file.write(np.ascontiguousarray(frame).data)
            found += 1
    if found != count:
        raise InputError(f"{root}: found {found} frames, expected {count} by the metadata; copy the folder again")
