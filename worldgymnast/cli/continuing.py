"""Flags of a component's config beside --begin-with, whose component has a config of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from worldgymnast.errors import InputError

_Config = TypeVar("_Config")


def with_given_flags(
    own: _Config, flags: _Config, prefix: str, given_flags: Collection[str], kept: Collection[str], path: Path
) -> _Config:
    """Config of a component to continue training: its own, with the settings that were given as flags.

    Args:
        own: config of the component.
        flags: config that the flags describe.
        prefix: of its flags, such as "--world.".
        given_flags: flags on the command line; all others follow the component.
        kept: fields of the config that follow the component, such as those that its weights depend on; "" for all.
            Those that are 0 or false there are left to the training, which may add a head.
        path: file of the component.

    Raises:
        InputError: a flag would change what is kept, or sets what this kind of component does not have.
    """
    for flag in sorted(each for each in given_flags if each.startswith(prefix)):
        names = flag.removeprefix(prefix).replace("-", "_").split(".")
        if names[-1].startswith("no_"):  # a switch, such as --world.no-cached
            names[-1] = names[-1].removeprefix("no_")
        found, wanted = _value(own, names), _value(flags, names)
        if found == wanted:
            continue
        if found is None:
            raise InputError(f"{flag}: {path}, which --begin-with continues, has no such setting. Omit it")
        if "" in kept or (names[0] in kept and found):
            raise InputError(
                f"{flag}: found {_text(wanted)}, but {path}, which --begin-with continues, has {_text(found)} and "
                f"keeps it. Nothing was trained. Omit {flag}, or train without --begin-with"
            )
        if names[0] not in kept:
            own = _with(own, names, wanted)
    return own


def _value(config: Any, names: list[str]) -> Any:
    """Value of a field; None if there is none."""
    for name in names:
        config = getattr(config, name, None)
    return config


def _with(config: Any, names: list[str], value: Any) -> Any:
    """Config with the value of a field replaced."""
    name, *rest = names
    return replace(config, **{name: _with(getattr(config, name), rest, value) if rest else value})


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
