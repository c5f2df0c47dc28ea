"""Configs: frozen dataclasses with fields checked by pydantic, and their JSON.

A field's annotation defines its valid values, in Python, in a file and on the command line:

    @checked
    class FitConfig:
        steps: Positive = 1000
        lr: Annotated[float, Between(1e-12, 1e6)] = 1e-3

Values are never converted (`True` is not a number, "8" is not 8), unknown fields are refused, numbers are finite, and
integers fit 64 bits. A rule between fields raises `FieldError` in `__post_init__`, which runs last.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints, overload

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, core_schema

from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import json_object, short

Config = TypeVar("Config")

MOST_WIDE = 2**16
"""Largest width of a layer; checked before memory is allocated."""

MOST_LAYERS = 1024
"""Largest number of layers of a model."""

LARGEST_SEED = 2**32 - 1
"""Largest seed, so that derived seeds fit the 64 bits of a generator."""

_LARGEST = 2**63 - 1
_LONGEST = 200
"""Characters of a name in a message."""
_KIND = "kind"
"""Key of the config's class in a union of configs."""
_INTEGER, _NUMBER, _FINITE = "an integer", "a number", "a finite number"
_UNKNOWN = "unexpected_keyword_argument"

# ---------------------------------------------------------------- types of fields


@dataclasses.dataclass(frozen=True)
class Between:
    """Annotation of a number with its smallest and largest valid value.

    >>> Layers = Annotated[int, Between(1, 1024)]
    """

    low: float
    high: float = math.inf

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        schema: Any = handler(source)
        is_integer = schema["type"] == "int"
        schema |= {"ge": self.low, "le": min(self.high, _LARGEST) if is_integer else self.high}
        expected = f"{self.low:g} or more" if math.isinf(self.high) else f"{self.low:g} to {self.high:.10g}"
        number = _FINITE if math.isinf(self.high) else _NUMBER
        context = {"noun": _INTEGER if is_integer else number, "expected": expected}
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
Executed = Annotated[Positive | None, Field(exclude_if=lambda value: value is None)]
"""Actions executed of each predicted chunk; None for all, and then absent in JSON, as in files of earlier versions."""


def _each_once(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    if duplicates := [entry for i, entry in enumerate(entries) if entry in entries[:i]]:
        raise FieldError("", f"found {_shown(duplicates[0])} twice, expected each once")
    return entries


Once = AfterValidator(_each_once)
"""Annotation of a tuple without duplicates."""

NonEmpty = Field(min_length=1)
"""Annotation of a tuple with at least one entry."""

Seeds = Annotated[tuple[Seed, ...], NonEmpty, Once]


class ByKind:
    """Annotation of a union of configs.

    JSON selects one by the key "kind", by default the first.

    Args:
        is_first_plain: write the first without "kind", as files did before there were others.
    """

    def __init__(self, *, is_first_plain: bool = False):
        self.is_first_plain = is_first_plain

    def more(self) -> Mapping[str, type[Any]]:
        """Configs that belong to the union without being written in it, by name."""
        return {}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        kinds = {kind.__name__: kind for kind in get_args(source)}
        first = next(iter(kinds))

        def read(value: Any) -> Any:
            if isinstance(value, tuple(kinds.values())) or type(value) in self.more().values():
                return value
            if not isinstance(value, Mapping):
                raise FieldError("", f"found {_shown(value)}, expected an object with fields of {' or '.join(kinds)}")
            name = value.get(_KIND, first)
            known = kinds if isinstance(name, str) and name in kinds else kinds | dict(self.more())
            if not isinstance(name, str) or name not in known:
                raise FieldError(_KIND, f"found {_shown(name)}, expected {' or '.join(known)}")
            rest = {key: inner for key, inner in value.items() if key != _KIND}
            return _adapter(known[name]).validate_json(json.dumps(rest))

        def write(value: Any) -> dict[str, Any]:
            is_plain = self.is_first_plain and type(value) is kinds[first]
            return to_dict(value) | ({} if is_plain else {_KIND: type(value).__name__})

        as_json = core_schema.plain_serializer_function_ser_schema(write)
        return core_schema.no_info_plain_validator_function(read, serialization=as_json)


class _AsJson:
    """Annotation of a value that is JSON text on the command line, and JSON or an object elsewhere."""


def _parse_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise FieldError("", f"found {_shown(value)}, expected JSON ({error})") from error


AS_JSON = _AsJson()
JsonObject = Annotated[dict[str, Any], BeforeValidator(_parse_json), AS_JSON]
"""JSON object; as text on the command line."""


# ---------------------------------------------------------------- checked dataclasses

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@overload
def checked(kind: type[Config], /) -> type[Config]: ...


@overload
def checked(*, kw_only: bool = False) -> Callable[[type[Config]], type[Config]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(kind: Any = None, /, *, kw_only: bool = False) -> Any:
    """Make a class a frozen dataclass whose fields are validated.

    The constructor raises `FieldError` for invalid values.

    >>> @checked
    ... class FitConfig:
    ...     steps: Positive = 1000
    >>> FitConfig(steps=0)
    Traceback (most recent call last):
    worldgymnast.errors.FieldError: field 'steps' of FitConfig: found 0, expected 1 or more
    """
    if kind is None:
        return functools.partial(_checked, kw_only=kw_only)
    return _checked(kind, kw_only)


def _checked(kind: type[Any], kw_only: bool) -> type[Any]:
    result: Any = dataclass(frozen=True, kw_only=kw_only, config=_STRICT)(kind)
    validate = result.__init__

    @functools.wraps(validate)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except ValidationError as error:
            raise _refusal(error, result) from None

    result.__init__ = init
    return result


# ---------------------------------------------------------------- JSON

_adapter = functools.cache(TypeAdapter)


LATER: Mapping[str, bool] = {"is_later": True}
"""Metadata of a field that files and runs of earlier versions lack: its default is not written."""


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to nested dictionaries of JSON values."""
    return _without_later_defaults(config, _adapter(type(config)).dump_python(config, mode="json", warnings=False))


def _without_later_defaults(config: Any, data: Any) -> Any:
    """Remove the defaults of `LATER` fields from the JSON of a config, at every level."""
    if not dataclasses.is_dataclass(config) or not isinstance(data, dict):
        return data
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("is_later") and value == field.default:
            data.pop(field.name, None)
        elif field.name in data:
            data[field.name] = _without_later_defaults(value, data[field.name])
    return data


def from_dict(kind: type[Config], data: Mapping[str, Any], where: str) -> Config:
    """Inverse of `to_dict`.

    Args:
        kind: class of the config.
        data: its fields.
        where: the file, for messages.

    Raises:
        InputError: a key is unknown (the message suggests the nearest), or a value is invalid.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(json_object(data, where)))
    except ValidationError as error:
        raise InputError(f"{where}: {_refusal(error, kind)}") from error
    except RecursionError as error:
        raise InputError(f"{where}: values are nested too deeply, expected a config") from error


# ---------------------------------------------------------------- errors


def _refusal(error: ValidationError, kind: type[Any]) -> InputError:
    """Convert pydantic's errors to one line.

    Unknown fields come first, since a typo can cause the others.
    """
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == _UNKNOWN), errors[0])
    location = _fields_in(first["loc"])
    if location and isinstance(location[0], int):  # an argument without its name
        location[0] = [field.name for field in dataclasses.fields(kind) if field.init][location[0]]
    path = "".join(f"[{at}]" if isinstance(at, int) else f".{at[:_LONGEST]}" for at in location).removeprefix(".")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return cause.within(path, kind.__name__)
    if isinstance(cause, InputError):
        return cause
    problem = _unknown(kind, first["loc"]) if first["type"] == _UNKNOWN else _problem(first)
    words = [one for one in errors if one["type"] == "literal_error" and _fields_in(one["loc"]) == location]
    if first not in words and words:  # a number or a word
        problem += f", or {str(words[0].get('ctx', {}).get('expected')).replace(chr(39), '')}"
    return FieldError(path, problem, kind.__name__) if path else InputError(problem)


def _fields_in(location: Sequence[str | int]) -> list[str | int]:
    """Return the part of pydantic's location that names fields, without the members of unions."""
    return [at for at in location if isinstance(at, int) or "[" not in at]


def _problem(error: ErrorDetails) -> str:
    """Describe an invalid value and the values that its field accepts."""
    value, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "between":
            noun, expected = context["noun"], context["expected"]
            has_type = type(value) is int or (type(value) is float and noun != _INTEGER)
            if not has_type or (noun == _FINITE and abs(value) == math.inf):
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
            expected = error["msg"].removeprefix("Input should be ").replace("'", '"')
    return f"found {_shown(value)}, expected {expected}"


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number beyond 64 bits"
    return str(value) if isinstance(value, float) else short(str(value) if isinstance(value, Path) else value)


def _unknown(kind: type[Any], path: tuple[str | int, ...]) -> str:
    """Describe an unknown field, with the nearest known one."""
    kinds: list[Any] = [kind]
    for name in path[:-1]:
        if isinstance(name, str):
            kinds = [inner for one in kinds for inner in _configs(get_type_hints(one).get(name))]
    known = [field.name for one in kinds for field in dataclasses.fields(one)]
    near = difflib.get_close_matches(str(path[-1])[:_LONGEST], known, n=1, cutoff=0.0)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown, expected a field of {' or '.join(one.__name__ for one in kinds)}{hint}"


def _configs(hint: Any) -> Iterator[type[Any]]:
    """Dataclasses in a type hint."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in get_args(hint):
        yield from _configs(inner)
