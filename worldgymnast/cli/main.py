"""Entry point of the command line, with one-line errors.

Imports nothing heavy, so that help is fast; a command's own module is imported when it runs. Exit codes: 0 done,
1 the doctor or the data check found errors or a judge is not usable, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from worldgymnast import streams
from worldgymnast.cli.overview import COMMANDS, RESTARTS, RESUMES, help_for
from worldgymnast.cli.parse import UsageError, parse, split_keys, split_name, split_trackers

if TYPE_CHECKING:
    from worldgymnast.cli.commands import Command

__all__ = ["COMMANDS", "main", "script"]

_INTERRUPTED = {RESUMES: " Rerun the same command to resume.", RESTARTS: " No partial data set was kept."}


def main(argv: Sequence[str] | None = None, study: Mapping[str, type[Command]] | None = None) -> int:
    """Run one command and return the exit code.

    Args:
        argv: the words after the program's name; `sys.argv` if None.
        study: module and class of the one command of a study, which is started as `python -m MODULE`.
    """
    streams.prepare()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv), study or {})
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        streams.discard(sys.stdout, sys.stderr)
        return 0
    except OSError as error:
        from worldgymnast.staging import is_disk_full

        if not is_disk_full(error):
            raise
        streams.discard(sys.stdout)
        return _print_line("error: standard output: no space left. Free some space or redirect the output", 2, True)
    return code


def _run(words: list[str], study: Mapping[str, type[Command]]) -> int:
    """Run one command and return the exit code."""
    is_traceback = "--traceback" in words
    words, keys = split_keys([word for word in words if word != "--traceback"])
    words, trackers = split_trackers(words)
    if not is_traceback:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # an unreachable hub is one line, ours
    if not study and (text := help_for(words)):
        print(text)
        return 0
    name, flags = "", list[str]()
    try:
        name, rest = (next(iter(study)), words) if study else split_name(words)
        command = parse(name, rest, study)
        from worldgymnast.cli.command import check_names
        from worldgymnast.cli.drafts import flags_of
        from worldgymnast.keys import allow_keys
        from worldgymnast.trackers import use_trackers

        flags += flags_of(command, command.hidden)
        check_names(command)
        with allow_keys(keys), use_trackers(trackers):
            return command()
    except KeyboardInterrupt:
        if is_traceback:
            raise
        entry = COMMANDS.get(name)
        return _print_line(f"Stopped.{_INTERRUPTED.get(entry.when_rerun, '') if entry else ''}", 130)
    except BrokenPipeError:
        raise
    except Exception as error:
        from worldgymnast.errors import ProcessLost

        message = _message(error, flags)
        if is_traceback or message is None:
            raise
        is_local = isinstance(error, OSError | MemoryError | RuntimeError)  # perhaps in this process only
        is_local |= isinstance(error, ProcessLost) and os.environ.get("LOCAL_RANK") == "1"  # the lost one may be 0
        return _print_line(f"error: {message}", 2, is_local)


def script() -> int:
    """Run the console script, also under torchrun; return the exit code."""
    code = main()
    if "LOCAL_RANK" in os.environ:
        from worldgymnast.processes import exit_process

        return exit_process(code)
    return code


def _print_line(message: str, code: int, is_local: bool = False) -> int:
    """Print one line, once per torchrun launch unless `is_local`; return `code`."""
    if is_local or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"worldgymnast: {streams.one_line(message)}", file=sys.stderr)
    return code


def _message(error: Exception, flags: Collection[str]) -> str | None:
    """Return one line for a user error; None for a bug."""
    if isinstance(error, UsageError):
        return str(error)
    import torch

    from worldgymnast.actions import ActionSpecMismatch
    from worldgymnast.errors import FieldError, InputError
    from worldgymnast.staging import is_disk_full

    if isinstance(error, FieldError):
        from worldgymnast.cli.drafts import with_flags

        return with_flags(error, flags)
    if isinstance(error, InputError | ActionSpecMismatch | FloatingPointError):
        return str(error)
    if isinstance(error, OSError) and is_disk_full(error):
        return f"{error.filename or 'disk'}: no space left. Free some space, then rerun the same command"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Check the path and its permissions"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        detail = str(error).partition("\n")[0]
        return f"out of memory{f' ({detail})' if detail else ''}. Use smaller batches or fewer rows"
    return None
