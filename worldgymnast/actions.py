"""What the numbers of an action mean, and every conversion between two meanings.

Nothing outside this module multiplies an action by a constant or flips a gripper. A policy, a data set and a world
model each carry an `ActionSpec`; where two meet they are converted by `converter`, or refused with both printed.
The WorldGym arithmetic (position +-0.05 m to +-1.75, rotation +-0.25 rad to +-1.4, gripper above 0.8 to -1) is the
published one of arXiv 2506.00613.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)
Gripper = Literal["none", "effort", "open_1", "open_0", "open_-1"]


class ActionSpecMismatch(ValueError):
    """Two action specs that cannot be converted into each other."""


@dataclass(frozen=True)
class ActionSpec:
    """Axes, units and ranges of an action.

    Attributes:
        axes: names in order, such as ("x", "y", "z", "gripper"); names starting with "pad" carry
            no motion (WorldGym marks "no action" in its last one).
        unit: what 1.0 means on the motion axes, in words: "m", "m+rad", "effort*0.06m", "worldgym".
        low: smallest legal value of each axis.
        high: largest legal value of each axis.
        frame: coordinate frame of the deltas, "base" or "end_effector".
        rotation: how rotations are written: "none" or "rpy".
        gripper: what the gripper axis says. "effort": -1 opens, 1 closes, continuous; "open_1": 1 is open and 0 is
            closed; "open_0": 0 is open and 1 closed; "open_-1": -1 is open and 1 is closed, only those two values.
        rate: decisions per second of robot time (Hz), or None where unknown.
    """

    axes: tuple[str, ...]
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str = "base"
    rotation: str = "none"
    gripper: Gripper = "none"
    rate: float | None = None

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
        return f"[{' '.join(self.axes)}] in {self.unit}, frame {self.frame}, gripper {self.gripper}{rate}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ActionSpec:
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**fields)

    def check(self, actions: ArrayOrTensor, where: str) -> ArrayOrTensor:
        """Returns `actions`, or raises with `where` if the width is wrong or a number is not finite."""
        if actions.shape[-1] != self.dim:
            raise ActionSpecMismatch(f"{where}: actions are {actions.shape[-1]} wide, expected {self.dim}: {self}")
        finite = torch.isfinite(actions).all() if isinstance(actions, Tensor) else np.isfinite(actions).all()
        if not bool(finite):
            raise ActionSpecMismatch(f"{where}: actions hold NaN or infinity, expected finite numbers")
        return actions


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

    Every motion axis is a delta and becomes 0; the gripper keeps the value it had before.

    Args:
        spec: what the numbers mean.
        actions: float32 [... t a], the actions replaced.
        before: float32 [... a], the action before the first one; without it the gripper keeps what the first one asks.
    """
    spec.check(actions, "actions without motion")
    still = np.zeros_like(actions, dtype=np.float32)
    held = actions[..., 0, :] if before is None else before
    for axis in _grippers(spec):
        still[..., axis] = held[..., None, axis]
    return still


def jittered(spec: ActionSpec, actions: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Actions with `noise` added in half ranges of each motion axis, within the legal range; the gripper is left alone.

    Args:
        spec: what the numbers mean.
        actions: float32 [... a].
        noise: float32 [... a]; 1.0 is half the axis' range.
    """
    half = (np.array(spec.high, np.float32) - np.array(spec.low, np.float32)) / 2
    half[[i for i, axis in enumerate(spec.axes) if axis.startswith("pad")] + _grippers(spec)] = 0
    moved = spec.check(actions, "action jitter") + noise * half
    within = np.clip(moved, np.array(spec.low, np.float32), np.array(spec.high, np.float32))
    return np.where(half > 0, within, actions).astype(np.float32)


def _grippers(spec: ActionSpec) -> list[int]:
    return [i for i, axis in enumerate(spec.axes) if axis == "gripper"]


def converter(source: ActionSpec, target: ActionSpec) -> Callable[[np.ndarray], np.ndarray]:
    """A function from float32 [... a] in `source` to float32 [... a'] in `target`.

    Raises:
        ActionSpecMismatch: no conversion is known; the message prints both specs.
    """
    if source == target:
        return lambda actions: source.check(actions, "action conversion")
    if (source, target) == (BRIDGE, WORLDGYM):
        return lambda actions: _bridge_to_worldgym(source.check(actions, "action conversion"))
    if (source, target) == (WORLDGYM, BRIDGE):
        return lambda actions: _worldgym_to_bridge(source.check(actions, "action conversion"))
    differ = ""
    if str(source) == str(target):
        found, expected = source.to_dict(), target.to_dict()
        name = next(k for k in found if found[k] != expected[k])
        differ = f" (they differ in '{name}': {found[name]} and {expected[name]})"
    raise ActionSpecMismatch(f"no conversion between action specs: found {source}; expected {target}{differ}")


def require_same(found: ActionSpec, expected: ActionSpec, where: str) -> None:
    """Raises `ActionSpecMismatch`, both specs printed, unless they are equal."""
    if found != expected:
        raise ActionSpecMismatch(f"{where}: action specs differ: found {found}; expected {expected}")
