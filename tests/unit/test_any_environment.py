"""Any Gymnasium environment: descriptions, references, frames, success, early ends; no process, no GL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import other_environments as other
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

import worldgymnast as wg
from worldgymnast import environments
from worldgymnast.configs import from_dict, to_dict
from worldgymnast.envs import making
from worldgymnast.envs.described import steps_until_truncated
from worldgymnast.envs.description import GymnasiumConfig, make_raw
from worldgymnast.envs.making import MANISKILL
from worldgymnast.envs.observing import as_frame
from worldgymnast.envs.references import PREFIXES
from worldgymnast.errors import InputError
from worldgymnast.protocols import frame_size
from worldgymnast.recipes.dyna import DynaConfig
from worldgymnast.recipes.quickstart import QuickstartConfig
from worldgymnast.testing import ContractError, check_environment, inspect_environment

TWO = {"axes": ["x", "grip"]}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("lerobot", {"factory": "other_environments:LerobotCart", "adapter": "", "spec": TWO}),
    ("maniskill", {"factory": "other_environments:ManiskillCart", "imports": [], "spec": TWO}),
    (
        "stable-worldmodel",
        {"factory": "other_environments:StableCart", "imports": [], "instruction": "drive to the right", "spec": TWO},
    ),
    ("rlinf", {"factory": "other_environments:RlinfCart", "spec": TWO}),
    ("inspect-robots", {"factory": "other_environments:Embodiment"}),
]


def described(word: str, fields: dict[str, Any]) -> wg.RealEnvironment:
    return environments.environment(from_dict(GymnasiumConfig, {**PREFIXES[word], **fields}, word))


def drive(env: wg.RealEnvironment, forward: float, looks: int = 6) -> dict[str, Any]:
    vector = env.vector(1, 2, horizon=2 * looks)
    vector.reset(options={"starts": env.layouts(1, 3)[:1]})
    info: dict[str, Any] = {}
    frames = []
    for look in range(looks):
        _, _, terminated, truncated, info = vector.step(np.full((1, 2, 2), [forward, 0], np.float32))
        frames.append(info["frames"][0])
        assert bool(terminated[0] or truncated[0]) == (look == looks - 1)
    vector.close()
    return info | {"all": np.concatenate(frames)}


@pytest.mark.parametrize(("word", "fields"), ROWS, ids=[word for word, _ in ROWS])
def test_other_libraries_environments(word: str, fields: dict[str, Any]) -> None:
    env = described(word, fields)
    assert list(env.instructions(env.tasks[0])) == ["drive to the right"]
    assert env.action_spec.rate == 5
    check_environment(env, rows=1)
    arrived, stayed = drive(env, 1.0), drive(env, 0.0)
    assert (arrived["score"][0], stayed["score"][0]) == (1, 0)
    assert arrived["success_frame"][0] > 0
    assert stayed["executed"][0] == 12


def test_an_episode_that_ends_keeps_its_last_frame_and_is_not_stepped() -> None:
    info = drive(wg.environment(other.Cart, kwargs={}).__class__(GymnasiumConfig(), lambda: other.Cart(ends=True)), 1.0)
    executed = int(info["executed"][0])
    assert 2 < executed < 12
    assert info["score"][0] == 1
    assert (info["all"][executed - 1 :] == info["all"][-1]).all()


class Unsure(other.Cart):
    def told(self) -> dict[str, Any]:
        return {"success": None}


def test_unknown_success_is_no_failure() -> None:
    info = drive(wg.environment(Unsure), 1.0)
    assert np.isnan(info["score"][0])
    assert np.isnan(info["probability"][0])


def test_two_cameras_are_tiled_and_one_is_chosen() -> None:
    both = described("lerobot", ROWS[0][1])
    assert both.cameras == {"front": (16, 24), "wrist": (16, 24)}
    assert frame_size(both) == (16, 48)
    assert described("lerobot", ROWS[0][1] | {"cameras": ["wrist"], "size": 32}).cameras == {"wrist": (32, 32)}
    assert described("lerobot", ROWS[0][1] | {"image_key": "pixels.front"}).cameras == {"image": (16, 24)}


@pytest.mark.parametrize(
    "value",
    [
        np.full((8, 6, 3), 0.5),
        torch.full((1, 3, 8, 6), 0.5),
        np.full((1, 8, 6, 3), 128, np.int64),
        np.full((8, 6), 128, np.uint8),
        np.concatenate([np.full((8, 6, 3), 128, np.uint8), np.full((8, 6, 1), 255, np.uint8)], -1),
    ],
)
def test_pictures_that_are_converted(value: Any) -> None:
    frame = as_frame(value, "image")
    assert (frame.shape, frame.dtype) == ((8, 6, 3), np.uint8)
    assert (frame == 128).all()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.full((8, 6, 3), -0.5), "down to -0.5"),
        (np.zeros((4, 8, 6, 3), np.uint8), "a batch of 4 pictures"),
        (np.full((8, 6, 1), 5000, np.uint16), "depth map"),
        (np.zeros((8, 6, 5), np.uint8), "expected a picture"),
        ({"a": 1}, "expected a picture"),
    ],
)
def test_pictures_that_are_refused(value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        as_frame(value, "image")
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- references and files


def test_references(tmp_path: Path) -> None:
    assert environments.environment("metaworld") == environments.environment(environments.DEFAULT_ENVIRONMENT)
    file = tmp_path / "cart.json"
    file.write_text(json.dumps({"kind": "Gymnasium", "factory": "other_environments:Cart", "size": 32}))
    assert environments.environment_config(file, horizon=8).horizon == 8
    assert frame_size(environments.environment(str(file))) == (32, 32)
    limited = environments.environment(environments.environment_config("gym:other/Cart-v0"))
    assert limited.horizon == 12


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("metawrold", "did you mean 'metaworld'"),
        ("gym:No/Such-v0", "Check the id"),
        ("no_such_module_at_all:make", "no kind of environment"),
        ("other_environments:Missing", "has no 'Missing'"),
        ("lerobot:pusht", "lerobot is not installed"),
        ("maniskill:PickCube-v1", "mani_skill.envs is not installed"),
    ],
)
def test_what_is_not_there_is_one_line(reference: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        _ = environments.environment(reference).tasks
    assert "\n" not in str(refusal.value)


def test_a_factory_may_give_a_real_environment() -> None:
    assert environments.environment("foreign:Light").tasks == ("light",)


def test_metaworld_configs_are_written_as_before() -> None:
    plain = {"tasks", "size", "hold", "horizon", "distractors"}
    assert set(to_dict(QuickstartConfig())["env"]) == plain
    assert set(environments.environment_dict(environments.DEFAULT_ENVIRONMENT)) == plain
    cart = environments.environment_config("other_environments:Cart")
    stored = to_dict(QuickstartConfig(env=cart))
    assert stored["env"]["kind"] == "GymnasiumConfig"
    assert from_dict(QuickstartConfig, stored, "config.json").env == cart
    assert from_dict(QuickstartConfig, {"env": {"hold": 4}}, "config.json").env.action_spec.rate == 20


def test_the_tasks_of_the_environment_count_in_a_budget() -> None:
    assert DynaConfig(env=environments.environment_config("other_environments:Cart")).tested == 3 * 16 * 2


# ---------------------------------------------------------------- check


class Broken(other.Bare):
    def observed(self) -> Any:
        return {"rgb": self.picture(), "state": np.array([np.nan])}

    def told(self) -> dict[str, Any]:
        return {"won": self.is_there}


class Restless(other.Cart):
    action_spec: Any = other.SPEC | {"low": [-2, -2], "high": [2, 2]}
    horizon = 25

    def instructions(self, task: str) -> list[str]:
        return [" "]

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=None, options=options)

    def step(self, action: Any) -> Any:
        return self.observed(), 0.0, True, False, {"success": False}


class Late(other.Cart):
    """Its reset gives the picture before it."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        before = self.picture()
        observed, info = super().reset(seed=seed, options=options)
        return observed | {"image": before}, info


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Broken, ["has no action_spec", "found no picture, only rgb, state", "NaN", "no instruction", "no 'success'"]),
        (Restless, ["action bounds", "'right' has no instruction", "'left' has no", "horizon: 25", "terminated"]),
        (Late, ["the last one of the episode before"]),
    ],
)
def test_every_problem_is_said_at_once(kind: type[Any], said: list[str]) -> None:
    problems = inspect_environment(wg.environment(kind), rows=1).problems
    assert all("\n" not in problem for problem in problems)
    assert not [text for text in said if not any(text in problem for problem in problems)], problems
    with pytest.raises(ContractError, match=r"action_spec|action bounds|episode before"):
        check_environment(wg.environment(kind), rows=1)


class FailsInStep(other.Cart):
    def step(self, action: Any) -> Any:
        raise ValueError("no answer\nfrom the arm")


class FailsInMotion(other.Cart):
    """Zeros, with which success is looked for, are no motion."""

    def step(self, action: Any) -> Any:
        if np.any(action):
            raise ValueError("no answer\nfrom the arm")
        return super().step(action)


class FailsInReset(other.Cart):
    resets = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.resets += 1
        if self.resets > 2:
            raise RuntimeError("the gripper is stuck")
        return super().reset(seed=seed, options=options)


class FailsInRender(other.Bare):
    action_spec: Any = other.SPEC

    def render(self) -> Any:
        raise ImportError("pygame is not installed")


@pytest.mark.parametrize(
    ("kind", "image_key", "said"),
    [
        (FailsInStep, "", "step: ValueError: no answer from the arm (test_any_environment.py:"),
        (FailsInMotion, "", "episode: ValueError: no answer from the arm (test_any_environment.py:"),
        (FailsInReset, "", "failed (RuntimeError: the gripper is stuck)"),
        (FailsInRender, "render", "render() failed (ImportError: pygame is not installed)"),
    ],
)
def test_an_environment_that_raises_is_a_problem(kind: type[Any], image_key: str, said: str) -> None:
    problems = inspect_environment(wg.environment(kind, image_key=image_key), rows=1).problems
    assert [problem for problem in problems if said in problem], problems
    assert all("\n" not in problem for problem in problems)


def test_what_was_found_is_told() -> None:
    found = inspect_environment(wg.environment(other.Cart), rows=1).found
    assert "16x24" in found["cameras"]
    assert "drive to the left" in found["tasks"]
    assert found["expert"] == "yes"


def test_maniskill_has_defaults_that_single_arguments_override(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def make(render_mode: str | None = None, **kwargs: Any) -> Any:
        given.update(kwargs)
        return other.ManiskillCart(render_mode)

    monkeypatch.setitem(gym.registry, "Maniskill-v0", EnvSpec("Maniskill-v0", make))
    config = environments.environment_config("maniskill:Maniskill-v0", imports=(), kwargs={"num_envs": 3})
    make_raw(config).close()
    assert given == {**MANISKILL, "num_envs": 3}


@pytest.mark.parametrize(("hold", "limit"), [(1, 12), (3, 4)])
def test_a_horizon_beyond_the_time_limit_is_a_problem(hold: int, limit: int) -> None:
    fields = {"spec": other.SPEC, "hold": hold}
    longer = wg.environment("gym:other/Cart-v0", horizon=limit + 1, **fields)
    (problem,) = [one for one in inspect_environment(longer, rows=1).problems if "time limit" in one]
    assert f"--env.horizon {limit}," in problem
    assert f'"max_episode_steps": {hold * (limit + 1)}' in problem
    assert not inspect_environment(wg.environment("gym:other/Cart-v0", horizon=limit, **fields), rows=1).problems


def test_a_wrapper_may_keep_the_time_limit() -> None:
    class Limit(gym.Wrapper[Any, Any, Any, Any]):
        _max_episode_steps = 50

    assert steps_until_truncated(Limit(other.Cart())) == 50
    assert steps_until_truncated(other.Cart()) == 0


def test_a_renderer_without_vulkan_says_what_it_needs() -> None:
    def make() -> Any:
        raise RuntimeError('Failed to find a supported physical device "cpu"')

    with pytest.raises(InputError, match="needs Vulkan"):
        making.call(make, {}, "maniskill:PickCube-v1")
