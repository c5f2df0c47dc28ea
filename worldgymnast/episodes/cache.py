"""Decoded frames kept on disk as one array, so that a data set is decoded once and then memory-mapped.

They lie in the user's cache folder, never in the data set or a shared temporary folder: `WORLDGYMNAST_CACHE`, else
`XDG_CACHE_HOME/worldgymnast`, else `~/.cache/worldgymnast`. The folder and its files must belong to the user and be
writable by nobody else, symbolic links in it are not followed, and a file is used only where its type, shape and length
are the expected ones; it is decoded again otherwise. An entry that was not used for 30 days is removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.staging import TEMPORARY, DiskFull, atomic_path, space_for

UNUSED_DAYS = 30
"""An entry that was not used for so long is removed when another is written."""

_VERSION = 2
"""Part of every entry's name; to be raised where the same file is decoded to other pixels than before."""


def _installed(name: str) -> str:
    """The package and its version; the name alone where it is not installed."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


_DECODERS = tuple(map(_installed, ("av", "pillow")))
"""Part of every entry's name, too: other versions may round colors otherwise."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = 0o022

Decode = Callable[[], Iterator[tuple[object, np.ndarray]]]
"""Gives the frames uint8 [h w 3] in their order, each with where it is, for messages."""


def cache_folder() -> Path | None:
    """Where decoded frames are kept; None where the user has no home."""
    given, shared = os.environ.get("WORLDGYMNAST_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if given:
            return Path(given).expanduser().absolute() / "frames"
        return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "worldgymnast" / "frames"
    except RuntimeError:  # no home
        return None


def cache_usage() -> tuple[int, int]:
    """How many arrays are kept, and how many bytes they take."""
    folder = cache_folder()
    sizes = []
    with suppress(OSError):
        for path in (folder or Path("/dev/null")).glob("*.npy"):
            sizes.append(path.lstat().st_size)
    return len(sizes), sum(sizes)


def fingerprint(files: Iterable[Path], *extra: object) -> str:
    """A short hash of the files' names, sizes and times of change, and of `extra`.

    Args:
        files: every file whose content decides a pixel, metadata too.
        extra: every choice that decides a pixel, such as the cameras in their order.

    Raises:
        InputError: a file is missing.
    """
    digest = hashlib.sha256(repr(extra).encode())
    for path in sorted(files):
        try:
            state = path.stat()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise InputError(f"{path}: no such file, expected it by the metadata; copy the folder again") from error
        digest.update(f"{path.parent.name}/{path.name}:{state.st_size}:".encode())
        digest.update(f"{state.st_mtime_ns}:{state.st_ctime_ns};".encode())  # a copy may keep the first, not the second
    return digest.hexdigest()[:16]


def cached_frames(root: Path, name: str, key: str, count: int, decode: Decode) -> np.ndarray:
    """The `count` frames as a read-only memory map, decoded by `decode` unless they are cached for `key`.

    An entry appears whole or not at all, and replaces those of other keys with the same root and name; of several
    processes one decodes while the others wait. Where the cache cannot be used or the disk is full, the frames are
    decoded into memory instead, and a line on stderr says so.

    Args:
        root: the data set.
        name: which frames of it: the camera, the size.
        key: changes with the files; see `fingerprint`.
        count: how many frames there are.
        decode: gives them.

    Raises:
        InputError: frames differ in size, there are not `count` of them, or they fit neither disk nor memory.
    """
    prefix = hashlib.sha256(repr((os.path.realpath(root), name)).encode()).hexdigest()[:20]
    file = f"{prefix}-{hashlib.sha256(repr((_VERSION, _DECODERS, key, count)).encode()).hexdigest()[:20]}.npy"
    folder = cache_folder()
    try:
        with space_for(file), _opened(folder) as handle:
            found = _mapped(handle, file, count)
            if found is not None:
                return found
            with _locked(handle, f".{prefix}.lock"):
                found = _mapped(handle, file, count)  # another process may have written it
                if found is None:
                    _save(handle, file, _alike(decode(), count, root), count)
                    _tidy(handle, prefix, file)
                    found = _mapped(handle, file, count)
            if found is not None:
                return found
            why = f"{folder} changed meanwhile"
    except DiskFull:
        why = "no space left on the disk"
    except OSError as error:
        why = f"no cache in {folder} ({error.strerror or error})"
    return _in_memory(root, why, count, decode)


# ---------------------------------------------------------------- the folder


@contextmanager
def _opened(folder: Path | None) -> Iterator[int]:
    """A handle of the cache folder, made where it is missing; OSError where it is not the user's alone."""
    if folder is None:
        raise FileNotFoundError("there is no home folder; set WORLDGYMNAST_CACHE")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    handle = os.open(folder, _READ | os.O_DIRECTORY)
    try:
        state = os.fstat(handle)
        if not _is_own(state):
            raise PermissionError("it belongs to another user, or others may write to it; chmod 700 it")
        yield handle
    finally:
        os.close(handle)


def _is_own(state: os.stat_result) -> bool:
    return state.st_uid == os.geteuid() and not state.st_mode & _OTHERS_WRITE


@contextmanager
def _locked(handle: int, name: str) -> Iterator[None]:
    """Only one process at a time decodes a data set; a folder marked read-only is left alone even by the superuser."""
    if not os.fstat(handle).st_mode & stat.S_IWUSR:
        raise PermissionError("it is read-only")
    lock = os.open(name, os.O_RDWR | _CREATE, 0o600, dir_fd=handle)
    try:
        with suppress(OSError):  # no locks on some network drives: both decode, the last one stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        _remove(handle, name)
        os.close(lock)


def _tidy(handle: int, prefix: str, kept: str) -> None:
    """Remove earlier entries of the same data set, those long unused, and what killed processes left."""
    for name in os.listdir(handle):
        is_half = name.startswith(TEMPORARY) or name.endswith(".partial")  # as earlier versions called them
        if name == kept or not (is_half or name.endswith(".npy")):
            continue
        with suppress(OSError):
            unused = time.time() - os.stat(name, dir_fd=handle, follow_symlinks=False).st_mtime
            if unused > 86400 * (1 if is_half else UNUSED_DAYS) or name.startswith(prefix):
                os.unlink(name, dir_fd=handle)


def _remove(handle: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=handle)


# ---------------------------------------------------------------- one entry


def _mapped(handle: int, name: str, count: int) -> np.ndarray | None:
    """The array uint8 [count h w 3] in a file; None where there is none that can be trusted."""
    try:
        opened = os.fdopen(os.open(name, _READ, dir_fd=handle), "rb")
    except OSError:
        return None
    with opened:
        state = os.fstat(opened.fileno())
        if not stat.S_ISREG(state.st_mode) or not _is_own(state):
            return None
        try:
            magic = np.lib.format.read_magic(opened)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(opened)
        except Exception:  # noqa: BLE001 - whatever NumPy raises of a damaged header
            return None
        start = opened.tell()
        is_plain = magic == (1, 0) and dtype == np.uint8 and not is_fortran
        if not is_plain or len(shape) != 4 or (shape[0], shape[3]) != (count, 3):
            return None
        if min(shape) < 1 or state.st_size != start + math.prod(shape):
            return None
        with suppress(OSError):
            os.utime(opened.fileno())  # used today
        return np.memmap(opened, np.uint8, "r", start, shape)


def _save(handle: int, name: str, frames: Iterator[np.ndarray], count: int) -> None:
    """Write the file, whole or not at all; OSError or DiskFull where it cannot be written."""
    with (
        atomic_path(Path(name), dir_fd=handle) as temporary,
        os.fdopen(os.open(temporary, os.O_WRONLY | os.O_EXCL | _CREATE, 0o600, dir_fd=handle), "wb") as opened,
    ):
        _write(opened, frames, count)


def _write(file: IO[bytes], frames: Iterator[np.ndarray], count: int) -> None:
    """Plain writes rather than a memory map: on a full disk those raise, where a memory map would kill the process."""
    for index, frame in enumerate(frames):
        if not index:
            state = os.fstatvfs(file.fileno())
            if count * frame.nbytes > state.f_bavail * state.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (count, *frame.shape)}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(frame).data)


# ---------------------------------------------------------------- without a cache


def _in_memory(root: Path, why: str, count: int, decode: Decode) -> np.ndarray:
    print(f"{root}: {why}; decoded frames are not cached but held in memory", file=sys.stderr, flush=True)
    held: np.ndarray | None = None
    for index, frame in enumerate(_alike(decode(), count, root)):
        held = _empty(root, count, frame) if held is None else held
        held[index] = frame
    assert held is not None
    held.flags.writeable = False
    return held


def _empty(root: Path, count: int, frame: np.ndarray) -> np.ndarray:
    """uint8 [count h w 3]; raises InputError where this machine has not so much memory."""
    size = count * frame.nbytes
    if size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise InputError(
            f"{root}: {count:,} frames of {frame.shape[1]}x{frame.shape[0]} pixels take {size / 1e9:,.1f} GB, more "
            "than this machine's memory; set WORLDGYMNAST_CACHE to a folder with room, or resize them (--size)"
        )
    return np.empty((count, *frame.shape), np.uint8)


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
