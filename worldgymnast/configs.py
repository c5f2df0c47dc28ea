"""Configs: frozen dataclasses whose fields pydantic checks, and their JSON.

A field's annotation says what it takes, and the same rule holds in Python, in a file and on the command line:

    @checked
    class FitConfig:
        steps: Positive = 1000
        lr: Annotated[float, Between(1e-12, 1e6)] = 1e-3

No value is read as another type (`True` is no number, "8" is no 8), unknown fields are refused, numbers are finite and
integers fit 64 bits. A rule between fields raises `FieldError` in `__post_init__`, which runs when each field is right.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints, overload

from pydantic import AfterValidator, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, core_schema

from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import json_object, short

Config = TypeVar("Config")

MOST_WIDE = 2**16
"""Largest width of a layer: the sizes of a model are checked before it is made."""

MOST_LAYERS = 1024
"""Most layers of a model."""

LARGEST_SEED = 2**32 - 1
"""Seeds are multiplied and added to; from here the result still fits a generator's 64 bits."""

_LARGEST = 2**63 - 1
_LONGEST = 200
"""Characters of a name in a message."""
_KIND = "kind"
"""The key that tells, where a config may be one of several, which one it is."""
_WHOLE, _NUMBER, _FINITE = "an integer", "a number", "a finite number"
_UNKNOWN = "unexpected_keyword_argument"

# ---------------------------------------------------------------- what fields take


@dataclasses.dataclass(frozen=True)
class Between:
    """Annotates a number with the smallest and the largest value that it takes.

    >>> Layers = Annotated[int, Between(1, 1024)]
    """

    low: float
    high: float = math.inf

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        schema: Any = handler(source)
        whole = schema["type"] == "int"
        schema |= {"ge": self.low, "le": min(self.high, _LARGEST) if whole else self.high}
        expected = f"{self.low:g} or more" if math.isinf(self.high) else f"{self.low:g} to {self.high:.10g}"
        number = _FINITE if math.isinf(self.high) else _NUMBER
        context = {"noun": _WHOLE if whole else number, "expected": expected}
        return core_schema.custom_error_schema(
            schema,
            custom_error_type="between",
            custom_error_message="expected {noun}, {expected}",
            custom_error_context=context,
        )


Positive = Annotated[int, Between(1)]
Count = Annotated[int, Between(0)]
Seed = Annotated[int, Between(0, LARGEST_SEED)]
Width = Annotated[int, Between(1, MOST_WIDE)]
Layers = Annotated[int, Between(1, MOST_LAYERS)]
Fraction = Annotated[float, Between(0, 1)]
NonNegative = Annotated[float, Between(0)]


def _each_once(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    if twice := [entry for i, entry in enumerate(entries) if entry in entries[:i]]:
        raise FieldError("", f"found {_shown(twice[0])} twice, expected each once")
    return entries


Once = AfterValidator(_each_once)
"""Annotates a tuple that has no entry twice."""

NonEmpty = Field(min_length=1)
"""Annotates a tuple that has an entry."""

Seeds = Annotated[tuple[Seed, ...], NonEmpty, Once]


class ByKind:
    """Annotates a union of configs: in JSON the key "kind" tells which one it is, and without it is the first."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        kinds = {kind.__name__: kind for kind in get_args(source)}
        known = " or ".join(kinds)

        def read(value: Any) -> Any:
            if isinstance(value, tuple(kinds.values())):
                return value
            if not isinstance(value, Mapping):
                raise FieldError("", f"found {_shown(value)}, expected an object with fields of {known}")
            name = value.get(_KIND, next(iter(kinds)))
            if not isinstance(name, str) or name not in kinds:
                raise FieldError(_KIND, f"found {_shown(name)}, expected {known}")
            rest = {key: inner for key, inner in value.items() if key != _KIND}
            return _adapter(kinds[name]).validate_json(json.dumps(rest))

        def written(value: Any) -> dict[str, Any]:
            return to_dict(value) | {_KIND: type(value).__name__}

        as_json = core_schema.plain_serializer_function_ser_schema(written)
        return core_schema.no_info_plain_validator_function(read, serialization=as_json)


# ---------------------------------------------------------------- checked dataclasses

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@overload
def checked(kind: type[Config], /) -> type[Config]: ...


@overload
def checked(*, kw_only: bool = False) -> Callable[[type[Config]], type[Config]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(kind: Any = None, /, *, kw_only: bool = False) -> Any:
    """Make a class a frozen dataclass that refuses, with `FieldError`, values that its annotations do not allow."""
    if kind is None:
        return functools.partial(_checked, kw_only=kw_only)
    return _checked(kind, kw_only)


def _checked(kind: type[Any], kw_only: bool) -> type[Any]:
    made: Any = dataclass(frozen=True, kw_only=kw_only, config=_STRICT)(kind)
    validate = made.__init__

    @functools.wraps(validate)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except ValidationError as error:
            raise _refusal(error, made) from None

    made.__init__ = init
    return made


# ---------------------------------------------------------------- JSON

_adapter = functools.cache(TypeAdapter)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON-ready nested dictionaries."""
    return _adapter(type(config)).dump_python(config, mode="json", warnings=False)


def from_dict(kind: type[Config], data: Mapping[str, Any], where: str) -> Config:
    """The inverse of `to_dict`; `where` names the file in messages.

    Raises:
        InputError: an unknown key (with the nearest known one), or a value that its field does not take.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(json_object(data, where)))
    except ValidationError as error:
        raise InputError(f"{where}: {_refusal(error, kind)}") from error
    except RecursionError as error:
        raise InputError(f"{where}: found values that are nested too deeply, expected a config") from error


# ---------------------------------------------------------------- refusals


def _refusal(error: ValidationError, kind: type[Any]) -> InputError:
    """What pydantic found, in one line: an unknown field before a wrong value, since its name may be the mistake."""
    wrong = error.errors(include_url=False)
    first = next((one for one in wrong if one["type"] == _UNKNOWN), wrong[0])
    path = "".join(f"[{at}]" if isinstance(at, int) else f".{at[:_LONGEST]}" for at in first["loc"]).removeprefix(".")
    own = first.get("ctx", {}).get("error")
    if isinstance(own, FieldError):
        return own.within(path, kind.__name__)
    if isinstance(own, InputError):
        return own
    problem = _unknown(kind, first["loc"]) if first["type"] == _UNKNOWN else _problem(first)
    return FieldError(path, problem, kind.__name__) if path else InputError(problem)


def _problem(wrong: ErrorDetails) -> str:
    """What was found where one value is wrong, and what its field takes."""
    value, context = wrong["input"], wrong.get("ctx", {})
    match wrong["type"]:
        case "between":
            noun, expected = context["noun"], context["expected"]
            is_right = type(value) is int or (type(value) is float and noun != _WHOLE)
            if not is_right or (noun == _FINITE and abs(value) == math.inf):
                expected = f"{noun}, {expected}"
        case "dataclass_type" | "dataclass_exact_type":
            expected = f"an object with fields of {context['class_name']}"
        case "missing":
            return "found none, expected a value"
        case "json_invalid":
            return f"cannot be read as JSON ({context['error']})"
        case "too_short":
            return f"found {len(value) or 'none'}, expected at least {context['min_length']}"
        case "too_long":
            return f"found {len(value)}, expected at most {context['max_length']}"
        case _:
            expected = wrong["msg"].removeprefix("Input should be ").replace("'", '"')
    return f"found {_shown(value)}, expected {expected}"


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number beyond 64 bits"
    return str(value) if isinstance(value, float) else short(str(value) if isinstance(value, Path) else value)


def _unknown(kind: type[Any], path: tuple[str | int, ...]) -> str:
    """That a field of that path is unknown, and the nearest known one."""
    kinds: list[Any] = [kind]
    for name in path[:-1]:
        if isinstance(name, str):
            kinds = [inner for one in kinds for inner in _configs(get_type_hints(one).get(name))]
    known = [field.name for one in kinds for field in dataclasses.fields(one)]
    near = difflib.get_close_matches(str(path[-1])[:_LONGEST], known, n=1, cutoff=0.0)
    meant = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown, expected a field of {' or '.join(one.__name__ for one in kinds)}{meant}"


def _configs(hint: Any) -> Iterator[type[Any]]:
    """The dataclasses that a field with this type hint may hold."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in get_args(hint):
        yield from _configs(inner)
