"""Starter components: taken where a flag is left out, refused beside anything made for another robot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from worldgymnast.actions import ActionSpec, ActionSpecMismatch
from worldgymnast.envs.metaworld import SUITE
from worldgymnast.errors import InputError
from worldgymnast.recipes.quickstart import starter

PARTS = ("policy", "world", "judge")
_MAKERS = {"policy": "sft", "world": "train-world", "judge": "train-judge"}


def is_metaworld(spec: ActionSpec) -> bool:
    """Whether these are actions of the embedded environment, held for any time.

    >>> from worldgymnast.actions import BRIDGE, metaworld_spec
    >>> is_metaworld(metaworld_spec(4)), is_metaworld(BRIDGE)
    (True, False)
    """
    held = spec.unit.removesuffix("cm")
    return spec.axes == ("x", "y", "z", "gripper") and spec.gripper == "effort" and held.isdigit()


def parts(**given: Path | None) -> dict[str, Path]:
    """The files given, and the starter's for the others.

    Raises:
        InputError: a file given is of another robot than the starter's; names the flags that are needed then.
    """
    for path in given.values():
        if path is not None and (spec := spec_in(path)) is not None:
            refuse_starters(given, path, spec)
    return {name: path or starter(name) for name, path in given.items()}


def refuse_starters(given: Mapping[str, Path | None], other: Path, spec: ActionSpec) -> None:
    """Raises where a part is left out, and `other`, which it would go with, has actions of another robot."""
    missing = [name for name, path in given.items() if path is None]
    if not missing or is_metaworld(spec):
        return
    flags = " ".join(f"--{name}" for name in missing)
    makers = ", ".join(f"{name} by {_MAKERS[name]}" for name in missing)
    raise InputError(
        f"{flags}: left out. The starter's would be taken, which knows Meta-World alone, while {other} has actions "
        f"{spec}. What came of it would mean nothing. Add {flags}, trained on the same data ({makers})"
    )


def refuse_strangers(policy: Path, acts: ActionSpec, data: Path, spec: ActionSpec) -> None:
    """Raises where a policy and the data whose frames it is to start from are of two robots."""
    if is_metaworld(acts) != is_metaworld(spec):
        raise InputError(
            f"--data: {data} is of a robot with actions {spec}, but {policy} acts in {acts}. Its frames are none that "
            "the policy has seen. Give data of the same robot"
        )


def refuse_tasks(judge: Path | None, tasks: Sequence[str]) -> None:
    """Raises where the judge is left out, and the starter's does not know one of the tasks."""
    unknown = [task for task in tasks if task and task not in SUITE]
    if judge is None and unknown:
        raise InputError(
            f"--judge: left out, and the starter's judge knows {', '.join(SUITE)}, not {', '.join(unknown)}. Its "
            "rewards would mean nothing. Add --judge, trained on data with these tasks (train-judge), or take the "
            f"starter's all the same: --judge {starter('judge')}"
        )


def spec_in(path: Path) -> ActionSpec | None:
    """The action spec that a component's file says it was made for; None where it says none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:  # pyright: ignore[reportCallIssue] - untyped
            meta = file.metadata() or {}
    except (OSError, SafetensorError):
        return None  # its loader says why
    try:
        origin = json.loads(meta.get("manifest", "{}")).get("origin") or {}
        data = json.loads(meta["action_spec"]) if "action_spec" in meta else origin.get("action_spec")
        return ActionSpec.from_dict(data) if data else None
    except (ValueError, TypeError, AttributeError, RecursionError, ActionSpecMismatch):
        return None
