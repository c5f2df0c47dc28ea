"""What the numbers of an action mean, and every conversion between two meanings.

Nothing outside this module multiplies an action by a constant or flips a gripper. A policy, a data set and a world
model each carry an `ActionSpec`; where two meet they are converted by `converter`, or refused with both printed. Two
specs are of one kind where their numbers mean the same; bounds do not count, they differ between two days of one robot.
The WorldGym arithmetic (position +-0.05 m to +-1.75, rotation +-0.25 rad to +-1.4, gripper above 0.8 to -1) is the
published one of arXiv 2506.00613.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)
Gripper = Literal["none", "effort", "open_1", "open_0", "open_-1"]
Motion = Literal["delta", "absolute", "unknown"]
Space = Literal["cartesian", "joint", "unknown"]

UNKNOWN = "unknown"
_RATE_TOLERANCE = 0.01
_UNKNOWN_RATE = 10.0
_JOINTS = {"pos", "joint", "joints", "motor", "shoulder", "elbow", "wrist", "waist", "forearm", "flex", "j"}
_CARTESIAN = {"x", "y", "z", "rx", "ry", "rz", "wx", "wy", "wz", "roll", "pitch", "yaw", "dx", "dy", "dz"}
_DELTAS = {"delta", "deltas", "rel", "relative", "dx", "dy", "dz", "vel", "velocity", "speed"}
_ABSOLUTE = {"pos", "position", "abs", "absolute", "target", "goal"}
_GRIPPERS = ("grip", "finger", "jaw", "claw", "robotiq")
_VELOCITIES = {"vel", "velocity", "speed"}
_NO_OPENING = _VELOCITIES | {"x", "y", "z", "rx", "ry", "rz", "roll", "pitch", "yaw"}


class ActionSpecMismatch(ValueError):
    """Two action specs that cannot be converted into each other."""


@dataclass(frozen=True)
class ActionSpec:
    """Axes, units and ranges of an action.

    Attributes:
        axes: names in order, such as ("x", "y", "z", "gripper"); names starting with "pad" carry
            no motion (WorldGym marks "no action" in its last one).
        unit: what 1.0 means on the motion axes, in words: "m", "m+rad", "effort*0.06m", "worldgym".
        low: smallest legal value of each axis; in foreign data the smallest seen.
        high: largest legal value of each axis; in foreign data the largest seen.
        frame: coordinate frame of the motion, "base" or "end_effector".
        rotation: how rotations are written: "none" or "rpy".
        gripper: what the gripper axis says. "effort": -1 opens, 1 closes, continuous; "open_1": 1 is open and 0 is
            closed; "open_0": 0 is open and 1 closed; "open_-1": -1 is open and 1 is closed, only those two values.
        rate: decisions per second of robot time (Hz), or None where unknown.
        motion: "delta" where 0 asks for no motion, "absolute" where a number is the target itself.
        space: what moves, the hand ("cartesian") or the joints ("joint").
    """

    axes: tuple[str, ...]
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str = "base"
    rotation: str = "none"
    gripper: Gripper = "none"
    rate: float | None = None
    motion: Motion = "delta"
    space: Space = "cartesian"

    def __post_init__(self) -> None:
        if not len(self.axes) == len(self.low) == len(self.high):
            raise ActionSpecMismatch(
                f"action spec: {len(self.axes)} axes, {len(self.low)} lower and {len(self.high)} upper bounds; "
                "expected as many of each"
            )

    @property
    def dim(self) -> int:
        """Number of axes, `a`."""
        return len(self.axes)

    def __str__(self) -> str:
        rate = "" if self.rate is None else f", {self.rate:g} Hz"
        moves = UNKNOWN if self.motion == self.space == UNKNOWN else f"{self.space} {self.motion}"
        named = [axis for axis in self.axes if is_gripper(axis)]
        gripper = f"by name ({' '.join(named)})" if self.gripper == "none" and named else self.gripper
        return f"[{' '.join(self.axes)}] in {self.unit}, frame {self.frame}, gripper {gripper}, {moves}{rate}"

    @property
    def is_absolute(self) -> bool:
        """Whether a number is a target rather than a change; where unknown, whether 0 lies outside some axis' range."""
        if self.motion != UNKNOWN:
            return self.motion == "absolute"
        return any(self.low[axis] > 0 or self.high[axis] < 0 for axis in _targets(self))

    def differences(self, other: ActionSpec) -> list[str]:
        """Names of the fields in which the numbers of `other` mean something else; empty for one kind.

        Bounds are no difference, an unknown motion, space or rate fits any, and rates may differ by 1 %. Where both
        units are unknown the names of the axes decide, with whatever else both sides know.

        >>> metaworld_spec(6).differences(metaworld_spec(4))
        ['unit', 'rate']
        """
        foreign = self.unit == other.unit == UNKNOWN
        loose = {"motion", "space"} | ({"frame", "rotation"} if foreign else set())
        strict = {"axes", "unit", "frame", "rotation", "gripper"} - loose - ({"gripper"} if foreign else set())
        found = [
            field.name
            for field in fields(self)
            if (field.name in strict and getattr(self, field.name) != getattr(other, field.name))
            or (field.name in loose and _contradict(getattr(self, field.name), getattr(other, field.name)))
        ]
        if self.rate and other.rate and abs(self.rate / other.rate - 1) > _RATE_TOLERANCE:
            found.append("rate")
        return found

    def is_same_kind(self, other: ActionSpec) -> bool:
        """Whether the numbers of both mean the same; see `differences`."""
        return not self.differences(other)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Any) -> ActionSpec:
        """The inverse of `to_dict`; what was written before there was `motion` and `space` is read, too.

        Raises:
            ActionSpecMismatch: `data` is no object with the fields of a spec.
        """
        if not isinstance(data, dict):
            raise ActionSpecMismatch(f"action spec: found {type(data).__name__}, expected a JSON object")
        if data.get("unit") == UNKNOWN:
            data = {"motion": UNKNOWN, "space": UNKNOWN} | data
        _require_fields(data)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)

    def check(self, actions: ArrayOrTensor, where: str) -> ArrayOrTensor:
        """Returns `actions`, or raises with `where` if the width is wrong or a number is not finite."""
        if actions.shape[-1] != self.dim:
            raise ActionSpecMismatch(f"{where}: actions are {actions.shape[-1]} wide, expected {self.dim}: {self}")
        finite = torch.isfinite(actions).all() if isinstance(actions, Tensor) else np.isfinite(actions).all()
        if not bool(finite):
            raise ActionSpecMismatch(f"{where}: actions hold NaN or infinity, expected finite numbers")
        return actions


def _contradict(one: str, other: str) -> bool:
    return UNKNOWN not in (one, other) and one != other


def _require_fields(data: dict[str, Any]) -> None:
    """Raise ActionSpecMismatch where a field of a spec from JSON is missing, left over, or of the wrong type."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023

    def is_list(value: Any, is_entry: Callable[[Any], bool]) -> bool:
        return isinstance(value, list | tuple) and all(map(is_entry, value))

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    words = {"gripper": get_args(Gripper), "motion": get_args(Motion), "space": get_args(Space)}
    good: dict[str, Callable[[Any], bool]] = {
        "axes": lambda value: is_list(value, is_text),
        "low": lambda value: is_list(value, is_number),
        "high": lambda value: is_list(value, is_number),
        "rate": lambda value: value is None or (is_number(value) and value > 0),
        **dict.fromkeys(("unit", "frame", "rotation"), is_text),
        **{name: allowed.__contains__ for name, allowed in words.items()},
    }
    for name in ("axes", "unit", "low", "high"):
        if name not in data:
            raise ActionSpecMismatch(f"action spec: field '{name}' is missing")
    for name, value in data.items():
        if name not in good:
            raise ActionSpecMismatch(f"action spec: field '{name}' is unknown")
        if not good[name](value):
            raise ActionSpecMismatch(f"action spec: field '{name}': found {str(value)[:60]}")


def foreign_spec(
    axes: Sequence[str], low: Sequence[float], high: Sequence[float], rate: float | None = None
) -> ActionSpec:
    """The spec of actions of which only names and ranges are known."""
    motion, space = infer_motion(axes, low, high)
    return ActionSpec(
        tuple(axes),
        UNKNOWN,
        tuple(low),
        tuple(high),
        frame=UNKNOWN,
        rotation=UNKNOWN,
        rate=rate,
        motion=motion,
        space=space,
    )


def infer_motion(axes: Sequence[str], low: Sequence[float], high: Sequence[float]) -> tuple[Motion, Space]:
    """Whether actions are deltas or absolute and what they move, as far as names and ranges make it certain.

    Names such as "elbow_flex.pos" are absolute joint targets (LeRobot's convention), "delta_x" is a delta. A range far
    from 0, on any axis but a gripper's, cannot be one of deltas. What stays unknown fits any spec.

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
    away = (max(low[i], -high[i]) > 0.5 * (high[i] - low[i]) for i in moving)
    return ("absolute" if any(away) else "unknown"), space


def union(specs: Sequence[ActionSpec]) -> ActionSpec:
    """The first of specs of one kind with bounds wide enough for all, and what the others know and it does not.

    Raises:
        ActionSpecMismatch: they are not of one kind; two of them are printed.
    """
    head = specs[0]
    for other in specs[1:]:
        require_same(other, head, "action specs")
    known: dict[str, Any] = {}
    for name in ("frame", "rotation", "motion", "space", "rate"):
        values = [getattr(spec, name) for spec in specs if getattr(spec, name) not in (UNKNOWN, None)]
        known[name] = values[0] if values else getattr(head, name)
    low = tuple(min(values) for values in zip(*(spec.low for spec in specs), strict=True))
    high = tuple(max(values) for values in zip(*(spec.high for spec in specs), strict=True))
    return replace(head, low=low, high=high, **known)


def clipped_share(spec: ActionSpec, actions: np.ndarray) -> float:
    """Share of actions [... a] with a number outside the bounds of `spec`, by more than 0.1 % of the axis' range.

    >>> clipped_share(metaworld_spec(6), np.array([[0, 0, 0, 2.0], [0, 0, 0, 1.0]]))
    0.5
    """
    low, high = np.array(spec.low), np.array(spec.high)
    slack = 1e-3 * (high - low) + 1e-6
    outside = ((actions < low - slack) | (actions > high + slack)).any(-1)
    return float(outside.mean()) if outside.size else 0.0


def metaworld_spec(hold: int) -> ActionSpec:
    """Meta-World's action held for `hold` control steps of 1/80 s: 1.0 asks for 1 cm a control step."""
    return ActionSpec(
        axes=("x", "y", "z", "gripper"),
        unit=f"{hold}cm",
        low=(-1.0,) * 4,
        high=(1.0,) * 4,
        gripper="effort",
        rate=80.0 / hold,
    )


_BRIDGE_LIMITS = np.array([0.05] * 3 + [0.25] * 3)
_WORLDGYM_LIMITS = np.array([1.75] * 3 + [1.4] * 3)

BRIDGE = ActionSpec(
    axes=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    unit="m+rad",
    low=(*(-_BRIDGE_LIMITS).tolist(), 0.0),
    high=(*_BRIDGE_LIMITS.tolist(), 1.0),
    rotation="rpy",
    gripper="open_1",
    rate=5.0,
)
"""BridgeData V2 as logged: metres and radians a step, gripper 1 open and 0 closed."""

WORLDGYM = ActionSpec(
    axes=("x", "y", "z", "roll", "pitch", "yaw", "gripper", "pad0", "pad1", "pad2"),
    unit="worldgym",
    low=(*(-_WORLDGYM_LIMITS).tolist(), -1.0, 0.0, 0.0, 0.0),
    high=(*_WORLDGYM_LIMITS.tolist(), 1.0, 0.0, 0.0, 1.0),
    rotation="rpy",
    gripper="open_-1",
    rate=5.0,
)
"""The published world model's input; the last padded entry marks "no action" for classifier-free guidance."""


def _bridge_to_worldgym(actions: np.ndarray) -> np.ndarray:
    motion = np.clip(actions[..., :6], -_BRIDGE_LIMITS, _BRIDGE_LIMITS) / _BRIDGE_LIMITS * _WORLDGYM_LIMITS
    gripper = np.where(actions[..., 6:7] > 0.8, -1.0, 1.0)
    return np.concatenate([motion, gripper, np.zeros((*actions.shape[:-1], 3))], -1).astype(np.float32)


def _worldgym_to_bridge(actions: np.ndarray) -> np.ndarray:
    motion = actions[..., :6] / _WORLDGYM_LIMITS * _BRIDGE_LIMITS
    return np.concatenate([motion, np.where(actions[..., 6:7] < 0, 1.0, 0.0)], -1).astype(np.float32)


def motionless(spec: ActionSpec, actions: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Actions that ask for no motion, float32 [... t a] in the shape of `actions`.

    A delta or a velocity becomes 0. An absolute target stays at the one before, and so does a gripper, whatever the
    motion.

    Args:
        spec: what the numbers mean.
        actions: float32 [... t a], the actions replaced.
        before: float32 [... a], the action before the first one; without it what the first one asks for is kept.
    """
    spec.check(actions, "actions without motion")
    still = np.zeros_like(actions, dtype=np.float32)
    held = actions[..., 0, :] if before is None else before
    for axis in _grippers(spec) + (_targets(spec) if spec.is_absolute else []):
        still[..., axis] = held[..., None, axis]
    return still


def jittered(spec: ActionSpec, actions: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Actions with `noise` added to each motion axis, within the legal range; the gripper is left alone.

    Args:
        spec: what the numbers mean.
        actions: float32 [... a].
        noise: float32 [... a]; 1.0 is the largest step of the axis: half its range for deltas, and for absolute targets
            the part of the range crossed at a decision by a robot that crosses it in a second.
    """
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    step = (high - low) / (max(spec.rate or _UNKNOWN_RATE, 1.0) if spec.is_absolute else 2)
    step[_pads(spec) + _grippers(spec)] = 0
    moved = spec.check(actions, "action jitter") + noise * step
    return np.where(step > 0, np.clip(moved, low, high), actions).astype(np.float32)


def is_gripper(axis: str) -> bool:
    """Whether an axis of this name says how far a gripper opens.

    >>> [name for name in ("gripper.pos", "left_gripper", "wrist_roll", "gripper_x") if is_gripper(name)]
    ['gripper.pos', 'left_gripper']
    """
    words = words_of(axis)
    return any(word.startswith(_GRIPPERS) for word in words) and not _NO_OPENING & set(words)


def is_velocity(axis: str) -> bool:
    """Whether an axis of this name is a speed, such as "x.vel"."""
    return bool(_VELOCITIES & set(words_of(axis)))


def words_of(axis: str) -> list[str]:
    """The words of an axis' name.

    >>> words_of("leftGripper.pos")
    ['left', 'gripper', 'pos']
    """
    return re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", axis).lower())


def _grippers(spec: ActionSpec) -> list[int]:
    return [i for i, axis in enumerate(spec.axes) if is_gripper(axis)]


def _targets(spec: ActionSpec) -> list[int]:
    """The axes that are a pose to reach where the motion is absolute: no gripper, no padding, no velocity."""
    others = set(_grippers(spec) + _pads(spec))
    return [i for i, axis in enumerate(spec.axes) if i not in others and not is_velocity(axis)]


def _pads(spec: ActionSpec) -> list[int]:
    return [i for i, axis in enumerate(spec.axes) if axis.startswith("pad")]


def converter(source: ActionSpec, target: ActionSpec) -> Callable[[np.ndarray], np.ndarray]:
    """A function from float32 [... a] in `source` to float32 [... a'] in `target`.

    Raises:
        ActionSpecMismatch: no conversion is known; the message prints both specs.
    """
    if source.is_same_kind(target):
        return lambda actions: source.check(actions, "action conversion")
    if source.is_same_kind(BRIDGE) and target.is_same_kind(WORLDGYM):
        return lambda actions: _bridge_to_worldgym(source.check(actions, "action conversion"))
    if source.is_same_kind(WORLDGYM) and target.is_same_kind(BRIDGE):
        return lambda actions: _worldgym_to_bridge(source.check(actions, "action conversion"))
    raise ActionSpecMismatch(f"no conversion between action specs: {_said(source, target)}")


def require_same(found: ActionSpec, expected: ActionSpec, where: str) -> None:
    """Raises `ActionSpecMismatch`, both specs printed, unless they are of one kind (see `ActionSpec.differences`)."""
    if not found.is_same_kind(expected):
        raise ActionSpecMismatch(f"{where}: action specs differ: {_said(found, expected)}")


def _said(found: ActionSpec, expected: ActionSpec) -> str:
    names = ", ".join(f"'{name}'" for name in found.differences(expected))
    return f"found {found}; expected {expected} (they differ in {names})"
