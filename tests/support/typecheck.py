"""The checker of the import hook: beartype, with an int where a float is annotated allowed, as PEP 484 has it.

A function is checked in its first calls of every test. The checks of the thousands of calls that follow took half of
the time of the whole suite.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _decorator

CALLS = 10
"""Checked calls of each function in a test."""
_test = 0

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def begin_test() -> None:
    """Check the first calls of every function again."""
    global _test
    _test += 1


def install_hook(package: str) -> None:
    """Check the functions of a package that is imported from now on."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = _limited
    jaxtyping.install_import_hook(package, f"{__name__}.check")


_jaxtyped = _decorator.jaxtyped


def _limited(function: Any = _decorator._sentinel, *, typechecker: Any = None) -> Any:
    """As `jaxtyping.jaxtyped`, which passes methods, properties and constructors on to its own name in its module."""
    checked = _jaxtyped(function, typechecker=typechecker)
    if not inspect.isfunction(function):
        return checked
    test, left = -1, 0

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, left
        if test != _test:
            test, left = _test, CALLS
        if left:
            left -= 1
            return checked(*args, **kwargs)
        return function(*args, **kwargs)

    return limited
