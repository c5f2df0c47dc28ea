"""Meaning of the names of action axes, as far as they tell it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Motion = Literal["delta", "absolute", "unknown"]
Space = Literal["cartesian", "joint", "unknown"]

_JOINTS = {"pos", "joint", "joints", "motor", "shoulder", "elbow", "wrist", "waist", "forearm", "flex", "j"}
_CARTESIAN = {"x", "y", "z", "rx", "ry", "rz", "wx", "wy", "wz", "roll", "pitch", "yaw", "dx", "dy", "dz"}
_DELTAS = {"delta", "deltas", "rel", "relative", "dx", "dy", "dz", "vel", "velocity", "speed"}
_ABSOLUTE = {"pos", "position", "abs", "absolute", "target", "goal"}
_GRIPPERS = ("grip", "finger", "jaw", "claw", "robotiq")
_VELOCITIES = {"vel", "velocity", "speed"}
_NO_OPENING = _VELOCITIES | {"x", "y", "z", "rx", "ry", "rz", "roll", "pitch", "yaw"}


def infer_motion(axes: Sequence[str], low: Sequence[float], high: Sequence[float]) -> tuple[Motion, Space]:
    """Infer motion and space of actions, as far as their names and ranges determine them.

    Names such as "elbow_flex.pos" are absolute joint targets (LeRobot's convention), "delta_x" is a delta. A range far
    from 0, on any axis except a gripper, cannot be that of deltas. "unknown" matches any spec.

    >>> infer_motion(["elbow_flex.pos", "gripper.pos"], [-90, 0], [90, 100])
    ('absolute', 'joint')
    >>> infer_motion(["delta_x", "delta_y", "gripper"], [-1, -1, 0], [1, 1, 1])
    ('delta', 'cartesian')
    """
    moving = [i for i, axis in enumerate(axes) if not is_gripper(axis) and not axis.startswith("pad")]
    words = [set(words_of(axes[i])) for i in moving]
    if not words:
        return "unknown", "unknown"
    space: Space = "unknown"
    if all(part & _JOINTS for part in words):
        space = "joint"
    elif all(part & _CARTESIAN and not part & _JOINTS for part in words):
        space = "cartesian"
    if all(part & _DELTAS for part in words):
        return "delta", space
    if any(part & _JOINTS and part & _ABSOLUTE for part in words):
        return "absolute", space
    is_far_from_zero = any(max(low[i], -high[i]) > 0.5 * (high[i] - low[i]) for i in moving)
    return ("absolute" if is_far_from_zero else "unknown"), space


def is_gripper(axis: str) -> bool:
    """Whether an axis of this name is the opening of a gripper.

    >>> [name for name in ("gripper.pos", "left_gripper", "wrist_roll", "gripper_x") if is_gripper(name)]
    ['gripper.pos', 'left_gripper']
    """
    words = words_of(axis)
    return any(word.startswith(_GRIPPERS) for word in words) and not _NO_OPENING & set(words)


def is_velocity(axis: str) -> bool:
    """Whether an axis of this name is a velocity, such as "x.vel"."""
    return bool(_VELOCITIES & set(words_of(axis)))


def words_of(axis: str) -> list[str]:
    """Words in the name of an axis.

    >>> words_of("leftGripper.pos")
    ['left', 'gripper', 'pos']
    """
    return re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", axis).lower())
