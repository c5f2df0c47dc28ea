"""Checked configs: one rule for Python, files and flags; JSON of earlier versions; every number has bounds."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import pkgutil
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import Field
from timing import within

import worldgymnast
from worldgymnast.configs import Between, ByKind, Fraction, Once, Positive, Seed, checked, from_dict, to_dict
from worldgymnast.errors import FieldError, InputError


@checked
class Still:
    """Of two kinds, the one that needs no name."""

    noise: Fraction = 0.5


@checked
class Moving:
    """The other."""

    widths: tuple[Positive, ...] = (1, 2)
    speed: float = 0


@checked
class Inner:
    """A part."""

    part: Annotated[Still | Moving, ByKind()] = Still()
    low: Fraction = 0.1
    high: Fraction = 0.9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise FieldError("low, high", f"found {self.low} and {self.high}, expected low <= high")


@checked
class Whole:
    """A config of everything."""

    steps: Positive = 5
    layers: Annotated[int, Between(8, 64)] | None = None
    seeds: Annotated[tuple[Seed, ...], Once] = (0,)
    pair: tuple[int, int] = (1, 2)
    tie: Literal["failure", "success"] = "failure"
    is_wide: bool = False
    names: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)] = ("a",)
    folder: Path | None = None
    inner: Inner = Inner()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "too small": ({"steps": 0}, "field 'steps' of Whole: found 0, expected 1 or more"),
    "too large": ({"layers": 65}, "field 'layers' of Whole: found 65, expected 8 to 64"),
    "bool": ({"steps": True}, "field 'steps' of Whole: found true, expected an integer, 1 or more"),
    "text": ({"layers": "8"}, "field 'layers' of Whole: found \"8\", expected an integer, 8 to 64"),
    "fraction": ({"layers": 8.0}, "field 'layers' of Whole: found 8.0, expected an integer, 8 to 64"),
    "beyond 64 bits": ({"steps": 10**30}, "field 'steps' of Whole: found a number beyond 64 bits, expected 1 or more"),
    "seed": ({"seeds": (2**32,)}, "field 'seeds[0]' of Whole: found 4294967296, expected 0 to 4294967295"),
    "twice": ({"seeds": (3, 4, 3)}, "field 'seeds' of Whole: found 3 twice, expected each once"),
    "word": ({"tie": "x"}, 'field \'tie\' of Whole: found "x", expected "failure" or "success"'),
    "no bool": ({"is_wide": 1}, "field 'is_wide' of Whole: found 1, expected a valid boolean"),
    "none": ({"names": ()}, "field 'names' of Whole: found none, expected at least 1"),
    "too many": ({"names": ("a",) * 17}, "field 'names' of Whole: found 17, expected at most 16"),
    "one of two": ({"pair": (1,)}, "field 'pair[1]' of Whole: found none, expected a value"),
    "unknown": ({"stepz": 1}, "field 'stepz' of Whole: unknown, expected a field of Whole; did you mean 'steps'?"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_same_rule_holds_in_python_and_in_a_file(kind: str) -> None:
    values, said = WRONG[kind]
    with pytest.raises(FieldError) as made:
        Whole(**values)
    with pytest.raises(InputError) as read:
        from_dict(Whole, json.loads(json.dumps(values)), "a.json")
    assert str(made.value) == said
    assert str(read.value) == f"a.json: {said}"


NESTED: dict[str, tuple[Any, str]] = {
    "a part": ([], "field 'inner' of Whole: found [], expected an object with fields of Inner"),
    "a part of a part": (
        {"part": 3},
        "field 'inner.part' of Whole: found 3, expected an object with fields of Still or Moving",
    ),
    "no kind": ({"part": {"kind": []}}, "field 'inner.part.kind' of Whole: found [], expected Still or Moving"),
    "a number": (
        {"part": {"kind": "Moving", "widths": [1, 0]}},
        "field 'inner.part.widths[1]' of Whole: found 0, expected 1 or more",
    ),
    "NaN": (
        {"part": {"noise": float("nan")}},
        "'inner.part.noise' of Whole: found nan, expected 0 to 1",
    ),
    "infinite": (
        {"part": {"kind": "Moving", "speed": float("inf")}},
        "field 'inner.part.speed' of Whole: found inf, expected a finite number",
    ),
    "unknown": (
        {"part": {"kind": "Moving", "sped": 1}},
        "field 'inner.part.sped' of Whole: unknown, expected a field of Still or Moving; did you mean 'speed'?",
    ),
    "a rule between fields": (
        {"low": 1, "high": 0},
        "fields 'inner.low', 'inner.high' of Whole: found 1.0 and 0.0, expected low <= high",
    ),
}


@pytest.mark.parametrize("kind", NESTED)
def test_what_is_wrong_deep_inside_has_its_path(kind: str) -> None:
    value, said = NESTED[kind]
    with pytest.raises(InputError) as error:
        from_dict(Whole, {"inner": value}, "a.json")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_configs_come_back_from_their_json() -> None:
    whole = Whole(seeds=(1, 2), folder=Path("a"), inner=Inner(part=Moving(widths=(3,))))
    data = json.loads(json.dumps(to_dict(whole)))
    assert from_dict(Whole, data, "a.json") == whole
    assert data["seeds"] == [1, 2]
    assert data["inner"]["part"] == {"widths": [3], "speed": 0, "kind": "Moving"}
    assert to_dict(Whole())["inner"]["part"]["kind"] == "Still"
    assert from_dict(Whole, {}, "a.json") == Whole()
    assert from_dict(Whole, {"inner": {"part": {"noise": 1}}}, "a.json").inner.part == Still(1.0)


def test_they_are_frozen_dataclasses() -> None:
    whole = Whole()
    with pytest.raises(FrozenInstanceError):
        whole.steps = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FieldError, match="'steps' of Whole: found -1"):
        replace(whole, steps=-1)
    assert [field.name for field in dataclasses.fields(Inner)] == ["part", "low", "high"]
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert hash(whole) == hash(Whole())


def test_a_refusal_survives_another_process() -> None:
    error = pickle.loads(pickle.dumps(FieldError("a, b", "found 1", "Whole").within("inner")))
    assert str(error) == "fields 'inner.a', 'inner.b' of Whole: found 1"
    assert error.fields == ("inner.a", "inner.b")


@pytest.mark.parametrize(
    "value", [[[]] * 10**5, "\ud800", "x" * 10**6, {"a" * 10**6: 1}], ids=["wide", "half", "long", "key"]
)
def test_whatever_stands_in_a_file_is_refused_at_once(value: Any) -> None:
    with within(2):
        for data in ({"steps": value}, {"inner": {"part": value}}, {"tie": value}):
            with pytest.raises(InputError) as error:
                from_dict(Whole, data, "a.json")
            assert len(str(error.value)) < 400


def test_values_nested_too_deeply_are_refused_at_once() -> None:
    deep: Any = []
    for _ in range(10**5):
        deep = [deep]
    with pytest.raises(InputError, match=r"a\.json: "):
        from_dict(Whole, {"steps": deep}, "a.json")


def _integers(hint: Any, is_bounded: bool = False) -> Iterator[bool]:
    """Of each `int` in a type hint, whether it is annotated with its range."""
    if hint is int:
        yield is_bounded
    elif get_origin(hint) is Annotated:
        found = is_bounded or any(isinstance(mark, Between) for mark in hint.__metadata__)
        yield from _integers(get_args(hint)[0], found)
    elif get_origin(hint) is not Literal:
        for inner in get_args(hint):
            yield from _integers(inner, is_bounded)


def test_every_integer_of_every_config_has_a_range() -> None:
    unbounded, count = [], 0
    for module in pkgutil.walk_packages(worldgymnast.__path__, "worldgymnast."):
        if module.name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and kind.__module__ == module.name and hasattr(kind, "__pydantic_validator__"):
                count += 1
                for name, hint in get_type_hints(kind, include_extras=True).items():
                    unbounded += [f"{kind.__name__}.{name}" for is_bounded in _integers(hint) if not is_bounded]
    assert count > 50
    assert not unbounded
