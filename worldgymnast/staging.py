"""Atomic writes of files and folders; errors for full disks.

A file (`atomic_path`) is written to a temporary path in the same folder, synced and renamed. A kill at any moment
leaves either the old or the new file.

A folder (`StagedFolder`) is filled in a hidden staging folder beside its target and renamed into place, by one process
at a time. An existing target is rejected. A staging folder of a killed process is removed only if this module made it,
this user owns it and no process holds the target's lock.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from worldgymnast.errors import InputError

TEMPORARY = ".tmp-"
"""Prefix of temporary files."""
_MARK = "worldgymnast"
_MAX_NAME = 100


# ---------------------------------------------------------------- a full disk


class DiskFull(InputError):
    """The disk is full, or the user's quota is exhausted."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error reports a full disk or an exhausted quota.

    >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device")), is_disk_full(ValueError())
    (True, False)
    """
    if isinstance(error, SafetensorError):
        return "os error 28" in str(error) or "No space left" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def reason(error: BaseException) -> str:
    """Return what the system says of a failed read or write, such as "Permission denied"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os error (\d+)", str(error))
    return os.strerror(int(number[1])) if number else str(error).partition("\n")[0]


def disk_full_error(path: str | Path, size: int | None = None) -> DiskFull:
    """The error for a disk without space for `path`.

    Args:
        path: the path to write.
        size: its size in bytes; None if unknown.
    """
    problem = f"{path}: no space left on the disk"
    if size is None:
        return DiskFull(f"{problem}. No partial file is kept. Free some space or write elsewhere")
    free = _free_bytes(path)
    return DiskFull(
        f"{problem} ({free // 2**20} MB free, {math.ceil(size / 2**20)} MB needed). "
        f"Free {max(1, math.ceil((size - free) / 2**20))} MB, then rerun the same command to resume"
    )


def _free_bytes(path: str | Path) -> int:
    """Free bytes for a path; a large number where the file system has no size, as /proc."""
    usage = shutil.disk_usage(next(p for p in Path(path).absolute().parents if p.exists()))
    return usage.free if usage.total else sys.maxsize


@contextmanager
def space_for(path: str | Path, size: int | None = None) -> Iterator[None]:
    """Raise `DiskFull` if the disk is full before or during a write.

    Args:
        path: the path to write.
        size: bytes that must be free before the write; None if unknown.

    Raises:
        DiskFull: there is not enough space.
    """
    if size is not None and _free_bytes(path) < size:
        raise disk_full_error(path, size)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if is_disk_full(error):
            raise disk_full_error(path, size) from error
        raise


# ---------------------------------------------------------------- a file


def sync(path: Path, dir_fd: int | None = None) -> None:
    """Flush a file's content, or a folder's entries, to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(
    path: Path, size: int | None = None, *, durable: bool = True, dir_fd: int | None = None
) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` on success.

    It is removed on failure.

    Args:
        path: the file to write; its folder is created.
        size: bytes that must be free before the write; None if unknown.
        durable: remove leftovers of killed processes, and sync the file and its folder around the rename. Not needed
            for the files of a folder that is itself written atomically.
        dir_fd: open folder that both paths are relative to, as in `os.open`; no folder is created and no leftovers are
            removed then.

    Raises:
        DiskFull: there is not enough space.
        InputError: `path` is a device or a pipe, which a rename would replace.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("complete")
    ...     (Path(folder) / "a.txt").read_text()
    'complete'
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    with space_for(path, size):
        try:
            if dir_fd is None:
                _prepare(path)
            if dir_fd is None and durable:
                _remove_leftovers(path)
            yield temporary
            if durable:
                sync(temporary, dir_fd)
            os.replace(temporary, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            if durable:
                sync(path.parent, dir_fd)
        finally:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=dir_fd)


def _prepare(path: Path) -> None:
    """Create the folder of a file.

    Raise InputError if the path is not a regular file.
    """
    if path.is_char_device() or path.is_fifo() or path.is_socket():
        raise InputError(f"{path}: found a device or a pipe, expected a file; give another path")
    path.parent.mkdir(parents=True, exist_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` whose processes have ended."""
    pattern = re.compile(rf"{re.escape(TEMPORARY)}(\d+)-(?:[0-9a-f]{{8}}-)?{re.escape(path.name)}")
    for name in os.listdir(path.parent):
        if (match := pattern.fullmatch(name)) and not _is_running(int(match[1])):
            (path.parent / name).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True


# ---------------------------------------------------------------- a folder


class StagedFolder:
    """A folder that is written atomically, by a rename.

    Use as a context manager, or call `publish` or `discard`. An exception in the `with` block removes everything. The
    staging folder of a killed process is removed by the next writer to the same target.

    Attributes:
        target: the final path.
        path: the folder to fill.
    """

    def __init__(self, target: str | Path, *, replaces: bool = False):
        """Lock `target` and create an empty folder to fill.

        Args:
            target: the final path.
            replaces: whether the folder changes places with an existing one, which is then removed.

        Raises:
            InputError: `target` exists (or with `replaces` does not), is not writable, or another process is writing
                it.
        """
        self.target, self._replaces = Path(target), replaces
        self._staging: Path | None = None
        self._lock: int | None = None
        self._check_target()
        try:
            parent = self.target.parent
            parent.mkdir(parents=True, exist_ok=True)
            parent = parent.resolve()
            self._lock_file = parent / f".{_label(self.target)}.{_MARK}.lock"
            self._take_lock()
            self._check_target()  # again, since another writer may have published it before the lock
            prefix = f".{_label(self.target)}.{_MARK}-"
            _remove_folders(parent, prefix)
            self._staging = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self.path = self._staging / "folder"
            self.path.mkdir()
        except (OSError, ValueError) as error:
            self.discard()
            if isinstance(error, InputError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.target}: cannot be written ({reason}); give another path") from error

    def _check_target(self) -> None:
        if not self._replaces:
            _require_absent(self.target)
        elif self.target.is_symlink() or not self.target.is_dir():
            raise InputError(f"{self.target}: expected a folder to replace, and no link to one; check the path")

    def _take_lock(self) -> None:
        while self._lock is None:
            handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(handle)
                raise InputError(
                    f"{self.target}: another process is writing this folder; wait for it to end or give another path"
                ) from error
            except OSError:  # a file system without locks; the final rename still admits one writer only
                pass
            if _is_open_as(self._lock_file, handle):
                self._lock = handle
            else:  # removed by its last owner between the two calls, so this lock is void
                os.close(handle)

    def publish(self) -> None:
        """Rename the folder to its target.

        Raises:
            InputError: the target exists by now; the staging folder is removed.
        """
        assert self._staging is not None
        try:
            if self._replaces:
                exchange(self.path, self.target)
                return
            if os.path.lexists(self.target):
                raise FileExistsError(errno.EEXIST, "exists")
            os.rename(self.path, self.target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise
            raise InputError(
                f"{self.target}: was created by another program during the write. The new data are discarded. "
                "Give another path"
            ) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the staging folder and release the lock."""
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        if self._lock is not None:
            handle, self._lock = self._lock, None
            if os.fstat(handle).st_size == 0 and _is_open_as(self._lock_file, handle):
                self._lock_file.unlink(missing_ok=True)
            os.close(handle)

    def __enter__(self) -> StagedFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.publish()
            return
        self.discard()
        if is_disk_full(error):
            raise disk_full_error(self.target) from error


_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


def exchange(first: Path, second: Path) -> None:
    """Let two folders of one file system change places, at once.

    Raises:
        InputError: the system cannot do so; both folders are unchanged.
    """
    if reason := _exchange(first, second):
        raise InputError(_NO_EXCHANGE.format(second, reason))


def check_exchange(folder: Path, target: Path) -> None:
    """Check with two empty folders in `folder`, before any work, that its file system can exchange folders.

    Args:
        folder: an existing folder on the file system of `target`.
        target: the folder that is to be exchanged, for the message.

    Raises:
        InputError: it cannot, as some network and FUSE file systems.
    """
    first, second = folder / "exchange-1", folder / "exchange-2"
    first.mkdir()
    second.mkdir()
    try:
        if reason := _exchange(first, second):
            raise InputError(_NO_EXCHANGE.format(target, reason))
    finally:
        first.rmdir()
        second.rmdir()


def _exchange(first: Path, second: Path) -> str:
    """Let two folders change places; returns why that is impossible, or ""."""
    library = ctypes.CDLL(None, use_errno=True)
    try:
        rename = library.renameat2
    except AttributeError:
        return "not Linux"
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        return os.strerror(ctypes.get_errno())
    return ""


_NO_EXCHANGE = (
    "{}: its file system cannot exchange two folders at once ({}). The folder is unchanged. Write to a new one (--out)"
)


def _require_absent(target: Path) -> None:
    """Raise InputError if `target` exists or is not a valid path."""
    if "\0" in str(target):
        raise InputError(f"{str(target)!r}: found a null byte in the path; give another path")
    try:
        os.lstat(target)
    except FileNotFoundError:
        return
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{target}: cannot be written ({error.strerror}); give another path") from error
    raise InputError(f"{target}: exists already, and nothing is overwritten; give another path")


def _label(target: Path) -> str:
    """The target's name, or a hash if it is too long."""
    name = target.absolute().name
    return name if len(os.fsencode(name)) <= _MAX_NAME else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _is_open_as(path: Path, handle: int) -> bool:
    """Whether `handle` is open on the file at `path`."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    open_status = os.fstat(handle)
    return (status.st_dev, status.st_ino) == (open_status.st_dev, open_status.st_ino)


def _remove_folders(parent: Path, prefix: str) -> None:
    """Remove this user's abandoned staging folders.

    The caller holds the lock on their target.
    """
    for path in parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        status = path.lstat()
        is_private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
        if is_private and status.st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)
