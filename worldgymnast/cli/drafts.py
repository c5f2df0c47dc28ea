"""Commands between their words and their objects: tyro reads drafts, which are built, and refused, field by field.

A draft knows where in the command each config stands, so a value that a config refuses has its flag's full name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import tyro

from worldgymnast.errors import FieldError


@dataclass(frozen=True)
class Draft:
    """A command or a config before it is built: its class, and what tyro read for its fields."""

    kind: type[Any]
    values: Mapping[str, Any]


@contextlib.contextmanager
def drafting(hidden: Mapping[type, Collection[str]]) -> Iterator[None]:
    """Has tyro return drafts of dataclasses, and keeps it from offering these fields of each of these configs."""
    registry, asked = tyro.constructors.ConstructorRegistry(), set[type]()

    @registry.struct_rule
    def rule(info: tyro.constructors.StructTypeInfo) -> Any:
        if not is_dataclass(info.type) or info.type in asked:
            return None
        asked.add(info.type)  # so that the rule below this one answers
        spec: Any = registry.get_struct_spec(info)
        asked.remove(info.type)
        names = hidden.get(info.type, ())
        shown = [replace(f, type=tyro.conf.Suppress[f.type]) if f.name in names else f for f in spec.fields]

        def draft(**values: Any) -> Draft:
            return Draft(info.type, values)

        draft.__doc__ = info.type.__doc__  # which help shows
        return replace(spec, instantiate=draft, fields=tuple(shown))

    with registry:
        yield


def built(draft: Any, path: str = "") -> Any:
    """What a draft is of; a `FieldError` has the path of the field in the whole command."""
    if not isinstance(draft, Draft):
        return draft
    values = dict[str, Any]()
    for field in fields(draft.kind):
        if field.init and field.name in draft.values:
            inner = path if field.name == "config" else f"{path}.{field.name}".removeprefix(".")
            values[field.name] = built(draft.values[field.name], inner)
    try:
        return draft.kind(**values)
    except FieldError as error:
        raise error.within(path) from error


def flags_of(config: Any, hidden: Mapping[type, Collection[str]] | None = None, prefix: str = "--") -> Iterator[str]:
    """Every flag of a command, of its type or of an instance with its configs, without `hidden` fields of configs."""
    for field in fields(config):
        if not field.init:
            continue
        if hidden and field.name in hidden.get(type(config), ()):
            continue
        value = field.default if isinstance(config, type) else getattr(config, field.name)
        flag = prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            yield from flags_of(value, hidden, prefix if field.name == "config" else f"{flag}.")
        else:
            yield field.name.upper() if "Positional[" in str(field.type) else flag


def with_flags(error: FieldError, flags: Collection[str]) -> str:
    """The error's line with flags in the place of the config's fields."""
    named = [_flag_of(field, flags) for field in error.fields]
    return f"{', '.join(named)}: {error.problem}" if all(named) else str(error)


def _flag_of(field: str, flags: Collection[str]) -> str:
    """The flag that sets a field, by its path in the command or the end of it; "" where that is none, or several."""
    word = re.sub(r"\[\d+\]", "", field).replace("_", "-")
    known = [flag for flag in flags if flag in (f"--{word}", word.upper())]
    known = known or [flag for flag in flags if flag.endswith(f".{word}")]
    return known[0] if len(known) == 1 else ""
