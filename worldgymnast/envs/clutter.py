"""Physical distractors: objects on the table that are unrelated to the task.

They are separate bodies in the simulation and can be pushed. Nothing else in the scene changes: without distractors the
environment is bit-identical (tests/integration/test_metaworld.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_TABLE = ((-0.35, 0.35), (0.45, 0.75))
"""Ranges of x and y for distractors, in meters; all of it is visible."""
_PATH_CLEARANCE = 0.13
"""Meters kept clear around the straight path from the hand to the task object."""
_SPACING = 0.10
"""Meters between distractors."""
_ATTEMPTS = 200
_MASS = 0.3
"""Kilograms."""


class Clutter:
    """Distractors of one task's environment, whose model is rebuilt with them.

    Args:
        env: Meta-World's environment, not reset since its construction.
        count: number of distractors.
    """

    def __init__(self, env: Any, count: int):
        import mujoco

        mj: Any = mujoco
        spec = mj.MjSpec.from_file(env.fullpath)
        for i in range(count):
            body = spec.worldbody.add_body(name=f"distractor{i}", pos=[i - count / 2, -2.0, 0.0])
            body.add_freejoint()
            body.mass, body.inertia, body.ipos, body.explicitinertial = _MASS, [3e-4] * 3, [0.0] * 3, True
            body.add_geom(type=mj.mjtGeom.mjGEOM_BOX, size=[0.03] * 3, condim=6, friction=[1.0, 0.05, 0.01])
        env.model = spec.compile()
        env.data = mj.MjData(env.model)
        env.init_qpos, env.init_qvel = env.data.qpos.copy(), env.data.qvel.copy()
        env.reset_mocap_welds()  # as Meta-World does after loading a model
        self._env, self._mujoco = env, mj
        bodies = [env.model.body(f"distractor{i}") for i in range(count)]
        self._geoms = [int(body.geomadr[0]) for body in bodies]
        self._positions = [int(env.model.jnt_qposadr[body.jntadr[0]]) for body in bodies]
        self._velocities = [int(env.model.jnt_dofadr[body.jntadr[0]]) for body in bodies]

    def place(self, layout: int) -> None:
        """Set shape, color and position of every distractor for `layout`.

        Call it after the scene was reset and before `mj_forward`.
        """
        env = self._env
        rng = np.random.default_rng([layout, 77])
        hand, target = np.array(env.tcp_center)[:2], np.array(env.obj_init_pos)[:2]
        occupied: list[np.ndarray] = []
        for geom, position, velocity in zip(self._geoms, self._positions, self._velocities, strict=True):
            height, angle = self._randomize_shape(geom, rng), rng.uniform(0, np.pi)
            occupied.append(self._sample_position(rng, hand, target, occupied))
            pose = [*occupied[-1], height + 0.001, np.cos(angle), 0, 0, np.sin(angle)]
            env.data.qpos[position : position + 7] = pose
            env.data.qvel[velocity : velocity + 6] = 0  # they fell while waiting off the table

    def _randomize_shape(self, geom: int, rng: np.random.Generator) -> float:
        """Randomize shape and color.

        Returns the height of the center above the table, in meters.
        """
        model, kinds = self._env.model, self._mujoco.mjtGeom
        kind = [kinds.mjGEOM_BOX, kinds.mjGEOM_CYLINDER, kinds.mjGEOM_ELLIPSOID][int(rng.integers(3))]
        x, y, z = rng.uniform(0.02, 0.045, 3)
        size = (x, z, 0.0) if kind == kinds.mjGEOM_CYLINDER else (x, y, z)
        model.geom_type[geom], model.geom_size[geom] = kind, size
        model.geom_rbound[geom] = np.linalg.norm(size)
        model.geom_aabb[geom] = (0, 0, 0, *((x, x, z) if kind == kinds.mjGEOM_CYLINDER else size))
        model.bvh_aabb[model.body_bvhadr[model.geom_bodyid[geom]]] = model.geom_aabb[geom]
        model.geom_rgba[geom] = (*rng.uniform(0.0, 1.0, 3), 1.0)
        return float(z)

    @staticmethod
    def _sample_position(
        rng: np.random.Generator, hand: np.ndarray, target: np.ndarray, occupied: list[np.ndarray]
    ) -> np.ndarray:
        """Position [2] on the table, clear of the path from hand to target and of other distractors."""
        (left, right), (near, far) = _TABLE
        path = target - hand
        best, largest = np.zeros(2), -np.inf
        for _ in range(_ATTEMPTS):
            position = np.array([rng.uniform(left, right), rng.uniform(near, far)])
            along = np.clip((position - hand) @ path / max(path @ path, 1e-9), 0, 1)
            clearance = np.linalg.norm(position - hand - along * path) - _PATH_CLEARANCE
            clearance = min([clearance, *(np.linalg.norm(position - other) - _SPACING for other in occupied)])
            if clearance > 0:
                return position
            if clearance > largest:
                best, largest = position, float(clearance)
        return best
