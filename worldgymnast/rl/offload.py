"""Modules of components, whatever they are wrapped in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

_DEPTH = 3
"""Levels of attributes in which modules are looked for."""


def modules_in(component: object) -> list[nn.Module]:
    """Modules of a component: itself, or the outermost ones among its attributes.

    >>> class Judge:
    ...     def __init__(self) -> None:
    ...         self.members = (nn.Linear(1, 1), "remote")
    >>> modules_in(Judge()), modules_in("remote")
    ([Linear(in_features=1, out_features=1, bias=True)], [])
    """
    return list({id(module): module for module in _modules_in(component, _DEPTH, set())}.values())


def _modules_in(component: object, depth: int, seen: set[int]) -> Iterator[nn.Module]:
    if isinstance(component, nn.Module):
        yield component
        return
    if depth == 0 or id(component) in seen or isinstance(component, type):
        return
    seen.add(id(component))
    inner: list[Any] = list(getattr(component, "__dict__", {}).values())
    if isinstance(component, list | tuple):
        inner, depth = list(component), depth + 1  # no level of its own
    elif isinstance(component, Mapping):
        inner, depth = list(component.values()), depth + 1
    for value in inner:
        yield from _modules_in(value, depth - 1, seen)
