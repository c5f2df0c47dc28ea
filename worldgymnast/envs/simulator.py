"""Simulator baseline: Meta-World with the modeling errors typical of simulators.

The baseline for world models is a simulator whose masses, friction, damping, actuator gain and delay, camera, colors
and light differ from the real environment. One number, `mismatch`, sets the error: each quantity is off by `mismatch`
times its `SPREAD`, in a direction that `seed` fixes for all scenes. In addition every layout samples deviations of
`randomisation` times the spread: domain randomization (Tobin et al. 2017, arXiv 1703.06907; dynamics: Peng et al. 2018,
arXiv 1710.06537). At 1 it covers a typical mismatch of 1 without knowing its direction. With both at 0 the simulator
equals the real environment.

Unlike a robot, a simulator also reports the dense reward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from worldgymnast.configs import Between, Seed, checked
from worldgymnast.envs.metaworld import CAMERA, MetaWorldConfig, MetaWorldEnv

SPREAD: Mapping[str, tuple[float, int]] = {
    "mass": (0.4, 1),
    "friction": (0.4, 1),
    "damping": (0.4, 1),
    "gain": (0.15, 1),
    "grip": (0.3, 1),
    "delay": (1.5, 1),
    "camera": (0.04, 3),
    "turn": (0.02, 3),
    "view": (0.05, 1),
    "light": (0.2, 3),
    "colour": (0.25, 3),
}
"""Standard deviation and size of every mismatched quantity.

Log factors: "mass" (and inertia), "friction", "damping" (and friction) of joints, "gain" (hand motion per action),
"grip" (gripper force), "view" (field of view), "light" (red, green, blue), "colour" of each material. Offsets: "delay"
of actions in control steps of 1/80 s (absolute value, rounded), "camera" position in meters, "turn" of the camera in
radians.
"""

_MATERIALS = 64
"""More materials than any scene has, so the error of a material does not depend on their number."""

Deviation = Mapping[str, np.ndarray]


@checked
class SimulatorConfig:
    """Config of a simulator of the tasks in `env`.

    Attributes:
        env: the real environment that is simulated.
        mismatch: size of the modeling error, in units of `SPREAD`.
        randomisation: width of the domain randomization, in units of `SPREAD`.
        seed: seed of the error's direction and of the randomization.
    """

    env: MetaWorldConfig = MetaWorldConfig()
    mismatch: Annotated[float, Between(0, 10)] = 1.0
    randomisation: Annotated[float, Between(0, 10)] = 1.0
    seed: Seed = 0

    def deviation(self, layout: int) -> Deviation:
        """Deviation of the scene of `layout` from the real environment, by the names of `SPREAD`."""
        common, per_layout = np.random.default_rng([self.seed, 0]), np.random.default_rng([self.seed, 1, layout])
        deviation = {}
        for name, (spread, count) in SPREAD.items():
            shape = (_MATERIALS, count) if name == "colour" else (count,)
            fixed, random = common.standard_normal(shape), per_layout.standard_normal(shape)
            deviation[name] = spread * (self.mismatch * fixed + self.randomisation * random)
        return deviation


class SimulatorEnv(MetaWorldEnv):
    """Meta-World with the errors of a `SimulatorConfig`.

    Spaces and `reset` are those of `MetaWorldEnv`.

    `info["progress"]` is the largest dense reward within the decision, divided by Meta-World's 10, in [0, 1].
    """

    def __init__(self, config: SimulatorConfig | None = None, every: int = 1):
        self.simulator = config or SimulatorConfig()
        super().__init__(self.simulator.env, every)
        self._originals: dict[str, _OriginalModel] = {}
        self._delayed: deque[np.ndarray] = deque()
        self._progress = 0.0

    def _reset_scene(self, layout: int) -> np.ndarray:
        """Apply the scene's deviation to its model, then reset the scene."""
        if self._task not in self._originals:
            self._originals[self._task] = _OriginalModel(self.env)
        deviation = self.simulator.deviation(layout)
        self._originals[self._task].apply(self.env, deviation)
        delay = round(abs(float(deviation["delay"][0])))
        self._delayed = deque([np.zeros(self.action_spec.dim)] * delay)
        return super()._reset_scene(layout)

    def _control(self, action: np.ndarray) -> bool:
        """Execute the oldest delayed action."""
        self._delayed.append(action)
        success = super()._control(self._delayed.popleft())
        self._progress = max(self._progress, float(np.clip(self._dense / 10, 0, 1)))
        return success

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one decision; `info` also has "progress"."""
        self._progress = 0.0
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"progress": self._progress}


class _OriginalModel:
    """Values of a task's model before any deviation."""

    _ARRAYS = (
        "body_mass",
        "body_inertia",
        "geom_friction",
        "dof_damping",
        "dof_frictionloss",
        "actuator_gainprm",
        "actuator_biasprm",
        "cam_pos",
        "cam_quat",
        "cam_fovy",
        "light_diffuse",
        "mat_rgba",
        "geom_rgba",
    )

    def __init__(self, env: Any):
        self.arrays = {name: np.array(getattr(env.model, name)) for name in self._ARRAYS}
        self.ambient, self.diffuse = (np.array(x) for x in self._headlight(env))
        self.action_scale = float(env.action_scale)

    @staticmethod
    def _headlight(env: Any) -> tuple[np.ndarray, np.ndarray]:
        return env.model.vis.headlight.ambient, env.model.vis.headlight.diffuse

    def apply(self, env: Any, deviation: Deviation) -> None:
        """Set the model of `env` to the original values changed by `deviation`."""
        import mujoco

        factor = {name: np.exp(value) for name, value in deviation.items()}
        new = {name: array.copy() for name, array in self.arrays.items()}
        for names, quantity in (
            (("body_mass", "body_inertia"), "mass"),
            (("geom_friction",), "friction"),
            (("dof_damping", "dof_frictionloss"), "damping"),
            (("actuator_gainprm", "actuator_biasprm"), "grip"),
        ):
            for name in names:
                new[name] *= factor[quantity]
        camera = env.model.camera(CAMERA).id
        new["cam_pos"][camera] += deviation["camera"]
        new["cam_fovy"][camera] *= factor["view"][0]
        mj: Any = mujoco
        rotation, rotated = np.zeros(4), np.zeros(4)
        angle = float(np.linalg.norm(deviation["turn"]))
        mj.mju_axisAngle2Quat(rotation, deviation["turn"] / max(angle, 1e-12), angle)
        mj.mju_mulQuat(rotated, new["cam_quat"][camera], rotation)
        new["cam_quat"][camera] = rotated
        new["light_diffuse"] *= factor["light"]
        has_no_material = env.model.geom_matid < 0
        colors = factor["colour"]
        rows = np.arange(len(new["mat_rgba"])) % _MATERIALS
        new["mat_rgba"][:, :3] = np.clip(new["mat_rgba"][:, :3] * colors[rows], 0, 1)
        body = env.model.geom_bodyid % _MATERIALS  # a geom without material is colored by its body
        tinted = np.clip(new["geom_rgba"][:, :3] * colors[::-1][body], 0, 1)
        new["geom_rgba"][has_no_material, :3] = tinted[has_no_material]
        for name, array in new.items():
            getattr(env.model, name)[:] = array
        for light, original in zip(self._headlight(env), (self.ambient, self.diffuse), strict=True):
            light[:] = original * factor["light"]
        env.action_scale = self.action_scale * factor["gain"][0]
