"""Kinds of components: built-in, of installed packages, and registered in this process.

A kind is the name of a class, which a component file states. Classes are imported on first use.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, Literal

from worldgymnast.errors import InputError

Group = Literal["policies", "worlds", "judges", "environments"]
GROUPS = ("policies", "worlds", "judges", "environments")
"""Groups of kinds; packages add kinds by entry points in `worldgymnast.GROUP`."""
_BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "policies": {
        "SmallVLA": "worldgymnast.policies.small_vla:SmallVLA",
        "FlowVLA": "worldgymnast.policies.flow_vla:FlowVLA",
        "SmolVLA": "worldgymnast.policies.smolvla:SmolVLA",
        "TinySmolVLA": "worldgymnast.policies.tiny_smolvla:TinySmolVLA",
        "Pi0": "worldgymnast.policies.pi0:Pi0",
        "Pi05": "worldgymnast.policies.pi0:Pi05",
        "OpenVLA": "worldgymnast.policies.openvla:OpenVLA",
    },
    "worlds": {"LatentWorldModel": "worldgymnast.worldmodel.sampler:LatentWorldModel"},
    "judges": {"SuccessClassifier": "worldgymnast.judges.classifier:SuccessClassifier"},
    "environments": {
        "MetaWorld": "worldgymnast.envs.metaworld:MetaWorld",
        "Libero": "worldgymnast.envs.libero:Libero",
        "Gymnasium": "worldgymnast.envs.anygym:Gymnasium",
    },
}
NOUNS = {"policies": "a policy", "worlds": "a world model", "judges": "a judge", "environments": "an environment"}
"""Nouns of the groups, for messages."""
_REGISTERED: dict[str, dict[str, type[Any]]] = {group: {} for group in GROUPS}


def register(group: Group, component: type[Any]) -> type[Any]:
    """Register a component class under its name in this process.

    Returns the class.

    A package registers a class for all processes by an entry point with the name of the class:
    `[project.entry-points."worldgymnast.policies"]`, `MyPolicy = "my_package:MyPolicy"`.

    >>> class MyPolicy: ...
    >>> register("policies", MyPolicy) is class_of("policies", "MyPolicy")
    True
    >>> del _REGISTERED["policies"]["MyPolicy"]
    """
    _REGISTERED[group][component.__name__] = component
    return component


def kinds(group: Group) -> list[str]:
    """Names of all kinds of a group: built-in, of installed packages, and registered in this process.

    >>> kinds("environments")
    ['Gymnasium', 'Libero', 'MetaWorld']
    """
    return sorted({*_BUILT_IN[group], *_entry_points(group), *_REGISTERED[group]})


def class_of(group: Group, kind: str) -> type[Any] | None:
    """Class of a kind, imported on first use.

    None if it is unknown.

    Raises:
        InputError: the entry point of a package cannot be imported.

    >>> class_of("policies", "SmallVLA").__name__
    'SmallVLA'
    """
    if kind in _REGISTERED[group]:
        return _REGISTERED[group][kind]
    if (entry := _entry_points(group).get(kind)) is not None:
        try:
            return entry.load()
        except Exception as error:  # an import can raise anything
            raise InputError(
                f"{NOUNS[group]} '{kind}': cannot import {entry.value} ({error}). Install it again"
            ) from error
    if (location := _BUILT_IN[group].get(kind)) is None:
        return None
    module, _, name = location.partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def _entry_points(group: Group) -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=f"worldgymnast.{group}")}
