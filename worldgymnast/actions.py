"""Meaning of action numbers, and all conversions between action conventions.

No code outside this module and `motions` scales actions or flips a gripper. Policies, data sets and world models have
an `ActionSpec`. Two specs that meet are converted by `converter`, or refused with both printed. Specs are of one kind
if their numbers mean the same; bounds may differ, as they do between recordings of one robot. The WorldGym arithmetic
(position +-0.05 m to +-1.75, rotation +-0.25 rad to +-1.4, gripper above 0.8 to -1) is from arXiv 2506.00613.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from worldgymnast.axes import Motion, Space, infer_motion, is_gripper, is_velocity
from worldgymnast.motions import (
    BRIDGE_LIMITS,
    BRIDGE_OPEN,
    WORLDGYM_LIMITS,
    bridge_to_worldgym,
    gripper_numbers,
    is_opening,
    libero_to_meters,
    meters_to_libero,
    worldgym_to_bridge,
)

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)
Gripper = Literal["none", "effort", "open_1", "open_0", "open_-1"]

UNKNOWN = "unknown"
_RATE_TOLERANCE = 0.01
_UNKNOWN_RATE = 10.0


class ActionSpecMismatch(ValueError):
    """Invalid or incompatible action specs."""


@dataclass(frozen=True)
class ActionSpec:
    """Axes, units and ranges of an action.

    Attributes:
        axes: names in order, such as ("x", "y", "z", "gripper"); names starting with "pad" are unused
            (WorldGym marks "no action" in its last one).
        unit: unit of 1.0 on the motion axes: "m", "m+rad", "effort*0.06m", "worldgym".
        low: smallest allowed value of each axis; for external data the smallest observed.
        high: largest allowed value of each axis; for external data the largest observed.
        frame: coordinate frame of the motion, "base" or "end_effector".
        rotation: representation of rotations: "none", "rpy" (roll, pitch, yaw), or "axis_angle" (rotation vector).
        gripper: convention of the gripper axis. "effort": -1 opens, 1 closes, continuous; "open_1": 1 is open, 0 is
            closed; "open_0": 0 is open, 1 is closed; "open_-1": -1 is open, 1 is closed, only these two values.
        rate: decisions per second of robot time (Hz), or None if unknown.
        motion: "delta" if 0 means no motion, "absolute" if a number is the target.
        space: "cartesian" for motion of the hand, "joint" for motion of the joints.

    Raises:
        ActionSpecMismatch: the numbers of axes and bounds differ.

    >>> print(metaworld_spec(8))
    [x y z gripper] in 8cm, frame base, gripper effort, cartesian delta, 10 Hz
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    axes: tuple[str, ...]
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame: str = "base"
    rotation: str = "none"
    gripper: Gripper = "none"
    rate: Annotated[float, Field(gt=0)] | None = None
    motion: Motion = "delta"
    space: Space = "cartesian"

    def __post_init__(self) -> None:
        if not len(self.axes) == len(self.low) == len(self.high):
            raise ActionSpecMismatch(
                f"action spec: {len(self.axes)} axes, {len(self.low)} lower and {len(self.high)} upper bounds, "
                "expected equal numbers"
            )

    @property
    def dim(self) -> int:
        """Number of axes, a."""
        return len(self.axes)

    def __str__(self) -> str:
        rate = "" if self.rate is None else f", {self.rate:g} Hz"
        moves = UNKNOWN if self.motion == self.space == UNKNOWN else f"{self.space} {self.motion}"
        named = [axis for axis in self.axes if is_gripper(axis)]
        gripper = f"by name ({' '.join(named)})" if self.gripper == "none" and named else self.gripper
        return f"[{' '.join(self.axes)}] in {self.unit}, frame {self.frame}, gripper {gripper}, {moves}{rate}"

    @property
    def is_absolute(self) -> bool:
        """Whether numbers are targets.

        If unknown, whether 0 is outside the range of an axis.
        """
        if self.motion != UNKNOWN:
            return self.motion == "absolute"
        return any(self.low[axis] > 0 or self.high[axis] < 0 for axis in _targets(self))

    def differences(self, other: ActionSpec) -> list[str]:
        """Names of the fields that give the numbers of `other` another meaning.

        Empty for specs of one kind.

        Bounds are ignored, an unknown motion, space or rate matches any, and rates may differ by 1 %. If both units are
        unknown, the names of the axes decide, with all other fields that both sides know.

        >>> metaworld_spec(6).differences(metaworld_spec(4))
        ['unit', 'rate']
        """
        is_external = self.unit == other.unit == UNKNOWN
        loose = {"motion", "space"} | ({"frame", "rotation"} if is_external else set())
        strict = {"axes", "unit", "frame", "rotation", "gripper"} - loose - ({"gripper"} if is_external else set())
        names = [
            field.name
            for field in fields(self)
            if (field.name in strict and getattr(self, field.name) != getattr(other, field.name))
            or (field.name in loose and _contradict(getattr(self, field.name), getattr(other, field.name)))
        ]
        if self.rate and other.rate and abs(self.rate / other.rate - 1) > _RATE_TOLERANCE:
            names.append("rate")
        return names

    def is_same_kind(self, other: ActionSpec) -> bool:
        """Whether the numbers of both specs mean the same; see `differences`."""
        return not self.differences(other)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Any) -> ActionSpec:
        """Inverse of `to_dict`; also reads files from before `motion` and `space` existed.

        Raises:
            ActionSpecMismatch: a field is missing, unknown, or has an invalid value.

        >>> ActionSpec.from_dict(metaworld_spec(6).to_dict()) == metaworld_spec(6)
        True
        """
        if not isinstance(data, dict):
            raise ActionSpecMismatch(f"action spec: found {type(data).__name__}, expected a JSON object")
        if data.get("unit") == UNKNOWN:
            data = {"motion": UNKNOWN, "space": UNKNOWN} | data
        try:
            return _adapter(cls).validate_json(json.dumps(data))
        except ValidationError as error:
            raise _invalid(data, error) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise ActionSpecMismatch(f"action spec: found values that are not JSON ({error})") from error

    def check(self, actions: ArrayOrTensor, where: str) -> ArrayOrTensor:
        """Return `actions` if their width is correct and all numbers are finite.

        Args:
            actions: the actions [... a].
            where: their source, for messages.

        Raises:
            ActionSpecMismatch: they are not.
        """
        if actions.shape[-1] != self.dim:
            raise ActionSpecMismatch(f"{where}: actions are {actions.shape[-1]} wide, expected {self.dim}: {self}")
        finite = torch.isfinite(actions).all() if isinstance(actions, Tensor) else np.isfinite(actions).all()
        if not bool(finite):
            raise ActionSpecMismatch(f"{where}: actions contain NaN or infinity, expected finite numbers")
        return actions


def _contradict(one: str, other: str) -> bool:
    return UNKNOWN not in (one, other) and one != other


_adapter = functools.cache(TypeAdapter)


def _invalid(data: dict[str, Any], error: ValidationError) -> ActionSpecMismatch:
    """Describe the first invalid field of a spec from JSON."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ActionSpecMismatch):
        return cause
    name = str(first["loc"][0])[:60]
    if first["type"] == "missing":
        return ActionSpecMismatch(f"action spec: field '{name}' is missing")
    if first["type"] == "unexpected_keyword_argument":
        return ActionSpecMismatch(f"action spec: field '{name}' is unknown")
    expected = first["msg"].removeprefix("Input should be ")
    return ActionSpecMismatch(f"action spec: field '{name}': found {str(data.get(name))[:60]}, expected {expected}")


def foreign_spec(
    axes: Sequence[str], low: Sequence[float], high: Sequence[float], rate: float | None = None
) -> ActionSpec:
    """Spec of external actions whose names and ranges alone are known."""
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


def union(specs: Sequence[ActionSpec]) -> ActionSpec:
    """Merge specs of one kind: the widest bounds, and every field that one of them knows.

    Raises:
        ActionSpecMismatch: the specs are not of one kind; two of them are printed.

    >>> union([metaworld_spec(6), metaworld_spec(6)]) == metaworld_spec(6)
    True
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
    """Share of actions [... a] outside the bounds of `spec` by more than 0.1 % of an axis' range.

    >>> clipped_share(metaworld_spec(6), np.array([[0, 0, 0, 2.0], [0, 0, 0, 1.0]]))
    0.5
    """
    low, high = np.array(spec.low), np.array(spec.high)
    slack = 1e-3 * (high - low) + 1e-6
    outside = ((actions < low - slack) | (actions > high + slack)).any(-1)
    return float(outside.mean()) if outside.size else 0.0


def metaworld_spec(hold: int) -> ActionSpec:
    """Spec of Meta-World actions held for `hold` control steps of 1/80 s.

    1.0 is 1 cm per control step.
    """
    return ActionSpec(
        axes=("x", "y", "z", "gripper"),
        unit=f"{hold}cm",
        low=(-1.0,) * 4,
        high=(1.0,) * 4,
        gripper="effort",
        rate=80.0 / hold,
    )


LIBERO_RATE = 20.0
"""Control steps of LIBERO per second."""
_LIBERO_UNIT = re.compile(r"(?:(\d+)x)?5cm\+0\.5rad")


def libero_spec(hold: int = 4, gripper: Gripper = "effort") -> ActionSpec:
    """Spec of LIBERO actions held for `hold` control steps of 1/20 s.

    In every control step, 1.0 moves the target of the hand to 5 cm, or 0.5 rad, from where the hand is. So the
    commanded motion of a decision is `hold` times 5 cm; the controller reaches about a third of it. Rotations are
    rotation vectors (axis times angle) about the axes of the base. Only the sign of the gripper matters: it closes
    above 0 and opens below.

    Args:
        hold: control steps per decision; 1 in published work.
        gripper: "effort" is LIBERO's; "open_1" that of policies such as OpenVLA (above 0.5 is open, else closed).

    >>> print(libero_spec())
    [x y z rx ry rz gripper] in 4x5cm+0.5rad, frame base, gripper effort, cartesian delta, 5 Hz
    """
    low = 0.0 if gripper in ("open_1", "open_0") else -1.0
    return ActionSpec(
        axes=("x", "y", "z", "rx", "ry", "rz", "gripper"),
        unit=f"{hold}x5cm+0.5rad" if hold > 1 else "5cm+0.5rad",
        low=(*(-1.0,) * 6, low),
        high=(1.0,) * 7,
        rotation="axis_angle",
        gripper=gripper,
        rate=LIBERO_RATE / hold,
    )


BRIDGE = ActionSpec(
    axes=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    unit="m+rad",
    low=(*(-BRIDGE_LIMITS).tolist(), 0.0),
    high=(*BRIDGE_LIMITS.tolist(), 1.0),
    rotation="rpy",
    gripper="open_1",
    rate=5.0,
)
"""BridgeData V2 as logged: meters and radians per step, gripper 1 open and 0 closed."""

WORLDGYM = ActionSpec(
    axes=("x", "y", "z", "roll", "pitch", "yaw", "gripper", "pad0", "pad1", "pad2"),
    unit="worldgym",
    low=(*(-WORLDGYM_LIMITS).tolist(), -1.0, 0.0, 0.0, 0.0),
    high=(*WORLDGYM_LIMITS.tolist(), 1.0, 0.0, 0.0, 1.0),
    rotation="rpy",
    gripper="open_-1",
    rate=5.0,
)
"""Input of the published world model; the last padding axis marks "no action" for classifier-free guidance."""


def _is_libero(spec: ActionSpec) -> bool:
    return _LIBERO_UNIT.fullmatch(spec.unit) is not None and spec.is_same_kind(libero_spec(_hold(spec), spec.gripper))


def _hold(spec: ActionSpec) -> int:
    """Control steps per decision of a LIBERO spec."""
    match = _LIBERO_UNIT.fullmatch(spec.unit)
    return int(match.group(1) or 1) if match else 1


def _opening(spec: ActionSpec, gripper: np.ndarray) -> np.ndarray:
    """Whether each number of a gripper axis opens it."""
    return is_opening(spec.gripper, gripper, BRIDGE_OPEN if spec.is_same_kind(BRIDGE) else 0.5)


def _libero_to_libero(source: ActionSpec, target: ActionSpec, actions: np.ndarray) -> np.ndarray:
    gripper = gripper_numbers(target.gripper, _opening(source, actions[..., 6:7]))
    return np.concatenate([actions[..., :6], gripper], -1).astype(np.float32)


def _libero_to_bridge(spec: ActionSpec, actions: np.ndarray) -> np.ndarray:
    gripper = gripper_numbers("open_1", _opening(spec, actions[..., 6:7]))
    return np.concatenate([libero_to_meters(actions[..., :6], _hold(spec)), gripper], -1).astype(np.float32)


def _bridge_to_libero(spec: ActionSpec, actions: np.ndarray) -> np.ndarray:
    gripper = gripper_numbers(spec.gripper, _opening(BRIDGE, actions[..., 6:7]))
    return np.concatenate([meters_to_libero(actions[..., :6], _hold(spec)), gripper], -1).astype(np.float32)


def motionless(spec: ActionSpec, actions: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Replace actions by actions without motion, float32 [... t a].

    Deltas and velocities become 0. Absolute targets and grippers keep their previous value.

    Args:
        spec: meaning of the numbers.
        actions: float32 [... t a], the actions to replace.
        before: float32 [... a], the previous action; by default the first of `actions`.
    """
    spec.check(actions, "actions without motion")
    still = np.zeros_like(actions, dtype=np.float32)
    held = actions[..., 0, :] if before is None else before
    for axis in _grippers(spec) + (_targets(spec) if spec.is_absolute else []):
        still[..., axis] = held[..., None, axis]
    return still


def jittered(spec: ActionSpec, actions: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Add noise to the motion axes, clipped to the bounds; grippers stay.

    Args:
        spec: meaning of the numbers.
        actions: float32 [... a].
        noise: float32 [... a]; 1.0 is the largest step of an axis: half its range for deltas, and range / rate for
            absolute targets (a robot that crosses its range in a second).
    """
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    step = (high - low) / (max(spec.rate or _UNKNOWN_RATE, 1.0) if spec.is_absolute else 2)
    step[_pads(spec) + _grippers(spec)] = 0
    noisy = spec.check(actions, "action jitter") + noise * step
    return np.where(step > 0, np.clip(noisy, low, high), actions).astype(np.float32)


def _grippers(spec: ActionSpec) -> list[int]:
    return [i for i, axis in enumerate(spec.axes) if is_gripper(axis)]


def _targets(spec: ActionSpec) -> list[int]:
    """Indices of the axes of a target pose: no gripper, no padding, no velocity."""
    others = set(_grippers(spec) + _pads(spec))
    return [i for i, axis in enumerate(spec.axes) if i not in others and not is_velocity(axis)]


def _pads(spec: ActionSpec) -> list[int]:
    return [i for i, axis in enumerate(spec.axes) if axis.startswith("pad")]


def converter(source: ActionSpec, target: ActionSpec) -> Callable[[np.ndarray], np.ndarray]:
    """Function that converts float32 [... a] in `source` to float32 [... a'] in `target`.

    Raises:
        ActionSpecMismatch: no conversion is known; the message contains both specs.

    >>> converter(BRIDGE, WORLDGYM)(np.zeros((1, 7), np.float32)).shape
    (1, 10)
    """
    convert = _conversion(source, target)
    if convert is None:
        raise ActionSpecMismatch(f"no conversion between action specs: {_describe(source, target)}")
    return lambda actions: convert(source.check(actions, "action conversion"))


def _conversion(source: ActionSpec, target: ActionSpec) -> Callable[[np.ndarray], np.ndarray] | None:
    """Conversion between two specs; None if there is none."""
    if source.is_same_kind(target):
        return lambda actions: actions
    if source.is_same_kind(BRIDGE):
        if target.is_same_kind(WORLDGYM):
            return bridge_to_worldgym
        is_known = _is_libero(target) and target.rate == BRIDGE.rate
        return functools.partial(_bridge_to_libero, target) if is_known else None
    if source.is_same_kind(WORLDGYM):
        last = _conversion(BRIDGE, target)
        return None if last is None else lambda actions: last(worldgym_to_bridge(actions))
    if not _is_libero(source):
        return None
    if _is_libero(target):
        return functools.partial(_libero_to_libero, source, target) if _hold(source) == _hold(target) else None
    last = _conversion(BRIDGE, target) if source.rate == BRIDGE.rate else None
    return None if last is None else lambda actions: last(_libero_to_bridge(source, actions))


def require_same(found: ActionSpec, expected: ActionSpec, where: str) -> None:
    """Raise ActionSpecMismatch, with both specs, unless they are of one kind (see `ActionSpec.differences`)."""
    if not found.is_same_kind(expected):
        raise ActionSpecMismatch(f"{where}: action specs differ: {_describe(found, expected)}")


def _describe(found: ActionSpec, expected: ActionSpec) -> str:
    names = ", ".join(f"'{name}'" for name in found.differences(expected))
    return f"found {found}; expected {expected} (they differ in {names})"
