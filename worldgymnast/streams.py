"""Robust standard streams: closed, piped into `head`, or with a limited encoding."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from typing import TextIO

_MIN_COLUMNS = 40
"""Minimum terminal width that is assumed."""


def prepare() -> None:
    """Make stdout and stderr safe to write to.

    A closed stream (`>&-`) is opened as /dev/null, which keeps its file descriptor from being reused. Characters
    missing from the terminal's encoding are replaced.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if name == "stderr" else "replace")
    if 0 < shutil.get_terminal_size().columns < _MIN_COLUMNS:  # the help formatter fails on narrower terminals
        os.environ["COLUMNS"] = str(_MIN_COLUMNS)


def one_line(text: str) -> str:
    """The text on one line, with control characters escaped.

    >>> one_line("found \\x1b[31m,\\n expected none")
    'found \\\\x1b[31m, expected none'
    """
    return escape_unprintable(" ".join(text.split()))


def escape_unprintable(text: str) -> str:
    """The text with unprintable characters escaped, including line ends.

    >>> escape_unprintable("a\\tb")
    'a\\\\tb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def discard(*streams: TextIO) -> None:
    """Redirect streams, including their buffered output, to /dev/null."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
