"""Standard output and error that can always be written to: closed, piped into `head`, or of a narrow encoding."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from typing import TextIO

_NARROWEST = 40
"""Columns of a terminal."""


def prepare() -> None:
    """Make stdout and stderr safe to write to.

    One that was closed (`>&-`) becomes /dev/null, so that no file takes its number. Characters that the terminal's
    encoding lacks are replaced.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if name == "stderr" else "replace")
    if 0 < shutil.get_terminal_size().columns < _NARROWEST:  # where help would be broken for ever
        os.environ["COLUMNS"] = str(_NARROWEST)


def one_line(text: str) -> str:
    """The text on one line, with what a terminal would obey rather than show escaped.

    >>> one_line("found \\x1b[31m,\\n expected none")
    'found \\\\x1b[31m, expected none'
    """
    return visibly(" ".join(text.split()))


def visibly(text: str) -> str:
    """The text with every character that cannot be printed escaped, line ends too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def discard(*streams: TextIO) -> None:
    """Send what these streams still hold, and all that follows, nowhere."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
