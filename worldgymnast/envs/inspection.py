"""What is missing or wrong in an environment: every problem, one line each.

`problems_of_description` looks at the environment as its library made it; `problems_of_episode` plays a few actions in
any single environment of the contract.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import ActionSpec
from worldgymnast.envs import described, description, making
from worldgymnast.envs.anygym import Gymnasium
from worldgymnast.envs.described import Facts, GymnasiumEnv
from worldgymnast.envs.description import GymnasiumConfig
from worldgymnast.envs.observing import as_array, as_success, describe_array, find, keys_of
from worldgymnast.errors import InputError
from worldgymnast.types import IMAGE, Layout

_STEPS = 12
"""Actions that are tried."""


@dataclass
class Inspection:
    """Result of a look at an environment.

    Attributes:
        problems: what is missing or wrong, one line each.
        notes: what was converted or is unusual, one line each.
        found: what was found, as name and value.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------- as the library made it


def inspect_description(env: Gymnasium, chunk: int) -> Inspection:
    """Look at a Gymnasium environment and its description, and play a few actions.

    Args:
        env: the environment.
        chunk: actions per look.
    """
    result = Inspection()
    try:
        raw = described.open_raw(env.config, env.make, next(iter(env.config.tasks), ""))
    except InputError as error:
        result.problems.append(str(error))
        return result
    try:
        result.problems += _spec_problems(env.config, raw)
        result.problems += _episode_problems(env.config, raw, result.notes)
        horizon = env.config.horizon or described.time_limit(env.config, raw) or description.HORIZON
        result.problems += _limit_problems(env.config, raw, horizon)
        if horizon % chunk:
            result.problems.append(horizon_problem(horizon, chunk))
        facts = _provisional_facts(env.config, raw)
    finally:
        raw.close()
    if facts is not None:
        scene = GymnasiumEnv(env.config, facts, make=env.make)
        task = next(iter(facts.sentences))
        try:
            played = inspect_episode(scene, facts.spec, [Layout(task, 7, ""), Layout(task, 8, "")], horizon)
        finally:
            scene.close()
        has_raised = any(problem.startswith("step: ") for problem in result.problems)
        new = [problem for problem in played.problems if problem not in result.problems]
        result.problems += [problem for problem in new if not (has_raised and problem.startswith("episode: "))]
        result.notes += played.notes
        result.found |= played.found
    return result


def horizon_problem(horizon: int, chunk: int) -> str:
    """Describe a horizon of other than whole chunks."""
    return (
        f"horizon: {horizon} actions are no multiple of the policy's chunk ({chunk}). Episodes could not end with a "
        f"look. Set --env.horizon {max(chunk, horizon // chunk * chunk)}"
    )


def _limit_problems(config: GymnasiumConfig, raw: Any, horizon: int) -> Iterator[str]:
    limit, hold = described.steps_until_truncated(raw), config.hold
    if limit and horizon * hold > limit:
        held = f" of {hold} steps" if hold > 1 else ""
        yield (
            f"horizon: {horizon} actions{held} are longer than the environment's time limit ({limit} steps). Rollouts "
            f"would end with still pictures. Set --env.horizon {limit // hold}, or add to --env.kwargs "
            f'"max_episode_steps": {horizon * hold}'
        )


def _provisional_facts(config: GymnasiumConfig, raw: Any) -> Facts | None:
    """Facts with stand-ins for a missing spec and missing sentences; None without a picture or a box of actions."""
    try:
        box = description.action_box(raw, config.name)
        tasks = description.task_names(config, raw)
        observation, info = described.reset_raw(config, raw, tasks[0], 0)
        tiling = described.tiling_in(config, raw, observation, info)
        state = description.state_of(config, observation, info)
    except InputError:
        return None
    low, high = np.nan_to_num(box.low, neginf=-1.0), np.nan_to_num(box.high, posinf=1.0)
    axes = tuple(f"a{i}" for i in range(len(low)))
    spec = ActionSpec(axes, "unknown", tuple(low.tolist()), tuple(high.tolist()))
    return Facts(spec, dict.fromkeys(tasks, ("",)), tiling, 0 if state is None else len(state))


def _spec_problems(config: GymnasiumConfig, raw: Any) -> Iterator[str]:
    try:
        box, spec = description.action_box(raw, config.name), description.action_spec(config, raw)
    except InputError as error:
        yield str(error)
        return
    if not (np.allclose(spec.low, box.low, atol=1e-5) and np.allclose(spec.high, box.high, atol=1e-5)):
        yield (
            f"action bounds: the spec has {_short(spec.low)} to {_short(spec.high)}, the action "
            f"space {_short(box.low)} to {_short(box.high)}. Actions would be clipped or scaled without notice. Write "
            "the same bounds in both"
        )
    if spec.rate is None:
        yield (
            'action spec: found no rate, so recordings have no frames per second. Add "rate" to the spec (Hz), or '
            "metadata['render_fps']"
        )


def _short(numbers: Any) -> str:
    return f"[{', '.join(f'{number:g}' for number in np.asarray(numbers, float))}]"


def _episode_problems(config: GymnasiumConfig, raw: Any, notes: list[str]) -> Iterator[str]:
    """Problems of the observations, sentences and success of one short episode."""
    try:
        tasks = description.task_names(config, raw)
        observation, info = described.reset_raw(config, raw, tasks[0], 0)
    except InputError as error:
        yield str(error)
        return
    yield from _picture_problems(config, raw, observation, info, notes)
    yield from _state_problems(config, observation, info)
    for task in tasks:
        if not description.sentences_of(config, raw, task, observation, info):
            yield str(described.no_instruction(config, task))
    yield from _success_problems(config, raw)


def _picture_problems(
    config: GymnasiumConfig, raw: Any, observation: Any, info: Mapping[str, Any], notes: list[str]
) -> Iterator[str]:
    try:
        found = description.pictures(config, raw, observation, info)
    except InputError as error:
        yield str(error)
        return
    value = description.image_value(config, raw, observation, info)
    for name, picture in found.items():
        given = value[name] if isinstance(value, Mapping) else value
        expected = describe_array(picture)
        if describe_array(given) != expected:
            notes.append(f"{name}: found {describe_array(given)}, converted to {expected}")


def _state_problems(config: GymnasiumConfig, observation: Any, info: Mapping[str, Any]) -> Iterator[str]:
    try:
        state = description.state_of(config, observation, info)
    except InputError as error:
        yield str(error)
        return
    if state is None and config.state_key not in ("", description.NONE):
        yield (
            f"state: found nothing at '{config.state_key}', only {', '.join(keys_of(observation))[:200]}. A policy "
            "that needs it could not act. Correct --env.state-key"
        )
    if state is not None and not np.isfinite(state).all():
        yield "state: found NaN or infinity at reset. A policy would act at random. Return finite numbers"
    if state is not None and config.state_names and len(config.state_names) != len(state):
        yield f"state: found {len(state)} numbers and {len(config.state_names)} names. Name each number"


def _success_problems(config: GymnasiumConfig, raw: Any) -> Iterator[str]:
    """Step through a short episode, and look for success in `info`."""
    if not hasattr(raw.action_space, "low"):
        return
    low, high = as_array(raw.action_space.low), as_array(raw.action_space.high)
    action = np.clip(np.zeros_like(low), low, high)
    seen = set[str]()
    is_known = config.success_key == "terminated"
    try:
        for _ in range(_STEPS):
            _, _, terminated, truncated, info = raw.step(action)
            seen |= set(keys_of(info))
            is_known = is_known or _has_success(config, info)
            if as_success(terminated) or as_success(truncated):
                break
    except Exception as error:  # noqa: BLE001 - a step can raise anything
        yield f"step: {_raised(error)}. No rollout is possible. Correct step()"
        return
    if not is_known:
        key = config.success_key or "success"
        found = f"has no '{key}', only {', '.join(sorted(seen))[:200]}" if seen else "is empty"
        yield (
            f"success: info {found}. Nothing could be "
            "scored. Report info['success'] as True, False or None (unknown), or set --env.success-key"
        )


def _has_success(config: GymnasiumConfig, info: Any) -> bool:
    """Whether success is reported, if only as unknown."""
    if not isinstance(info, Mapping):
        return False
    keys = (config.success_key,) if config.success_key else description.SUCCESS_KEYS
    return any(key in info or find(info, key) is not None for key in keys)


# ---------------------------------------------------------------- any single environment


def inspect_episode(scene: Any, spec: ActionSpec, layouts: list[Layout], horizon: int) -> Inspection:
    """Play a few actions in a single environment.

    Args:
        scene: the environment, as `Demonstrates.open` returns it.
        spec: its action spec.
        layouts: two layouts of one task.
        horizon: actions in an episode.
    """
    result = Inspection()
    try:
        _inspect_episode(scene, spec, layouts, horizon, result)
    except InputError as error:
        result.problems.append(str(error))
    except Exception as error:  # noqa: BLE001 - the environment can raise anything
        result.problems.append(f"episode: {_raised(error)}. No rollout is possible. Correct the environment")
    return result


def _raised(error: Exception) -> str:
    """Describe an error of the environment, and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{making.line_of(error)} ({Path(place.filename).name}:{place.lineno})"


def _inspect_episode(scene: Any, spec: ActionSpec, layouts: list[Layout], horizon: int, result: Inspection) -> None:
    """See `inspect_episode`."""
    first, second = (_reset(scene, layout) for layout in (layouts[0], layouts[0]))
    if not np.array_equal(first[IMAGE], second[IMAGE]):
        result.problems.append(
            f"reset: the same seed ({layouts[0].seed}) gives different pictures. Paired comparisons would compare "
            "different scenes. Draw everything from the seed of reset"
        )
    played = _play(scene, spec, second, result)
    after = _reset(scene, layouts[1])
    if played.has_moved and np.array_equal(after[IMAGE], played.last):
        result.problems.append(
            f"reset: the picture of layout {layouts[1].seed} is the last one of the episode before. The first action "
            "would be chosen from an old scene. Render after the reset"
        )
    elif np.array_equal(after[IMAGE], first[IMAGE]):
        result.notes.append(f"layouts {layouts[0].seed} and {layouts[1].seed} give the same picture")
    if not played.has_moved:
        result.problems.append(
            f"step: {played.steps} random actions change neither picture nor state. A world model could learn nothing. "
            "Execute the action, and render after it"
        )
    if played.ended and played.steps < horizon:
        line = f"the episode ended after {played.steps} of {horizon} random actions"
        if played.succeeded:
            result.notes.append(f"{line}, with success; later frames repeat the last")
        else:
            result.problems.append(
                f"terminated: {line}, without success. Most of a rollout would be a still picture. Give a horizon of "
                "at most that many actions, or end episodes at success alone"
            )
    result.found["seconds a step"] = f"{played.seconds:.2g}"


@dataclass
class _Played:
    steps: int
    has_moved: bool
    ended: bool
    succeeded: bool
    last: np.ndarray
    seconds: float


def _reset(scene: Any, layout: Layout) -> dict[str, Any]:
    return dict(scene.reset(seed=layout.seed, options={"task": layout.task})[0])


def _play(scene: Any, spec: ActionSpec, before: dict[str, Any], result: Inspection) -> _Played:
    """Execute random actions after the observation `before` until the end, at most `_STEPS`."""
    rng, low, high = np.random.default_rng(0), np.array(spec.low), np.array(spec.high)
    played = _Played(0, False, False, False, np.zeros(0), 0.0)
    started = time.perf_counter()
    for _ in range(_STEPS):
        observation, _, terminated, _, info = scene.step(rng.uniform(low, high).astype(np.float32))
        played.steps += 1
        played.has_moved = played.has_moved or _differs(before, observation)
        before = dict(observation)
        played.succeeded = played.succeeded or bool(info["success"])
        played.ended = bool(terminated or info.get("ended"))
        if not np.isfinite(observation.get("state", 0.0)).all():
            result.problems.append(
                f"state: found NaN or infinity after {played.steps} actions. A policy would act at random. Return "
                "finite numbers"
            )
            break
        if played.ended:
            break
    played.last, played.seconds = before[IMAGE], (time.perf_counter() - started) / played.steps
    return played


def _differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return any(not np.array_equal(before[key], after[key]) for key in (IMAGE, "state") if key in before)
