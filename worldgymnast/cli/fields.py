"""The fields of configs that flags set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any


def path_of(config: Any, flag: str, prefix: str = "--") -> list[str]:
    """Return the names of the fields that lead to a flag's value; empty for another flag.

    Args:
        config: the config.
        flag: such as "--rl.horizon", or "--world.no-cached" for a switch.
        prefix: of the flags of this config.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        own = prefix + field.name.replace("_", "-")
        if is_dataclass(value) and (rest := path_of(value, flag, prefix if field.name == "config" else f"{own}.")):
            return [field.name, *rest]
        if flag == own or (isinstance(value, bool) and flag == f"{prefix}no-{own.removeprefix(prefix)}"):
            return [field.name]
    return []


def value_at(config: Any, path: Sequence[str]) -> Any:
    """Return the value at `path`."""
    for name in path:
        config = getattr(config, name)
    return config


def with_value(config: Any, path: Sequence[str], value: Any) -> Any:
    """Return the config with the value at `path` replaced."""
    name, *rest = path
    return replace(config, **{name: with_value(getattr(config, name), rest, value) if rest else value})
