"""Contract checks of real environments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from worldgymnast.environments import OptionalMembers
from worldgymnast.envs.anygym import Gymnasium
from worldgymnast.envs.inspection import Inspection, horizon_problem, inspect_description, inspect_episode
from worldgymnast.errors import InputError
from worldgymnast.protocols import Demonstrates, RealEnvironment, frame_size
from worldgymnast.testing.contract import ContractError, require, require_identity, require_protocol


def check_environment(env: Any, chunk: int = 2, rows: int = 2) -> None:
    """Check that a real environment rebuilds layouts and reports every frame and success.

    Args:
        env: the environment; the check runs two episodes of two looks, and a few random actions.
        chunk: actions per look.
        rows: parallel rows.

    Raises:
        ContractError: the environment violates its contract; the message has one line per problem.

    >>> import worldgymnast as wg
    >>> wg.testing.check_environment(wg.metaworld(tasks=("door-close",)))  # doctest: +SKIP
    """
    if problems := inspect_environment(env, chunk, rows).problems:
        raise ContractError("\n".join(problems))


def inspect_environment(env: Any, chunk: int = 2, rows: int = 2) -> Inspection:
    """Look at a real environment; see `check_environment` for the arguments.

    Returns:
        All problems, one line each, with notes and what was found.
    """
    result = Inspection()
    if isinstance(env, Gymnasium):
        result = inspect_description(env, chunk)
        if result.problems:
            with contextlib.suppress(InputError):
                _ = env.facts  # raises what is missing
                result.found = describe_environment(env) | result.found
            return result
    checks: list[Callable[[], None]] = [
        lambda: require_protocol(env, RealEnvironment),
        lambda: require_identity(env),
        lambda: result.found.update(describe_environment(env)),
    ]
    _collect(result, checks)
    if result.problems:
        return result
    _collect(result, [lambda: _check_layouts(env), lambda: _check_horizon(env, chunk)])
    _collect(result, [lambda: _check_photographs(env), lambda: _check_single(env, result)])
    _collect(result, [lambda: _check_vector(env, chunk, rows)])
    return result


def _collect(result: Inspection, checks: Sequence[Callable[[], None]]) -> None:
    """Run checks; a violation becomes a problem, once."""
    for check in checks:
        try:
            check()
        except (ContractError, InputError) as error:
            if str(error) not in result.problems:
                result.problems.append(str(error))


def describe_environment(env: Any) -> dict[str, str]:
    """What a real environment is, as names and values."""
    (height, width), spec = frame_size(env), env.action_spec
    cameras = ", ".join(f"{name} {h}x{w}" for name, (h, w) in env.cameras.items())
    found = {
        "actions": str(spec),
        "bounds": " ".join(f"{low:g}..{high:g}" for low, high in zip(spec.low, spec.high, strict=True)),
        "cameras": f"{cameras}; frame {height}x{width}",
    }
    if names := OptionalMembers.of(env).state_names:
        found["state"] = f"{len(names)} numbers ({', '.join(names)})"
    rate = spec.rate
    seconds = f" ({env.horizon / rate:.3g} s)" if rate else ""
    found["horizon"] = f"{env.horizon} actions{seconds}"
    found["tasks"] = "; ".join(f"{task}: {' / '.join(env.instructions(task))}" for task in env.tasks)
    if isinstance(env, Demonstrates):
        found["expert"] = "yes" if OptionalMembers.of(env).has_expert else "no"
    return found


def _check_layouts(env: RealEnvironment) -> None:
    name, layouts = type(env).__name__, env.layouts(2, 7)
    require(
        [(one.task, one.seed) for one in layouts] == [(task, 7 + i) for task in env.tasks for i in range(2)],
        f"{name}.layouts(2, 7) gives {[(one.task, one.seed) for one in layouts]}",
        "Policies could not be compared on the same layouts",
        "Return consecutive seeds for every task, from the given first seed",
    )
    require(
        all(any(sentence.strip() for sentence in env.instructions(task)) for task in env.tasks)
        and all(one.instruction.strip() for one in layouts),
        f"{name}: a task has no instruction",
        "The policy could not distinguish tasks",
        "Return at least one sentence per task",
    )


def _check_horizon(env: RealEnvironment, chunk: int) -> None:
    if env.horizon % chunk:
        raise ContractError(horizon_problem(env.horizon, chunk))


def _check_photographs(env: RealEnvironment) -> None:
    name, layouts = type(env).__name__, env.layouts(2, 7)
    start, again = env.photograph(layouts[:1])[0], env.photograph(layouts[:1])[0]
    require(
        start.frame.shape == (*frame_size(env), 3)
        and start.frame.dtype == np.uint8
        and start.layout == layouts[0].seed,
        f"{name}.photograph gives a frame {list(start.frame.shape)} of {start.frame.dtype}, layout {start.layout}",
        "Starts would not match the world model, or could not be rebuilt",
        "Return layout.start(frame) with a uint8 frame [h w 3] of the size in `cameras`",
    )
    require(
        bool(np.array_equal(start.frame, again.frame)),
        f"{name}.photograph gives two frames for one layout",
        "Paired comparisons would compare different scenes",
        "Determine the scene by the seed alone",
    )


def _check_single(env: RealEnvironment, result: Inspection) -> None:
    """Play a few actions, if the environment can be opened as a single one."""
    if not isinstance(env, Demonstrates) or isinstance(env, Gymnasium):
        return  # a Gymnasium was played before
    scene = env.open()
    try:
        played = inspect_episode(scene, env.action_spec, env.layouts(2, 7)[:2], env.horizon)
    finally:
        scene.close()
    result.problems += played.problems
    result.notes += played.notes
    result.found |= played.found


def _check_vector(env: RealEnvironment, chunk: int, rows: int) -> None:
    name, layouts = type(env).__name__, env.layouts(2, 7)
    full, keyframes = (_run_episode(env, layouts, chunk, rows, only) for only in (False, True))
    require(
        bool(np.array_equal(full[0][:, chunk - 1 :: chunk], keyframes[0])),
        f"{name}.vector(keyframes_only=True) gives other frames than the keyframes of a full run",
        "Evaluations would be judged on other frames than training",
        "Render the last frame of each chunk",
    )
    require(
        bool(np.array_equal(full[1], keyframes[1], equal_nan=True)),
        f"{name}.vector gives other successes with keyframes only",
        "Success would depend on rendering",
        "Report success from the robot, not from rendered frames",
    )


def _run_episode(
    env: RealEnvironment, layouts: Sequence[Any], chunk: int, rows: int, keyframes_only: bool
) -> tuple[np.ndarray, list[float]]:
    """Frames [b t h w 3] and scores of an episode of two looks without motion."""
    name, spec = type(env).__name__, env.action_spec
    vector = env.vector(rows, chunk, horizon=2 * chunk, keyframes_only=keyframes_only)
    still = np.clip(np.zeros((rows, chunk, spec.dim)), spec.low, spec.high).astype(np.float32)
    frames, info = [], dict[str, Any]()
    try:
        vector.reset(options={"starts": [layouts[i % len(layouts)] for i in range(rows)]})
        for look in range(2):
            _, _, terminated, truncated, info = vector.step(still)
            frames.append(np.asarray(info["frames"]))
            is_over = bool(np.all(np.logical_or(terminated, truncated)))
            require(
                is_over == (look == 1),
                f"{name}.vector reports end={is_over} after look {look + 1}, with a horizon of 2 looks",
                "Rollouts would be truncated, or never end",
                "Truncate all rows after `horizon` actions",
            )
    finally:
        vector.close()
    missing = [key for key in ("score", "success_frame", "probability") if key not in info]
    require(
        not missing,
        f"{name}.vector's last info lacks {', '.join(missing)}",
        "Success would be unknown",
        "Report them at the last look, see worldgymnast.envs.wrappers",
    )
    return np.concatenate(frames, 1), [float(score) for score in info["score"]]
