"""Starter components: defaults for omitted flags on the same robot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, converter
from worldgymnast.cli.environment import is_metaworld
from worldgymnast.environments import EnvironmentConfig
from worldgymnast.errors import InputError
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.recipes.presets import QUICKSTARTS
from worldgymnast.recipes.quickstart import Robot, starter

_ROBOTS: Mapping[Robot, str] = {"metaworld": "Meta-World", "libero": "LIBERO"}
"""Names of the robots with starter components, for messages."""
_TRAINERS = {"policy": "sft", "world": "train-world", "judge": "train-judge"}


def robot_of(env: EnvironmentConfig) -> Robot:
    """Return the robot whose starter components act in an environment; Meta-World's if there are none for it."""
    for robot in _ROBOTS:
        if type(QUICKSTARTS[robot]().env) is type(env):
            return robot
    return "metaworld"


def component_files(robot: Robot = "metaworld", /, **given: Path | None) -> dict[str, Path]:
    """Return the given files, with starter components of a robot for omitted ones.

    Raises:
        InputError: a given file is of another robot than the starter components.
    """
    for path in given.values():
        if path is not None and (spec := spec_in(path)) is not None:
            refuse_starters(given, path, spec, robot)
    return {name: path or starter(name, robot) for name, path in given.items()}


def refuse_starters(
    given: Mapping[str, Path | None], other: Path, spec: ActionSpec, robot: Robot = "metaworld"
) -> None:
    """Refuse starter components of a robot with `other`, a file of another robot."""
    omitted = [name for name, path in given.items() if path is None]
    if not omitted:
        return
    own = None if robot == "metaworld" else spec_in(starter("policy", robot))
    if is_metaworld(spec) if own is None else spec.is_same_kind(own):
        return
    flags = " ".join(f"--{name}" for name in omitted)
    trainers = ", ".join(f"{name}: {_TRAINERS[name]}" for name in omitted)
    raise InputError(
        f"{flags}: omitted, but the starter components are for {_ROBOTS[robot]}, while {other} has actions {spec}. "
        f"Results would be meaningless. Add {flags}, trained on the same data ({trainers})"
    )


def refuse_other_robot(policy: Path, policy_spec: ActionSpec, data: Path, data_spec: ActionSpec) -> None:
    """Refuse start frames of another robot than the policy's."""
    if is_metaworld(policy_spec) and is_metaworld(data_spec):
        return
    try:
        converter(replace(data_spec, rate=policy_spec.rate), policy_spec)  # another rate has a message of its own
    except ActionSpecMismatch:
        raise InputError(
            f"--data: {data} is of a robot with actions {data_spec}, but {policy} acts in {policy_spec}. The policy "
            "has never seen such frames. Give data of the same robot"
        ) from None


def refuse_unknown_tasks(judge: Path | None, tasks: Sequence[str], robot: Robot = "metaworld") -> None:
    """Refuse the starter judge of a robot for tasks that it was not trained on.

    Data without task names have instructions as names; those of Meta-World's suite are known.
    """
    trained_on = QUICKSTARTS[robot]().env.tasks
    sentences = [" ".join(words.split()) for task in trained_on for words in INSTRUCTIONS.get(task, ())]
    unknown = [task for task in tasks if task and task not in (*trained_on, *sentences)]
    if judge is None and unknown:
        raise InputError(
            f"--judge: omitted, but the starter judge knows only {', '.join(trained_on)}, not {', '.join(unknown)}. "
            "Its rewards would be meaningless. Add --judge, trained on data with these tasks (train-judge), or use "
            f"the starter judge anyway: --judge {starter('judge', robot)}"
        )


def spec_in(path: Path) -> ActionSpec | None:
    """Read the action spec of a component file; None if unreadable."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:  # pyright: ignore[reportCallIssue] - untyped
            meta = file.metadata() or {}
    except (OSError, SafetensorError):
        return None  # the loader reports why
    try:
        origin = json.loads(meta.get("manifest", "{}")).get("origin") or {}
        data = json.loads(meta["action_spec"]) if "action_spec" in meta else origin.get("action_spec")
        return ActionSpec.from_dict(data) if data else None
    except (ValueError, TypeError, AttributeError, RecursionError, ActionSpecMismatch):
        return None
