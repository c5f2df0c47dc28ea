"""Checks of the arguments of Python functions: components, devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from typing_extensions import TypeIs, get_protocol_members

from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.protocols import Policy
from worldgymnast.tiling import ONE_CAMERA, Tiling, picture_sizes

_P = TypeVar("_P")


def implements(value: object, protocol: type[_P]) -> TypeIs[_P]:
    """Whether `value` has every member of a Protocol.

    Unlike `isinstance`, which from Python 3.12 on misses the submodules and buffers of an `nn.Module`.

    >>> from worldgymnast.protocols import Judge
    >>> implements(object(), Judge)
    False
    """
    return not missing_members(value, protocol)


def missing_members(value: object, protocol: type[Any]) -> list[str]:
    """Members of a Protocol that `value` lacks, sorted."""
    return [member for member in sorted(get_protocol_members(protocol)) if not hasattr(value, member)]


def require_members(value: object, protocol: type[Any], name: str) -> None:
    """Raise InputError, with the missing members, unless `value` satisfies a Protocol.

    Args:
        value: a component.
        protocol: its Protocol.
        name: name of the argument, for messages.

    >>> from worldgymnast.protocols import Judge
    >>> require_members(object(), Judge, "judge")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    worldgymnast.errors.InputError: judge: object has no identity, is_remote, name, score, which a Judge needs. ...
    """
    if isinstance(value, type):
        raise InputError(f"{name}: found the class {value.__name__}, expected an instance of a {protocol.__name__}")
    if missing := missing_members(value, protocol):
        raise InputError(
            f"{name}: {type(value).__name__} has no {', '.join(missing)}, which a {protocol.__name__} needs. Give a "
            f"{protocol.__name__}, or add these members, see worldgymnast.protocols"
        )


def require_type(value: object, kind: type[Any], name: str, fix: str) -> None:
    """Raise InputError unless `value` is of a class; the message ends with `fix`."""
    if not isinstance(value, kind):
        raise InputError(f"{name}: found {type(value).__name__}, expected {kind.__name__}. {fix}")


def check_policies(policies: object) -> None:
    """Raise InputError unless these are policies or their files, by name."""
    if not isinstance(policies, Mapping) or not policies:
        found = "none" if policies == {} else type(policies).__name__
        raise InputError(
            f"policies: found {found}, expected policies or their files by name. Give a dictionary, such as "
            "{'before': policy, 'after': result.policy}"
        )
    for name, policy in policies.items():
        if not isinstance(policy, str | Path):
            require_members(policy, Policy, f"policies['{name}']")


def check_device(device: str) -> None:
    """Raise InputError unless this machine has the device.

    >>> check_device("cpu")
    """
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device: found {short(device)}, expected cpu or cuda. Use device='cpu'") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = counts.get(parsed.type, 0)
    if not count:
        raise InputError(f"device: found '{device}', but no {parsed.type} device is available. Use device='cpu'")
    if parsed.type == "cuda" and (parsed.index or 0) >= count:
        raise InputError(f"device: found '{device}', but the last device is cuda:{count - 1}. Use another")


def check_pictures(policy: Policy, size: tuple[int, int], tiling: Tiling | None, who: str, source: str) -> None:
    """Raise InputError if a policy was trained on pictures of another size, as far as it knows (`image_sizes`).

    Args:
        policy: the policy.
        size: height and width of the frames.
        tiling: part of each camera in the frames.
        who: names the policy, for the message.
        source: names what gives the frames, for the message.
    """
    expected = getattr(getattr(policy, "config", None), "image_sizes", ())
    if not expected or (tiling is None and tuple(policy.cameras) != (ONE_CAMERA,)):
        return  # of any size, or each camera comes alone, and the policy sees for itself
    for name, known, found in zip(policy.cameras, expected, picture_sizes(policy.cameras, size, tiling), strict=False):
        if tuple(known) != tuple(found):
            raise InputError(
                f"{who}: trained on pictures of {known[0]}x{known[1]} pixels (camera '{name}'), but {source} gives "
                f"{found[0]}x{found[1]}. Its actions would be wrong. Give data, world model and environment of one "
                "size (--size, --env.size), or train the policy again"
            )
