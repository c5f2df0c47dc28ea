"""The front door: which command, its typed flags, and errors in one line.

Loads nothing heavy, so that help is quick; a command's own module is imported when it is called. Exit codes: 0 done,
1 the doctor or the data check found faults or a judge is not usable, 2 wrong input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worldgymnast import streams

if TYPE_CHECKING:
    from worldgymnast.cli.commands import Command

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
    "Scenes to train on": {
        "scenes photograph": ("TARGET", "pictures of new layouts, each with a sentence"),
        "scenes distract": ("SOURCE TARGET", "the same scenes among objects that have nothing to do with the task"),
        "scenes propose": ("SOURCE TARGET", "the same scenes with new instructions"),
        "scenes plate": ("DATA...", "what a camera sees when the table is empty, for the distractors"),
    },
    "Train": {
        "sft": ("DATA...", "a policy, by imitating demonstrations"),
        "train-world": ("[SIZE] DATA...", "a world model, from everything logged"),
        "distill": ("DATA...", "a world model that imagines in one step, from one that takes many"),
        "train-judge": ("DATA...", "a judge of success, from labelled episodes"),
        "rl": ("PRESET", "finetune a policy inside a world model"),
        "adapt": ("", "finetune a policy for one scene, from one frame and one sentence"),
        "dyna": ("", "real rollouts, world and judge again, RL again: round by round"),
        "iter-sft": ("", "a baseline: imitate imagined successes, round by round"),
        "rl-simulator": ("PRESET", "a baseline: the same RL in a software simulator, wrong by one number"),
        "import-world": ("CHECKPOINT", "a published WorldGym checkpoint, as a world model of ours"),
    },
    "Judge": {
        "judge vlm": ("MODEL", "a vision-language model behind a server, as a judge"),
        "judge local": ("MODEL", "a vision-language model in this process, as a judge"),
        "judge foreseen": ("", "the world model's own opinion, where it has a success head, as a judge"),
        "judge cascade": ("FIRST THEN", "a cheap judge, and another where it is unsure"),
        "judge ensemble": ("JUDGE...", "several judges that decide together"),
    },
    "Measure": {
        "evaluate": ("BEFORE AFTER", "two policies on the same real layouts"),
        "eval-world": ("WORLD", "how far a world model can be trusted"),
        "diagnose": ("[DATA...]", "what costs imagined rollouts their right verdicts: judge, encoding or dynamics"),
        "agree": ("POLICY...", "whether a world model orders policies as reality does"),
        "best-of": ("POLICY", "what planning with the world model at deployment gains, and costs"),
        "judge calibrate": ("JUDGE", "how far a judge can be trusted, and which thresholds it should have"),
        "judge compare": ("A B", "two judges on the same clips"),
        "report": ("RUN", "one HTML page about a run"),
    },
}
COMMANDS = {name: about for group in GROUPS.values() for name, about in group.items()}
FAMILIES = {name.partition(" ")[0] for name in COMMANDS if " " in name} - set(COMMANDS)
"""First words of the commands of two words."""
_WIDTH = 32  # of the column of commands and flags in the overview
GO_ON = (
    "quickstart", "reproduce", "sft", "train-world", "distill", "train-judge", "rl", "adapt",
    "dyna", "iter-sft", "rl-simulator", "evaluate", "agree", "best-of", "scenes photograph", "scenes distract",
    "scenes propose",
)  # fmt: skip
"""What can be killed and goes on when run again."""
WHOLE = ("record", "record-policy", "data convert")
"""What writes a data set whole or not at all, and starts over."""

MOVED = {"reproduce tables": "python -m studies.tables"}
"""Commands of earlier versions, and what does the same now."""

EXAMPLES = """\
  worldgymnast quickstart
  worldgymnast reproduce metaworld --out runs/metaworld --finetune.rl.steps 10
  worldgymnast rl metaworld --rl.group-size 4 --out runs/rl
  worldgymnast data convert old/bridge data/bridge --size 64"""


class UsageError(Exception):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None, study: Mapping[str, type[Command]] | None = None) -> int:
    """Runs one command; returns the exit code.

    Args:
        argv: the words after the program's name.
        study: module and class of the one command of a study, which is started as `python -m MODULE`.
    """
    streams.prepare()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv), study or {})
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads our output any more, as after `head`
        streams.discard(sys.stdout, sys.stderr)
        return 0
    except OSError as error:
        from worldgymnast.staging import is_full

        if not is_full(error):
            raise
        streams.discard(sys.stdout)
        return _say("error: standard output: no space left; free some or write elsewhere", 2, True)
    return code


def _run(words: list[str], study: Mapping[str, type[Command]]) -> int:
    """Runs one command; returns the exit code."""
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    words, keys = _allowed_keys(words)
    if not traceback:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # a hub that is not reached is one line, ours
    if not study and (about := _about(words)):
        print(about)
        return 0
    name, flags = "", list[str]()
    try:
        name, rest = (next(iter(study)), words) if study else _name(words)
        command = _parse(name, rest, study)
        from worldgymnast.cli.command import check_names
        from worldgymnast.cli.drafts import flags_of
        from worldgymnast.keys import granted

        flags += flags_of(command, command.hidden)
        check_names(command)
        with granted(keys):
            return command()
    except KeyboardInterrupt:
        if traceback:
            raise
        then = "; run the same command again to go on" if name in GO_ON else "; nothing was kept" * (name in WHOLE)
        return _say(f"stopped{then}", 130)
    except BrokenPipeError:
        raise
    except Exception as error:
        message = _message(error, flags)
        if traceback or message is None:
            raise
        alone = isinstance(error, OSError | MemoryError | RuntimeError)  # may have befallen this process only
        return _say(f"error: {message}", 2, alone)


def _about(words: Sequence[str]) -> str:
    """What is shown where no command is asked for: the overview, the version, the commands of a family."""
    if not words or words[0] in ("-h", "--help", "help"):
        return overview()
    if words[0] in ("-V", "--version"):
        from worldgymnast import __version__

        return f"worldgymnast {__version__}"
    if (family := words[0]) in FAMILIES and words[1:] in (["-h"], ["--help"], ["help"]):
        lines = [f"usage: worldgymnast {family} COMMAND [...] [--flags]", "", *_listed(COMMANDS, f"{family} ")]
        return "\n".join(lines)
    return ""


def _allowed_keys(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command without every `--allow-key VARIABLE`, and those variables; see `worldgymnast.keys`."""
    left, keys = list[str](), list[str]()
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag not in ("--allow-key", "--allow_key"):
            left.append(word)
        else:
            keys.append(value if equals else next(rest, ""))
    return left, keys


def script() -> int:
    """The console script: `main`, and the end of a process that torchrun started; returns the exit code."""
    code = main()
    if "LOCAL_RANK" in os.environ:
        from worldgymnast.processes import leave

        return leave(code)
    return code


def _say(message: str, code: int, alone: bool = False) -> int:
    """Prints the line; where torchrun started several processes on a machine, only in the first, unless `alone`."""
    if alone or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"worldgymnast: {streams.one_line(message)}", file=sys.stderr)
    return code


def _message(error: Exception, flags: Collection[str]) -> str | None:
    """One line for what the user can mend; None for a fault of the program, which keeps its traceback."""
    if isinstance(error, UsageError):
        return str(error)
    import torch

    from worldgymnast.actions import ActionSpecMismatch
    from worldgymnast.errors import FieldError, InputError
    from worldgymnast.staging import is_full

    if isinstance(error, FieldError):
        from worldgymnast.cli.drafts import with_flags

        return with_flags(error, flags)
    if isinstance(error, InputError | ActionSpecMismatch | FloatingPointError):
        return str(error)
    if isinstance(error, OSError) and is_full(error):
        return f"{error.filename or 'disk'}: no space left; free some and run the same command again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
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
        lines += _listed(commands)
    lines += [
        "",
        f"{bold}Everywhere{plain}",
        f"  {'COMMAND --help':<{_WIDTH}}every flag of a command, with its default",
        f"  {'--traceback':<{_WIDTH}}errors in full",
        f"  {'--allow-key VARIABLE[@HOST]':<{_WIDTH}}lets a judge's file send this key to its server",
        "",
        f"{bold}Wherever a model runs{plain}",
        f"  {'--device cpu|cuda':<{_WIDTH}}where to train and imagine",
        f"  {'--threads N':<{_WIDTH}}CPU threads; all cores if left out",
        "",
        f"{bold}Presets{plain}  metaworld: six tasks; quickstart: one seed, fewer episodes; debug: tiny, a minute",
        "",
        f"{bold}Examples{plain}",
        EXAMPLES,
        "",
        f"{', '.join(GO_ON)} can be killed and go on when run again.",
        f"{', '.join(WHOLE)} write a data set whole or not at all, and start over.",
        "doctor, data check write nothing; eval-world, diagnose and the judge commands only what their flags ask for.",
    ]
    return "\n".join(lines)


def _listed(commands: Mapping[str, tuple[str, str]], prefix: str = "") -> list[str]:
    """A line for each command whose name begins with `prefix`."""
    chosen = {name: about for name, about in commands.items() if name.startswith(prefix)}
    return [f"  {f'{name} {words}':<{_WIDTH}}{text}" for name, (words, text) in chosen.items()]


def _presets(name: str) -> str:
    """What help without a preset says in front of the flags."""
    from worldgymnast.recipes.presets import PRESETS

    lines = [f"  {preset:<12}{(make.__doc__ or '').partition('.')[0]}" for preset, make in PRESETS.items()]
    head = f"PRESET comes first, before the flags, as in: worldgymnast {name} debug --help"
    return "\n".join([head, *lines, "The defaults below are those of metaworld.", ""])


def _sizes(name: str, sizes: Mapping[str, Any]) -> str:
    """What help without a size says in front of the flags."""
    lines = [f"  {size:<22}{(make.__doc__ or '').partition(': ')[0]}" for size, make in sizes.items()]
    head = f"SIZE may come first, before the data, as in: worldgymnast {name} {list(sizes)[1]} DATA --out RUN"
    return "\n".join([head, *lines, f"The defaults below are those of {next(iter(sizes))}.", ""])


# ---------------------------------------------------------------- words to a command


def _program(name: str) -> str:
    """How a command is started: one of the package by its name, a study as a module."""
    return f"worldgymnast {name}" if name in COMMANDS else f"python -m {name}"


def _parse(name: str, rest: Sequence[str], study: Mapping[str, type[Command]]) -> Command:
    """The command of that name, its fields filled in from the words after it."""
    for before, word in zip([name, *rest], rest, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            what = before if not word and before.startswith("--") else word.rstrip("=") or "an argument"
            raise UsageError(f"{name}: {what} is empty, expected a value; {_program(name)} --help lists all")
    import tyro

    from worldgymnast.cli.commands import KINDS
    from worldgymnast.cli.drafts import built, drafting, flags_of, with_flags
    from worldgymnast.errors import FieldError, InputError

    kind, prog = (study or KINDS)[name], _program(name)
    help_wanted = bool({"-h", "--help"} & set(rest))
    if kind.takes_preset:
        from worldgymnast.recipes.presets import preset

        if rest and not rest[0].startswith("-"):
            if near := _near(f"{name} {rest[0]}", (known for known in COMMANDS if known.startswith(f"{name} ")), 0.8):
                raise UsageError(f"{name}: found '{rest[0]}', expected a preset; {near.strip()}")
            start, prog, rest = kind.start(preset(rest[0]), rest[0]), f"{prog} {rest[0]}", rest[1:]
        elif help_wanted:
            start, prog = kind.start(preset("metaworld"), "metaworld"), f"{prog} PRESET"
            print(_presets(name))
        else:
            raise UsageError(_no_preset(name, rest))
    elif rest and rest[0] in kind.sizes:
        start, prog, rest = kind.sized(rest[0]), f"{prog} {rest[0]}", rest[1:]
    elif rest and not os.path.exists(rest[0]) and (near := _near(rest[0], kind.sizes, 0.8)):
        raise UsageError(f"{name}: found '{rest[0]}', expected a size or a data set's folder; {near.strip()}")
    else:
        start = None
        if kind.sizes and help_wanted:
            print(_sizes(name, kind.sizes))
    made = kind if start is None else start
    default: dict[str, Any] = {} if start is None else {"default": start}
    shown = sorted(flags_of(made, kind.hidden))
    names = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.AvoidSubcommands)
    with _one_line(name), drafting(kind.hidden):
        draft, unknown = tyro.cli(kind, prog=prog, args=rest, config=names, return_unknown_args=True, **default)
    if unknown:
        given = [word.partition("=")[0].replace("_", "-") for word in unknown]
        if idle := sorted(set(given) & set(flags_of(made)) - set(shown)):
            raise UsageError(f"{name}: {idle[0]} has no effect here; {kind.instead}")
        raise UsageError(_unknown(name, unknown, shown))
    try:
        command = built(draft)
    except FieldError as error:
        raise InputError(with_flags(error, shown)) from error
    flags = (word.partition("=")[0].replace("_", "-") for word in rest if word.startswith("--"))
    object.__setattr__(command, "given", frozenset(flags))
    return command


def _no_preset(name: str, rest: Sequence[str]) -> str:
    from worldgymnast.recipes.presets import PRESETS

    for i, word in enumerate(rest):
        if word in PRESETS and not rest[i - 1].startswith("-"):
            mended = shlex.join([word, *rest[:i], *rest[i + 1 :]])
            return f"{name}: found the preset behind a flag, expected it first; run: worldgymnast {name} {mended}"
    return f"{name}: found no preset, expected one of {', '.join(PRESETS)} first, as in: worldgymnast {name} debug"


def _name(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name, of one or two words, and what follows it."""
    if now := MOVED.get(" ".join(words[:2])):
        raise UsageError(
            f"'{' '.join(words[:2])}' has moved; from a checkout run: {shlex.join([*now.split(), *words[2:]])}"
        )
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS:
            return name, list(words[length:])
    if (family := words[0]) in FAMILIES:
        rest = [word for word in words[1:] if word not in ("-h", "--help")]
        if not rest:
            known = ", ".join(f"{name} {about[0]}" for name, about in COMMANDS.items() if name.startswith(f"{family} "))
            raise UsageError(f"{family}: expected one of: {known}")
        words = [f"{family} {rest[0]}"]
    near = _near(" ".join(words[:2]), COMMANDS, 0.8) or _near(words[0], COMMANDS)
    raise UsageError(f"unknown command '{words[0]}'; {near}worldgymnast --help lists all")


def _near(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean '{near[0]}'? " if near else ""


RENAMED = {
    "--rl.evaluate-starts": "--scoring.per-task (and 0 is --unscored)",
    "--finetune.rl.evaluate-starts": "--finetune.scoring.per-task",
    "--evaluate-starts": "--scoring.per-task (and 0 is --unscored)",
    "--score-layout": "--scoring.first-layout",
    "--finetune.score-layout": "--finetune.scoring.first-layout",
    "--workers": "--scoring.workers",
    "--finetune.workers": "--finetune.scoring.workers",
}
"""Flags of the version before, and what they are called now."""
_MOVED_ENV = re.compile(r"--(finetune|record|explore)\.env\.")


def _renamed(flag: str, flags: Sequence[str]) -> str:
    """The new name of a flag of the version before, where the command has it; or nothing."""
    now = RENAMED.get(flag) or (_MOVED_ENV.sub("--env.", flag) if _MOVED_ENV.match(flag) else "")
    return now if now.partition(" ")[0] in flags else ""


def _unknown(name: str, unknown: Sequence[str], flags: Sequence[str]) -> str:
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is None:
        return f"{name}: unexpected '{unknown[0]}'; {_program(name)} --help shows what it takes"
    word = flag.partition("=")[0]
    if now := _renamed(word, flags):
        return f"{name}: {word} is called {now} now"
    first, _, last = word.partition(".")
    nested = f".{last}" if last else f".{word.lstrip('-')}"
    fitting = (known for known in flags if known.endswith(nested) and (not last or known.startswith(f"{first}.")))
    within = min(fitting, key=len, default="")
    meant = f"did you mean '{within}'? " if within else _near(word, flags)
    return f"{name}: unknown flag '{flag}'; {meant}{_program(name)} --help lists all"


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
        lines = [line.strip("│╭╮╰╯─| \n") for line in said.getvalue().splitlines()]
        lines = [line for line in lines[1:] if line.strip("-+")]  # where the box is drawn in ASCII
        words = " ".join(lines)
        if words.startswith("Missing from"):
            firsts = [line.split()[0] for line in lines]
            words = "missing " + ", ".join(one for one in firsts if re.fullmatch("--[a-z0-9.-]+|[A-Z]{2,}", one))
        for tail in ("Argument helptext:", "For full helptext", f"{_program(name)} --help"):
            words = words.partition(tail)[0].strip()
        raise UsageError(f"{name}: {words}; {_program(name)} --help shows what it takes") from None
