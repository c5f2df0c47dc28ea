"""Making one environment of another library from a `GymnasiumConfig`'s fields."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from worldgymnast.errors import InputError

_IMAGES = {"render_mode": "rgb_array"}
_NO_VULKAN = ("supported physical device", "rendering device", "vk::")
"""Parts of SAPIEN's errors where there is no Vulkan device that it can use."""
_OPERATOR = "operator_end"
"""inspect-robots' reason for an episode that a person ended and that waits for a verdict."""


def member(env: Any, name: str) -> Any:
    """Member of an environment or of what it wraps; None if there is none.

    >>> member(gym.make("CartPole-v1"), "theta_threshold_radians") is None
    False
    """
    for one in (env, getattr(env, "unwrapped", None)):
        if one is not None and hasattr(one, name):
            return getattr(one, name)
    if isinstance(env, gym.Wrapper) and env.has_wrapper_attr(name):
        return env.get_wrapper_attr(name)
    return None


def make_gym(name: str, kwargs: Mapping[str, Any], renders: bool, word: str = "gym") -> Any:
    """Make a registered Gymnasium environment.

    Args:
        name: its id; of "package/Name-v0" the package is imported, as "package:id" of Gymnasium does.
        kwargs: of `gym.make`.
        renders: ask for `env.render()` to return pictures.
        word: its library in references, for messages.

    Raises:
        InputError: there is no such environment, or it cannot be made.
    """
    arguments = {**(_IMAGES if renders else {}), **kwargs}
    package = name.partition("/")[0]
    if "/" in name and name not in gym.registry and ":" not in name:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(package.replace("-", "_"))
    try:
        return gym.make(name, disable_env_checker=True, **arguments)
    except gym.error.Error as error:
        raise InputError(
            f"environment '{word}:{name}': {line_of(error)}. Check the id, and install its package"
        ) from error
    except Exception as error:  # a constructor can raise anything
        raise InputError(f"environment '{word}:{name}': cannot be made ({line_of(error)}). {_advice(error)}") from error


def make_from_factory(factory: str, kwargs: Mapping[str, Any]) -> Any:
    """Call `module:function` or instantiate `module:Class`.

    Raises:
        InputError: it cannot be imported or called.
    """
    return call(find_factory(factory), kwargs, factory)


def find_factory(factory: str) -> Callable[..., Any]:
    """Import `module:function`; the current folder counts as an import path.

    Raises:
        InputError: there is no such function.
    """
    module, _, name = factory.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    also = f", and '{module}' is no kind of environment here"
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise InputError(f"environment '{factory}': module '{module}' needs '{error.name}'. Install it") from error
        raise InputError(
            f"environment '{factory}': found no module '{module}'{also}. Run in its folder, or install its package"
        ) from error
    except Exception as error:  # an import can raise anything
        raise InputError(f"environment '{factory}': module '{module}' cannot be imported ({line_of(error)})") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"environment '{factory}': module '{module}' has no '{name}'{also}. Check the name")
        found = getattr(found, part)
    return found


def call(factory: Callable[..., Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """Call a factory; what it raises becomes one line."""
    try:
        return factory(**kwargs)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"environment '{name}': cannot be made ({line_of(error)}). {_advice(error)}") from error


def _advice(error: Exception) -> str:
    if any(sign in str(error) for sign in _NO_VULKAN):
        return "Its renderer needs Vulkan: a GPU's driver, or Mesa's lavapipe (docs/how-to/environments.md, ManiSkill)"
    return "Correct the environment, or its arguments (--env.kwargs)"


def line_of(error: Exception) -> str:
    """Return the kind and the message of an error as one line of at most 300 characters."""
    message = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {message}"[:300].rstrip(".")


# ---------------------------------------------------------------- maniskill

MANISKILL: Mapping[str, Any] = {
    "obs_mode": "rgb",
    "num_envs": 1,
    "sim_backend": "physx_cpu",
    "render_backend": "cpu",
    "control_mode": "pd_ee_delta_pose",
}
"""Keyword arguments of ManiSkill's environments, unless others are given."""


def make_maniskill(name: str, kwargs: Mapping[str, Any]) -> Any:
    """Make one environment of ManiSkill on the CPU.

    Args:
        name: its id, such as "PickCube-v1".
        kwargs: of `gym.make`; they override those of `MANISKILL`.

    Raises:
        InputError: it cannot be made.
    """
    return make_gym(name, {**MANISKILL, **kwargs}, renders=False, word="maniskill")


# ---------------------------------------------------------------- lerobot


def make_lerobot(kind: str, kwargs: Mapping[str, Any]) -> Any:
    """Make a single environment of lerobot's config TYPE, such as "pusht" or "aloha".

    Raises:
        InputError: lerobot is not installed, or does not know the type.
    """
    try:
        factory: Any = importlib.import_module("lerobot.envs.factory")
    except ImportError as error:
        raise InputError(
            f"environment 'lerobot:{kind}': lerobot is not installed ({line_of(error)}). Install lerobot with the "
            f"extra of this environment: pip install 'lerobot[{kind}]'"
        ) from error
    try:
        config = factory.make_env_config(kind, **kwargs)
    except Exception as error:
        raise InputError(f"environment 'lerobot:{kind}': {line_of(error)}. Give a type that lerobot knows") from error
    package = getattr(config, "package_name", f"gym_{kind}")
    name = getattr(config, "gym_id", None) or f"{package}/{config.task}"
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"environment 'lerobot:{kind}': {package} is not installed. pip install 'lerobot[{kind}]'"
        ) from error
    env = make_gym(name, dict(getattr(config, "gym_kwargs", None) or {}), renders=False)
    if (fps := getattr(config, "fps", None)) and "render_fps" not in env.metadata:
        env.metadata = {**env.metadata, "render_fps": fps}
    return env


# ---------------------------------------------------------------- inspect-robots


class EmbodimentEnv(gym.Env[Any, Any]):
    """Gymnasium environment over an embodiment of inspect-robots.

    The layout comes from the scene (`Scene.init_seed`), not from the seed of `reset`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's contract

    def __init__(self, embodiment: Any):
        self.embodiment = embodiment
        info = getattr(embodiment, "info", None)
        box: Any = getattr(embodiment, "action_space", None) or getattr(info, "action_space", None)
        low, high = np.asarray(box.low, np.float32), np.asarray(box.high, np.float32)
        self.action_space = gym.spaces.Box(low, high, low.shape, np.float32)
        self.observation_space = gym.spaces.Dict({})
        self.action_spec = semantics_spec(box, low, high, getattr(info, "control_hz", None))
        self.instruction = ""
        self._types: Any = _inspect_types()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset to a scene whose `init_seed` is the seed."""
        del options
        fields = {"instruction": self.instruction, "init_seed": seed}
        scene = fitted(self._types.Scene, fields | {"id": f"layout-{seed}"})
        return _observed(self.embodiment.reset(scene, seed=seed)), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action."""
        data = np.asarray(action, np.float64)
        result = self.embodiment.step(fitted(self._types.Action, {"data": data, "values": data, "action": data}))
        info = dict(getattr(result, "info", None) or {})
        is_over = bool(result.terminated or result.truncated)
        reason = None if result.termination_reason == _OPERATOR else result.termination_reason
        info.setdefault("success", reason if is_over else False)
        reward = float(result.reward or 0.0)
        return _observed(result.observation), reward, bool(result.terminated), bool(result.truncated), info

    def close(self) -> None:
        """Close the embodiment."""
        if hasattr(self.embodiment, "close"):
            self.embodiment.close()


def make_embodiment(name: str, factory: str, kwargs: Mapping[str, Any]) -> EmbodimentEnv:
    """Make an embodiment from `module:factory`, or from its entry point in `inspect_robots.embodiments`."""
    if factory:
        return EmbodimentEnv(make_from_factory(factory, kwargs))
    entries = {one.name: one for one in importlib.metadata.entry_points(group="inspect_robots.embodiments")}
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise InputError(
            f"environment 'inspect-robots:{name}': no installed package offers this embodiment (installed: {known}). "
            "Install it, or give inspect-robots:module:factory"
        )
    return EmbodimentEnv(call(entries[name].load(), kwargs, name))


def _inspect_types() -> Any:
    """inspect-robots' own types where it is installed, else records with the same fields."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("inspect_robots")
    return types.SimpleNamespace(Scene=types.SimpleNamespace, Action=types.SimpleNamespace)


def fitted(kind: Callable[..., Any], fields: Mapping[str, Any]) -> Any:
    """Build a record of those `fields` that it has."""
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return kind(**fields)
    if any(one.kind == one.VAR_KEYWORD for one in parameters.values()):
        return kind(**fields)
    return kind(**{name: value for name, value in fields.items() if name in parameters})


def _observed(observation: Any) -> dict[str, Any]:
    names = ("images", "state", "instruction")
    return {name: getattr(observation, name) for name in names if getattr(observation, name, None) is not None}


def semantics_spec(box: Any, low: np.ndarray, high: np.ndarray, rate: float | None) -> dict[str, Any] | None:
    """Action spec of a box with inspect-robots' `ActionSemantics`; None without labels of the axes."""
    semantics = getattr(box, "semantics", None)
    labels = getattr(semantics, "dim_labels", None)
    if not labels:
        return None
    mode = str(getattr(semantics, "control_mode", "")).lower()
    spec: dict[str, Any] = {"axes": list(labels), "low": low.tolist(), "high": high.tolist()}
    if rate:
        spec["rate"] = float(rate)
    spec["motion"] = next((word for word in ("delta", "absolute") if word in mode), "unknown")
    spec["space"] = "joint" if "joint" in mode else "cartesian" if "ee" in mode or "cart" in mode else "unknown"
    return spec
