"""Temporal subsampling of episodes, combining the actions in between.

The factor is an integer, which gives all actions the same duration. Deltas are added (angles and rotation vectors as
rotations), velocities averaged; for absolute targets and grippers the last value counts. Remaining frames and actions
at the end are dropped; their success labels are moved to the last frame.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from worldgymnast.actions import UNKNOWN, ActionSpec, is_gripper, is_velocity
from worldgymnast.episodes.frame_view import FrameView
from worldgymnast.episodes.rates import subsampling_factor as subsampling_factor
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.types import Episode

_ROTATIONS = {"rpy": ("roll", "pitch", "yaw"), "axis_angle": ("rx", "ry", "rz")}
"""Axes of the rotations that are composed, by representation."""
_RADIANS = re.compile(r"(?:^|[^\d.])(\d*\.?\d*)rad")
_XYZ = ("x", "y", "z")


def subsampled_spec(spec: ActionSpec, every: int) -> ActionSpec:
    """The spec of actions that each combine `every` actions.

    Ranges of deltas are scaled.
    """
    scales = [every if kind == "sum" else 1 for kind in _kinds(spec)]
    low, high = (tuple(b * n for b, n in zip(bound, scales, strict=True)) for bound in (spec.low, spec.high))
    return replace(spec, low=low, high=high, rate=None if spec.rate is None else spec.rate / every)


def subsample(episode: Episode, every: int) -> Episode:
    """Keep every `every`-th frame of an episode and combine its actions."""
    if every == 1:
        return episode
    end = len(episode.actions) // every * every
    kept = slice(0, end + 1, every)
    remaining = episode.actions[end:]
    last_action = None
    if episode.last_action is not None and len(remaining) == every - 1:
        last_group = np.concatenate([remaining, episode.last_action[None]])
        last_action = combine_actions(episode.spec, last_group[None])[0]
    groups = episode.actions[:end].reshape(-1, every, episode.spec.dim)
    return replace(
        episode,
        frames=episode.frames[kept],
        cameras={name: frames[kept] for name, frames in episode.cameras.items()},
        state=None if episode.state is None else episode.state[kept],
        actions=combine_actions(episode.spec, groups),
        last_action=last_action,
        success=None if episode.success is None else _labels(episode.success, every),
        spec=subsampled_spec(episode.spec, every),
        fps=episode.fps / every,
    )


def subsample_set(episodes: EpisodeSet, every: int) -> EpisodeSet:
    """Keep every `every`-th frame of all episodes and combine their actions; frames are not copied."""
    if every == 1:
        return episodes
    kept_length = episodes.length // every
    rows = [f + every * np.arange(n + 1) for f, n in zip(episodes.first.tolist(), kept_length.tolist(), strict=True)]
    actions, success = [], []
    for first, length, count in zip(episodes.first, episodes.length, kept_length, strict=True):
        groups = episodes.actions[first : first + count * every].reshape(-1, every, episodes.spec.dim)
        actions += [combine_actions(episodes.spec, groups), np.zeros((1, episodes.spec.dim), np.float32)]
        success.append(_labels(episodes.success[first : first + length + 1], every))
    count, index = len(episodes.frames), np.concatenate(rows)
    others = {
        one.name: value[index]
        for one in fields(episodes)
        if one.name not in ("frames", "actions", "success", "first", "length", "labelled", "layout")
        and isinstance(value := getattr(episodes, one.name), np.ndarray)
        and len(value) == count
    }
    return replace(
        episodes,
        frames=FrameView([episodes.frames], [index]),
        actions=np.concatenate(actions),
        success=np.concatenate(success),
        first=np.concatenate([[0], np.cumsum(kept_length + 1)[:-1]]).astype(np.int64),
        length=kept_length,
        spec=subsampled_spec(episodes.spec, every),
        fps=episodes.fps / every,
        **others,
    )


def warn_unknown_motion(path: str | Path, spec: ActionSpec) -> None:
    """Print how actions whose meaning is unknown are combined, on stderr."""
    if spec.motion == UNKNOWN:
        way = "taken at the end, as targets" if spec.is_absolute else "added up, as deltas"
        print(
            f"{path}: it is unknown whether actions are deltas or targets; they are {way}. Names such as 'elbow.pos' "
            "(target) or 'delta_x' tell",
            file=sys.stderr,
            flush=True,
        )


def combine_actions(spec: ActionSpec, groups: np.ndarray) -> np.ndarray:
    """Combine each group of actions [n k a] into one action, float32 [n a]."""
    combined = groups[:, -1].astype(np.float64)
    for axis, kind in enumerate(_kinds(spec)):
        if kind == "sum":
            combined[:, axis] = groups[:, :, axis].sum(1, dtype=np.float64)
        if kind == "mean":
            combined[:, axis] = groups[:, :, axis].mean(1, dtype=np.float64)
    rotation_axes = _axes(spec, _ROTATIONS.get(spec.rotation, ()))
    if rotation_axes and _RADIANS.search(spec.unit) and not spec.is_absolute:
        combined[:, rotation_axes], translation = _compose(spec, groups, rotation_axes)
        if translation is not None:
            combined[:, _axes(spec, _XYZ)] = translation
    return combined.astype(np.float32)


def _kinds(spec: ActionSpec) -> list[str]:
    """The reduction of each axis: "sum", "mean" or "last"."""

    def kind(axis: str) -> str:
        if is_gripper(axis) or axis.startswith("pad"):
            return "last"
        if is_velocity(axis):
            return "mean"
        return "last" if spec.is_absolute else "sum"

    return [kind(axis) for axis in spec.axes]


def _axes(spec: ActionSpec, names: Sequence[str]) -> list[int]:
    """Indices of the three axes; empty if one is missing."""
    return [spec.axes.index(name) for name in names] if set(names) <= set(spec.axes) else []


def _radians(spec: ActionSpec) -> float:
    """Radians of 1.0 on a rotation axis, as 0.5 in "5cm+0.5rad"."""
    found = _RADIANS.search(spec.unit)
    return float(found[1]) if found and found[1] else 1.0


def _compose(spec: ActionSpec, groups: np.ndarray, rotation_axes: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Compose the rotations of each group.

    In the base frame later rotations multiply from the left and translations add up. In the end effector's frame they
    multiply from the right, and translations follow the current orientation.

    Returns:
        Rotation [n 3] as in `groups`, and the translation [n 3] in the end effector's frame, None in the base frame.
    """
    scale = _radians(spec)
    is_local = spec.frame == "end_effector"
    translation_axes = _axes(spec, _XYZ)
    rotation = np.tile(np.eye(3), (len(groups), 1, 1))
    translation = np.zeros((len(groups), 3))
    for step in range(groups.shape[1]):
        if is_local and translation_axes:
            translation += (rotation @ groups[:, step, translation_axes, None].astype(np.float64))[..., 0]
        delta = _matrix(groups[:, step, rotation_axes].astype(np.float64) * scale, spec.rotation)
        rotation = rotation @ delta if is_local else delta @ rotation
    return _angles(rotation, spec.rotation) / scale, translation if is_local and translation_axes else None


def _matrix(rpy: np.ndarray, rotation: str) -> np.ndarray:
    """Rotation matrices [n 3 3] of rotation vectors, or of roll, pitch and yaw [n 3].

    The latter rotate about the fixed x, y and z axes, in that order.
    """
    if rotation == "axis_angle":
        from scipy.spatial.transform import Rotation

        return Rotation.from_rotvec(rpy).as_matrix()
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy).T, np.sin(rpy).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _angles(matrix: np.ndarray, rotation: str) -> np.ndarray:
    """The inverse of `_matrix`, for pitches below 90 degrees."""
    if rotation == "axis_angle":
        from scipy.spatial.transform import Rotation

        return Rotation.from_matrix(matrix).as_rotvec()
    pitch = np.arcsin(np.clip(-matrix[:, 2, 0], -1, 1))
    roll = np.arctan2(matrix[:, 2, 1], matrix[:, 2, 2])
    yaw = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
    return np.stack([roll, pitch, yaw], -1)


def _labels(success: np.ndarray, every: int) -> np.ndarray:
    """Success at each kept frame or since the previous one.

    The last one includes dropped frames.
    """
    count = (len(success) - 1) // every + 1
    ends = np.arange(count) * every + 1
    ends[-1] = len(success)
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([bool(success[a:b].any()) for a, b in zip(starts, ends, strict=True)])
