"""Helpers for run folders: validation, comparison of configs, one-line errors."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldgymnast import __version__
from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.ledger import FILE
from worldgymnast.staging import TEMPORARY, is_disk_full
from worldgymnast.weights import some_of

LOCK = ".lock"


def check_folder(path: Path) -> None:
    """Raise `InputError` unless a run can start or resume in a folder.

    Leaves nothing behind.
    """
    with os_errors_as_input_errors(path):
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"{path}: found a file, expected a run folder; give another path")
        names = sorted(p.name for p in path.iterdir()) if path.exists() else []
    if "summary.json" not in names:  # a finished run can be read where it cannot be written
        check_writable(path)
    if "config.json" in names:
        return
    if others := [n for n in names if n not in ("versions.json", LOCK) and not n.startswith((TEMPORARY, FILE))]:
        raise InputError(
            f"{path}: found {some_of(others)} but no config.json, expected an empty folder or a run; give another path"
        )


def check_writable(path: Path) -> None:
    """Raise `InputError` unless a file or folder can be written at a path; leaves nothing behind.

    >>> check_writable(Path("/proc/version/run"))
    Traceback (most recent call last):
    worldgymnast.errors.InputError: /proc/version/run: cannot be written (Not a directory). Give another path
    """
    place = path.absolute()
    try:
        while not place.is_dir() and (place == path.absolute() or not os.path.lexists(place)):
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}). Give another path") from error


@contextmanager
def os_errors_as_input_errors(path: Path) -> Iterator[None]:
    """Convert OS errors about a run folder into one-line errors."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        where = error.filename or path
        raise InputError(
            f"{where}: cannot be used ({error.strerror or error}). Check the path and its permissions, or give another"
        ) from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise InputError(f"{short(str(path))}: found a null byte in a path, expected none; give another") from error


@contextmanager
def checkpoint_errors_as_input_errors(run: Path) -> Iterator[None]:
    """Convert errors of checkpoints without a hash (version 0.1)."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
        raise InputError(
            f"{run / 'checkpoints'}: the newest checkpoint does not fit this command ({reason}). Remove it, then rerun "
            "the same command to resume from the previous one"
        ) from error


def is_finished(path: Path) -> bool:
    """Whether a folder has a finished run."""
    return (path / "summary.json").is_file()


def first_difference(found: Any, expected: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first differing field.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    ('a.b', 1, 2)
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            field = f"{name}.{key}" if name else str(key)
            if key not in found or key not in expected:
                return field, found.get(key, "nothing"), expected.get(key, "nothing")
            if difference := first_difference(found[key], expected[key], field):
                return difference
        return None
    return None if found == expected else (name, found, expected)


def versions() -> dict[str, str]:
    """Versions of the software that affects results."""
    return {
        "torch": torch.__version__,
        "worldgymnast": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checkpoint_step(path: Path) -> int | None:
    """The step in the name of a checkpoint's folder.

    None for other paths.
    """
    match = re.fullmatch(r"step-(\d{8,15})", path.name)
    return int(match[1]) if match and path.is_dir() else None


def command_line() -> str:
    """The command line of this process, quoted for a shell."""
    name = Path(sys.argv[0]).name
    return shlex.join(["worldgymnast" if name == "__main__.py" else name, *sys.argv[1:]])
