"""New files and folders that appear whole or not at all, and a full disk in one line.

A file (`atomic_path`) is written beside its place, synced and renamed, so a kill at any moment leaves either the old or
the new. A folder (`StagedFolder`) is filled in a hidden staging folder beside its target and renamed into place, by one
process at a time. Nothing is ever deleted that this module did not make: a target folder that exists is refused, and a
staging folder left by a killed process is removed only where its name is one of ours, it belongs to this user and no
process holds the target's lock.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from worldgymnast.errors import InputError

TEMPORARY = ".tmp-"
"""How the names of files begin that are still written."""
_MARK = "worldgymnast"
_LONGEST_NAME = 100


# ---------------------------------------------------------------- a full disk


class DiskFull(InputError):
    """The disk has no room, or the user's quota of it is used up."""


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the disk is full, or the user's quota of it."""
    if isinstance(error, SafetensorError):
        return "os error 28" in str(error) or "No space left" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: str | Path, size: int | None = None) -> DiskFull:
    """The one line for a disk that has no room for the `size` bytes of `path`; None where the size is not known."""
    said = f"{path}: no space left on the disk"
    if size is None:
        return DiskFull(f"{said}; free some or write elsewhere (nothing half-written is kept)")
    free = _free(path)
    return DiskFull(
        f"{said}: found {free // 2**20} MB free, expected {math.ceil(size / 2**20)} MB; "
        f"free {max(1, math.ceil((size - free) / 2**20))} MB and run the same command again to go on"
    )


def _free(path: str | Path) -> int:
    return shutil.disk_usage(next(p for p in Path(path).absolute().parents if p.exists())).free


@contextmanager
def space_for(path: str | Path, size: int | None = None) -> Iterator[None]:
    """Turn a disk with no room for `path`, now or on the way, into one line.

    Args:
        path: what is written.
        size: bytes that have to be free before anything is written; None where that is not known.

    Raises:
        DiskFull: there is no room.
    """
    if size is not None and _free(path) < size:
        raise disk_full(path, size)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if is_full(error):
            raise disk_full(path, size) from error
        raise


# ---------------------------------------------------------------- a file


def sync(path: Path, dir_fd: int | None = None) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(
    path: Path, size: int | None = None, *, durable: bool = True, dir_fd: int | None = None
) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place at the end, remove it if anything went wrong.

    Args:
        path: of the file; its folder is made.
        size: bytes that have to be free before anything is written; None where that is not known.
        durable: remove what killed processes left of `path`, wait until the file is on the disk before it is renamed,
            and until its new name is; not needed where many files fill a folder that is itself whole or absent.
        dir_fd: an open folder, which both paths are relative to, as in `os.open`; nothing in it is made or removed.

    Raises:
        DiskFull: there is no room.
        InputError: `path` is a device or a pipe, which a rename would replace.
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
    """Make the folder of a file; raise InputError where something else than a file would be replaced."""
    if path.is_char_device() or path.is_fifo() or path.is_socket():
        raise InputError(f"{path}: found a device or a pipe, expected a file's name; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files for `path` of processes that are gone."""
    ours = re.compile(rf"{re.escape(TEMPORARY)}(\d+)-(?:[0-9a-f]{{8}}-)?{re.escape(path.name)}")
    for name in os.listdir(path.parent):
        if (found := ours.fullmatch(name)) and not _is_running(int(found[1])):
            (path.parent / name).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


# ---------------------------------------------------------------- a folder


class StagedFolder:
    """A new folder to fill, published at its target by rename; use as a context manager, or publish or discard it.

    Leaving the `with` block by an exception removes everything. A killed process leaves a hidden staging folder, which
    the next writer to the same target removes.

    Attributes:
        target: where the folder will be.
        path: the folder to fill.
    """

    def __init__(self, target: str | Path):
        """Take the lock on `target` and make an empty folder to fill.

        Raises:
            InputError: `target` exists, cannot be written, or another process is writing it.
        """
        self.target = Path(target)
        self._staging: Path | None = None
        self._lock: int | None = None
        _require_absent(self.target)
        try:
            parent = self.target.parent
            parent.mkdir(parents=True, exist_ok=True)
            parent = parent.resolve()
            self._lock_file = parent / f".{_label(self.target)}.{_MARK}.lock"
            self._take_lock()
            _require_absent(self.target)  # its writer may have published it while this one waited for nothing
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
            raise InputError(f"{self.target}: cannot be written ({reason}); name another place") from error

    def _take_lock(self) -> None:
        while self._lock is None:
            handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(handle)
                raise InputError(
                    f"{self.target}: another process is writing it; wait for its end or name another path"
                ) from error
            except OSError:  # a file system without locks: the rename still lets one writer win
                pass
            if _is_file(self._lock_file, handle):
                self._lock = handle
            else:  # its last owner removed it between the two calls: this lock locks nothing
                os.close(handle)

    def publish(self) -> None:
        """Rename the folder to its target.

        Raises:
            InputError: the target has come into being meanwhile; everything written is removed.
        """
        assert self._staging is not None
        try:
            if os.path.lexists(self.target):
                raise FileExistsError(errno.EEXIST, "exists")
            os.rename(self.path, self.target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise
            raise InputError(
                f"{self.target}: appeared while it was being written; another program writes there too"
            ) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written and is not published, and release the lock."""
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        if self._lock is not None:
            handle, self._lock = self._lock, None
            if os.fstat(handle).st_size == 0 and _is_file(self._lock_file, handle):
                self._lock_file.unlink(missing_ok=True)
            os.close(handle)

    def __enter__(self) -> StagedFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.publish()
            return
        self.discard()
        if is_full(error):
            raise disk_full(self.target) from error


def _require_absent(target: Path) -> None:
    """Raise InputError where something is at `target`, be it a dangling link, or it is no path at all."""
    if "\0" in str(target):
        raise InputError(f"{str(target)!r}: is no path (it holds a null character); name another")
    try:
        os.lstat(target)
    except FileNotFoundError:
        return
    except OSError as error:  # a name that is too long, a file in the place of a folder
        raise InputError(f"{target}: cannot be written ({error.strerror}); name another place") from error
    raise InputError(f"{target}: exists already, expected a new folder; remove it or name another")


def _label(target: Path) -> str:
    """The target's name, or a hash of one that leaves no room for more letters."""
    name = target.absolute().name
    return name if len(os.fsencode(name)) <= _LONGEST_NAME else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _is_file(path: Path, handle: int) -> bool:
    """Whether `path` is the file that `handle` has open."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


def _remove_folders(parent: Path, prefix: str) -> None:
    """Remove the staging folders of dead writers of this user; the lock on their target is held by the caller."""
    for path in parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        found = path.lstat()
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        if private and found.st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)
