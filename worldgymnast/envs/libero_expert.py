"""Scripted expert of LIBERO: picks an object up and puts it in or on another.

It plays the human demonstrator. Every action depends on the current poses alone, so it recovers from noise and from
phases in which it does not act. The steps are: above the object, down, close, lift, over the goal, down, open, up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldgymnast.envs.libero_scene import LiberoScene
from worldgymnast.errors import InputError

_OPEN, _CLOSE = -1.0, 1.0
_SPEED = 0.0125
"""Meters per control step that the hand moves at the largest action, about."""
_COASTING = 0.04
"""Seconds of its present motion that the hand still moves after an action."""
_FRICTION = 0.006
"""Meters of error, about, that friction leaves."""
_TURN = 0.125
"""Radians per control step that the hand turns at the largest action, about."""
_WIDEST = 0.07
"""Widest object that fits between the fingers, in meters; wider ones are grasped at the rim."""
_OPENING = 0.08
"""Distance of the open fingers, in meters."""
_ACROSS = 0.02
"""Meters by which a grasp may be off across the line of the fingers."""
_FINGER = 0.03
"""Meters from the finger tips up to the body of the hand, less a margin."""
_HAND = (0.11, 0.04)
"""Half of the length and thickness of the hand's body, in meters, with a margin."""
_SHIFTS = (0.0, -0.015, 0.015, -0.025, 0.025)
"""Meters by which a grasp may be off the middle of an object."""
_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Rotation of a hand that points down, with the fingers along y."""
_YAWS = np.deg2rad([0, -15, 15, -30, 30, -45, 45, -60, 60, -75, 75, 90])


@dataclass(frozen=True)
class Grasp:
    """Pose of the hand that grasps an object.

    Attributes:
        position: of the point between the finger tips, float64 [3].
        yaw: turn about the vertical axis, in radians.
        slack: meters by which the hand may be off along the line of the fingers.
    """

    position: np.ndarray
    yaw: float
    slack: float

    def miss(self, hand: np.ndarray) -> float:
        """How far the hand [3] is off sideways; below 1 the object is between the fingers."""
        along = np.array([-np.sin(self.yaw), np.cos(self.yaw)])
        offset = hand[:2] - self.position[:2]
        return float(np.hypot(offset @ along / self.slack, offset @ [along[1], -along[0]] / _ACROSS))


def has_expert(goals: Sequence[Sequence[str]]) -> bool:
    """Whether the expert can reach all of LIBERO's goals, such as ["on", "bowl_1", "plate_1"].

    >>> has_expert([["in", "milk_1", "basket_1_contain_region"]]), has_expert([["open", "drawer_1"]])
    (True, False)
    """
    return all(len(goal) == 3 and goal[0] in ("in", "on") for goal in goals)


def plan_grasp(corners: np.ndarray, others: np.ndarray) -> Grasp:
    """Choose a grasp from above for an object with these corners [n 3].

    Of the grasps that fit between the fingers, the first is taken whose hand keeps clear of the corners [m 3] of other
    objects. An object that is too wide for every turn is grasped at its rim.
    """
    top, bottom = corners[:, 2].max(), corners[:, 2].min()
    center = (corners[:, :2].max(0) + corners[:, :2].min(0)) / 2
    fingers = np.stack([-np.sin(_YAWS), np.cos(_YAWS)], 1)  # direction in which the fingers open, per turn
    widths = np.ptp(corners[:, :2] @ fingers.T, axis=0)
    if widths.min() > _WIDEST:
        height = top - 0.015
        rim = widths / 2 - 0.008
        options = [(yaw, center + s * rim[i] * fingers[i], 0.015) for s in (1, -1) for i, yaw in enumerate(_YAWS)]
    else:
        height = max((top + bottom) / 2, top - 0.04, bottom + 0.01)
        fits = np.flatnonzero(widths < max(0.75 * _WIDEST, widths.min() + 0.004))
        along = [np.array([u[1], -u[0]]) for u in fingers]
        slack = np.maximum(_OPENING / 2 - widths / 2 - 0.003, 0.008)
        options = [(_YAWS[i], center + shift * along[i], slack[i]) for i in fits for shift in _SHIFTS]
    tall = others[others[:, 2] > height + _FINGER, :2]
    grasps = [Grasp(np.array([*place, height]), float(yaw), float(slack)) for yaw, place, slack in options]
    clearances = [_clearance(grasp, tall) for grasp in grasps]
    return next((g for g, c in zip(grasps, clearances, strict=True) if c > 0.0), grasps[int(np.argmax(clearances))])


def _clearance(grasp: Grasp, points: np.ndarray) -> float:
    """Distance of points [m 2] from the body of the hand, in meters; negative inside."""
    if not len(points):
        return np.inf
    along = np.array([-np.sin(grasp.yaw), np.cos(grasp.yaw)])
    offset = points - grasp.position[:2]
    length, thickness = np.abs(offset @ along), np.abs(offset @ [along[1], -along[0]])
    return float(np.maximum(length - _HAND[0], thickness - _HAND[1]).min())


class Expert:
    """Expert of one task.

    Args:
        scene: the task.
        hold: control steps for which an action is held.

    Raises:
        InputError: the task is no pick-and-place.
    """

    def __init__(self, scene: LiberoScene, hold: int):
        self.scene, self.hold = scene, hold
        self.goals: list[list[str]] = scene.env.parsed_problem["goal_state"]
        if not has_expert(self.goals):
            raise InputError(
                f"LIBERO has no scripted expert for the goal {self.goals}; it only picks and places. Choose another "
                "task, or record demonstrations in another way"
            )

    def action(self) -> np.ndarray:
        """Action for the current poses, float32 [7]."""
        scene = self.scene
        for goal in self.goals:
            _, thing, place = goal
            is_held = scene.is_grasped(thing)
            if is_held:
                return self._carry(thing, place)
            if not scene.env._eval_predicate(goal) and not self._is_dropped(thing, place):
                return self._fetch(thing)
        return self._retreat()

    def _fetch(self, thing: str) -> np.ndarray:
        """Move above the object, down, and close the fingers."""
        hand, corners = self.scene.hand_position, self.scene.corners(thing)
        others = [self.scene.corners(name) for name in self.scene.env.objects_dict if name != thing]
        grasp = plan_grasp(corners, np.concatenate(others))
        yaw_error = np.linalg.norm(self._turn(grasp.yaw))
        distance, miss = np.linalg.norm(hand[:2] - grasp.position[:2]), grasp.miss(hand)
        above = hand[2] - grasp.position[2]
        if miss < 1.2 and abs(above) < 0.015 and yaw_error < 0.35:
            return self._move(grasp.position, grasp.yaw, _CLOSE)
        clearance = corners[:, 2].max() + 0.05 - grasp.position[2]
        is_aligned = distance < 0.03 and yaw_error < 0.35
        height = np.clip(0.06 * (miss - 0.9), 0.0, clearance) if is_aligned else clearance
        target = grasp.position + np.array([0.0, 0.0, height])
        if distance > 0.05 and above < clearance - 0.03:  # rise before moving sideways
            target[:2] = hand[:2]
        return self._move(target, grasp.yaw, _OPEN)

    def _carry(self, thing: str, place: str) -> np.ndarray:
        """Lift the held object, move it over the goal, lower and release it."""
        hand, corners = self.scene.hand_position, self.scene.corners(thing)
        center, goal = (corners.max(0) + corners.min(0)) / 2, self._place(place)
        is_container = self._is_container(place)
        bottom, top = corners[:, 2].min(), goal[:, 2].max()
        offset = (goal.max(0) + goal.min(0))[:2] / 2 - center[:2]
        is_over = np.linalg.norm(offset) < (0.03 if is_container else 0.012)
        is_centered = np.linalg.norm(offset) < 0.012
        release = top + 0.006
        if is_container:  # as deep as the hand can go, so that tall objects do not tip
            release = max(top - 0.02 - (hand[2] - bottom), goal[:, 2].min() + 0.04)
        yaw = self._current_yaw()
        if is_centered and bottom < release + 0.008:
            return self._move(hand, yaw, _OPEN)
        target = np.append(hand[:2] + offset, hand[2] + release - bottom)
        if not is_over:
            target[2] = hand[2] + max(top + 0.03 - bottom, 0.0 if np.linalg.norm(offset) > 0.05 else release - bottom)
            if bottom < top + 0.01 and np.linalg.norm(offset) > 0.05:  # rise before moving sideways
                target[:2] = hand[:2]
        return self._move(target, yaw, _CLOSE)

    def _retreat(self) -> np.ndarray:
        """Open the fingers and rise."""
        top = max(self._place(place)[:, 2].max() for _, _, place in self.goals)
        hand = self.scene.hand_position
        return self._move(np.array([hand[0], hand[1], max(hand[2], top + 0.10)]), self._current_yaw(), _OPEN)

    # ------------------------------------------------------------ geometry

    def _place(self, place: str) -> np.ndarray:
        """Corners of the object that is, or has, the goal region."""
        sites = self.scene.env.object_sites_dict
        if place in sites:
            place = sites[place].parent_name
        return self.scene.corners(place)

    def _is_container(self, place: str) -> bool:
        return "contain" in place

    def _is_dropped(self, thing: str, place: str) -> bool:
        """Whether a released object is falling into its container."""
        corners, goal = self.scene.corners(thing), self._place(place)
        offset = (corners.max(0) + corners.min(0) - goal.max(0) - goal.min(0))[:2] / 2
        is_inside = np.linalg.norm(offset) < 0.05 and corners[:, 2].min() > goal[:, 2].min()
        return self._is_container(place) and bool(is_inside)

    def _current_yaw(self) -> float:
        """Turn of the hand about the vertical axis, relative to `_DOWN`."""
        rotation = self.scene.hand_rotation @ _DOWN.T
        return float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    def _turn(self, yaw: float) -> np.ndarray:
        """Rotation vector from the hand's rotation to pointing down with a yaw."""
        c, s = np.cos(yaw), np.sin(yaw)
        wanted = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ _DOWN
        return rotation_vector(wanted @ self.scene.hand_rotation.T)

    def _move(self, target: np.ndarray, yaw: float, gripper: float) -> np.ndarray:
        """Action that moves the hand towards a pose."""
        error = target - self.scene.hand_position - _COASTING * self.scene.hand_velocity
        error += _FRICTION * error / (np.linalg.norm(error) + 0.002)
        motion = error / (_SPEED * self.hold)
        motion /= max(1.0, float(np.abs(motion).max()))
        turn = np.clip(self._turn(yaw) / (_TURN * self.hold), -1.0, 1.0)
        return np.concatenate([motion, turn, [gripper]]).astype(np.float32)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Rotation vector of a rotation matrix [3 3]: axis times angle.

    >>> rotation_vector(np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).round(3).tolist()
    [0.0, 0.0, 1.571]
    """
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_rotvec()
