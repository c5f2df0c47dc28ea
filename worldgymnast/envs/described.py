"""One environment of a description, with the observations of the contract in `envs.anygym`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from worldgymnast.actions import ActionSpec
from worldgymnast.envs import making
from worldgymnast.envs.description import (
    STATE,
    GymnasiumConfig,
    Make,
    action_spec,
    check_raw,
    make_raw,
    pictures,
    sentences_of,
    state_of,
    success_of,
    task_names,
)
from worldgymnast.envs.observing import (
    as_array,
    as_number,
    as_sentences,
    as_success,
    find,
)
from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.tiling import Tiling, compose, composed_tiling
from worldgymnast.types import IMAGE


@dataclass(frozen=True)
class Facts:
    """What is known of an environment after one look at it.

    Attributes:
        spec: its action spec.
        sentences: sentences by task.
        tiling: cameras in the frame.
        state_size: numbers of proprioception, or 0.
        limit: its own time limit in actions, or 0.
        has_expert: whether it has a scripted expert.
    """

    spec: ActionSpec
    sentences: Mapping[str, tuple[str, ...]]
    tiling: Tiling
    state_size: int = 0
    limit: int = 0
    has_expert: bool = False


class GymnasiumEnv(gym.Env[dict[str, Any], np.ndarray]):
    """One environment of a `GymnasiumConfig`, with the observations of the contract.

    Observation: {"image": uint8 [h w 3]}, with "state" float32 [s] if there is one. `info` has "success" (True, False
    or None) and, if it is reported, "progress".

    Args:
        config: the description.
        facts: what is known of the environment.
        every: convert the picture only after every `every` actions.
        make: makes the environment, instead of the description.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's contract

    def __init__(self, config: GymnasiumConfig, facts: Facts, every: int = 1, make: Make | None = None):
        self.config, self.facts, self.every, self._make = config, facts, every, make
        self.action_spec = facts.spec
        size = facts.tiling.size
        spaces: dict[str, gym.spaces.Space[Any]] = {IMAGE: gym.spaces.Box(0, 255, (*size, 3), np.uint8)}
        if facts.state_size:
            spaces[STATE] = gym.spaces.Box(-np.inf, np.inf, (facts.state_size,), np.float32)
        self.observation_space = gym.spaces.Dict(spaces)
        low, high = np.array(facts.spec.low, np.float32), np.array(facts.spec.high, np.float32)
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)
        self._raws: dict[str, Any] = {}
        self._task = next(iter(facts.sentences))
        self._actions = 0
        self._image = np.zeros((*size, 3), np.uint8)

    @property
    def raw(self) -> Any:
        """The environment of the current task, as its library made it."""
        key = self._task if self.config.task_argument else ""
        if key not in self._raws:
            self._raws[key] = open_raw(self.config, self._make, self._task)
        return self._raws[key]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset to a layout of a task."""
        super().reset(seed=seed)
        self._task = (options or {}).get("task") or self._task
        observation, info = reset_raw(self.config, self.raw, self._task, 0 if seed is None else seed)
        self._actions = 0
        return self._observed(observation, info, True), {"success": False, "task": self._task}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action, held for `hold` steps."""
        self.action_spec.check(action, f"environment '{self.config.name}'")
        shaped = np.asarray(action, np.float32).reshape(np.shape(self.raw.action_space.low))
        total, successes, terminated, truncated = 0.0, list[bool | None](), False, False
        observation: Any = None
        info: Mapping[str, Any] = {}
        for _ in range(self.config.hold):
            observation, reward, ended, cut, info = self.raw.step(shaped)
            total += as_number(reward)
            terminated, truncated = bool(as_success(ended)), bool(as_success(cut))
            successes.append(success_of(self.config, info, terminated))
            if terminated or truncated:
                break
        self._actions += 1
        is_over = terminated or truncated
        observed = self._observed(observation, info, is_over or self._actions % self.every == 0)
        report: dict[str, Any] = {"success": True if True in successes else successes[-1], "ended": is_over}
        if not np.isnan(progress := as_number(find(info, self.config.progress_key or "progress"))):
            report["progress"] = progress
        truncated = truncated or (self.config.horizon > 0 and self._actions >= self.config.horizon)
        return observed, total, terminated, truncated, report

    def _observed(self, observation: Any, info: Mapping[str, Any], is_shown: bool) -> dict[str, Any]:
        if is_shown:
            found = pictures(self.config, self.raw, observation, info)
            self._image = compose(found, self.config.frame_size, self.config.resize)
            if self._image.shape[:2] != self.facts.tiling.size:
                raise InputError(
                    f"environment '{self.config.name}': found a frame of {list(self._image.shape)}, expected "
                    f"{[*self.facts.tiling.size, 3]} as before. Set --env.size"
                )
        observed: dict[str, Any] = {IMAGE: self._image}
        if self.facts.state_size:
            state = state_of(self.config, observation, info)
            observed[STATE] = np.zeros(self.facts.state_size, np.float32) if state is None else state
        return observed

    def expert_action(self) -> np.ndarray:
        """Action of the environment's own expert, float32 [a]; no motion without one."""
        spec, expert = self.action_spec, making.member(self.raw, "expert_action")
        action = np.zeros(spec.dim) if expert is None else as_array(expert()).reshape(-1)
        return np.clip(action, spec.low, spec.high).astype(np.float32)

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Newest frame, uint8 [h w 3]."""
        return self._image

    def close(self) -> None:
        """Close the environments."""
        for raw in self._raws.values():
            raw.close()
        self._raws.clear()


def open_raw(config: GymnasiumConfig, make: Make | None = None, task: str = "") -> Any:
    """Make the environment of a task; see `make_raw`."""
    extra = {config.task_argument: task} if config.task_argument and task else {}
    raw = making.call(make, extra, config.name) if make else make_raw(config, extra)
    check_raw(raw, config.name)
    return raw


def reset_raw(config: GymnasiumConfig, raw: Any, task: str, layout: int) -> tuple[Any, Mapping[str, Any]]:
    """Reset an environment to a layout; returns observation and info.

    Raises:
        InputError: `reset` refuses the layout, or returns something else.
    """
    layout = layout % config.layouts if config.layouts else layout
    place, _, name = config.layout.partition(":")
    options: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    if making.member(raw, "tasks") is not None or config.adapter in ("lerobot", "inspect-robots"):
        options["task"] = task
    if config.layout == "seed":
        arguments["seed"] = layout
    elif place == "argument" and name:
        arguments[name] = np.array([layout])
    else:
        options[name or place] = layout
    arguments |= {"options": options} if options else {}
    if config.adapter == "inspect-robots":
        raw.instruction = next(iter(as_sentences(config.sentences.get(task, config.instruction))), "")
    try:
        result = raw.reset(**arguments)
    except InputError:
        raise
    except Exception as error:  # a reset can raise anything
        given = ", ".join(f"{key}={short(value)}" for key, value in arguments.items())
        raise InputError(
            f"environment '{config.name}': reset({given}) failed ({making.line_of(error)}). "
            "Correct the environment, or set --env.layout to what selects a layout"
        ) from error
    if not (isinstance(result, tuple) and len(result) == 2):
        raise InputError(
            f"environment '{config.name}': reset returned {type(result).__name__}, expected (observation, info)"
        )
    return result[0], result[1] if isinstance(result[1], Mapping) else {}


def look_at(config: GymnasiumConfig, raw: Any) -> Facts:
    """Reset an environment once per task, and describe it.

    Raises:
        InputError: something is missing or wrong.
    """
    spec, tasks = action_spec(config, raw), task_names(config, raw)
    sentences: dict[str, tuple[str, ...]] = {}
    observation: Any = None
    info: Mapping[str, Any] = {}
    for task in tasks:
        if task == tasks[0] or not config.task_argument:
            observation, info = reset_raw(config, raw, task, 0)
        sentences[task] = sentences_of(config, raw, task, observation, info)
        if not sentences[task]:
            raise no_instruction(config, task)
    state = state_of(config, observation, info)
    return Facts(spec, sentences, tiling_in(config, raw, observation, info), 0 if state is None else len(state),
                 time_limit(config, raw), making.member(raw, "expert_action") is not None)  # fmt: skip


def no_instruction(config: GymnasiumConfig, task: str) -> InputError:
    """Error of a task without a sentence."""
    return InputError(
        f"environment '{config.name}': task '{task}' has no instruction, which policy and judge need. Add "
        '--env.instruction "SENTENCE", or the method instructions(task)'
    )


def tiling_in(config: GymnasiumConfig, raw: Any, observation: Any, info: Mapping[str, Any]) -> Tiling:
    """Cameras in the frame of an observation."""
    found = pictures(config, raw, observation, info)
    return composed_tiling({name: one.shape[:2] for name, one in found.items()}, config.frame_size)


def time_limit(config: GymnasiumConfig, raw: Any) -> int:
    """Time limit of the environment, in held actions; 0 without one."""
    limit = steps_until_truncated(raw) or making.member(raw, "horizon")
    return int(limit) // config.hold if isinstance(limit, int) else 0


def steps_until_truncated(raw: Any) -> int:
    """Steps after which a time limit truncates episodes; 0 without one. ManiSkill's limit is in no spec."""
    limit = getattr(getattr(raw, "spec", None), "max_episode_steps", None) or making.member(raw, "_max_episode_steps")
    return limit if isinstance(limit, int) else 0
