"""Objects on the table that have nothing to do with the task: real distractors, to test policies among.

They are bodies of their own in the physics, and can be pushed. Nothing else in the scene changes: without any, the
environment is the same to the bit (tests/integration/test_metaworld.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_TABLE = ((-0.35, 0.35), (0.45, 0.75))
"""Where they may stand, in metres: x and y, all of it in the picture."""
_CLEAR = 0.13
"""Metres from the straight way between hand and task object that stay clear."""
_APART = 0.10
_TRIES = 200
_MASS = 0.3


class Clutter:
    """The distractors of one task's environment, which is rebuilt with them.

    Args:
        env: Meta-World's environment, not reset since it was made.
        count: how many.
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
        env.reset_mocap_welds()  # what Meta-World does with a model that it has just loaded
        self._env, self._mujoco = env, mj
        bodies = [env.model.body(f"distractor{i}") for i in range(count)]
        self._geoms = [int(body.geomadr[0]) for body in bodies]
        self._places = [int(env.model.jnt_qposadr[body.jntadr[0]]) for body in bodies]
        self._speeds = [int(env.model.jnt_dofadr[body.jntadr[0]]) for body in bodies]

    def place(self, layout: int) -> None:
        """Gives every distractor the form, colour and place that it has in `layout`.

        To be called after the scene was reset, and before its state is computed (`mj_forward`).
        """
        env = self._env
        rng = np.random.default_rng([layout, 77])
        hand, target = np.array(env.tcp_center)[:2], np.array(env.obj_init_pos)[:2]
        taken: list[np.ndarray] = []
        for geom, place, speed in zip(self._geoms, self._places, self._speeds, strict=True):
            height, turn = self._form(geom, rng), rng.uniform(0, np.pi)
            taken.append(self._spot(rng, hand, target, taken))
            env.data.qpos[place : place + 7] = [*taken[-1], height + 0.001, np.cos(turn), 0, 0, np.sin(turn)]
            env.data.qvel[speed : speed + 6] = 0  # where they waited, they fell

    def _form(self, geom: int, rng: np.random.Generator) -> float:
        """Draws a form and a colour; returns the height of its middle above the table."""
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
    def _spot(rng: np.random.Generator, hand: np.ndarray, target: np.ndarray, taken: list[np.ndarray]) -> np.ndarray:
        """A free spot on the table: clear of the way from hand to target, and of what stands there already."""
        (left, right), (near, far) = _TABLE
        way = target - hand
        best, widest = np.zeros(2), -np.inf
        for _ in range(_TRIES):
            spot = np.array([rng.uniform(left, right), rng.uniform(near, far)])
            along = np.clip((spot - hand) @ way / max(way @ way, 1e-9), 0, 1)
            room = np.linalg.norm(spot - hand - along * way) - _CLEAR
            room = min([room, *(np.linalg.norm(spot - other) - _APART for other in taken)])
            if room > 0:
                return spot
            if room > widest:
                best, widest = spot, float(room)
        return best
