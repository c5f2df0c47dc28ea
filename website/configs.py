"""Reference of the configs: every checked dataclass with its fields, valid values and defaults."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

import worldgymnast
from website.markdown import cell, code, page, sentence, table
from worldgymnast.cli.command import Command
from worldgymnast.configs import AS_JSON, Between, to_dict

FOLDER = "reference/config"
PAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rl": ("Reinforcement learning", ("rl", "evaluation", "surrogates", "recipes.finetune", "measure.real")),
    "training": ("Trainings", ("training",)),
    "recipes": ("Recipes", ("recipes", "measure.agreement")),
    "policies": ("Policies", ("policies",)),
    "flow-experts": (
        "SmolVLA, pi0 and pi0.5",
        (
            "policies.flow_checkpoint",
            "policies.flow_expert_config",
            "policies.pi0",
            "policies.pi0_network",
            "policies.smolvla",
            "policies.smolvla_network",
        ),
    ),
    "openvla": (
        "OpenVLA",
        tuple(f"policies.openvla_{name}" for name in ("checkpoint", "config", "language", "tokens", "vision")),
    ),
    "worlds": ("World models", ("worldmodel",)),
    "judges": ("Judges", ("judges", "endpoint", "ledger")),
    "environments": ("Environments", ("envs",)),
    "data": ("Data and scenes", ("episodes", "scenes")),
    "more": ("More", ("",)),
}
"""Title of each page, and the modules whose configs it shows; the longest prefix counts. "more" has all others."""
_NOUNS: Mapping[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}


@functools.cache
def configs() -> dict[str, list[type[Any]]]:
    """Return the checked configs of every page that has some, in the order of their modules."""
    found: dict[str, list[type[Any]]] = {name: [] for name in PAGES}
    for info in sorted(pkgutil.walk_packages(worldgymnast.__path__, "worldgymnast."), key=lambda each: each.name):
        if info.name.startswith("worldgymnast.cli") or info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == module.__name__ and _is_checked(kind):
                found[_page_of(kind)].append(kind)
    return {name: kinds for name, kinds in found.items() if kinds}


def _is_checked(kind: type[Any]) -> bool:
    is_config = dataclasses.is_dataclass(kind) and hasattr(kind, "__pydantic_fields__")
    return is_config and not issubclass(kind, Command) and not kind.__name__.startswith("_")


def _page_of(kind: type[Any]) -> str:
    module = kind.__module__.removeprefix("worldgymnast.")
    fits = {
        prefix: name
        for name, (_, prefixes) in PAGES.items()
        for prefix in prefixes
        if not prefix or module == prefix or module.startswith(f"{prefix}.")
    }
    return fits[max(fits, key=len)]


def valid_values(hint: Any) -> str:
    """Describe the values of a type in words.

    >>> from worldgymnast.configs import Fraction, Positive
    >>> valid_values(Positive | None), valid_values(Fraction), valid_values(tuple[str, ...])
    ('integer, 1 or more, or null', 'number, 0 to 1', 'list of text')
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(args[0], args[1:])
    if origin is Literal:
        return " or ".join(json.dumps(each) for each in args)
    if origin in (Union, types.UnionType):
        return _union(args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"list of {valid_values(args[0])}"
    if origin is tuple:
        return f"list of {len(args)}: {'; '.join(valid_values(each) for each in args)}"
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        return "JSON object"
    return _NOUNS.get(hint) or getattr(hint, "__name__", str(hint))


def _union(args: tuple[Any, ...]) -> str:
    words = [valid_values(each) for each in args if each is not type(None)]
    is_optional = len(words) < len(args)
    separator = ", or " if any("," in word for word in words) or is_optional else " or "
    return separator.join([*words, "null"] if is_optional else words)


def _annotated(inner: Any, extras: tuple[Any, ...]) -> str:
    if AS_JSON in extras:
        return "JSON object"
    for extra in extras:
        if isinstance(extra, Between):
            return f"{valid_values(inner)}, {_range(extra)}"
    return valid_values(inner)


def _range(between: Between) -> str:
    if between.high == float("inf"):
        return f"{between.low:g} or more"
    return f"{between.low:g} to {between.high:.10g}"


def default_of(field: dataclasses.Field[Any]) -> str:
    """Return a default as JSON; of a config, what differs from its own defaults."""
    value = field.default
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _changed(value)
    plain = str(value) if isinstance(value, Path) else value
    return code(json.dumps(plain, default=str))


def _changed(value: Any) -> str:
    try:
        own = to_dict(type(value)())
    except Exception:  # noqa: BLE001 - a config with required fields has no defaults to compare with
        own = {}
    changes = {key: each for key, each in to_dict(value).items() if own.get(key, own) != each}
    return code(", ".join(f"{key}: {json.dumps(each)}" for key, each in changes.items())) or "its own"


def config_section(kind: type[Any], places: Mapping[str, str], here: str) -> list[str]:
    """Return the section of a config: what it is, and its fields."""
    doc = docstring_parser.parse(kind.__doc__ or "")
    helps = _field_helps(kind)
    hints = get_type_hints(kind, include_extras=True)
    parents = [base for base in kind.__mro__[1:] if base.__name__ in places and _is_checked(base)]
    inherited = {
        one.name: (default_of(one), get_type_hints(base, include_extras=True)[one.name])
        for base in parents[:1]
        for one in dataclasses.fields(base)
    }
    summary = sentence(cell(doc.short_description or ""))
    lines = [f"## {kind.__name__}", "", f"{summary} Class `{kind.__module__}.{kind.__name__}`.", ""]
    lines += [cell(doc.long_description), ""] if doc.long_description else []
    lines += [f"Also the fields of {_linked(base.__name__, places, here)}.\n" for base in parents[:1]]
    rows = []
    for field in dataclasses.fields(kind):
        default = default_of(field)
        if inherited.get(field.name) == (default, hints[field.name]):
            continue
        values = _linked(valid_values(hints[field.name]), places, here)
        value = f"{values}; required" if default == "required" else f"{values}; default {default}"
        rows.append((code(field.name), value, sentence(cell(helps.get(field.name, "")))))
    return lines + (table(["field", "values", "meaning"], rows) if rows else [])


def _field_helps(kind: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say about each field."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for one in docstring_parser.parse(base.__dict__.get("__doc__") or "").params:
            helps[one.arg_name] = one.description or ""
    return helps


def _linked(values: str, places: Mapping[str, str], here: str) -> str:
    words = []
    for word in cell(values).split(" "):
        name = word.strip(",;")
        if name in places:
            target = f"#{name.lower()}" if places[name] == here else f"{places[name]}.md#{name.lower()}"
            word = word.replace(name, f"[{name}]({target})")
        words.append(word)
    return " ".join(words)


def undocumented() -> Iterator[str]:
    """Yield the fields of configs without a word in a docstring."""
    for kind in (kind for kinds in configs().values() for kind in kinds):
        helps = _field_helps(kind)
        yield from (f"{kind.__name__}.{field.name}" for field in dataclasses.fields(kind) if not helps.get(field.name))


def config_pages() -> dict[str, str]:
    """Return all pages of the configs, by path."""
    found = configs()
    places = {kind.__name__: name for name, kinds in found.items() for kind in kinds}
    pages = {}
    for name, kinds in found.items():
        sections = [line for kind in kinds for line in config_section(kind, places, name)]
        pages[f"{FOLDER}/{name}.md"] = page(PAGES[name][0], sections)
    rows = [
        (
            f"[{PAGES[name][0]}]({name}.md)",
            ", ".join(f"[{kind.__name__}]({name}.md#{kind.__name__.lower()})" for kind in kinds),
        )
        for name, kinds in found.items()
    ]
    intro = (
        "A config is a frozen dataclass whose fields are checked: in Python, in `config.json` of a run, and on the "
        "command line, where a field is a flag (`rl.group_size` is `--rl.group-size`). Values are never converted: "
        '`true` is no number, `"8"` is not 8. An unknown field is an error that names the nearest one.'
    )
    return {f"{FOLDER}/index.md": page("Configs", intro, table(["subject", "configs"], rows)), **pages}
