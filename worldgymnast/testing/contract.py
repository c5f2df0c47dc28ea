"""What all contract checks share: the error, and what every component needs."""

from __future__ import annotations

from typing import Any

from worldgymnast.arguments import missing_members
from worldgymnast.weights import identity

SENTENCES = ("open the drawer", "close the door")
"""Instructions of the checks."""


class ContractError(AssertionError):
    """A component violates its contract."""


def require(is_met: bool, violation: str, consequence: str, fix: str) -> None:
    """Raise `ContractError` unless a condition is met."""
    if not is_met:
        raise ContractError(f"{violation}. {consequence}. {fix}")


def require_protocol(component: object, protocol: type[Any]) -> None:
    """Raise `ContractError` unless a component has all members of a protocol."""
    missing = missing_members(component, protocol)
    require(
        not missing,
        f"{type(component).__name__} has no {', '.join(missing)}",
        f"It is not a {protocol.__name__}, so no recipe can use it",
        "Add these members, see worldgymnast.protocols",
    )


def require_identity(component: object) -> None:
    """Raise `ContractError` unless a component's identity is a text that does not change."""
    first, second = identity(component), identity(component)
    require(
        first == second != "",
        f"{type(component).__name__}.identity gives {first!r}, then {second!r}",
        "A resumed run would be refused, or would not detect an exchanged component",
        "Return a text that depends only on the config and the weights",
    )
