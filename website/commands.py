"""Reference of the command line, from the parser itself: every command, every flag, its default and its help."""

from __future__ import annotations

import argparse
import functools
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docstring_parser
import tyro

from website.markdown import cell, code, page, sentence, table
from worldgymnast.cli.commands import KINDS, Command
from worldgymnast.cli.drafts import drafting, flags_of
from worldgymnast.cli.overview import COMMANDS, GROUPS, RESTARTS, RESUMES
from worldgymnast.cli.parse import ENVIRONMENTS, is_env
from worldgymnast.recipes.presets import PRESETS, preset

FOLDER = "reference/cli"
_HINT = re.compile(r"\s*\((default: .*|optional|required)\)\s*$", re.DOTALL)
_SWITCH = {"True": "on", "False": "off"}
_LONG = 200
"""Lines from which a page is split."""
_OWN_PAGE = 28
"""Flags from which a config has a page of its own then."""
_MARKERS: Any = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.AvoidSubcommands)
_RERUN = {
    RESUMES: "An interrupted run resumes when the same command is run again.",
    RESTARTS: "An interrupted run starts over, and leaves no partial data set.",
}
_EVERY = (
    ("`--help`", "list all flags with their defaults"),
    ("`--traceback`", "show errors with their traceback"),
    (
        "`--tracker wandb`",
        "also log runs to [Weights & Biases](../../how-to/trackers.md); TensorBoard is always written",
    ),
    ("`--allow-key VAR[@HOST]`", "let judge files send this API key to their server"),
)


@dataclass(frozen=True)
class Flag:
    """A flag or an argument of a command.

    Attributes:
        name: such as "--rl.steps", or "DATA" for an argument.
        value: what it takes, such as "INT"; "" for a switch.
        default: as it is written on the command line; "required", or "" if it is optional.
        help: what it does.
    """

    name: str
    value: str
    default: str
    help: str


@dataclass(frozen=True)
class Group:
    """Flags of one config.

    Attributes:
        title: prefix of the flags, such as "rl.trust"; "" for the command's own.
        help: what the config is.
        flags: in the order of the help.
    """

    title: str
    help: str
    flags: tuple[Flag, ...]


def path_of(name: str) -> str:
    """Return the page of a command."""
    return f"{FOLDER}/{name.replace(' ', '-')}.md"


def groups(name: str, default: Command | None = None) -> list[Group]:
    """Return the flags of a command, with the defaults of a preset, of a size, or its own."""
    kind = KINDS[name]
    given: dict[str, Any] = {"default": default} if default else {}
    with drafting(kind.hidden), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser: Any = tyro.extras.get_parser(kind, prog=name, config=_MARKERS, **given)
    return list(_groups(parser))


def defaults(name: str) -> dict[str, Command]:
    """Return a command with the defaults of each preset or size that may come first."""
    kind = KINDS[name]
    if kind.takes_preset:
        return {each: kind.from_preset(preset(each), each) for each in PRESETS}
    return {size: kind.from_size(size) for size in kind.sizes}


def _groups(parser: Any) -> Iterator[Group]:
    for group in parser._action_groups:
        flags = tuple(_flag(action) for action in group._group_actions if action.dest != "help")
        if flags:
            title = re.sub(r"\s*(positional arguments|options)$", "", group.title or "")
            yield Group(title, group.description or "", flags)


def _flag(action: argparse.Action) -> Flag:
    text = str(action.help or "")
    hint = _HINT.search(text)
    default = hint[1].removeprefix("default: ") if hint else ""
    name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)
    is_switch = action.nargs == 0
    if is_switch:
        name, default = " / ".join(action.option_strings), _SWITCH.get(default, default)
    value = str(action.metavar or "") if action.option_strings and not is_switch else ""
    if not default and (action.required or not action.option_strings):
        default = "required"
    help_text = _HINT.sub("", text).replace("%%", "%")
    return Flag(name, _value(value), "" if default == "optional" else default, help_text)


def _value(metavar: str) -> str:
    """Write what a flag takes without the parser's brackets.

    >>> _value("[PATH [PATH ...]]"), _value("{None}|INT"), _value("{None,crop}"), _value("{a,b}")
    ('PATH...', 'INT', 'crop', 'a,b')
    """
    several = re.fullmatch(r"\[(\S+)( \S+)? \[.*\]\]", metavar)
    plain = f"{several[1]}{several[2] or ''}..." if several else metavar
    return plain.replace("{None}|", "").replace("{None,", "{").replace("{", "").replace("}", "")


def _rows(flags: tuple[Flag, ...]) -> Iterator[tuple[str, str]]:
    for flag in flags:
        name = code(f"{flag.name} {flag.value}".strip())
        text = sentence(cell(flag.help))
        if flag.default == "required":
            text += " **Required.**"
        elif flag.default:
            text += f" Default: {code(flag.default)}"
        yield name, text


def _changes(name: str, chosen: Mapping[str, Command]) -> list[str]:
    """Return a table of the defaults that differ between presets or sizes."""
    if not chosen:
        return []
    columns = {key: {f.name: f.default for g in groups(name, one) for f in g.flags} for key, one in chosen.items()}
    names = [flag for flag in next(iter(columns.values())) if len({each.get(flag) for each in columns.values()}) > 1]
    if not names:
        return []
    noun = "preset" if KINDS[name].takes_preset else "size"
    rows = [[code(flag), *(code(each.get(flag) or "-") for each in columns.values())] for flag in names]
    return [f"## Defaults by {noun}", "", *table(["flag", *columns], rows)]


def _section(group: Group) -> list[str]:
    arguments = tuple(flag for flag in group.flags if not flag.name.startswith("-"))
    title = f"--{group.title}" if group.title else "Arguments" if arguments else "Flags"
    help_text = [sentence(cell(group.help)), ""] if group.help else []
    header = ("argument" if arguments else "flag", "what it sets")
    return [f"## {title}", "", *help_text, *table(header, _rows(group.flags))]


def _introduction(name: str, chosen: Mapping[str, Command]) -> list[str]:
    """Return what a command does, and how it is called."""
    kind, entry = KINDS[name], COMMANDS[name]
    doc = docstring_parser.parse(kind.__doc__ or "")
    usage = f"worldgymnast {name} {entry.arguments}".rstrip()
    lines = [sentence(doc.short_description or entry.summary), f"```\n{usage} [--flags]\n```"]
    lines += [each for each in (doc.long_description, _RERUN.get(entry.when_rerun)) if each]
    first = next(iter(chosen), "")
    if kind.takes_preset:
        lines.append(f"`PRESET` comes first: {', '.join(map(code, chosen))}. Defaults below: `{first}`.")
    elif chosen:
        word = "robot" if entry.arguments == "[ROBOT]" else "size"
        place = ", before the data" if "DATA" in entry.arguments else ""
        lines.append(f"A {word} may come first{place}: {', '.join(map(code, chosen))}. Defaults below: `{first}`.")
    if any(map(is_env, flags_of(chosen[first] if chosen else kind))):
        lines.append(
            f"`--env REF` chooses the real environment: {cell(ENVIRONMENTS)}. The flags `--env.FIELD` are those of the "
            "chosen one; below, those of `metaworld`."
        )
    return [part for line in lines for part in (line, "")]


@functools.cache
def pages_of(name: str) -> dict[str, str]:
    """Return the pages of a command by path: one, or several if it has very many flags."""
    chosen = defaults(name)
    found = groups(name, next(iter(chosen.values()), None))
    introduction, changes = _introduction(name, chosen), _changes(name, chosen)
    path = path_of(name)
    whole = page(name, introduction, *map(_section, found), changes)
    if whole.count("\n") <= _LONG:
        return {path: whole}
    parts: dict[str, list[Group]] = {}
    for group in found:
        parts.setdefault(group.title.partition(".")[0], []).append(group)
    large = {part: each for part, each in parts.items() if part and sum(len(g.flags) for g in each) > _OWN_PAGE}
    stem = path.removesuffix(".md")
    pages = {f"{stem}-{part}.md": page(f"{name} --{part}", *map(_section, each)) for part, each in large.items()}
    small = [_section(group) for part, each in parts.items() if part not in large for group in each]
    links = [f"[`--{part}.*`]({stem.rpartition('/')[2]}-{part}.md)" for part in large]
    if changes:
        pages[f"{stem}-presets.md"] = page(f"{name}: presets", changes)
        links.append(f"[defaults by preset]({stem.rpartition('/')[2]}-presets.md)")
    return {path: page(name, introduction, f"More flags: {', '.join(links)}.", *small)} | pages


def index_page() -> str:
    """Return the overview of all commands."""
    blocks: list[Any] = [
        "`worldgymnast COMMAND --help` prints the same flags. These pages are made from the parser of the installed "
        "version.",
    ]
    for group, commands in GROUPS.items():
        rows = [(f"[{name}]({name.replace(' ', '-')}.md)", cell(entry.summary)) for name, entry in commands.items()]
        blocks += [f"## {group}", table(["command", "what it does"], rows)]
    blocks += ["## Flags of every command", table(["flag", "what it does"], _EVERY)]
    blocks.append(
        "A duration may be given in seconds, as `--rl.horizon 5s`; see [time](../../how-to/time.md). Exit codes and "
        "errors: [errors](../errors.md)."
    )
    return page("Commands", *blocks)


def command_pages() -> dict[str, str]:
    """Return all pages of the command line, by path."""
    return {f"{FOLDER}/index.md": index_page()} | {
        path: text for name in COMMANDS for path, text in pages_of(name).items()
    }


def command_nav() -> list[dict[str, list[str]]]:
    """Return the navigation of the commands: the groups of `worldgymnast --help`, each with its pages."""
    return [{group: [path for name in commands for path in pages_of(name)]} for group, commands in GROUPS.items()]
