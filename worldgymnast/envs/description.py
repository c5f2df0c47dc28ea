"""Description of any Gymnasium environment, and what it says about one: spec, pictures, state, success, words."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from typing import Annotated, Any

import gymnasium as gym
import numpy as np

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, infer_motion
from worldgymnast.configs import Between, Count, JsonObject, Once, Positive, checked
from worldgymnast.envs import making
from worldgymnast.envs.observing import (
    as_array,
    as_frame,
    as_sentences,
    as_state,
    as_success,
    find,
    keys_of,
)
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import short
from worldgymnast.preprocessing import Resize
from worldgymnast.types import IMAGE

RENDER = "render"
"""Image key of `env.render()`."""
_IMAGE_KEYS = ("image", "images", "pixels")
STATE = "state"
SUCCESS_KEYS = ("success", "is_success", "succeed")
_TERMINATED = "terminated"
_INSTRUCTION_KEYS = ("instruction", "task_descriptions", "task_description")
HORIZON = 100
"""Actions in an episode of an environment without a time limit."""
NONE = "none"


@checked
class GymnasiumConfig:
    """Config of any Gymnasium environment.

    Keys are dotted paths, such as "pixels.top" or "sensor_data.*.rgb". "info:PATH" looks in `info` instead of the
    observation. An empty key is found by the usual names.

    Attributes:
        id: id for `gymnasium.make`.
        factory: instead, "module:function" that returns an environment.
        adapter: how the environment is made; "" for `gymnasium.make` or the factory.
        imports: modules to import first; they register the id.
        kwargs: keyword arguments of the environment (JSON).
        image_key: picture or pictures by camera; "render" for `env.render()`.
        cameras: names of the cameras to use, of those at `image_key`; several are tiled side by side. All if empty.
        state_key: proprioception; "none" for none.
        state_names: one name for each of its numbers.
        tasks: names of the tasks; those of the environment if empty.
        task_argument: keyword argument of the environment that chooses the task; by default the option "task" of
            `reset`.
        instruction: the sentence of every task, or its place: "attribute:NAME", "method:NAME" or "observation:PATH".
        sentences: sentences by task (JSON).
        success_key: success in `info`, or "terminated".
        progress_key: progress in `info`, from 0 to 1.
        spec: fields of the action spec (JSON), such as {"axes": ["x", "y"], "unit": "m", "rate": 10}. Bounds are those
            of the action space by default, the rate is `metadata["render_fps"]`.
        size: height (and width) of the frames in pixels; 0 for those of the environment.
        width: width of the frames, if it is not the height.
        resize: rule for pictures of another shape.
        horizon: actions in an episode; 0 for the time limit of the environment.
        layout: where the layout's number goes: "seed", an option of `reset`, or "argument:NAME" of `reset`.
        layouts: number of layouts of the environment, if limited; higher ones start again from 0.
        hold: steps of the environment for which an action is held.
    """

    id: str = ""
    factory: str = ""
    adapter: str = ""
    imports: tuple[str, ...] = ()
    kwargs: JsonObject = field(default_factory=dict)
    image_key: str = ""
    cameras: Annotated[tuple[str, ...], Once] = ()
    state_key: str = ""
    state_names: tuple[str, ...] = ()
    tasks: Annotated[tuple[str, ...], Once] = ()
    task_argument: str = ""
    instruction: str = ""
    sentences: JsonObject = field(default_factory=dict)
    success_key: str = ""
    progress_key: str = ""
    spec: JsonObject = field(default_factory=dict)
    size: Annotated[int, Between(0, 4096)] = 0
    width: Annotated[int, Between(0, 4096)] = 0
    resize: Resize = "squash"
    horizon: Count = 0
    layout: str = "seed"
    layouts: Count = 0
    hold: Positive = 1

    def __post_init__(self) -> None:
        if self.adapter not in _ADAPTERS:
            raise FieldError("adapter", f"found {short(self.adapter)}, expected {' or '.join(map(short, _ADAPTERS))}")
        if self.id and self.factory:
            raise FieldError("id, factory", f"found both, '{self.id}' and '{self.factory}', expected one of them")

    @property
    def name(self) -> str:
        """Reference of the environment, for messages."""
        return self.factory or f"{self.adapter or 'gym'}:{self.id}"

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width that frames are resized to, or None."""
        return (self.size, self.width or self.size) if self.size else None

    def resized(self, size: tuple[int, int]) -> GymnasiumConfig:
        """Config with frames of this height and width."""
        return replace(self, size=size[0], width=0 if size[0] == size[1] else size[1])


_ADAPTERS = ("", "lerobot", "maniskill", "inspect-robots")
Make = Callable[[], Any]


def make_raw(config: GymnasiumConfig, extra: Mapping[str, Any] | None = None) -> Any:
    """Make the environment itself.

    Args:
        config: its description.
        extra: further keyword arguments.

    Raises:
        InputError: it cannot be made, or is no Gymnasium environment of one row.
    """
    kwargs = config.kwargs | dict(extra or {})
    for module in config.imports:
        try:
            making.importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"environment '{config.name}': {module} is not installed ({error}). Install it") from error
    if config.adapter == "inspect-robots":
        return making.make_embodiment(config.id, config.factory, kwargs)
    if config.adapter == "lerobot":
        return making.make_lerobot(config.id, kwargs)
    if config.factory:
        return making.make_from_factory(config.factory, kwargs)
    if not config.id:
        raise InputError(
            "environment: found no id and no factory. Add 'id' or 'factory' to its description, or use gym:ID or "
            "module:factory"
        )
    if config.adapter == "maniskill":
        return making.make_maniskill(config.id, kwargs)
    return making.make_gym(config.id, kwargs, config.image_key == RENDER)


def check_raw(raw: Any, name: str) -> None:
    """Raise InputError unless this has the members of a Gymnasium environment of one row."""
    missing = [one for one in ("reset", "step", "action_space") if not hasattr(raw, one)]
    if missing:
        raise InputError(
            f"environment '{name}': {type(raw).__name__} has no {', '.join(missing)}. Return a Gymnasium environment "
            "or a RealEnvironment"
        )
    if getattr(raw, "num_envs", 1) != 1:
        raise InputError(f"environment '{name}': found {raw.num_envs} rows, expected 1. Make it with one row")


# ---------------------------------------------------------------- parts of a description


def action_box(raw: Any, name: str) -> gym.spaces.Box:
    """Action space [a] of an environment.

    Raises:
        InputError: it is no box.
    """
    space = raw.action_space
    if not hasattr(space, "low") or not hasattr(space, "high"):
        raise InputError(
            f"environment '{name}': found actions {space}, expected a Box of numbers. Policies act in continuous "
            "numbers"
        )
    low, high = as_array(space.low).astype(np.float32), as_array(space.high).astype(np.float32)
    return gym.spaces.Box(low.reshape(-1), high.reshape(-1), dtype=np.float32)


def action_spec(config: GymnasiumConfig, raw: Any) -> ActionSpec:
    """Action spec of the description and the environment, with the bounds and rate of the environment by default.

    Raises:
        InputError: axes, bounds or another part are missing or invalid.
    """
    own = making.member(raw, "action_spec")
    own = own.to_dict() if isinstance(own, ActionSpec) else own
    known: dict[str, Any] = (own if isinstance(own, dict) else {}) | config.spec
    where, box = f"environment '{config.name}'", action_box(raw, config.name)
    count = len(box.low)
    if unknown := sorted(set(known) - {each.name for each in fields(ActionSpec)}):
        near = difflib.get_close_matches(str(unknown[0]), [each.name for each in fields(ActionSpec)], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"{where}: the action spec has an unknown field '{unknown[0]}'{hint}")
    if not known.get("axes"):
        example = '\'{"axes": ["x", "y", "gripper"], "unit": "m", "rate": 10}\''
        raise InputError(
            f"{where}: has no action_spec, so nobody knows what its {count} numbers mean. Add --env.spec {example}, or "
            "the member action_spec"
        )
    low, high = known.get("low") or box.low.tolist(), known.get("high") or box.high.tolist()
    if not np.isfinite([*low, *high]).all():
        raise InputError(f"{where}: found infinite action bounds. Add 'low' and 'high' to --env.spec")
    rate = known.get("rate") or _render_rate(raw)
    motion, space = infer_motion(known["axes"], low, high)
    defaults = {"unit": "unknown", "motion": motion, "space": space, "low": low, "high": high}
    if "unit" not in known:
        defaults |= {"frame": "unknown", "rotation": "unknown"}
    else:  # of a spec with a unit, what is not written has the usual meaning
        defaults = {key: value for key, value in defaults.items() if value != "unknown"}
    try:
        spec = ActionSpec.from_dict(defaults | {"rate": rate} | {key: x for key, x in known.items() if x is not None})
    except ActionSpecMismatch as error:
        raise InputError(f"{where}: {error}. Correct --env.spec or action_spec") from error
    if spec.dim != count:
        raise InputError(
            f"{where}: the action spec has {spec.dim} axes ({' '.join(spec.axes)}), but an action has {count} numbers. "
            "Name each of them"
        )
    return _held(spec, config.hold)


def _held(spec: ActionSpec, hold: int) -> ActionSpec:
    """Action spec of actions that are held for `hold` steps; deltas add up."""
    if hold == 1:
        return spec
    unit = f"{hold}*{spec.unit}" if spec.motion == "delta" and spec.unit != "unknown" else spec.unit
    return replace(spec, unit=unit, rate=spec.rate and spec.rate / hold)


def _render_rate(raw: Any) -> float | None:
    rate = (making.member(raw, "metadata") or {}).get("render_fps")
    return float(rate) if rate else None


def task_names(config: GymnasiumConfig, raw: Any) -> tuple[str, ...]:
    """Tasks of the description or the environment; by default one with the environment's name.

    Raises:
        InputError: a described task is not one of the environment's.
    """
    own = making.member(raw, "tasks")
    names = tuple(str(one) for one in own) if isinstance(own, list | tuple) else ()
    if names and (unknown := [task for task in config.tasks if task not in names]) and not config.task_argument:
        raise InputError(
            f"environment '{config.name}': task '{unknown[0]}' is unknown, expected {', '.join(names)}. Correct "
            "--env.tasks"
        )
    return config.tasks or names or tuple(config.sentences) or (config.name.rpartition("/")[2].rpartition(":")[2],)


def pictures(config: GymnasiumConfig, raw: Any, observation: Any, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Pictures uint8 [h w 3] by camera.

    Raises:
        InputError: there is none, or one has another meaning.
    """
    where = f"environment '{config.name}': {config.image_key or 'image'}"
    value = image_value(config, raw, observation, info)
    if value is None:
        keys = [*keys_of(observation), *(f"info:{key}" for key in keys_of(info))]
        raise InputError(
            f"{where}: found no picture, only {', '.join(keys)[:300] or 'one array'}. Add --env.image-key KEY, or "
            "'render' for env.render()"
        )
    if not isinstance(value, Mapping):
        if config.cameras:
            raise InputError(f"{where}: found one picture without a name, not the cameras {', '.join(config.cameras)}")
        return {IMAGE: as_frame(value, where)}
    if unknown := [name for name in config.cameras if name not in value]:
        raise InputError(f"{where}: camera '{unknown[0]}' is unknown, expected {', '.join(map(str, value))}")
    names = config.cameras or tuple(map(str, value))
    if not names:
        raise InputError(f"{where}: found no camera. Add --env.image-key")
    return {name: as_frame(value[name], f"{where}.{name}") for name in names}


def image_value(config: GymnasiumConfig, raw: Any, observation: Any, info: Mapping[str, Any]) -> Any:
    """What the environment gives as its picture, or its pictures by camera; None if it gives none.

    Raises:
        InputError: it cannot render.
    """
    if config.image_key == RENDER:
        try:
            return raw.render()
        except Exception as error:  # rendering can raise anything
            raise InputError(
                f"environment '{config.name}': render() failed ({making.line_of(error)}). There is no picture. "
                "Install what it needs, or choose another --env.image-key"
            ) from error
    if config.image_key:
        return _at(config.image_key, observation, info)
    if not isinstance(observation, Mapping):
        return observation if hasattr(observation, "ndim") and observation.ndim >= 3 else None
    return next((observation[key] for key in _IMAGE_KEYS if observation.get(key) is not None), None)


def _at(key: str, observation: Any, info: Mapping[str, Any]) -> Any:
    place, _, path = key.partition(":")
    if path and place in ("info", "observation"):
        return find(info if place == "info" else observation, path)
    return find(observation, key)


def state_of(config: GymnasiumConfig, observation: Any, info: Mapping[str, Any]) -> np.ndarray | None:
    """Proprioception float32 [s], or None.

    Raises:
        InputError: the described one is missing or no vector.
    """
    if config.state_key == NONE:
        return None
    value = _at(config.state_key or STATE, observation, info) if isinstance(observation, Mapping) else None
    if value is None:
        if config.state_key and ":" not in config.state_key and not isinstance(observation, Mapping):
            return None
        return None
    return as_state(value, f"environment '{config.name}': {config.state_key or STATE}")


def success_of(config: GymnasiumConfig, info: Mapping[str, Any], terminated: bool) -> bool | None:
    """Success that the environment reports; None if it is unknown."""
    if config.success_key == _TERMINATED:
        return terminated
    keys = (config.success_key,) if config.success_key else SUCCESS_KEYS
    return next((as_success(find(info, key)) for key in keys if find(info, key) is not None), None)


def sentences_of(
    config: GymnasiumConfig, raw: Any, task: str, observation: Any, info: Mapping[str, Any]
) -> tuple[str, ...]:
    """Sentences of a task: the described ones, else those of the environment; empty if there are none."""
    place, colon, name = config.instruction.partition(":")
    if task in config.sentences:
        return as_sentences(config.sentences[task])
    if config.instruction and not (colon and place in ("attribute", "method", "observation", "info")):
        return as_sentences(config.instruction)
    if config.instruction:
        value = (
            making.member(raw, name) if place in ("attribute", "method") else _at(config.instruction, observation, info)
        )
        return as_sentences(value() if place == "method" and callable(value) else value)
    ways: list[Callable[[], Any]] = [
        lambda: _called(making.member(raw, "instructions"), task),
        lambda: making.member(raw, "task_description"),
        lambda: _called(making.member(raw, "get_language_instruction")),
        *(functools.partial(find, observation, key) for key in _INSTRUCTION_KEYS if isinstance(observation, Mapping)),
    ]
    return next((sentences for way in ways if (sentences := as_sentences(way()))), ())


def _called(function: Any, *arguments: Any) -> Any:
    return function(*arguments) if callable(function) else None
