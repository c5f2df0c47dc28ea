"""Flags of a component's config beside --begin-with, whose component has a config of its own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from worldgymnast.cli.fields import path_of, value_at, with_value
from worldgymnast.errors import InputError

_Config = TypeVar("_Config")


def with_given_flags(
    own: _Config,
    flags: _Config,
    prefix: str,
    given_flags: Collection[str],
    kept: Collection[str] | Literal["all"],
    file: Path,
) -> _Config:
    """Config of a component to continue training: its own, with the settings that were given as flags.

    Args:
        own: config of the component.
        flags: config that the flags describe.
        prefix: of its flags, such as "--world.".
        given_flags: flags on the command line; all others follow the component.
        kept: fields of the config that follow the component, such as those that its weights depend on. Those
            that are 0 or false there are left to the training, which may add a head.
        file: file of the component.

    Raises:
        InputError: a flag would change what is kept, or sets what this kind of component does not have.
    """
    for flag in sorted(each for each in given_flags if each.startswith(prefix)):
        path = path_of(flags, flag, prefix)
        if not path or path_of(own, flag, prefix) != path:
            raise InputError(f"{flag}: {file}, which --begin-with continues, has no such setting. Omit it")
        found, wanted = value_at(own, path), value_at(flags, path)
        if found == wanted:
            continue
        if kept == "all" or (path[0] in kept and found):
            raise InputError(
                f"{flag}: found {_text(wanted)}, but {file}, which --begin-with continues, has {_text(found)} and "
                f"keeps it. Nothing was trained. Omit {flag}, or train without --begin-with"
            )
        if path[0] not in kept:
            own = with_value(own, path, wanted)
    return own


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
