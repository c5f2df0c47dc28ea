"""Episodes at a lower rate: every k-th frame, and the actions between two of them as one.

Only whole ratios, so that every action lasts equally long. Deltas are added up (roll, pitch and yaw as rotations),
velocities averaged; of absolute targets and grippers the last one counts. Frames and actions left over at the end are
dropped, their success labels are kept on the last frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worldgymnast.actions import ActionSpec, is_gripper, is_velocity
from worldgymnast.errors import InputError
from worldgymnast.types import Episode

_TOLERANCE = 0.01
_RPY = ("roll", "pitch", "yaw")
_XYZ = ("x", "y", "z")


def whole_ratio(fps: float, wanted: float) -> int:
    """How many frames of `fps` one of `wanted` frames per second stands for.

    Raises:
        InputError: that is no whole number, within 1 %.

    >>> whole_ratio(29.97, 10)
    3
    """
    every = round(fps / wanted)
    if every < 1 or abs(fps / wanted / every - 1) > _TOLERANCE:
        lower = f"{fps / (every + 1):.4g}" if every else f"{fps:.4g}"
        choices = f"{fps / every:.4g} or {lower}" if every else lower
        raise InputError(
            f"--fps: found {wanted:g} for data of {fps:g} frames per second, expected a whole part of it, such as "
            f"{choices}; frames are left out, never made up"
        )
    return every


def subsampled_spec(spec: ActionSpec, every: int) -> ActionSpec:
    """The spec of actions of which each stands for `every` ones; the ranges of deltas grow with them."""
    grows = [every if kind == "sum" else 1 for kind in _kinds(spec)]
    low, high = (tuple(b * n for b, n in zip(bound, grows, strict=True)) for bound in (spec.low, spec.high))
    return replace(spec, low=low, high=high, rate=None if spec.rate is None else spec.rate / every)


def subsample(episode: Episode, every: int) -> Episode:
    """Every `every`-th frame of an episode, from its first on, with the actions between them joined."""
    if every == 1:
        return episode
    whole = len(episode.actions) // every * every
    kept = slice(0, whole + 1, every)
    last = episode.actions[whole:]
    last_action = None
    if episode.last_action is not None and len(last) == every - 1:
        last_action = joined(episode.spec, np.concatenate([last, episode.last_action[None]])[None])[0]
    groups = episode.actions[:whole].reshape(-1, every, episode.spec.dim)
    return replace(
        episode,
        frames=episode.frames[kept],
        cameras={name: frames[kept] for name, frames in episode.cameras.items()},
        state=None if episode.state is None else episode.state[kept],
        actions=joined(episode.spec, groups),
        last_action=last_action,
        success=None if episode.success is None else _labels(episode.success, every),
        spec=subsampled_spec(episode.spec, every),
        fps=episode.fps / every,
    )


def joined(spec: ActionSpec, groups: np.ndarray) -> np.ndarray:
    """One action float32 [n a] for each group of actions [n k a]."""
    made = groups[:, -1].astype(np.float64)
    for axis, kind in enumerate(_kinds(spec)):
        if kind == "sum":
            made[:, axis] = groups[:, :, axis].sum(1, dtype=np.float64)
        if kind == "mean":
            made[:, axis] = groups[:, :, axis].mean(1, dtype=np.float64)
    turning = _axes(spec, _RPY)
    if spec.rotation == "rpy" and "rad" in spec.unit and turning and not spec.is_absolute:
        made[:, turning], moved = _composed(spec, groups, turning)
        if moved is not None:
            made[:, _axes(spec, _XYZ)] = moved
    return made.astype(np.float32)


def _kinds(spec: ActionSpec) -> list[str]:
    """What becomes of each axis: "sum", "mean" or "last"."""

    def kind(axis: str) -> str:
        if is_gripper(axis) or axis.startswith("pad"):
            return "last"
        if is_velocity(axis):
            return "mean"
        return "last" if spec.is_absolute else "sum"

    return [kind(axis) for axis in spec.axes]


def _axes(spec: ActionSpec, names: Sequence[str]) -> list[int]:
    """Where the three axes are, or nothing where one is missing."""
    return [spec.axes.index(name) for name in names] if set(names) <= set(spec.axes) else []


def _composed(spec: ActionSpec, groups: np.ndarray, turning: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Roll, pitch and yaw [n 3] of all rotations of a group after one another, and how far the hand went.

    In the base's frame a later rotation stands to the left, and distances add up (None); in the hand's own frame it
    stands to the right, and every step goes the way the hand points by then.
    """
    own = spec.frame == "end_effector"
    moving = _axes(spec, _XYZ)
    turned = np.tile(np.eye(3), (len(groups), 1, 1))
    moved = np.zeros((len(groups), 3))
    for step in range(groups.shape[1]):
        if own and moving:
            moved += (turned @ groups[:, step, moving, None].astype(np.float64))[..., 0]
        one = _matrix(groups[:, step, turning].astype(np.float64))
        turned = turned @ one if own else one @ turned
    return _angles(turned), moved if own and moving else None


def _matrix(rpy: np.ndarray) -> np.ndarray:
    """Rotation matrices [n 3 3] about the fixed x, y and z axes, in that order, of angles [n 3]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy).T, np.sin(rpy).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _angles(matrix: np.ndarray) -> np.ndarray:
    """The inverse of `_matrix`, for pitches below a quarter turn."""
    pitch = np.arcsin(np.clip(-matrix[:, 2, 0], -1, 1))
    roll = np.arctan2(matrix[:, 2, 1], matrix[:, 2, 2])
    yaw = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
    return np.stack([roll, pitch, yaw], -1)


def _labels(success: np.ndarray, every: int) -> np.ndarray:
    """Whether there was success at a kept frame or since the one before; the last one counts what is dropped, too."""
    count = (len(success) - 1) // every + 1
    ends = np.arange(count) * every + 1
    ends[-1] = len(success)
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([bool(success[a:b].any()) for a, b in zip(starts, ends, strict=True)])
