"""The checker of types that every test runs under."""

from __future__ import annotations

import pytest
import typecheck
from jaxtyping import TypeCheckError, jaxtyped

from worldgymnast.evaluation.success import Rate, holm


def test_wrong_types_are_errors_in_the_first_calls_of_a_test() -> None:
    @jaxtyped(typechecker=typecheck.check)
    def half(number: float) -> float:
        return number / 2

    assert half(3) == 1.5, "an int where a float is annotated"
    with pytest.raises(TypeCheckError):
        half("3")  # pyright: ignore[reportArgumentType]
    for _ in range(typecheck.CALLS):
        half(1.0)
    with pytest.raises(TypeError, match="unsupported operand"):  # the function's own error, of a call after these
        half("3")  # pyright: ignore[reportArgumentType]
    typecheck.begin_test()
    with pytest.raises(TypeCheckError):
        half("3")  # pyright: ignore[reportArgumentType]


def test_the_package_is_checked() -> None:
    with pytest.raises(TypeCheckError):
        holm("abc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeCheckError):
        Rate("1", 2)  # pyright: ignore[reportArgumentType]
