"""Physics and pictures of one LIBERO task.

The simulator is robosuite's (Zhu et al. 2020, arXiv 2009.12293), driven without its observables, so pictures are
rendered only when asked for. A scene is built once per task; `reset` never loads the model again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from worldgymnast.envs import libero_package
from worldgymnast.envs.metaworld import look_at

STANDARD_LAYOUTS = 50
"""Layouts from 0 to 49 are the benchmark's own initial states; from 50 on, objects are placed at random."""

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Name of each camera in the simulator."""

_CONTROL_STEP = 25
"""Steps of the simulator per control step: 20 Hz at 2 ms."""
_NOISE = 0.02
"""Standard deviation of the joints of the arm in a random layout, in radians, as in robosuite."""
_NO_MOTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
_COLLISION_GROUP = 0
_SUPERSAMPLING = 2

_WORKSPACE = {
    "floor": ((0.66, 0.055, 0.84), (-0.055, 0.055, 0.10), 36.0),
    "table": ((0.54, 0.0, 1.76), (-0.09, -0.02, 1.0), 44.0),
}
"""Position, target and vertical field of view of the camera near the workspace, by arena."""


class LiberoScene:
    """One task of LIBERO, without instruction, horizon or success so far.

    Args:
        suite: name of the suite, such as "object".
        task: short name of the task.
        size: height and width of a picture.
        is_near: whether the agentview camera is near the workspace; otherwise it is LIBERO's.
    """

    def __init__(self, suite: str, task: str, size: int, is_near: bool):
        wrapper = libero_package.load_environments()
        import mujoco

        self._mujoco: Any = mujoco
        with libero_package.quiet(), _numpy_seed([0]):
            self.env: Any = wrapper.ControlEnv(
                bddl_file_name=str(libero_package.task_file(suite, task)),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                hard_reset=False,
                ignore_done=True,
            ).env
        self._states = libero_package.initial_states(suite, task)
        self._size, self._is_near = size, is_near
        self.model, self.data = self.env.sim.model._model, self.env.sim.data._data
        self._options = self._mujoco.MjvOption()
        self._options.geomgroup[_COLLISION_GROUP] = 0
        if is_near:
            self._move_camera()
        scale = _SUPERSAMPLING if is_near else 1
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = size * scale
        try:
            self._renderer = mujoco.Renderer(self.model, size * scale, size * scale)
        except Exception as error:
            for name in ("_gl_context", "_mjr_context"):  # missing ones would make __del__ print a traceback
                setattr(mujoco.Renderer, name, getattr(mujoco.Renderer, name, None))
            raise libero_package.gl_error(error) from error

    def _move_camera(self) -> None:
        """Put the agentview camera near the workspace, and draw without shadows, as they hide small objects."""
        camera = self.model.camera("agentview").id
        if self.env._arena_type in _WORKSPACE:
            position, target, field_of_view = _WORKSPACE[self.env._arena_type]
            self.model.cam_pos[camera] = position
            self._mujoco.mju_mat2Quat(
                self.model.cam_quat[camera], look_at(np.array(position), np.array(target)).flatten()
            )
            self.model.cam_fovy[camera] = field_of_view
        self.model.vis.quality.shadowsize = 0
        self.model.vis.quality.offsamples = 0

    def reset(self, layout: int, settle: int) -> None:
        """Place robot and objects as in `layout`, then wait until the objects rest.

        Args:
            layout: a standard initial state, or the seed of a random placement in the task's regions.
            settle: control steps without motion.
        """
        is_standard = layout < len(self._states) and layout < STANDARD_LAYOUTS
        with libero_package.quiet(), _numpy_seed([0] if is_standard else [1, layout]):
            self._place(0.0 if is_standard else _NOISE)
        if is_standard:
            self.env.sim.set_state_from_flattened(self._states[layout])
        self.env.sim.forward()
        for _ in range(settle):
            self.control(_NO_MOTION)

    def _place(self, noise: float) -> None:
        """Draw a placement by the simulator's own samplers."""
        from robosuite.utils.errors import RandomizationError

        env = self.env
        env.robots[0].initialization_noise = {"magnitude": noise, "type": "gaussian"}
        for _ in range(100):
            for name, fixture in env.fixtures_dict.items():  # samplers take them to be where the model had them
                body = env.obj_body_id[name]
                root = fixture.get_obj()
                self.model.body_pos[body] = np.array(root.get("pos", "0 0 0").split(), float)
                self.model.body_quat[body] = np.array(root.get("quat", "1 0 0 0").split(), float)
            env.sim.reset()
            try:
                env._reset_internal()
            except RandomizationError:
                continue
            break
        for robot in env.robots:
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        env.visualize(vis_settings=dict.fromkeys(env._visualizations, False))

    def control(self, action: np.ndarray) -> bool:
        """Execute one control step of 1/20 s; returns whether the task is accomplished."""
        for step in range(_CONTROL_STEP):
            self.env.sim.forward()
            self.env._pre_action(action, step == 0)
            self.env.sim.step()
        self.env._post_process()
        return bool(self.env._check_success())

    def render(self, camera: str) -> np.ndarray:
        """Picture of a camera, upright, uint8 [h w 3]."""
        self._renderer.update_scene(self.data, CAMERAS[camera], self._options)
        if not self._is_near:
            return self._renderer.render().copy()
        flag = self._mujoco.mjtRndFlag
        self._renderer.scene.flags[flag.mjRND_SHADOW] = 0
        self._renderer.scene.flags[flag.mjRND_REFLECTION] = 0
        blocks = self._renderer.render().reshape(self._size, _SUPERSAMPLING, self._size, _SUPERSAMPLING, 3)
        return ((blocks.astype(np.uint16).sum((1, 3)) + _SUPERSAMPLING**2 // 2) // _SUPERSAMPLING**2).astype(np.uint8)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    # ------------------------------------------------------------ state

    @property
    def robot(self) -> Any:
        """Robosuite's robot."""
        return self.env.robots[0]

    @property
    def hand_position(self) -> np.ndarray:
        """Point between the finger tips, float64 [3]."""
        return np.array(self.data.site_xpos[self.robot.eef_site_id])

    @property
    def hand_velocity(self) -> np.ndarray:
        """Velocity of the point between the finger tips in meters per second, float64 [3]."""
        jacobian = np.zeros((3, self.model.nv))
        self._mujoco.mj_jacSite(self.model, self.data, jacobian, None, self.robot.eef_site_id)
        return jacobian @ self.data.qvel

    @property
    def hand_rotation(self) -> np.ndarray:
        """Rotation matrix of the point between the finger tips, float64 [3 3]."""
        return np.array(self.data.site_xmat[self.robot.eef_site_id]).reshape(3, 3)

    @property
    def fingers(self) -> np.ndarray:
        """Positions of both finger joints, float64 [2]."""
        return np.array(self.data.qpos[self.robot._ref_gripper_joint_pos_indexes])

    def state(self) -> np.ndarray:
        """Proprioception as in LIBERO, float32 [8]: position, axis-angle rotation, and both finger joints."""
        w, *xyz = self.env.sim.data.get_body_xquat(self.robot.robot_model.eef_name)
        w = float(np.clip(w, -1.0, 1.0))
        sine = np.sqrt(1.0 - w * w)
        axis = np.array(xyz) / sine if sine > 1e-9 else np.zeros(3)
        return np.concatenate([self.hand_position, axis * 2.0 * np.arccos(w), self.fingers]).astype(np.float32)

    def position(self, name: str) -> np.ndarray:
        """Position of an object or fixture, float64 [3]."""
        return np.array(self.data.xpos[self.env.obj_body_id[name]])

    def corners(self, name: str) -> np.ndarray:
        """Corners of the collision boxes of an object, float64 [n 3]."""
        body = self.env.obj_body_id[name]
        bodies = [i for i in range(self.model.nbody) if _is_inside(self.model.body_parentid, i, body)]
        geoms = [
            i
            for i in range(self.model.ngeom)
            if self.model.geom_bodyid[i] in bodies and self.model.geom_group[i] == _COLLISION_GROUP
        ]
        unit = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
        return np.concatenate([self._box(i, unit) for i in geoms])

    def _box(self, geom: int, unit: np.ndarray) -> np.ndarray:
        rotation = self.data.geom_xmat[geom].reshape(3, 3)
        center = self.model.geom_aabb[geom, :3] + unit * self.model.geom_aabb[geom, 3:]
        return self.data.geom_xpos[geom] + center @ rotation.T

    def is_grasped(self, name: str) -> bool:
        """Whether both fingers touch an object."""
        return bool(self.env._check_grasp(gripper=self.robot.gripper, object_geoms=self.env.objects_dict[name]))


def _is_inside(parents: np.ndarray, body: int, root: int) -> bool:
    while body not in (0, root):
        body = int(parents[body])
    return body == root


@contextmanager
def _numpy_seed(seed: Sequence[int]) -> Iterator[None]:
    """Seed numpy's global generator, which robosuite draws from, and restore it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
