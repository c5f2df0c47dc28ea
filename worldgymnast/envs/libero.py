"""LIBERO (Franka Panda in MuJoCo) as the real robot: image, proprioception and instruction in, hand motion out.

Tasks, success signal and standard initial states are LIBERO's (Liu et al. 2023, arXiv 2306.03310). One environment step
is one decision: the action is held for `hold` control steps of 1/20 s. Layouts 0 to 49 are the benchmark's initial
states: `SCORING_LAYOUTS` are for scores during training, `EVALUATION_LAYOUTS` for the final evaluation alone. Layouts
from 50 on are random placements in the regions of the task, drawn from the layout's number, for everything else. See
docs/how-to/libero.md.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from worldgymnast.actions import ActionSpec, libero_spec
from worldgymnast.configs import Between, NonEmpty, Once, Positive, checked
from worldgymnast.envs.layouts import PhotographsLayouts
from worldgymnast.envs.libero_expert import Expert
from worldgymnast.envs.libero_package import check_tasks, instructions, task_names
from worldgymnast.envs.libero_scene import STANDARD_LAYOUTS, LiberoScene
from worldgymnast.envs.wrappers import vectorize
from worldgymnast.protocols import ComponentInfo
from worldgymnast.tiling import Tiling
from worldgymnast.types import IMAGE
from worldgymnast.weights import fingerprint

DEFAULT_TASKS = ("cream-cheese", "salad-dressing", "ketchup", "butter", "milk", "orange-juice")
"""Default tasks of LIBERO-Object; the scripted expert does all ten of the suite."""
SCORING_LAYOUTS = range(25)
"""Standard initial states for scores during training."""
EVALUATION_LAYOUTS = range(25, STANDARD_LAYOUTS)
"""Standard initial states for the final evaluation; training never sees them."""
STATE_NAMES = ("x", "y", "z", "rx", "ry", "rz", "finger1", "finger2")
"""Proprioception as in LIBERO: hand position in meters, axis-angle in radians, finger joints in meters."""

Camera = Literal["agentview", "wrist"]


@checked
class LiberoConfig:
    """LIBERO, a simulator that takes the place of the real robot.

    Attributes:
        suite: name of the suite without "libero_": "object", "spatial", "goal", "10", "90" or one of LIBERO-PRO.
        tasks: short names of the tasks; none for the default ones of the suite.
        size: height and width of the square picture of each camera, in pixels.
        cameras: cameras whose pictures are the frame, from left to right.
        hold: control steps of 1/20 s for which one action is held; 1 in published work.
        horizon: decisions in an episode.
        view: "workspace" moves the agentview camera closer, so that objects are visible at 64 pixels; "agentview" is
            LIBERO's own picture, for published policies.
        mirror: flip pictures left to right. Published LIBERO policies saw the renderer's upside-down picture turned by
            180 degrees, which is upright but mirrored.
        settle: control steps without motion at the start, until the objects rest.
    """

    suite: str = "object"
    tasks: Annotated[tuple[str, ...], Once] = ()
    size: Annotated[int, Between(16, 2048)] = 64
    cameras: Annotated[tuple[Camera, ...], NonEmpty, Once] = ("agentview",)
    hold: Annotated[int, Between(1, 20)] = 4
    horizon: Positive = 40
    view: Literal["workspace", "agentview"] = "workspace"
    mirror: bool = False
    settle: Annotated[int, Between(0, 200)] = 10

    def __post_init__(self) -> None:
        if not self.tasks:
            names = DEFAULT_TASKS if self.suite == "object" else task_names(self.suite)
            object.__setattr__(self, "tasks", names)

    @classmethod
    def from_argument(cls, suite: str) -> LiberoConfig:
        """Config of a suite, as in `libero:spatial`."""
        return cls(suite=suite)

    def resized(self, size: tuple[int, int]) -> LiberoConfig:
        """Config with frames of that height and width, if the cameras' square pictures can have it."""
        return replace(self, size=size[0]) if size[1] == size[0] * len(self.cameras) else self

    @property
    def action_spec(self) -> ActionSpec:
        """Action spec of the environment."""
        return libero_spec(self.hold)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, with the pictures of all cameras."""
        return self.size, self.size * len(self.cameras)

    @property
    def tiling(self) -> Tiling:
        """Part of each camera in the frame."""
        return Tiling.side_by_side(dict.fromkeys(self.cameras, (self.size, self.size)))


def published_config(suite: str, tasks: tuple[str, ...] = (), horizon: int = 300) -> LiberoConfig:
    """Config with the conventions of published LIBERO policies such as OpenVLA-OFT.

    One action per control step, both cameras at 256 pixels, LIBERO's own view, pictures turned by 180 degrees.
    """
    return LiberoConfig(suite, tasks, 256, ("agentview", "wrist"), 1, horizon, "agentview", mirror=True)


class LiberoEnv(gym.Env[dict[str, Any], np.ndarray]):
    """Gymnasium environment over the tasks of a `LiberoConfig`.

    Observation: {"image": uint8 [h w 3], "state": float32 [8], "instruction": str}. Action: float32 [7] in [-1, 1]
    (`libero_spec`). Reward: 1.0 at the first decision that succeeds, else 0. Success never sets `terminated`: episodes
    continue to the horizon (`truncated`), and `info["success"]` tells whether the task is accomplished at this frame.

    `reset(seed=LAYOUT, options={"task": NAME})`: the seed alone determines the layout; without a task one is sampled.

    Args:
        config: the tasks.
        every: render only after every `every` decisions. Rendering takes half of the time; the image stays in between.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - Gymnasium's contract
    render_mode = "rgb_array"

    def __init__(self, config: LiberoConfig | None = None, every: int = 1):
        self.config, self.every = config or LiberoConfig(), every
        check_tasks(self.config.suite, self.config.tasks)
        self.action_spec = self.config.action_spec
        self.observation_space = gym.spaces.Dict(
            {
                "image": gym.spaces.Box(0, 255, (*self.config.frame_size, 3), np.uint8),
                "state": gym.spaces.Box(-np.inf, np.inf, (len(STATE_NAMES),), np.float32),
                "instruction": gym.spaces.Text(200, charset=frozenset(map(chr, range(32, 127)))),
            }
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.action_spec.dim,), np.float32)
        self._scenes: dict[str, LiberoScene] = {}
        self._task = self.config.tasks[0]
        self._decisions = 0
        self._image = np.zeros((*self.config.frame_size, 3), np.uint8)
        self._succeeded = False

    @property
    def scene(self) -> LiberoScene:
        """Simulator of the current task; built on first use, which takes seconds."""
        if self._task not in self._scenes:
            config = self.config
            is_near = config.view == "workspace"
            self._scenes[self._task] = LiberoScene(config.suite, self._task, config.size, is_near)
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
            check_tasks(self.config.suite, (task,))
        self._task = task
        layout = int(self.np_random.integers(STANDARD_LAYOUTS, 2**31)) if seed is None else seed
        self.scene.reset(layout, self.config.settle)
        self._decisions, self._succeeded = 0, False
        self._image = self._render()
        return self._observation(), {"success": False, "task": task, "layout": layout}

    def _observation(self) -> dict[str, Any]:
        sentence = instructions(self.config.suite, self._task)[0]
        return {"image": self._image, "state": self.scene.state(), "instruction": sentence}

    def _render(self) -> np.ndarray:
        pictures = [self.scene.render(camera) for camera in self.config.cameras]
        if self.config.mirror:
            pictures = [picture[:, ::-1] for picture in pictures]
        return np.ascontiguousarray(np.concatenate(pictures, axis=1))

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Hold `action` for `hold` control steps and render the result."""
        self.action_spec.check(action, "LiberoEnv.step")
        command, success = np.clip(np.asarray(action, np.float64), -1.0, 1.0), False
        for _ in range(self.config.hold):
            success = self.scene.control(command) or success
        self._decisions += 1
        if self._decisions % self.every == 0:
            self._image = self._render()
        reward = float(success and not self._succeeded)
        self._succeeded = self._succeeded or success
        truncated = self._decisions >= self.config.horizon
        return self._observation(), reward, False, truncated, {"success": success}

    def expert_action(self) -> np.ndarray:
        """Action of the scripted expert for the current poses: float32 [7] in [-1, 1].

        Raises:
            InputError: the task is no pick-and-place.
        """
        return Expert(self.scene, self.config.hold).action()

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Newest frame, uint8 [h w 3]."""
        return self._image

    def close(self) -> None:
        """Free every renderer; otherwise EGL reports errors at exit."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()


@dataclass(frozen=True)
class Libero(PhotographsLayouts):
    """LIBERO as a `RealEnvironment`.

    Args:
        config: suite, tasks, cameras, how long an action is held, and the horizon.
    """

    config_type: ClassVar[type] = LiberoConfig
    config: LiberoConfig = LiberoConfig()

    @classmethod
    def from_config(cls, config: LiberoConfig, info: ComponentInfo) -> Libero:
        """Build the environment from its config."""
        del info
        return cls(config)

    @property
    def identity(self) -> str:
        """Hash of the config."""
        return fingerprint(["Libero", asdict(self.config)])

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
        """Height and width of the frames."""
        return {IMAGE: self.config.frame_size}

    @property
    def horizon(self) -> int:
        """Actions in an episode."""
        return self.config.horizon

    @property
    def tiling(self) -> Tiling:
        """Part of each camera in the frame."""
        return self.config.tiling

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the numbers of the state."""
        return STATE_NAMES

    @property
    def scoring_layouts(self) -> range:
        """Standard initial states for scores during training."""
        return SCORING_LAYOUTS

    @property
    def evaluation_layouts(self) -> range:
        """Standard initial states for the final evaluation alone."""
        return EVALUATION_LAYOUTS

    @property
    def noise_scale(self) -> tuple[float, ...]:
        """Factor per axis of the noise on a recorded expert; so that noisy episodes succeed more often.

        Noise on the gripper, of which the sign alone counts, drops the object; turned hands miss it.
        """
        return (*(1.0,) * 3, *(0.4,) * 4)

    def check(self) -> None:
        """Raise InputError if LIBERO cannot run here, or a task is unknown."""
        check_tasks(self.config.suite, self.config.tasks)

    def instructions(self, task: str) -> tuple[str, ...]:
        """Sentences of a task, the instruction first."""
        return instructions(self.config.suite, task)

    def vector(self, rows: int, chunk: int, *, horizon: int, keyframes_only: bool = False) -> VectorEnv[Any, Any, Any]:
        """Vector environment with one process per row; see `envs.wrappers`."""
        config, every = replace(self.config, horizon=horizon), chunk if keyframes_only else 1
        return vectorize(functools.partial(LiberoEnv, config, every), rows, chunk)

    def open(self) -> LiberoEnv:
        """Single environment with the scripted expert."""
        return LiberoEnv(self.config)
