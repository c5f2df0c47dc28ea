"""JSON to config dataclasses, strictly: no value is read as another type, and nothing but an object is a config.

cattrs by itself makes the number 64 of the text "64", and of a text where a config belongs one with every field at its
default, since it iterates over the letters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin

import cattrs
from cattrs.gen import make_dict_structure_fn
from cattrs.strategies import configure_tagged_union

from worldgymnast.errors import InputError
from worldgymnast.files import short

_LONGEST = 200
"""Characters of what is wrong with a config."""


class _Misfit(TypeError):
    """A value that is not what its field holds."""


def strict_converter() -> cattrs.Converter:
    """A converter that takes every JSON type for itself alone."""
    converter = cattrs.Converter()
    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, _plain(kind))
    converter.register_structure_hook_factory(is_dataclass, lambda kind: _object(kind, converter))
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)
    return converter


def tell_apart(converter: cattrs.Converter, union: Any, tag: str, default: type[Any]) -> None:
    """Reads and writes the configs of a union by the name that they have under `tag`; none there is `default`'s."""
    configure_tagged_union(union, converter, tag_name=tag, default=default)
    known = {kind.__name__: kind for kind in get_args(union)}

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _Misfit(f"found {short(value)}, expected an object with fields of {' or '.join(known)}")
        name = value.get(tag, default.__name__)
        if not isinstance(name, str) or name not in known:
            raise _Misfit(f"found {tag} {short(name)}, expected {' or '.join(known)}")
        return converter.structure({key: inner for key, inner in value.items() if key != tag}, known[name])

    converter.register_structure_hook(union, read)


def misfit(error: BaseException) -> str:
    """What is wrong with the values of a config, on one line: the first field, its value, what it takes."""
    if isinstance(error, ExceptionGroup):
        details = [_located(line) for line in cattrs.transform_error(error, format_exception=_worded)]
    else:
        details = [_worded(error, None)]
    return f"{details[0]} and {len(details) - 1} more" if details[1:] else details[0]


def refused(error: BaseException) -> InputError | None:
    """What a config itself said of a value, where that is what went wrong."""
    if isinstance(error, ExceptionGroup):
        return next(filter(None, map(refused, error.exceptions)), None)
    return error if isinstance(error, InputError) else None


def _plain(kind: type[Any]) -> Callable[[Any, Any], Any]:
    allowed = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}[kind]

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise _Misfit(f"found {short(value)}, expected {kind.__name__}")
        return kind(value)

    return read


def _object(kind: type[Any], converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    structure = make_dict_structure_fn(kind, converter)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _Misfit(f"found {short(value)}, expected an object with fields of {kind.__name__}")
        return structure(value, kind)  # pyright: ignore[reportArgumentType, reportCallIssue]

    return read


def _one_of(value: Any, kind: Any) -> Any:
    allowed = get_args(kind)
    if not any(value == known and type(value) is type(known) for known in allowed):
        raise _Misfit(f"found {short(value)}, expected {' or '.join(map(short, allowed))}")
    return value


def _worded(error: BaseException, kind: Any) -> str:
    if isinstance(error, _Misfit) or kind is None:
        return str(error)[:_LONGEST]
    return cattrs.v.format_exception(error, kind)[:_LONGEST]


def _located(line: str) -> str:
    """A line of cattrs, "PROBLEM @ $.FIELD", with the field first."""
    problem, at, field = line.rpartition(" @ $")
    if not at:
        return line
    return f"field '{field.removeprefix('.')[:_LONGEST]}': {problem}" if field else problem
