"""Parsing of a command line into a command object."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worldgymnast.cli.overview import COMMANDS, FAMILIES, commands_of, join, preset_help, size_help

if TYPE_CHECKING:
    from worldgymnast.cli.commands import Command

MOVED = {"reproduce tables": "python -m studies.tables"}
"""Commands of earlier versions, and their replacements."""
RENAMED = {
    "--rl.evaluate-starts": "--scoring.per-task (or --unscored instead of 0)",
    "--finetune.rl.evaluate-starts": "--finetune.scoring.per-task",
    "--evaluate-starts": "--scoring.per-task (or --unscored instead of 0)",
    "--score-layout": "--scoring.first-layout",
    "--finetune.score-layout": "--finetune.scoring.first-layout",
    "--workers": "--scoring.workers",
    "--finetune.workers": "--finetune.scoring.workers",
}
"""Flags of the previous version, and their new names."""
ENVIRONMENTS = "metaworld, libero, gym:ID, module:factory, lerobot:TYPE, maniskill:ID, KIND:ARGUMENT or FILE.json"
"""References of real environments."""
_NEGATION = re.compile(r"(^--|\.)no-")
"""Of a flag that turns a setting off, such as --rl.no-keep-best."""
_MOVED_ENV = re.compile(r"--(finetune|record|explore)\.env\.")


class UsageError(Exception):
    """The command line itself is wrong."""


# ---------------------------------------------------------------- the command's name


def split_name(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split the words into a command's name and arguments.

    Raises:
        UsageError: no such command; the message suggests the closest one.
    """
    if replacement := MOVED.get(" ".join(words[:2])):
        command = shlex.join([*replacement.split(), *words[2:]])
        raise UsageError(f"'{' '.join(words[:2])}' is now a study. From a checkout, run: {command}")
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS:
            return name, list(words[length:])
    if (family := words[0]) in FAMILIES:
        rest = [word for word in words[1:] if word not in ("-h", "--help")]
        if not rest:
            known = ", ".join(f"{name} {entry.arguments}".rstrip() for name, entry in commands_of(family).items())
            raise UsageError(f"{family}: missing command. Commands: {known}")
        words = [f"{family} {rest[0]}"]
    hint = _suggestion(" ".join(words[:2]), COMMANDS, 0.8) or _suggestion(words[0], COMMANDS) or "."
    raise UsageError(f"unknown command '{words[0]}'{hint} Run worldgymnast --help for all commands")


def split_keys(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the values of `--allow-key` from the other words; see `worldgymnast.keys`."""
    return _split_values(words, ("--allow-key", "--allow_key"))


def split_trackers(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the values of `--tracker` from the other words; see `worldgymnast.trackers`."""
    return _split_values(words, ("--tracker",))


def _split_values(words: Sequence[str], flags: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the words without `flags` and their values, and the values; "" for a missing one."""
    others, values = list[str](), list[str]()
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag not in flags:
            others.append(word)
        else:
            values.append(value if equals else next(remaining, ""))
    return others, values


def _program(name: str) -> str:
    """Return the program: `worldgymnast NAME`, or `python -m MODULE`."""
    return f"worldgymnast {name}" if name in COMMANDS else f"python -m {name}"


def _suggestion(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean '{matches[0]}'?" if matches else ""


# ---------------------------------------------------------------- its arguments


def parse(name: str, words: Sequence[str], study: Mapping[str, type[Command]]) -> Command:
    """Build the command `name` from the arguments.

    Args:
        name: a command, or the module of a study.
        words: its arguments.
        study: module and class of the one command of a study; empty otherwise.

    Raises:
        UsageError: an argument is unknown, missing, empty or of the wrong type.
        InputError: a config refuses a value.
        SystemExit: help was requested; it is printed.
    """
    import tyro

    from worldgymnast.cli.commands import KINDS
    from worldgymnast.cli.drafts import build, drafting, flags_of, with_flags
    from worldgymnast.cli.durations import is_duration, resolve_all, split_seconds
    from worldgymnast.errors import FieldError, InputError

    given_words = (name, *words)
    _check_not_empty(name, words)
    words, seconds = split_seconds(words)
    kind = (study or KINDS)[name]
    default, program, words = _defaults(name, kind, words)
    given_flags = frozenset(_flag(word) for word in words if word.startswith("--"))
    has_environment = any(is_env(flag) for flag in flags_of(default or kind))
    env, words = _chosen_environment(name, words, has_environment)
    if kind.takes_environment and "--env" in given_flags:
        raise UsageError(f"{name}: --env: here the environment is the first argument. Run {_program(name)} REF")
    if kind.takes_environment and env is None:
        env = _first_environment(words)
    known = sorted(flags_of(default or kind, kind.hidden, env=env))
    markers = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.AvoidSubcommands)
    given: dict[str, Any] = {"default": default} if default else {}
    durations = [flag for flag in known if is_duration(flag)]
    with _more_help(has_environment, durations), _usage_errors(name, words, known), drafting(kind.hidden, env):
        draft, unknown = tyro.cli(kind, prog=program, args=words, config=markers, return_unknown_args=True, **given)
    if unknown and default is None and not unknown[0].startswith("-"):
        check_first(name, words, kind.sizes)
    if unknown:
        flags = {_flag(word) for word in unknown}
        if unused := sorted(flags & set(flags_of(default or kind, env=env)) - set(known)):
            raise UsageError(f"{name}: {unused[0]} has no effect in this command. {kind.hidden_hint}")
        raise UsageError(_unknown(name, unknown, known))
    try:
        command = build(draft)
    except FieldError as error:
        raise InputError(with_flags(error, known)) from error
    if seconds:
        try:
            command = resolve_all(command, seconds)
        except FieldError as error:
            raise InputError(with_flags(error, known)) from error
    object.__setattr__(command, "given_flags", given_flags)
    object.__setattr__(command, "given_words", given_words)
    return command


def is_env(flag: str) -> bool:
    """Return whether a flag sets a field of the real environment."""
    return flag.startswith("--env.")


def _chosen_environment(name: str, words: Sequence[str], has_environment: bool) -> tuple[Any, list[str]]:
    """Take `--env REF` off the words.

    Returns:
        Config of the environment, or None without the flag; the remaining words.

    Raises:
        UsageError: the value is missing, or the command has no real environment.
        InputError: the reference is unknown.
    """
    from worldgymnast.environments import environment_config

    if not has_environment:
        return None, list(words)
    others, references = _split_values(words, ("--env",))
    if any(not reference or reference.startswith("-") for reference in references):
        raise UsageError(f"{name}: --env: missing value, expected {ENVIRONMENTS}")
    return environment_config(references[-1]) if references else None, others


@contextlib.contextmanager
def _more_help(has_environment: bool, durations: Sequence[str]) -> Iterator[None]:
    """Print after a command's help what its types do not say: flags that accept seconds, and how `--env` is used."""
    try:
        yield
    except SystemExit as stop:
        if durations and not stop.code:
            print(f"\nSeconds are accepted in place of a number of actions or frames, such as {durations[0]} 6s, by:")
            print(f"{', '.join(durations)}.")
        if has_environment and not stop.code:
            print(f"\n--env REF chooses the real environment:\n{ENVIRONMENTS}.")
            print("The fields --env.FIELD above are those of the chosen one; --env REF --help shows those of another.")
        raise


def _first_environment(words: Sequence[str]) -> Any:
    """Config of the environment that is the first argument; None without one."""
    from worldgymnast.environments import environment_config

    first = next(iter(words), "")
    return environment_config(first) if first and not first.startswith("-") else None


def _check_not_empty(name: str, words: Sequence[str]) -> None:
    for before, word in zip([name, *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            argument = before if not word and before.startswith("--") else word.rstrip("=") or "an argument"
            raise UsageError(f"{name}: {argument} is empty. Give a value, or run {_program(name)} --help")


def _flag(word: str) -> str:
    """Return the flag of a word such as `--rl.group_size=4`."""
    return word.partition("=")[0].replace("_", "-")


def _defaults(name: str, kind: type[Command], words: Sequence[str]) -> tuple[Command | None, str, list[str]]:
    """Take a leading preset or size off the words.

    Returns:
        The command with the defaults of that preset or size, or None; the program's name; the remaining words.
    """
    first, program = next(iter(words), ""), _program(name)
    is_help = bool({"-h", "--help"} & set(words))
    if kind.takes_preset:
        from worldgymnast.recipes.presets import PRESETS, preset

        if first and not first.startswith("-"):
            hint = _suggestion(f"{name} {first}", (known for known in COMMANDS if known.startswith(f"{name} ")), 0.8)
            if hint:
                raise UsageError(f"{name}: unknown preset '{first}'{hint}")
            return kind.from_preset(preset(first), first), f"{program} {first}", list(words[1:])
        if not is_help:
            raise UsageError(_missing_preset(name, words, PRESETS))
        print(preset_help(name, PRESETS))
        shown = next(iter(PRESETS))
        return kind.from_preset(preset(shown), shown), f"{program} PRESET", list(words)
    if first in kind.sizes:
        return kind.from_size(first), f"{program} {first}", list(words[1:])
    is_placeholder = is_help and first.isupper()  # as in the usage line: sft DATA --help
    if not is_placeholder and (is_help or _suggestion(first, kind.sizes, 0.8)):
        check_first(name, words, kind.sizes)
    if kind.sizes and is_help:
        print(size_help(name, kind.sizes))
    return None, program, list(words)


def check_first(name: str, words: Sequence[str], sizes: Collection[str]) -> None:
    """Refuse a first argument that is neither one of a command's sizes or kinds, nor a path.

    Raises:
        UsageError: so it is; the message names all of them.
    """
    first = next(iter(words), "")
    is_plain = first and not first.startswith("-") and not {"/", os.sep} & set(first)
    if sizes and is_plain and first not in sizes and not os.path.exists(first):
        word = COMMANDS[name].arguments.split()[0].strip("[]").lower()
        own = "; with a robot of your own, begin with: worldgymnast sft DATA" if name == "quickstart" else ""
        hint = _suggestion(first, sizes, 0.8) or f". Check the name{own}"
        if "DATA" not in COMMANDS[name].arguments:
            raise UsageError(f"{name}: '{first}' is no {word} ({join(sizes)}){hint}")
        raise UsageError(f"{name}: '{first}' is neither a {word} ({join(sizes)}) nor a data set's folder{hint}")


def _missing_preset(name: str, words: Sequence[str], presets: Collection[str]) -> str:
    for i, word in enumerate(words):
        if word in presets and not words[i - 1].startswith("-"):
            command = shlex.join([word, *words[:i], *words[i + 1 :]])
            return f"{name}: PRESET must come before the flags. Run: worldgymnast {name} {command}"
    return f"{name}: missing PRESET ({join(presets)}), which comes first. Example: worldgymnast {name} debug"


def _unknown(name: str, unknown: Sequence[str], flags: Sequence[str]) -> str:
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is None:
        return f"{name}: unexpected argument '{unknown[0]}'. Run {_program(name)} --help for usage"
    word = flag.partition("=")[0]
    if new_name := _renamed(word, flags):
        return f"{name}: {word} was renamed. Use {new_name}"
    first, _, last = word.partition(".")
    suffix = f".{last}" if last else f".{word.lstrip('-')}"
    nested = [known for known in flags if known.endswith(suffix) and (not last or known.startswith(f"{first}."))]
    hint = f"; did you mean '{min(nested, key=len)}'?" if nested else _suggestion(word, flags) or "."
    return f"{name}: unknown flag '{flag}'{hint} Run {_program(name)} --help for all flags"


def _renamed(flag: str, flags: Sequence[str]) -> str:
    """Return the new name of a renamed flag, or ""."""
    new_name = RENAMED.get(flag, "")
    if not new_name and _MOVED_ENV.match(flag):
        new_name = _MOVED_ENV.sub("--env.", flag)
    return new_name if new_name.partition(" ")[0] in flags else ""


# ---------------------------------------------------------------- errors of tyro


@contextlib.contextmanager
def _usage_errors(name: str, words: Sequence[str], known: Sequence[str]) -> Iterator[None]:
    """Raise `UsageError` in place of tyro's error box.

    An unknown flag is reported first: tyro reads its value as a positional argument, and blames that.

    Tyro has no public API for its errors. This hook, of a private module, has them as data; in a version without it,
    tyro prints its box and exits with the same code.
    """
    try:
        from tyro import _errors as errors
    except ImportError:
        yield
        return

    def refuse(event: errors.ParseErrorEvent) -> None:
        flags = [word for word in words if word.startswith("--") and word != "--"]
        unknown = [word for word in flags if not {_flag(word), _NEGATION.sub(r"\1", _flag(word))} & {*known, "--help"}]
        raise UsageError(_unknown(name, unknown, known) if unknown else _usage_error(name, words, event))

    with errors.on_parse_error(refuse):
        yield


def _usage_error(name: str, words: Sequence[str], event: Any) -> str:
    match type(event).__name__:
        case "MissingArgs":
            missing = ", ".join(_argument(one.arg) for one in event.missing_arguments)
            return f"{name}: missing {missing}. Run {_program(name)} --help for usage"
        case "InvalidChoice":
            flag, choices = _argument(event.argument), list(map(str, event.choices))
            if "None" in choices:  # of an optional value, in no order
                choices = sorted({*choices} - {"None"})
            hint = _device_hint(str(event.value)) if flag == "--device" else ""
            return f"{flag}: found '{event.value}', expected {join(choices)}{hint}"
        case "BadValue":
            return f"{_argument(event.argument)}: missing value, expected {_type(event.argument)}"
        case "InstantiationFailure" if event.argument is not None:
            flag = _argument(event.argument)
            return f"{flag}: found '{_value(flag, words)}', expected {_type(event.argument)}"
    return f"{name}: wrong arguments ({getattr(event, 'message', event)}). Run {_program(name)} --help for usage"


def _argument(argument: Any) -> str:
    """Return the flag of an argument, or the positional's name."""
    if argument.is_positional():
        return str(argument.lowered.metavar).removesuffix("...")
    return argument.lowered.name_or_flags[-1]


def _value(flag: str, words: Sequence[str]) -> str:
    """Return the value of a flag in the words, as one string."""
    given = [word for word in words if _flag(word) == flag]
    if given and "=" in given[-1]:
        return given[-1].partition("=")[2]
    rest = words[len(words) - words[::-1].index(given[-1]) :] if given else words
    return " ".join(itertools.takewhile(lambda word: not word.startswith("--"), rest))


def _type(argument: Any) -> str:
    """Return what a value should be; None, which an omitted flag gives, is left out."""
    from worldgymnast.cli.durations import is_duration

    nouns = {"INT": "an integer", "FLOAT": "a number", "N": "a number", "X": "a number"}
    kinds = [kind for kind in str(argument.lowered.metavar).split("|") if kind != "{None}"]
    return join(nouns.get(kind, kind) for kind in kinds) + (" or seconds such as 6s" * is_duration(_argument(argument)))


def _device_hint(found: str) -> str:
    """Return which devices this machine has, as the end of a message."""
    import torch

    count = torch.cuda.device_count()
    if count and found.startswith("cuda"):
        return f". CUDA_VISIBLE_DEVICES chooses one of this machine's {count}"
    return f". This machine has {count or 'no'} CUDA device{'' if count == 1 else 's'}"
