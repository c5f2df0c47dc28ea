"""How a person drives each action axis: by keys, gamepad and sliders, from the `ActionSpec` alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from worldgymnast.actions import ActionSpec
from worldgymnast.axes import is_gripper

_KEYS = (("a", "d"), ("s", "w"), ("f", "r"), ("j", "l"), ("k", "i"), ("h", "y"), ("v", "g"), ("n", "b"), ("1", "2"))
"""Keys for less and more of each moving axis, in order; further axes have sliders only."""
_GRIPPER_KEYS = (("q", "e"), ("z", "x"))
_UNKNOWN_RATE = 10.0


@dataclass(frozen=True)
class Axis:
    """Controls of one action axis.

    Attributes:
        name: name of the axis.
        low: smallest value.
        high: largest value.
        rest: value at the beginning.
        springs: whether it returns to `rest` when released, as a delta does; targets and grippers keep their value.
        step: change per frame while a key is held, for axes that keep their value.
        keys: keys for less and more; empty for none.
        is_hidden: whether it is padding, which stays at `rest`.
        is_gripper: whether it is the opening of a gripper.
        is_switch: whether only `low` and `high` have a meaning.
    """

    name: str
    low: float
    high: float
    rest: float
    springs: bool
    step: float
    keys: tuple[str, ...] = ()
    is_hidden: bool = False
    is_gripper: bool = False
    is_switch: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


def controls(spec: ActionSpec, initial: np.ndarray | None = None) -> list[Axis]:
    """Controls of every axis.

    Args:
        spec: meaning of the actions.
        initial: float32 [a], the action to begin with where axes keep their value; the middle of the range, or an open
            gripper, if None.

    >>> from worldgymnast.actions import metaworld_spec
    >>> [(axis.name, axis.springs, axis.keys) for axis in controls(metaworld_spec(6))][2:]
    [('z', True, ('f', 'r')), ('gripper', False, ('q', 'e'))]
    """
    moving, grippers = iter(_KEYS), iter(_GRIPPER_KEYS)
    axes = []
    for i, (name, low, high) in enumerate(zip(spec.axes, spec.low, spec.high, strict=True)):
        if name.startswith("pad"):
            axes.append(Axis(name, low, high, float(np.clip(0.0, low, high)), False, 0.0, is_hidden=True))
            continue
        keeps = is_gripper(name) or spec.is_absolute
        rest = float(np.clip(0.0, low, high))
        if keeps:
            rest = _open(spec, low, high) if is_gripper(name) else (low + high) / 2
            rest = rest if initial is None else float(np.clip(initial[i], low, high))
        axes.append(
            Axis(
                name,
                low,
                high,
                rest,
                springs=not keeps,
                step=(high - low) / max(1.0, spec.rate or _UNKNOWN_RATE) * (2 if is_gripper(name) else 0.5),
                keys=next(grippers if is_gripper(name) else moving, ()),
                is_gripper=is_gripper(name),
                is_switch=is_gripper(name) and spec.gripper in ("open_1", "open_0", "open_-1"),
            )
        )
    return axes


def _open(spec: ActionSpec, low: float, high: float) -> float:
    """Value of an open gripper, as far as the spec tells it."""
    return high if spec.gripper == "open_1" else low


def clipped(spec: ActionSpec, action: object) -> np.ndarray:
    """An action of the page as float32 [a] within the bounds of the spec.

    Raises:
        ActionSpecMismatch: it has another number of axes, or a value is not a finite number.
    """
    try:
        values = np.array(action, np.float32)
    except (TypeError, ValueError):
        values = np.empty(0, np.float32)
    values = spec.check(values if values.ndim == 1 else values.reshape(-1)[:0], "action")
    return np.clip(values, np.array(spec.low, np.float32), np.array(spec.high, np.float32))
