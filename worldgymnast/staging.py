"""New folders that appear whole or not at all, written by one process at a time.

A folder is filled in a hidden staging folder beside its target and renamed into place. Nothing is ever deleted that
this module did not make: a target that exists is refused, and a staging folder left by a killed process is removed
only where its name is one of ours, it belongs to this user and no process holds the target's lock.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from worldgymnast.errors import InputError

_MARK = "worldgymnast"
_LONGEST_NAME = 100


def disk_error(error: OSError, path: str | Path) -> Exception:
    """The one-line InputError of a full disk; any other error as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"{path}: no space left on the disk; free some or write elsewhere (nothing half-written is kept)"
        )
    return error


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
            _remove_leftovers(parent, prefix)
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
        if isinstance(error, OSError) and (replaced := disk_error(error, self.target)) is not error:
            raise replaced from error


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


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove the staging folders of dead writers of this user; the lock on their target is held by the caller."""
    for path in parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        found = path.lstat()
        private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        if private and found.st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)
