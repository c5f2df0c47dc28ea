"""A software simulator of the real environment, wrong in the ways in which simulators are wrong.

The baseline that world models are to beat: somebody built Meta-World's tasks again, with other masses, friction,
damping, actuator gain and delay, camera, colours and light. How wrong is one number, `mismatch`: each quantity lies off
by `mismatch` times its `SPREAD`, in a direction that `seed` draws once and that every scene has alike. On top, every
layout draws its own deviations of `randomisation` times the spread: domain randomisation (Tobin et al. 2017, arXiv
1703.06907; dynamics: Peng et al. 2018, arXiv 1710.06537). At 1 it covers what a mismatch of 1 typically is, without
knowing its direction. With both at 0 the simulator is the real environment.

Beside success a simulator knows the dense reward, which a robot does not.
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
"""Standard deviation and number of every quantity that is off.

Factors, as the logarithm: mass and inertia, friction, joint damping and friction, motion of the hand per action, force
of the gripper, field of view, light (red, green, blue), colour of each material. Offsets: delay of actions in control
steps of 1/80 s (its absolute value, rounded), position of the camera in metres, its orientation in radians.
"""

_MATERIALS = 64
"""More than any scene has: what a simulator got wrong of a material does not depend on how many there are."""

Deviation = Mapping[str, np.ndarray]


@checked
class SimulatorConfig:
    """A simulator of the tasks in `env`.

    Attributes:
        env: the real environment that it stands for.
        mismatch: how wrong it is.
        randomisation: width of its own domain randomisation.
        seed: of the direction in which it is wrong, and of the randomisation.
    """

    env: MetaWorldConfig = MetaWorldConfig()
    mismatch: Annotated[float, Between(0, 10)] = 1.0
    randomisation: Annotated[float, Between(0, 10)] = 1.0
    seed: Seed = 0

    def deviation(self, layout: int) -> Deviation:
        """What is off in the scene of `layout`, in the units of `SPREAD`."""
        wrong, drawn = np.random.default_rng([self.seed, 0]), np.random.default_rng([self.seed, 1, layout])
        found = {}
        for name, (spread, count) in SPREAD.items():
            shape = (_MATERIALS, count) if name == "colour" else (count,)
            fixed, random = wrong.standard_normal(shape), drawn.standard_normal(shape)
            found[name] = spread * (self.mismatch * fixed + self.randomisation * random)
        return found


class SimulatorEnv(MetaWorldEnv):
    """Meta-World again, with the faults of `SimulatorConfig`; spaces and `reset` as in `MetaWorldEnv`.

    `info["progress"]` is the largest dense reward of the decision, of Meta-World's 10, in [0, 1].
    """

    def __init__(self, config: SimulatorConfig | None = None, every: int = 1):
        self.simulator = config or SimulatorConfig()
        super().__init__(self.simulator.env, every)
        self._originals: dict[str, _Model] = {}
        self._late: deque[np.ndarray] = deque()
        self._progress = 0.0

    def _lay_out(self, layout: int) -> np.ndarray:
        """Puts the scene's faults into its model before it is reset."""
        if self._task not in self._originals:
            self._originals[self._task] = _Model(self.env)
        deviation = self.simulator.deviation(layout)
        self._originals[self._task].put(self.env, deviation)
        delay = round(abs(float(deviation["delay"][0])))
        self._late = deque([np.zeros(self.action_spec.dim)] * delay)
        return super()._lay_out(layout)

    def _control(self, action: np.ndarray) -> bool:
        """Executes the action of some control steps ago."""
        self._late.append(action)
        success = super()._control(self._late.popleft())
        self._progress = max(self._progress, float(np.clip(self._dense / 10, 0, 1)))
        return success

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """See `MetaWorldEnv.step`."""
        self._progress = 0.0
        observed, reward, terminated, truncated, info = super().step(action)
        return observed, reward, terminated, truncated, info | {"progress": self._progress}


class _Model:
    """What a task's model was before anything in it was made wrong."""

    _ARRAYS = (
        "body_mass", "body_inertia", "geom_friction", "dof_damping", "dof_frictionloss", "actuator_gainprm",
        "actuator_biasprm", "cam_pos", "cam_quat", "cam_fovy", "light_diffuse", "mat_rgba", "geom_rgba",
    )  # fmt: skip

    def __init__(self, env: Any):
        self.arrays = {name: np.array(getattr(env.model, name)) for name in self._ARRAYS}
        self.ambient, self.diffuse = (np.array(x) for x in self._headlight(env))
        self.action_scale = float(env.action_scale)

    @staticmethod
    def _headlight(env: Any) -> tuple[np.ndarray, np.ndarray]:
        return env.model.vis.headlight.ambient, env.model.vis.headlight.diffuse

    def put(self, env: Any, deviation: Deviation) -> None:
        """Makes the model of `env` wrong by `deviation`."""
        import mujoco

        factor = {name: np.exp(value) for name, value in deviation.items()}
        new = {name: array.copy() for name, array in self.arrays.items()}
        for names, by in (
            (("body_mass", "body_inertia"), "mass"),
            (("geom_friction",), "friction"),
            (("dof_damping", "dof_frictionloss"), "damping"),
            (("actuator_gainprm", "actuator_biasprm"), "grip"),
        ):
            for name in names:
                new[name] *= factor[by]
        camera = env.model.camera(CAMERA).id
        new["cam_pos"][camera] += deviation["camera"]
        new["cam_fovy"][camera] *= factor["view"][0]
        mj: Any = mujoco
        turn, turned = np.zeros(4), np.zeros(4)
        angle = float(np.linalg.norm(deviation["turn"]))
        mj.mju_axisAngle2Quat(turn, deviation["turn"] / max(angle, 1e-12), angle)
        mj.mju_mulQuat(turned, new["cam_quat"][camera], turn)
        new["cam_quat"][camera] = turned
        new["light_diffuse"] *= factor["light"]
        bare = env.model.geom_matid < 0
        colours = factor["colour"]
        rows = np.arange(len(new["mat_rgba"])) % _MATERIALS
        new["mat_rgba"][:, :3] = np.clip(new["mat_rgba"][:, :3] * colours[rows], 0, 1)
        of_body = env.model.geom_bodyid % _MATERIALS  # what has no material is coloured by the body it is part of
        tinted = np.clip(new["geom_rgba"][:, :3] * colours[::-1][of_body], 0, 1)
        new["geom_rgba"][bare, :3] = tinted[bare]
        for name, array in new.items():
            getattr(env.model, name)[:] = array
        for place, original in zip(self._headlight(env), (self.ambient, self.diffuse), strict=True):
            place[:] = original * factor["light"]
        env.action_scale = self.action_scale * factor["gain"][0]
