"""Disk cache of decoded frames, memory-mapped as one array per dataset.

The cache folder is `WORLDGYMNAST_CACHE`, else `XDG_CACHE_HOME/worldgymnast`, else `~/.cache/worldgymnast`. The dataset
itself and shared temporary folders are never written to.

The folder and its files must be owned by the user and not be writable by others. Symbolic links are not followed. A
file with an unexpected type, shape or length is ignored and decoded again. Entries expire after 30 days without use.
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
"""Days without use after which an entry is removed, at the next write of another one."""

_VERSION = 2
"""Part of every entry's name. Increase it if a change of the code decodes the same file to different pixels."""


def _package_version(name: str) -> str:
    """The package's name and version.

    The name only if it is not installed.
    """
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


_DECODERS = tuple(map(_package_version, ("av", "pillow")))
"""Part of every entry's name, since versions of the decoders may round colors differently."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITABLE_BY_OTHERS = 0o022

Decode = Callable[[], Iterator[tuple[object, np.ndarray]]]
"""Returns the frames uint8 [h w 3] in order, each with its location for error messages."""


def cache_folder() -> Path | None:
    """The cache folder; None if the user has no home folder."""
    own, shared = os.environ.get("WORLDGYMNAST_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser().absolute() / "frames"
        return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "worldgymnast" / "frames"
    except RuntimeError:  # no home folder
        return None


def cache_usage() -> tuple[int, int]:
    """Number of cached arrays and their total size in bytes."""
    folder = cache_folder()
    sizes = []
    with suppress(OSError):
        for path in (folder or Path("/dev/null")).glob("*.npy"):
            sizes.append(path.lstat().st_size)
    return len(sizes), sum(sizes)


def files_hash(files: Iterable[Path], *options: object) -> str:
    """Hash of the files' names, sizes and modification times, and of `options`.

    16 hex digits.

    Args:
        files: all files that affect a pixel, including metadata.
        options: all choices that affect a pixel, such as the cameras in their order.

    Raises:
        InputError: a file is missing.
    """
    digest = hashlib.sha256(repr(options).encode())
    for path in sorted(files):
        try:
            status = path.stat()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise InputError(f"{path}: no such file, expected it by the metadata; copy the folder again") from error
        digest.update(f"{path.parent.name}/{path.name}:{status.st_size}:".encode())
        digest.update(f"{status.st_mtime_ns}:{status.st_ctime_ns};".encode())  # a copy may preserve mtime, not ctime
    return digest.hexdigest()[:16]


def cached_frames(root: Path, name: str, key: str, count: int, decode: Decode) -> np.ndarray:
    """Load frames from the cache, decoding them on a miss.

    Entries are written atomically and replace those of other keys with the same root and name. One process decodes
    while others wait. If the cache is unusable or the disk is full, frames are decoded into memory, with a line on
    stderr.

    Args:
        root: the dataset.
        name: which frames of it: the camera, the size.
        key: changes with the files; see `files_hash`.
        count: number of frames.
        decode: returns the frames.

    Returns:
        uint8 [count h w 3], a read-only memory map unless decoded into memory.

    Raises:
        InputError: frames differ in size, their number is not `count`, or they fit neither disk nor memory.
    """
    prefix = hashlib.sha256(repr((os.path.realpath(root), name)).encode()).hexdigest()[:20]
    file = f"{prefix}-{hashlib.sha256(repr((_VERSION, _DECODERS, key, count)).encode()).hexdigest()[:20]}.npy"
    folder = cache_folder()
    try:
        with space_for(file), _open_folder(folder) as handle:
            frames = _map_entry(handle, file, count)
            if frames is not None:
                return frames
            with _lock(handle, f".{prefix}.lock"):
                frames = _map_entry(handle, file, count)  # another process may have written it
                if frames is None:
                    _save(handle, file, _check_frames(decode(), count, root), count)
                    _remove_stale(handle, prefix, file)
                    frames = _map_entry(handle, file, count)
            if frames is not None:
                return frames
            reason = f"{folder} was changed during the write"
    except DiskFull:
        reason = "no space left on the disk"
    except OSError as error:
        reason = f"no cache in {folder} ({error.strerror or error})"
    return _decode_into_memory(root, reason, count, decode)


# ---------------------------------------------------------------- the folder


@contextmanager
def _open_folder(folder: Path | None) -> Iterator[int]:
    """Open or create the cache folder.

    OSError if others can write to it.
    """
    if folder is None:
        raise FileNotFoundError("there is no home folder; set WORLDGYMNAST_CACHE")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    handle = os.open(folder, _READ | os.O_DIRECTORY)
    try:
        if not _is_private(os.fstat(handle)):
            raise PermissionError("it belongs to another user, or others may write to it; chmod 700 it")
        yield handle
    finally:
        os.close(handle)


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _WRITABLE_BY_OTHERS


@contextmanager
def _lock(handle: int, name: str) -> Iterator[None]:
    """Lock a dataset while it is decoded.

    A read-only folder is respected even by the superuser.
    """
    if not os.fstat(handle).st_mode & stat.S_IWUSR:
        raise PermissionError("it is read-only")
    lock = os.open(name, os.O_RDWR | _CREATE, 0o600, dir_fd=handle)
    try:
        with suppress(OSError):  # without locks, as on some network drives, both decode and the last write wins
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        _remove(handle, name)
        os.close(lock)


def _remove_stale(handle: int, prefix: str, current: str) -> None:
    """Remove expired entries, older ones of the dataset, and temporary files."""
    for name in os.listdir(handle):
        is_partial = name.startswith(TEMPORARY) or name.endswith(".partial")  # the suffix of earlier versions
        if name == current or not (is_partial or name.endswith(".npy")):
            continue
        with suppress(OSError):
            age = time.time() - os.stat(name, dir_fd=handle, follow_symlinks=False).st_mtime
            if age > 86400 * (1 if is_partial else UNUSED_DAYS) or name.startswith(prefix):
                os.unlink(name, dir_fd=handle)


def _remove(handle: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=handle)


# ---------------------------------------------------------------- one entry


def _map_entry(handle: int, name: str, count: int) -> np.ndarray | None:
    """Map a file as uint8 [count h w 3].

    None if it is missing or invalid.
    """
    try:
        file = os.fdopen(os.open(name, _READ, dir_fd=handle), "rb")
    except OSError:
        return None
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not _is_private(status):
            return None
        try:
            magic = np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except Exception:  # noqa: BLE001 - NumPy raises many types for a damaged header
            return None
        start = file.tell()
        is_plain = magic == (1, 0) and dtype == np.uint8 and not is_fortran
        if not is_plain or len(shape) != 4 or (shape[0], shape[3]) != (count, 3):
            return None
        if min(shape) < 1 or status.st_size != start + math.prod(shape):
            return None
        with suppress(OSError):
            os.utime(file.fileno())  # the time of last use
        return np.memmap(file, np.uint8, "r", start, shape)


def _save(handle: int, name: str, frames: Iterator[np.ndarray], count: int) -> None:
    """Write an entry atomically; raises OSError or DiskFull."""
    with (
        atomic_path(Path(name), dir_fd=handle) as temporary,
        os.fdopen(os.open(temporary, os.O_WRONLY | os.O_EXCL | _CREATE, 0o600, dir_fd=handle), "wb") as file,
    ):
        _write(file, frames, count)


def _write(file: IO[bytes], frames: Iterator[np.ndarray], count: int) -> None:
    """Write the array without a memory map, which crashes on full disks."""
    for index, frame in enumerate(frames):
        if not index:
            status = os.fstatvfs(file.fileno())
            if count * frame.nbytes > status.f_bavail * status.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (count, *frame.shape)}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(frame).data)


# ---------------------------------------------------------------- without a cache


def _decode_into_memory(root: Path, reason: str, count: int, decode: Decode) -> np.ndarray:
    print(f"{root}: {reason}; decoded frames are not cached but held in memory", file=sys.stderr, flush=True)
    array: np.ndarray | None = None
    for index, frame in enumerate(_check_frames(decode(), count, root)):
        array = _allocate(root, count, frame) if array is None else array
        array[index] = frame
    assert array is not None
    array.flags.writeable = False
    return array


def _allocate(root: Path, count: int, frame: np.ndarray) -> np.ndarray:
    """An empty uint8 [count h w 3]; raises InputError if it exceeds this machine's memory."""
    size = count * frame.nbytes
    if size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise InputError(
            f"{root}: {count:,} frames of {frame.shape[1]}x{frame.shape[0]} pixels take {size / 1e9:,.1f} GB, more "
            "than this machine's memory; set WORLDGYMNAST_CACHE to a folder with enough space, or resize them (--size, "
            "in Python: size=...)"
        )
    return np.empty((count, *frame.shape), np.uint8)


def _check_frames(frames: Iterator[tuple[object, np.ndarray]], count: int, root: Path) -> Iterator[np.ndarray]:
    """Yield the frames.

    Raises InputError if sizes differ or their number is not `count`.
    """
    actual = 0
    first: object = None
    size: tuple[int, ...] | None = None
    for where, frame in frames:
        if size is None:
            first, size = where, frame.shape
        if frame.shape != size:
            raise InputError(
                f"{where}: found a frame of {frame.shape[0]}x{frame.shape[1]} pixels, expected {size[0]}x{size[1]} as "
                f"in {first}; resize all with --size {size[0]} (in Python: size={size[0]})"
            )
        actual += 1
        if actual <= count:
            yield frame
    if actual != count:
        raise InputError(f"{root}: found {actual} frames, expected {count} by the metadata; copy the folder again")
