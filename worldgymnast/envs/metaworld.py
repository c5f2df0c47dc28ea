"""Meta-World v3 (MuJoCo) as the real robot: image and instruction in, end-effector action out.

Physics, success signal and scripted experts are Meta-World's (Yu et al. 2019, arXiv 1910.10897; v3 by the Farama
Foundation). One environment step is one decision: the action is held for `hold` control steps of 1/80 s. The camera has
the usual viewpoint but is closer, so one pixel is under a centimeter and contact is visible. The green goal marker,
which no real scene has, is hidden. Not supported: proprioception, dense rewards, more than one camera.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import os
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from worldgymnast.actions import ActionSpec, metaworld_spec
from worldgymnast.configs import Between, NonEmpty, Once, Positive, checked
from worldgymnast.envs.clutter import Clutter
from worldgymnast.envs.layouts import PhotographsLayouts
from worldgymnast.envs.wrappers import vectorize
from worldgymnast.errors import FieldError, InputError
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.protocols import ComponentInfo
from worldgymnast.types import IMAGE
from worldgymnast.weights import fingerprint

SUITE = ("drawer-open", "drawer-close", "button-press", "plate-slide", "window-open", "door-close")
"""Tasks of the default suite, which has demonstrations."""
EXTRA_TASKS = ("handle-press", "window-close", "faucet-close", "button-press-topdown")
"""Additional tasks for a policy trained on the suite; learned from play data, without demonstrations."""

INSTALL = "pip install -c constraints.txt -e '.[metaworld]'"
GL_INSTALL = "apt-get install -y libegl1 libgl1-mesa-dri"

_CAMERA_POSITION = (0.9, -0.05, 0.75)
_CAMERA_TARGET = (-0.02, 0.68, 0.11)
_CAMERA_FIELD_OF_VIEW = 35.0
CAMERA = "corner2"
_SUPERSAMPLING = 2


@checked
class MetaWorldConfig:
    """Meta-World, the simulator that takes the place of the real robot unless --env chooses another.

    Attributes:
        tasks: Meta-World task names without the version, such as "drawer-open".
        size: height and width of the square frame, in pixels.
        hold: control steps of 1/80 s for which one action is held.
        horizon: decisions in an episode.
        distractors: number of movable objects unrelated to the task; their shapes and positions differ per layout.
    """

    tasks: Annotated[tuple[str, ...], NonEmpty, Once] = SUITE
    size: Annotated[int, Between(16, 2048)] = 64
    hold: Positive = 6
    horizon: Positive = 24
    distractors: Annotated[int, Between(0, 5)] = 0

    @property
    def action_spec(self) -> ActionSpec:
        """Action spec of the environment."""
        return metaworld_spec(self.hold)


def instructions(task: str) -> tuple[str, ...]:
    """Sentences of a task.

    The only sentence of an unknown task is its name.

    >>> instructions("drawer-open")[0], instructions("hand-insert")
    ('open the drawer', ('hand insert',))
    """
    return INSTRUCTIONS.get(task, (task.replace("-", " "),))


def check_tasks(tasks: tuple[str, ...]) -> None:
    """Raise InputError, with the nearest known name, for a task that Meta-World does not have."""
    _prepare_gl()
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    except ModuleNotFoundError as error:
        raise InputError(f"Meta-World is not installed (no module '{error.name}'). Run: {INSTALL}") from error
    except Exception as error:  # mujoco and PyOpenGL raise many types
        raise _gl_error(error) from error

    known = [name.removesuffix("-v3-goal-observable") for name in ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE]
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=1, cutoff=0.0)
            raise FieldError("tasks", f"found '{task}', expected a Meta-World task; did you mean '{near[0]}'?")


def _prepare_gl() -> None:
    """Select EGL and import triton, before importing mujoco reads MUJOCO_GL and loads GL.

    Mesa's software GL and triton (part of CUDA builds of torch) each load an LLVM. Importing triton after Mesa crashes
    the process, which torch does with the first optimizer. Importing it before Mesa works.
    """
    if not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = "egl"
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


def _gl_error(error: Exception) -> InputError:
    """Explain how to fix missing rendering."""
    backend = os.environ.get("MUJOCO_GL", "")
    if backend == "egl":
        return InputError(f"no software GL to render with (MUJOCO_GL=egl): {error}. Run: {GL_INSTALL}")
    return InputError(f"MUJOCO_GL: found '{backend}', expected egl, or osmesa with its library. Unset it ({error})")


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation matrix [3 3] of a camera that looks at `target`.

    Columns are right, up, backward.
    """
    backward = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(backward, right), backward], axis=1)


class _Scene:
    """Physics, expert and renderer of one task."""

    def __init__(self, task: str, size: int, distractors: int = 0):
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        from metaworld.policies import ENV_POLICY_MAP

        mj: Any = mujoco  # its extension modules carry no type stubs
        make: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"]
        self.env: Any = make(seed=0)
        self.env._freeze_rand_vec = False
        self.env.seeded_rand_vec = True
        self._clutter = Clutter(self.env, distractors) if distractors else None
        self.expert = ENV_POLICY_MAP[f"{task}-v3"]()
        model = self.env.model
        camera = model.camera(CAMERA).id
        position, target = np.array(_CAMERA_POSITION), np.array(_CAMERA_TARGET)
        model.cam_pos[camera] = position
        mj.mju_mat2Quat(model.cam_quat[camera], look_at(position, target).flatten())
        model.cam_fovy[camera] = _CAMERA_FIELD_OF_VIEW
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        self._options = mj.MjvOption()
        self._options.sitegroup[:] = 0
        self._mujoco = mj
        try:
            self._renderer = mj.Renderer(model, size * _SUPERSAMPLING, size * _SUPERSAMPLING)
        except Exception as error:
            for name in ("_gl_context", "_mjr_context"):  # missing ones would make __del__ print a traceback
                setattr(mujoco.Renderer, name, getattr(mujoco.Renderer, name, None))
            raise _gl_error(error) from error

    def reset(self, layout: int) -> np.ndarray:
        """Reset the scene to `layout`; returns Meta-World's state.

        Meta-World resets a scene twice and moves some objects (drawer, window) at the end without recomputing anything.
        Until the first step, frame and state would show them up to 20 cm off. So this method recomputes the physics and
        reads the state again.
        """
        self.env.seed(layout)
        self.env.reset()
        if self._clutter is not None:
            self._clutter.place(layout)
        self._mujoco.mj_forward(self.env.model, self.env.data)
        state = self.env._get_obs()
        state[18:36] = state[:18]  # as in Meta-World's `reset`: the previous frame equals the current one
        return state

    def render(self) -> np.ndarray:
        renderer, flag = self._renderer, self._mujoco.mjtRndFlag
        renderer.update_scene(self.env.data, CAMERA, self._options)
        renderer.scene.flags[flag.mjRND_SHADOW] = 0
        renderer.scene.flags[flag.mjRND_REFLECTION] = 0
        fine = renderer.render()
        size = fine.shape[0] // _SUPERSAMPLING
        blocks = fine.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3).astype(np.uint16)
        return ((blocks.sum((1, 3)) + _SUPERSAMPLING**2 // 2) // _SUPERSAMPLING**2).astype(np.uint8)

    def close(self) -> None:
        self._renderer.close()


class MetaWorldEnv(gym.Env[dict[str, Any], np.ndarray]):
    """Gymnasium environment over the tasks of a `MetaWorldConfig`.

    Observation: {"image": uint8 [h w 3], "instruction": str}. Action: float32 [4] in [-1, 1] (`metaworld_spec`).
    Reward: 1.0 at the first decision that succeeds, else 0. Success never sets `terminated`: episodes continue to the
    horizon (`truncated`), and `info["success"]` tells whether the task is accomplished at this frame.

    `reset(seed=LAYOUT, options={"task": NAME})`: the seed alone determines the layout; without a task one is sampled.

    Args:
        config: the tasks.
        every: render only after every `every` decisions. Rendering takes most of the time; the image stays in between.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's contract
    render_mode = "rgb_array"

    def __init__(self, config: MetaWorldConfig | None = None, every: int = 1):
        self.config, self.every = config or MetaWorldConfig(), every
        check_tasks(self.config.tasks)
        size = self.config.size
        self.action_spec = self.config.action_spec
        self.observation_space = gym.spaces.Dict(
            {
                "image": gym.spaces.Box(0, 255, (size, size, 3), np.uint8),
                "instruction": gym.spaces.Text(200, charset=frozenset(map(chr, range(32, 127)))),
            }
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.action_spec.dim,), np.float32)
        self._scenes: dict[str, _Scene] = {}
        self._task = self.config.tasks[0]
        self._state, self._dense = np.zeros(39), 0.0
        self._decisions = 0
        self._image = np.zeros((size, size, 3), np.uint8)
        self._succeeded = False

    @property
    def _scene(self) -> _Scene:
        if self._task not in self._scenes:
            self._scenes[self._task] = _Scene(self._task, self.config.size, self.config.distractors)
        return self._scenes[self._task]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset the scene.

        The same task and seed always give the same scene.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if task is None:
            task = self.config.tasks[int(self.np_random.integers(len(self.config.tasks)))]
        if task not in self.config.tasks:
            check_tasks((task,))
        self._task = task
        layout = int(self.np_random.integers(2**31)) if seed is None else seed
        self._state = self._reset_scene(layout)
        self._decisions, self._succeeded = 0, False
        self._image = self._scene.render()
        return self._observation(), {"success": False, "task": task, "layout": layout}

    def _observation(self) -> dict[str, Any]:
        return {"image": self._image, "instruction": instructions(self._task)[0]}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Hold `action` for `hold` control steps and render the result."""
        self.action_spec.check(action, "MetaWorldEnv.step")
        success = False
        for _ in range(self.config.hold):
            success = self._control(np.asarray(action, np.float64)) or success
        self._decisions += 1
        if self._decisions % self.every == 0:
            self._image = self._scene.render()
        reward = float(success and not self._succeeded)
        self._succeeded = self._succeeded or success
        truncated = self._decisions >= self.config.horizon
        return self._observation(), reward, False, truncated, {"success": success}

    def _reset_scene(self, layout: int) -> np.ndarray:
        """Reset the scene of the current task; returns Meta-World's state."""
        return self._scene.reset(layout)

    def _control(self, action: np.ndarray) -> bool:
        """Execute one control step of 1/80 s.

        Returns whether the task is accomplished.
        """
        self.env.curr_path_length = 0  # this class counts the horizon, in decisions
        self._state, self._dense, _, _, info = self.env.step(action)
        return bool(info["success"])

    @property
    def env(self) -> Any:
        """Meta-World's own environment of the current task."""
        return self._scene.env

    def expert_action(self) -> np.ndarray:
        """Action of Meta-World's scripted expert: float32 [4], clipped to [-1, 1]."""
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action = self._scene.expert.get_action(self._state)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Newest frame, uint8 [h w 3]."""
        return self._image

    def close(self) -> None:
        """Free every renderer; otherwise EGL reports errors at exit."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()


@dataclass(frozen=True)
class MetaWorld(PhotographsLayouts):
    """Meta-World as a `RealEnvironment`.

    Args:
        config: tasks, frame size, how long an action is held, and the horizon.
    """

    config_type: ClassVar[type] = MetaWorldConfig
    config: MetaWorldConfig = MetaWorldConfig()

    @classmethod
    def from_config(cls, config: MetaWorldConfig, info: ComponentInfo) -> MetaWorld:
        """Build the environment from its config."""
        del info
        return cls(config)

    @property
    def identity(self) -> str:
        """Hash of the config."""
        return fingerprint(["MetaWorld", asdict(self.config)])

    @property
    def action_spec(self) -> ActionSpec:
        """Action spec; its rate is the frames per second."""
        return self.config.action_spec

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names."""
        return self.config.tasks

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Height and width of the frames per camera."""
        return {IMAGE: (self.config.size, self.config.size)}

    @property
    def horizon(self) -> int:
        """Actions in an episode."""
        return self.config.horizon

    def check(self) -> None:
        """Raise InputError if Meta-World is not installed, cannot render, or does not have one of the tasks."""
        check_tasks(self.config.tasks)

    def instructions(self, task: str) -> tuple[str, ...]:
        """Sentences of a task, the instruction first."""
        return instructions(task)

    def vector(self, rows: int, chunk: int, *, horizon: int, keyframes_only: bool = False) -> VectorEnv[Any, Any, Any]:
        """Vector environment with one process per row; see `envs.wrappers`."""
        config, every = replace(self.config, horizon=horizon), chunk if keyframes_only else 1
        return vectorize(functools.partial(MetaWorldEnv, config, every), rows, chunk)

    def open(self) -> MetaWorldEnv:
        """Single environment with the scripted expert."""
        return MetaWorldEnv(self.config)
