"""What a user can mend, said in one line; and checks that say it."""

from __future__ import annotations

import math

from worldgymnast.streams import visibly

MOST_WIDE = 2**16
"""Largest width of a layer: the sizes of a model are checked before it is made."""

MOST_LAYERS = 1024
"""Most layers of a model."""

LARGEST_SEED = 2**32 - 1
"""Seeds are multiplied and added to; from here the result still fits a generator's 64 bits."""

_LARGEST = 2**63 - 1


def in_range(config: object, low: float, *names: str, high: float = math.inf) -> None:
    """Raises `InputError` where a named field of `config` (or an entry of it) lies outside low..high, or is no number.

    For the `__post_init__` of a config, so that a wrong number is refused before anything is written. A number is
    finite, an integer fits 64 bits, and a seed is at most `LARGEST_SEED`.
    """
    for name in names:
        value = getattr(config, name)
        most = min(high, LARGEST_SEED) if name in ("seed", "seeds") else high
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= min(most, _LARGEST):
                expected = f"at least {low:g}" if math.isinf(most) else f"{low:g} to {most:.10g}"
                expected += " and finite" if number == math.inf else ""
                found = number if isinstance(number, float) or abs(number) <= _LARGEST else "a number beyond 64 bits"
                raise InputError(f"field '{name}' of {type(config).__name__}: found {found}, expected {expected}")


def each_once(config: object, *names: str) -> None:
    """Raises `InputError` where a named field of `config` has an entry twice."""
    for name in names:
        value = getattr(config, name)
        if twice := [entry for i, entry in enumerate(value) if entry in value[:i]]:
            raise InputError(f"field '{name}' of {type(config).__name__}: found {twice[0]} twice, expected each once")


class InputError(ValueError):
    """The user's input is wrong. The message is one line: where, which field, found, expected, what to do.

    The command line prints it without a traceback and exits with code 2. What is quoted in it from a file or a server
    is shown with control characters escaped.
    """

    def __str__(self) -> str:
        return visibly(super().__str__())


class Paused(InputError):
    """A run cannot go on now, and can later: what it has is kept, and the same command goes on from there."""
