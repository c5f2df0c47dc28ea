"""The real environment of a command, and Meta-World, the environment of the starter components.

`--env REF` chooses the environment, `--env.FIELD` sets its fields. Commands use the environment's own action spec,
tasks, horizon and frames. Only the defaults that belong to the starter components are Meta-World's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, metaworld_spec, require_same
from worldgymnast.arguments import check_pictures
from worldgymnast.cli.origins import warn_of_other_size
from worldgymnast.environments import (
    DEFAULT_ENVIRONMENT,
    ENVIRONMENT_CONFIGS,
    EnvironmentConfig,
    OptionalMembers,
    environment,
    resized,
    with_horizon,
)
from worldgymnast.errors import InputError
from worldgymnast.measure.novelty import task_name_warning
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.protocols import Policy, RealEnvironment, frame_size, tiling_of
from worldgymnast.types import Layout, Start

SUITE = DEFAULT_ENVIRONMENT.tasks
"""Tasks of the starter components."""
CONTROL_RATE = 80
"""Control steps per second."""
HORIZON = 24
"""Actions of an episode that are judged."""
MAX_HORIZON = 256
"""Longest default rollout, in actions."""
HIDDEN_HORIZON: Mapping[type, tuple[str, ...]] = dict.fromkeys(ENVIRONMENT_CONFIGS, ("horizon",))
"""The field that commands with a horizon of their own hide."""


def is_metaworld(spec: ActionSpec) -> bool:
    """Return whether these are actions of Meta-World, held for any time.

    >>> from worldgymnast.actions import BRIDGE, metaworld_spec
    >>> is_metaworld(metaworld_spec(4)), is_metaworld(BRIDGE)
    (True, False)
    """
    range_cm = spec.unit.removesuffix("cm")
    return spec.axes == ("x", "y", "z", "gripper") and spec.gripper == "effort" and range_cm.isdigit()


def has_real_environment(
    env: EnvironmentConfig,
    spec: ActionSpec,
    given_flags: Collection[str],
    *,
    is_unscored: bool = False,
    has_own_starts: bool = False,
) -> bool:
    """Return whether a command scores policies for real.

    It does if --env is given, or without data or pictures to start from in the environment that it has anyway.

    Args:
        env: the command's environment.
        spec: actions of the policy.
        given_flags: flags on the command line.
        is_unscored: whether --unscored is given.
        has_own_starts: whether the starts come from data or pictures.
    """
    if is_unscored:
        return False
    return names_environment(given_flags) or (has_default_environment(env, spec) and not has_own_starts)


def has_default_environment(env: EnvironmentConfig, spec: ActionSpec) -> bool:
    """Return whether a command has an environment without --env: that of its preset, or Meta-World for its robot."""
    return is_metaworld(spec) if is_default(env) else True


def is_default(env: EnvironmentConfig) -> bool:
    """Return whether the environment is Meta-World, which commands have without a preset of another robot."""
    return type(env) is type(DEFAULT_ENVIRONMENT)


def names_environment(given_flags: Collection[str]) -> bool:
    """Return whether a flag is about the real environment."""
    return any(flag == "--env" or flag.startswith("--env.") for flag in given_flags)


def require_environment(command: str, path: Path, spec: ActionSpec, given_flags: Collection[str], instead: str) -> None:
    """Raise InputError if a command that needs a real environment has none; `instead` is what to do then."""
    if not has_real_environment(DEFAULT_ENVIRONMENT, spec, given_flags):
        raise InputError(
            f"{command}: needs a real environment, but --env is omitted and {path} acts on another robot than "
            f"Meta-World's ({spec}). Add --env; without an environment: {instead}"
        )


def default_horizon(spec: ActionSpec) -> int | None:
    """Return how many actions are judged; None for whole episodes."""
    return HORIZON if is_metaworld(spec) else None


def task_horizon(robot: RealEnvironment, chunk: int) -> int:
    """Return the environment's horizon in whole chunks, at most `MAX_HORIZON`."""
    return max(chunk, min(robot.horizon, MAX_HORIZON) // chunk * chunk)


def suite_instructions(spec: ActionSpec) -> list[str]:
    """Return the instructions of the default suite; none for another robot."""
    return [sentence for task in SUITE for sentence in INSTRUCTIONS[task]] if is_metaworld(spec) else []


def misspelled_task(spec: ActionSpec, starts: Sequence[Start]) -> str:
    """Describe a start with a misspelled task, or return ""."""
    return task_name_warning(starts, tuple(INSTRUCTIONS)) if is_metaworld(spec) else ""


def check_spelling(task: str, flag: str = "--task") -> None:
    """Raise InputError if `task` is nearly the name of a known task.

    Any other name is a task of the user's own.

    >>> check_spelling("drawer-open"), check_spelling("stack-cups")
    (None, None)
    """
    if warning := task_name_warning([Layout(task, 0, "")], tuple(INSTRUCTIONS)):
        raise InputError(f"{flag}: {warning}. Correct it")


# ---------------------------------------------------------------- the environment of a command


def fitted(
    config: Any, given_flags: Collection[str], size: tuple[int, int] | None = None, chunk: int = 0
) -> EnvironmentConfig:
    """Return the environment's config with the components' frame size and whole chunks, where no flag sets them.

    Args:
        config: the config.
        given_flags: flags on the command line.
        size: height and width of the components' frames, if known.
        chunk: actions per look, if known; rounds the time limit of another environment than Meta-World.
    """
    if size is not None and not {"--env.size", "--env.width"} & set(given_flags):
        config = resized(config, size)
    if chunk and "--env.horizon" not in given_flags and not is_default(config):
        horizon = environment(config).horizon
        config = with_horizon(config, max(chunk, horizon // chunk * chunk))
    return config


def check_tasks(config: EnvironmentConfig, tasks: Sequence[str] = ()) -> None:
    """Require that the environment can run here and has its tasks, and also `tasks`.

    Raises:
        InputError: a task is unknown, or something is not installed.
    """
    own = [task for task in tasks if task not in config.tasks]
    robot = environment(replace(config, tasks=(*config.tasks, *own)) if own and config.tasks else config)
    if (check := OptionalMembers.of(robot).check) is not None:
        check()
        return
    if unknown := [task for task in tasks if task not in robot.tasks]:
        raise InputError(f"--task: found '{unknown[0]}', expected {' or '.join(robot.tasks)}")


def simulated(config: EnvironmentConfig, flag: str) -> Any:
    """Return the config of an environment that has a perturbed simulator.

    Raises:
        InputError: it has none.
    """
    if type(config) is not type(DEFAULT_ENVIRONMENT):
        raise InputError(f"{flag}: only Meta-World has a perturbed simulator. Omit {flag}, or give --env metaworld")
    return config


def robot_of_all_tasks(robot: RealEnvironment, config: Any) -> RealEnvironment:
    """Return the environment with all tasks that the components may know."""
    if type(config) is not type(DEFAULT_ENVIRONMENT):
        return robot
    return environment(replace(DEFAULT_ENVIRONMENT, size=config.size, hold=config.hold))


def check_policy(path: Path, policy: Policy, config: EnvironmentConfig, flag: str = "--env.hold") -> None:
    """Require a policy with the actions and the pictures of an environment; `flag` sets the hold."""
    env = environment(config)
    spec, expected = policy.action_spec, env.action_spec
    is_suite = is_metaworld(expected)
    if is_suite and not is_metaworld(spec):
        raise InputError(
            f"{path}: the policy acts in {spec}, but the real environment is Meta-World ({expected}). No photographs "
            "or real scores are possible. Give the environment of its robot (--env REF), a Meta-World policy, or train "
            "without real scores: rl PRESET --unscored --data DATA, iter-sft --unscored, adapt --frame PICTURE --data "
            "DATA"
        )
    try:
        require_same(spec, expected, f"{path} and real environment")
    except ActionSpecMismatch as error:
        hold = round(CONTROL_RATE / spec.rate) if spec.rate else 0
        advice = "Give a policy that was trained on its actions"
        if is_suite and hold and metaworld_spec(hold).is_same_kind(spec):
            advice = f"Add {flag} {hold}"
        elif not is_suite:
            advice += ", or correct --env.spec"
        raise InputError(f"{error}. {advice}") from error
    size, tiling, source = frame_size(env), tiling_of(env), "the environment"
    check_pictures(policy, size, tiling, str(path), source)
    warn_of_other_size(path, policy, size, tiling, source)
