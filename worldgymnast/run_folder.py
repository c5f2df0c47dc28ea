"""Whether a folder is a run's, what stands in it, and what the system says of it, in one line."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
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
from worldgymnast.staging import TEMPORARY, is_full
from worldgymnast.weights import some_of

LOCK = ".lock"


def check_folder(path: Path) -> None:
    """Raises `InputError` unless a run could be begun, or gone on with, in that folder; writes nothing."""
    with readable(path):
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"{path}: found a file, expected a run folder; give another path")
        names = sorted(p.name for p in path.iterdir()) if path.exists() else []
    if "config.json" in names:
        return
    if others := [n for n in names if n not in ("versions.json", LOCK) and not n.startswith((TEMPORARY, FILE))]:
        raise InputError(
            f"{path}: field 'config.json': found none beside {some_of(others)}, expected an empty folder or a run; "
            "give another path"
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the system says of a run folder into one line."""
    try:
        yield
    except OSError as error:
        if is_full(error):
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
def resuming(run: Path) -> Iterator[None]:
    """Turns what is wrong with a checkpoint that was written without a hash, by version 0.1, into one line."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
        raise InputError(
            f"{run / 'checkpoints'}: the newest checkpoint does not fit this command ({reason}). Remove it and run the "
            "same command again: it resumes from the one before"
        ) from error


def finished(path: Path) -> bool:
    """Whether that folder holds a run that came to its end."""
    return (path / "summary.json").is_file()


def first_difference(found: Any, expected: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first field (in sorted order) that differs, or None."""
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
    """Versions of what computes."""
    return {
        "torch": torch.__version__,
        "worldgymnast": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def step_of(place: Path) -> int | None:
    """The step in the name of a checkpoint's folder."""
    found = re.fullmatch(r"step-(\d{8,15})", place.name)
    return int(found[1]) if found and place.is_dir() else None


def command_line() -> str:
    """How this process was started, fit to be pasted into a shell."""
    name = Path(sys.argv[0]).name
    return shlex.join(["worldgymnast" if name == "__main__.py" else name, *sys.argv[1:]])
