"""Meta-World, the environment that the library ships: its tasks and its robot.

No other module of the command line knows which environment that is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, metaworld_spec, require_same
from worldgymnast.envs.metaworld import EXTRA_TASKS, SUITE, check_tasks, instructions
from worldgymnast.errors import InputError
from worldgymnast.measure.novelty import task_name_warning
from worldgymnast.protocols import Policy
from worldgymnast.registry import EnvironmentConfig
from worldgymnast.types import Layout, Start

__all__ = ["SUITE", "check_policy", "check_spelling", "check_tasks", "default_horizon", "instructions", "is_metaworld"]

CONTROL_RATE = 80
"""Control steps per second."""
HORIZON = 24
"""Actions of an episode that are judged."""


def is_metaworld(spec: ActionSpec) -> bool:
    """Return whether these are actions of Meta-World, held for any time.

    >>> from worldgymnast.actions import BRIDGE, metaworld_spec
    >>> is_metaworld(metaworld_spec(4)), is_metaworld(BRIDGE)
    (True, False)
    """
    range_cm = spec.unit.removesuffix("cm")
    return spec.axes == ("x", "y", "z", "gripper") and spec.gripper == "effort" and range_cm.isdigit()


def has_real_environment(
    spec: ActionSpec, given_flags: Collection[str], *, is_unscored: bool = False, has_own_starts: bool = False
) -> bool:
    """Return whether a command scores policies for real.

    It does if --env is given, or by default in Meta-World for a Meta-World policy without data or pictures to start
    from.

    Args:
        spec: actions of the policy.
        given_flags: flags on the command line.
        is_unscored: whether --unscored is given.
        has_own_starts: whether the starts come from data or pictures.
    """
    if is_unscored:
        return False
    is_given = any(flag == "--env" or flag.startswith("--env.") for flag in given_flags)
    return is_given or (is_metaworld(spec) and not has_own_starts)


def require_environment(command: str, path: Path, spec: ActionSpec, given_flags: Collection[str], instead: str) -> None:
    """Raise InputError if a command that needs a real environment has none; `instead` is what to do then."""
    if not has_real_environment(spec, given_flags):
        raise InputError(
            f"{command}: needs a real environment, but --env is omitted and {path} acts on another robot than "
            f"Meta-World's ({spec}). Add --env; without an environment: {instead}"
        )


def default_horizon(spec: ActionSpec) -> int | None:
    """Return how many actions are judged; None for whole episodes."""
    return HORIZON if is_metaworld(spec) else None


def suite_instructions(spec: ActionSpec) -> list[str]:
    """Return the instructions of the default suite; none for another robot."""
    return [sentence for task in SUITE for sentence in instructions(task)] if is_metaworld(spec) else []


def misspelled_task(spec: ActionSpec, starts: Sequence[Start]) -> str:
    """Describe a start with a misspelled task, or return ""."""
    return task_name_warning(starts, (*SUITE, *EXTRA_TASKS)) if is_metaworld(spec) else ""


def check_spelling(task: str, flag: str = "--task") -> None:
    """Raise InputError if `task` is nearly the name of a known task.

    Any other name is a task of the user's own.

    >>> check_spelling("drawer-open"), check_spelling("stack-cups")
    (None, None)
    """
    if warning := task_name_warning([Layout(task, 0, "")], (*SUITE, *EXTRA_TASKS)):
        raise InputError(f"{flag}: {warning}. Correct it")


def check_policy(path: Path, policy: Policy, env: EnvironmentConfig, flag: str = "--env.hold") -> None:
    """Require a policy with the actions of `env`; `flag` sets the hold."""
    spec = policy.action_spec
    if not is_metaworld(spec):
        raise InputError(
            f"{path}: the policy acts in {spec}, but the only real environment is Meta-World ({env.action_spec}). "
            "No photographs or real scores are possible. Give a Meta-World policy, or train without real scores: "
            "rl PRESET --unscored --data DATA, iter-sft --unscored, adapt --frame PICTURE --data DATA"
        )
    try:
        require_same(spec, env.action_spec, f"{path} and real environment")
    except ActionSpecMismatch as error:
        hold = round(CONTROL_RATE / spec.rate) if spec.rate else 0
        advice = "Give a policy that was trained on its actions"
        if hold and metaworld_spec(hold).is_same_kind(spec):
            advice = f"Add {flag} {hold}"
        raise InputError(f"{error}. {advice}") from error
