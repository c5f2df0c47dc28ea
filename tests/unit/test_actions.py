"""Actions keep their meaning between specs, or are refused."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldgymnast.actions import (
    BRIDGE,
    WORLDGYM,
    ActionSpec,
    ActionSpecMismatch,
    converter,
    metaworld_spec,
    require_same,
)

SPECS = {
    "metaworld at 6": metaworld_spec(6),
    "metaworld at 4": metaworld_spec(4),
    "bridge": BRIDGE,
    "worldgym": WORLDGYM,
}
PAIRS = list(itertools.product(SPECS, SPECS))
CONVERTED = [("bridge", "worldgym"), ("worldgym", "bridge")]
BINARY = {"open_1": (0.0, 1.0), "open_0": (0.0, 1.0), "open_-1": (-1.0, 1.0)}
FLOAT32 = 1e-6
"""Relative to the range of an axis."""


def legal_axis(spec: ActionSpec, axis: int) -> st.SearchStrategy[float]:
    """Numbers a policy may emit on one axis: within bounds, pads zero, two-valued grippers at their two values."""
    name = spec.axes[axis]
    if name.startswith("pad"):
        return st.just(0.0)
    if name == "gripper" and spec.gripper in BINARY:
        return st.sampled_from(BINARY[spec.gripper])
    return st.floats(spec.low[axis], spec.high[axis])


@st.composite
def legal_actions(draw: st.DrawFn, spec: ActionSpec, steps: int = 3) -> np.ndarray:
    """float32 [1 steps a]: a chunk of legal actions."""
    rows = [[draw(legal_axis(spec, axis)) for axis in range(spec.dim)] for _ in range(steps)]
    return np.array([rows], np.float32)


def span(spec: ActionSpec) -> np.ndarray:
    return np.maximum(np.array(spec.high) - np.array(spec.low), 1.0)


@pytest.mark.parametrize(("policy", "world"), PAIRS)
@given(data=st.data())
def test_actions_survive_policy_to_world_to_policy(policy: str, world: str, data: st.DataObject) -> None:
    source, target = SPECS[policy], SPECS[world]
    if policy != world and (policy, world) not in CONVERTED:
        for one, other in ((source, target), (target, source)):
            with pytest.raises(ActionSpecMismatch):
                converter(one, other)
        return
    actions = data.draw(legal_actions(source))
    there = converter(source, target)(actions)
    assert there.shape == (*actions.shape[:-1], target.dim)
    assert there.dtype == np.float32
    slack = FLOAT32 * span(target)
    assert (there >= np.array(target.low) - slack).all()
    assert (there <= np.array(target.high) + slack).all()
    back = converter(target, source)(there)
    assert back.dtype == np.float32
    assert (np.abs(back - actions) <= FLOAT32 * span(source)).all()


@given(rows=st.lists(st.lists(st.floats(-10, 10), min_size=7, max_size=7), min_size=1, max_size=4))
def test_one_trip_settles_any_logged_action(rows: list[list[float]]) -> None:
    """Out of range or with a half-open gripper: clipped and decided once, then stable."""
    there, back = converter(BRIDGE, WORLDGYM), converter(WORLDGYM, BRIDGE)
    once = there(np.array(rows, np.float32))
    np.testing.assert_allclose(there(back(once)), once, atol=1e-6)


def test_worldgym_arithmetic_is_the_published_one() -> None:
    bridge = np.array([[0.05, -0.05, 0.025, 0.25, -0.25, 0.125, 0.9], [0.5, 0, 0, 0, 0, 0, 0.8]], np.float32)
    expected = [[1.75, -1.75, 0.875, 1.4, -1.4, 0.7, -1, 0, 0, 0], [1.75, 0, 0, 0, 0, 0, 1, 0, 0, 0]]
    np.testing.assert_allclose(converter(BRIDGE, WORLDGYM)(bridge), expected, rtol=1e-6)


@pytest.mark.parametrize("raises", [lambda a, b: converter(a, b), lambda a, b: require_same(a, b, "data set D")])
def test_a_refusal_prints_both_specs(raises) -> None:
    found, expected = metaworld_spec(6), metaworld_spec(4)
    with pytest.raises(ActionSpecMismatch) as error:
        raises(found, expected)
    message = str(error.value)
    assert str(found) in message
    assert str(expected) in message
    assert str(found) != str(expected)
    assert "\n" not in message


def test_specs_that_differ_in_one_field_are_refused() -> None:
    changed = [
        ActionSpec(**{**BRIDGE.to_dict(), "axes": BRIDGE.axes, "low": BRIDGE.low, "high": BRIDGE.high, **change})
        for change in ({"unit": "mm+rad"}, {"frame": "end_effector"}, {"gripper": "open_0"}, {"rate": 10.0})
    ]
    for spec in changed:
        for target in (BRIDGE, WORLDGYM):
            with pytest.raises(ActionSpecMismatch):
                converter(spec, target)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("width", [3, 5])
def test_a_wrong_width_is_refused(make, width: int) -> None:
    with pytest.raises(ActionSpecMismatch, match=rf"drive\.py: actions are {width} wide, expected 4"):
        metaworld_spec(6).check(make((2, 8, width)), "drive.py")


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused(make, value: float) -> None:
    actions = make((2, 8, 4))
    actions[1, 3, 2] = value
    with pytest.raises(ActionSpecMismatch, match="NaN or infinity"):
        metaworld_spec(6).check(actions, "drive.py")


def test_legal_actions_pass_as_they_are() -> None:
    actions = np.zeros((2, 8, 4), np.float32)
    assert metaworld_spec(6).check(actions, "drive.py") is actions


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_survives_json(name: str) -> None:
    spec = SPECS[name]
    assert ActionSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_bounds_must_fit_the_axes() -> None:
    with pytest.raises(ActionSpecMismatch, match="2 axes, 1 lower and 2 upper"):
        ActionSpec(axes=("x", "y"), unit="m", low=(0.0,), high=(1.0, 1.0))
