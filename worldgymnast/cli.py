"""The front door: which command, its typed flags, and errors in one line.

Loads nothing heavy, so that help is quick; a command's own module is imported when it is called. Exit codes: 0 done,
1 the doctor or the data check found faults, 2 wrong input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldgymnast.commands import Command

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Start here": {
        "doctor": ("", "what this machine can run, what is missing, what to do about it"),
        "quickstart": ("", "finetune the starter policy in the starter world; real evaluation; report"),
        "reproduce": ("PRESET", "the whole method from nothing, stage by stage"),
    },
    "Data": {
        "record": ("PRESET", "real episodes of experts, noisy experts and play"),
        "record-policy": ("POLICY", "labelled real rollouts of a policy"),
        "data check": ("PATH", "what is wrong with a data set, file by file"),
        "data convert": ("SOURCE TARGET", "LeRobot v2.1, RLDS or WorldGym to LeRobot v3.0"),
    },
    "Train": {
        "sft": ("DATA...", "a policy, by imitating demonstrations"),
        "train-world": ("DATA...", "a world model, from everything logged"),
        "train-judge": ("DATA...", "a judge of success, from labelled episodes"),
        "rl": ("PRESET", "finetune a policy inside a world model"),
        "import-world": ("CHECKPOINT", "a published WorldGym checkpoint, as a world model of ours"),
    },
    "Measure": {
        "evaluate": ("BEFORE AFTER", "two policies on the same real layouts"),
        "eval-world": ("WORLD", "how far world and judge can be trusted"),
        "report": ("RUN", "one HTML page about a run"),
    },
}
COMMANDS = [name for group in GROUPS.values() for name in group]

EXAMPLES = """\
  worldgymnast quickstart
  worldgymnast reproduce metaworld --out runs/metaworld --finetune.rl.steps 10
  worldgymnast rl metaworld --rl.group-size 4 --out runs/rl
  worldgymnast data convert old/bridge data/bridge --size 64"""


class UsageError(Exception):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        from worldgymnast import __version__

        print(f"worldgymnast {__version__}")
        return 0
    try:
        return _parse(words)()
    except KeyboardInterrupt:
        if traceback:
            raise
        return _say("stopped; run the same command again to go on", 130)
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = _message(error)
        if traceback or message is None:
            raise
        return _say(f"error: {message}", 2)


def _say(message: str, code: int) -> int:
    print(f"worldgymnast: {' '.join(message.split())}", file=sys.stderr)
    return code


def _message(error: Exception) -> str | None:
    """One line for what the user can mend; None for a fault of the program, which keeps its traceback."""
    if isinstance(error, UsageError):
        return str(error)
    import torch

    from worldgymnast.actions import ActionSpecMismatch
    from worldgymnast.types import InputError

    if isinstance(error, InputError | ActionSpecMismatch | FloatingPointError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'disk'}: no space left; free some and run the same command again to go on"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        detail = str(error).partition("\n")[0]
        return f"out of memory{f' ({detail})' if detail else ''}; use smaller batches or fewer rows"
    return None


# ---------------------------------------------------------------- help


def overview() -> str:
    """What `worldgymnast --help` shows."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    lines = [
        f"{bold}worldgymnast{plain}: finetune a robot policy by reinforcement learning inside a learned world model",
        "",
        f"{bold}Usage{plain}  worldgymnast COMMAND [...] [--flags]",
    ]
    for group, commands in GROUPS.items():
        lines += ["", f"{bold}{group}{plain}"]
        lines += [f"  {f'{name} {words}':<29}{summary}" for name, (words, summary) in commands.items()]
    lines += [
        "",
        f"{bold}Everywhere{plain}",
        f"  {'COMMAND --help':<29}every flag of a command, with its default",
        f"  {'--device cpu|cuda':<29}where to train and imagine",
        f"  {'--threads N':<29}CPU threads; all cores if left out",
        f"  {'--traceback':<29}errors in full",
        "",
        f"{bold}Presets{plain}  metaworld: six tasks, hours; quickstart: minutes; debug: tiny, under a minute",
        "",
        f"{bold}Examples{plain}",
        EXAMPLES,
        "",
        "Every command writes a folder, can be killed, and goes on when run again.",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------- words to a command


def _parse(words: Sequence[str]) -> Command:
    """The command that `words` ask for, its fields filled in."""
    name, rest = _name(words)
    import tyro

    from worldgymnast.commands import KINDS

    kind, prog = KINDS[name], f"worldgymnast {name}"
    help_wanted = bool({"-h", "--help"} & set(rest))
    if kind.takes_preset:
        from worldgymnast.presets import PRESETS, preset

        if rest and not rest[0].startswith("-"):
            start, prog, rest = kind.start(preset(rest[0]), rest[0]), f"{prog} {rest[0]}", rest[1:]
        elif help_wanted:
            start, prog = kind.start(preset("metaworld"), "metaworld"), f"{prog} metaworld"
        else:
            raise UsageError(f"{name}: found no preset, expected one of {', '.join(PRESETS)}")
    else:
        start = None
    with _one_line(name):
        if start is None:
            command, unknown = tyro.cli(kind, prog=prog, args=rest, return_unknown_args=True)
        else:
            command, unknown = tyro.cli(kind, prog=prog, args=rest, default=start, return_unknown_args=True)
    if unknown:
        raise UsageError(_unknown(name, unknown, sorted(_flags(kind if start is None else start))))
    return command


def _name(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name, of one or two words, and what follows it."""
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS:
            return name, list(words[length:])
    if words[0] == "data":
        rest = [word for word in words[1:] if word not in ("-h", "--help")]
        if not rest:
            raise UsageError("data: expected one of: data check PATH, data convert SOURCE TARGET")
        words = [f"data {rest[0]}"]
    raise UsageError(f"unknown command '{words[0]}'; {_near(words[0], COMMANDS)}worldgymnast --help lists all")


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'? " if near else ""


def _unknown(name: str, unknown: Sequence[str], flags: Sequence[str]) -> str:
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is None:
        return f"{name}: unexpected '{unknown[0]}'; worldgymnast {name} --help shows what it takes"
    return f"{name}: unknown flag '{flag}'; {_near(flag.partition('=')[0], flags)}worldgymnast {name} --help lists all"


def _flags(config: Any, prefix: str = "--") -> Iterator[str]:
    """Every flag of a command: of its type, or of an instance with its configs."""
    for field in fields(config):
        value = field.default if isinstance(config, type) else getattr(config, field.name)
        flag = prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            yield from _flags(value, prefix if field.name == "config" else f"{flag}.")
        else:
            yield flag


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns the box that tyro draws about wrong arguments into one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│╭╮╰╯─ \n") for line in said.getvalue().splitlines()]
        words = " ".join(line for line in lines[1:] if line)
        for tail in ("Argument helptext:", "For full helptext", f"worldgymnast {name} --help"):
            words = words.partition(tail)[0].strip()
        raise UsageError(f"{name}: {words}; worldgymnast {name} --help shows what it takes") from None
