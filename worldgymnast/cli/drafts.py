"""Drafts between tyro and commands, for errors with full flags.

Tyro fills in drafts, which are built afterwards, field by field: a draft knows the path of each config in the command.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, get_origin, get_type_hints

import tyro

from worldgymnast.environments import EnvironmentConfig
from worldgymnast.errors import FieldError

_OPTIONAL: Any = tyro.conf.arg(help_behavior_hint="(optional)")


@dataclass(frozen=True)
class Draft:
    """The class and the parsed values of a command or config."""

    kind: type[Any]
    values: Mapping[str, Any]


@contextlib.contextmanager
def drafting(hidden: Mapping[type, Collection[str]], env: Any = None) -> Iterator[None]:
    """Make tyro return drafts of dataclasses, without their `hidden` fields.

    Args:
        hidden: fields without a flag, by class.
        env: config of the real environment, whose fields become the flags `--env.FIELD`; None for the default.
    """
    registry, active = tyro.constructors.ConstructorRegistry(), set[type]()

    @registry.primitive_rule
    def json_rule(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if get_origin(info.type) is not dict:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="JSON",
            instance_from_str=lambda words: words[0],
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [json.dumps(value)],
        )

    @registry.struct_rule
    def rule(info: tyro.constructors.StructTypeInfo) -> Any:
        if not is_dataclass(info.type) or info.type in active:
            return None
        active.add(info.type)  # so that the next rule answers
        spec: Any = registry.get_struct_spec(info)
        active.remove(info.type)
        names = hidden.get(info.type, ())

        def draft(**values: Any) -> Draft:
            return Draft(info.type, values)

        draft.__doc__ = info.type.__doc__  # the description in the help
        depth = _depth(info.type)
        ordered = [_with_env(field, info.type, env) for field in sorted(spec.fields, key=lambda one: depth[one.name])]
        shown = [_shown(field, names) for field in ordered]
        return replace(spec, instantiate=draft, fields=tuple(shown))

    with registry:
        yield


def _depth(kind: type[Any]) -> dict[str, int]:
    """Return how far up the class hierarchy each field is defined; help shows a command's own flags first."""
    bases = reversed(list(enumerate(kind.__mro__)))
    return {name: depth for depth, base in bases for name in vars(base).get("__annotations__", {})}


def has_env(kind: type[Any]) -> bool:
    """Return whether a class has a real environment that `--env REF` may choose.

    >>> from worldgymnast.recipes.quickstart import QuickstartConfig
    >>> has_env(QuickstartConfig), has_env(Draft)
    (True, False)
    """
    return any(one.name == "env" for one in fields(kind)) and _hints(kind)["env"] == EnvironmentConfig


_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))


def _with_env(field: Any, kind: type[Any], env: Any) -> Any:
    """Replace the default environment of a field by the chosen one."""
    if env is None or field.name != "env" or not has_env(kind):
        return field
    return replace(field, type=type(env), default=env)


def _shown(field: Any, hidden: Collection[str]) -> Any:
    """Suppress a hidden field; mark an empty default as "(optional)"."""
    if field.name in hidden:
        return replace(field, type=tyro.conf.Suppress[field.type])
    has_hint = any(getattr(extra, "help_behavior_hint", None) for extra in getattr(field.type, "__metadata__", ()))
    if not has_hint and (field.default is None or field.default in ((), "")):
        return replace(field, type=Annotated[field.type, _OPTIONAL])
    return field


def build(draft: Any, path: str = "") -> Any:
    """Build the object of a draft, with full paths in errors."""
    if not isinstance(draft, Draft):
        return draft
    values = dict[str, Any]()
    for field in fields(draft.kind):
        if field.init and field.name in draft.values:
            inner = path if field.name == "config" else f"{path}.{field.name}".removeprefix(".")
            values[field.name] = build(draft.values[field.name], inner)
    try:
        return draft.kind(**values)
    except FieldError as error:
        raise error.within(path) from error


def flags_of(
    config: Any, hidden: Mapping[type, Collection[str]] | None = None, prefix: str = "--", env: Any = None
) -> Iterator[str]:
    """Yield the flags of a command (class or instance), without `hidden` ones; see `drafting` for `env`."""
    kind = config if isinstance(config, type) else type(config)
    for field in fields(config):
        if not field.init:
            continue
        if hidden and field.name in hidden.get(type(config), ()):
            continue
        value = field.default if isinstance(config, type) else getattr(config, field.name)
        if env is not None and field.name == "env" and has_env(kind):
            value = env
        flag = prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            yield from flags_of(value, hidden, prefix if field.name == "config" else f"{flag}.", env)
        else:
            yield field.name.upper() if "Positional[" in str(field.type) else flag


def with_flags(error: FieldError, flags: Collection[str]) -> str:
    """Return the error's message with flags in place of the config's fields."""
    names = [_flag_of(field, flags) for field in error.fields]
    return f"{', '.join(names)}: {error.problem}" if all(names) else str(error)


def _flag_of(field: str, flags: Collection[str]) -> str:
    """Return the one flag that sets a field, or ""."""
    word = re.sub(r"\[\d+\]", "", field).replace("_", "-")
    known = [flag for flag in flags if flag in (f"--{word}", word.upper())]
    known = known or [flag for flag in flags if flag.endswith(f".{word}")]
    return known[0] if len(known) == 1 else ""
