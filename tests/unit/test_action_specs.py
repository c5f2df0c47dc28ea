"""Action specs of foreign data: kinds, grippers, absolute targets, and statistics in every form."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_data import v3, v21

from worldgymnast.actions import (
    BRIDGE,
    WORLDGYM,
    ActionSpec,
    ActionSpecMismatch,
    clipped_share,
    converter,
    infer_motion,
    is_gripper,
    jittered,
    metaworld_spec,
    motionless,
    require_same,
    union,
)
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.check import check
from worldgymnast.episodes.windows import concatenate, warn_out_of_range
from worldgymnast.errors import InputError

JOINTS = ("shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos")
SO101 = ActionSpec(
    axes=JOINTS,
    unit="unknown",
    low=(-100.0, -90.0, -50.0, -60.0, -170.0, 0.0),
    high=(100.0, 90.0, 99.0, 60.0, 170.0, 100.0),
    frame="unknown",
    rotation="unknown",
    rate=30.0,
    motion="absolute",
    space="joint",
)

# ---------------------------------------------------------------- kinds


def test_different_observed_bounds_are_the_same_kind() -> None:
    other = replace(SO101, low=(-80.0,) * 6, high=(120.0,) * 6)
    assert SO101.is_same_kind(other)
    require_same(SO101, other, "two days")
    actions = np.full((2, 6), 110, np.float32)
    assert converter(SO101, other)(actions) is actions
    whole = union([SO101, other])
    assert whole.low == (-100.0, -90.0, -80.0, -80.0, -170.0, -80.0)
    assert whole.high == (120.0, 120.0, 120.0, 120.0, 170.0, 120.0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"axes": (*JOINTS[:-1], "claw")}, "axes"),
        ({"unit": "degrees"}, "unit"),
        ({"motion": "delta"}, "motion"),
        ({"space": "cartesian"}, "space"),
        ({"rate": 15.0}, "rate"),
    ],
)
def test_a_different_meaning_is_a_different_kind_and_both_are_printed(change, field) -> None:
    other = replace(SO101, **change)
    with pytest.raises(ActionSpecMismatch) as error:
        require_same(other, SO101, "data and policy")
    assert f"they differ in '{field}'" in str(error.value)
    assert str(other) in str(error.value)
    assert str(SO101) in str(error.value)


def test_unknown_fields_match_and_are_filled_in() -> None:
    vague = replace(SO101, motion="unknown", space="unknown", rate=None)
    assert vague.is_same_kind(SO101)
    assert SO101.is_same_kind(vague)
    assert union([vague, SO101]) == SO101
    assert SO101.is_same_kind(replace(SO101, rate=29.97))
    assert not BRIDGE.is_same_kind(replace(BRIDGE, unit="unknown"))


def test_files_without_the_motion_field_load() -> None:
    old = {k: v for k, v in metaworld_spec(6).to_dict().items() if k not in ("motion", "space")}
    assert ActionSpec.from_dict(old) == metaworld_spec(6)
    assert metaworld_spec(6).motion == "delta"
    foreign = {k: v for k, v in SO101.to_dict().items() if k not in ("motion", "space")}
    assert ActionSpec.from_dict(foreign).is_same_kind(SO101)


@pytest.mark.parametrize(
    "junk",
    [
        None,
        [],
        "spec",
        {},
        {"axes": "xy", "unit": "m", "low": [0], "high": [1]},
        {"axes": ["x"], "unit": "m", "low": ["0"], "high": [1]},
        {"axes": ["x"], "unit": "m", "low": [float("nan")], "high": [1]},
        {"axes": ["x"], "unit": "m", "low": [-(10**400)], "high": [1]},
        {"axes": ["x"], "unit": "m", "low": [0], "high": [1, 2]},
        {"axes": ["x"], "unit": "m", "low": [0], "high": [1], "motion": "sideways"},
        {"axes": ["x"], "unit": "m", "low": [0], "high": [1], "rate": float("inf")},
        {"axes": ["x"], "unit": "m", "low": [0], "high": [1], "gripper": ["open_1"]},
        {"axes": ["x"], "unit": "m", "low": [0], "high": [1], "colour": "red"},
    ],
)
def test_an_invalid_spec_is_refused(junk) -> None:
    with pytest.raises(ActionSpecMismatch, match="action spec"):
        ActionSpec.from_dict(junk)


# ---------------------------------------------------------------- no motion


@pytest.mark.parametrize(
    "name",
    ["gripper", "gripper.pos", "right_gripper.pos", "left_gripper", "gripper_position", "main_gripper", "finger",
     "panda_finger_joint1", "Gripper", "leftGripper", "robotiq_85_left_knuckle", "action.gripper_close"],
)  # fmt: skip
def test_grippers_are_recognized_by_name(name) -> None:
    assert is_gripper(name)


@pytest.mark.parametrize("name", ["wrist_roll", "x", "gripper_x", "gripper.vel", "pad0", "shoulder_pan.pos", "a6"])
def test_hand_axes_are_not_grippers(name) -> None:
    assert not is_gripper(name)


def test_no_motion_with_absolute_targets_repeats_the_pose() -> None:
    actions = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    before = np.full((1, 6), 7, np.float32)
    assert np.array_equal(motionless(SO101, actions, before), np.full((1, 4, 6), 7, np.float32))
    assert np.array_equal(motionless(SO101, actions), np.repeat(actions[:, :1], 4, 1))


def test_no_motion_with_deltas_is_zero_and_keeps_the_gripper() -> None:
    spec = replace(SO101, motion="delta")
    still = motionless(spec, np.ones((1, 4, 6), np.float32), np.full((1, 6), 7, np.float32))
    assert (still[..., :5] == 0).all()
    assert (still[..., 5] == 7).all()


def test_no_motion_stops_the_base_and_holds_the_arm() -> None:
    axes = ("arm_elbow_flex.pos", "arm_gripper.pos", "x.vel", "theta.vel")
    spec = replace(SO101, axes=axes, low=(-90.0, 0.0, -1.0, -1.0), high=(90.0, 100.0, 1.0, 1.0))
    still = motionless(spec, np.ones((3, 4), np.float32), np.full(4, 7, np.float32))
    assert np.array_equal(still, np.tile(np.array([7, 7, 0, 0], np.float32), (3, 1)))


def test_unknown_motion_is_absolute_if_zero_is_out_of_range() -> None:
    unknown = replace(SO101, motion="unknown", axes=("a0", "a1", "a2", "a3", "a4", "a5"))
    assert not unknown.is_absolute
    assert replace(unknown, low=(12.0, *unknown.low[1:])).is_absolute


def test_jitter_of_absolute_targets_is_a_step_not_a_tour_of_the_range() -> None:
    actions = np.zeros((5, 6), np.float32)
    actions[:, 5] = 40
    moved = jittered(SO101, actions, np.ones((5, 6), np.float32))
    assert moved[:, 0] == pytest.approx(200 / 30)
    assert (moved[:, 5] == 40).all()
    assert jittered(metaworld_spec(6), np.zeros((1, 4), np.float32), np.full((1, 4), 0.5, np.float32))[0, 0] == 0.5


# ---------------------------------------------------------------- what names and ranges say


@pytest.mark.parametrize(
    ("axes", "low", "high", "expected"),
    [
        (JOINTS, SO101.low, SO101.high, ("absolute", "joint")),
        (("delta_x", "delta_y", "delta_z", "gripper"), (-1,) * 4, (1,) * 4, ("delta", "cartesian")),
        (("x", "y", "z", "roll", "pitch", "yaw", "gripper"), (-1,) * 7, (1,) * 7, ("unknown", "cartesian")),
        (("x", "y", "z", "gripper"), (0.3, -0.2, 0.05, 0), (0.6, 0.2, 0.3, 1), ("absolute", "cartesian")),
        (("joint_0", "joint_1", "gripper"), (-1, 1.2, 0), (1, 1.9, 1), ("absolute", "joint")),
        (("left_waist", "left_shoulder", "left_elbow", "left_gripper"), (-1,) * 4, (1,) * 4, ("unknown", "joint")),
        (("x.vel", "y.vel", "theta.vel"), (-1,) * 3, (1,) * 3, ("delta", "unknown")),
        (("a0", "a1", "a2"), (-1,) * 3, (1,) * 3, ("unknown", "unknown")),
        (("a0", "a1", "a2"), (0.01,) * 3, (0.04,) * 3, ("unknown", "unknown")),
        (("gripper",), (1,), (2,), ("unknown", "unknown")),
    ],
)
def test_motion_is_inferred_only_where_it_is_certain(axes, low, high, expected) -> None:
    assert infer_motion(axes, low, high) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y", "z"], ("x", "y", "z")),
        ([["x", "y", "z"]], ("x", "y", "z")),
        ({"motors": ["x", "y", "z"]}, ("x", "y", "z")),
        ({"left": ["x", "y"], "right": ["z"]}, ("x", "y", "z")),
        ({"z": 2, "x": 0, "y": 1}, ("x", "y", "z")),
        ({"z": "2", "x": 0}, ("a0", "a1", "a2")),
        (["x", "y"], ("a0", "a1", "a2")),
        (None, ("a0", "a1", "a2")),
        ("xyz", ("a0", "a1", "a2")),
        (3, ("a0", "a1", "a2")),
    ],
)
def test_axis_names_in_every_shape(tmp_path, names, expected) -> None:
    v3(tmp_path / "set", d=3, names=names)
    assert lerobot.read(tmp_path / "set").spec.axes == expected


# ---------------------------------------------------------------- statistics


def _shapes(low: list[float], high: list[float], names: list[str]) -> dict[str, dict]:
    return {
        "nested lists": {"min": [low], "max": [high]},
        "by motor inside": {"min": dict(zip(names, low, strict=True)), "max": dict(zip(names, high, strict=True))},
        "by motor in another order": {
            "min": dict(reversed(list(zip(names, low, strict=True)))),
            "max": dict(reversed(list(zip(names, high, strict=True)))),
        },
        "by motor outside": {
            name: {"min": [one], "max": [other]} for name, one, other in zip(names, low, high, strict=True)
        },
        "by group": {"min": {"motors": low}, "max": {"motors": high}},
        "columns": {"min": [[x] for x in low], "max": [[x] for x in high]},
    }


@pytest.mark.parametrize("shape", _shapes([], [], []))
@pytest.mark.parametrize("old", [False, True])
def test_statistics_are_read_in_every_shape(tmp_path, shape, old) -> None:
    names = [f"m{index}" for index in range(7)]
    low, high = [float(-1 - index) for index in range(7)], [float(1 + index) for index in range(7)]
    part = _shapes(low, high, names)[shape]
    part |= {"q01": low, "q99": high} if "min" in part else {}
    if old:
        v21(tmp_path / "set")
        info = json.loads((tmp_path / "set/meta/info.json").read_text())
        info["features"]["action"]["names"] = names
        (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
        lines = [json.dumps({"episode_index": e, "stats": {"action": part}}) for e in range(2)]
        (tmp_path / "set/meta/episodes_stats.jsonl").write_text("\n".join(lines))
    else:
        v3(tmp_path / "set", names=names)
        (tmp_path / "set/meta/stats.json").write_text(json.dumps({"action": part}))
    spec = lerobot.read(tmp_path / "set").spec
    assert (spec.low, spec.high) == (tuple(low), tuple(high))


@pytest.mark.parametrize("stats", [None, {}, {"action": {"mean": [0] * 7, "q01": [0] * 7}}, {"action": None}])
def test_missing_bounds_are_taken_from_the_rows_and_reported(tmp_path, stats) -> None:
    actions = v3(tmp_path / "set")
    path = tmp_path / "set/meta/stats.json"
    path.unlink() if stats is None else path.write_text(json.dumps(stats))
    spec = lerobot.read(tmp_path / "set").spec
    rows = np.concatenate(list(actions.values()))
    assert spec.low == pytest.approx(rows.min(0))
    assert spec.high == pytest.approx(rows.max(0))
    found = [str(finding) for finding in check(tmp_path / "set") if finding.severity == "warning"]
    assert any("stats.json" in line and "taken from the rows" in line for line in found)


@pytest.mark.parametrize(
    "part",
    [
        {"min": "low", "max": "high"},
        {"min": [None] * 7, "max": [1] * 7},
        {"min": [{}] * 7, "max": [{}] * 7},
        {"min": [10**400] * 7, "max": [1] * 7},
    ],
)
def test_non_numeric_statistics_are_one_line(tmp_path, part) -> None:
    v3(tmp_path / "set")
    (tmp_path / "set/meta/stats.json").write_text(json.dumps({"action": part}))
    with pytest.raises(InputError, match=r"stats\.json: field 'action'") as error:
        lerobot.read(tmp_path / "set")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("width", [2**63, 10**400, 10_001, True, 0])
def test_a_width_no_robot_has_is_refused_before_it_costs_memory(tmp_path, width) -> None:
    v3(tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"]["action"]["shape"] = [width]
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"features\.action\.shape.*at most 10000"):
        lerobot.read(tmp_path / "set")


def test_non_numeric_rows_are_one_line(tmp_path) -> None:
    v3(tmp_path / "set", rows_fn=lambda t: t.set_column(0, "action", pa.array(["left"] * t.num_rows)))
    (tmp_path / "set/meta/stats.json").unlink()
    with pytest.raises(InputError, match=r"file-000\.parquet: field 'action'"):
        lerobot.read(tmp_path / "set")
    table = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    pq.write_table(table.drop_columns(["action"]), tmp_path / "set/data/chunk-000/file-000.parquet")
    with pytest.raises(InputError, match="field 'action'"):
        lerobot.read(tmp_path / "set")


def test_check_reports_the_assumed_motion(tmp_path) -> None:
    v3(tmp_path / "vague")
    lines = [str(finding) for finding in check(tmp_path / "vague")]
    assert any("(a guess by their range)" in line for line in lines)
    v3(tmp_path / "clear", d=6, names=list(JOINTS))
    lines = [str(finding) for finding in check(tmp_path / "clear")]
    assert not any("a guess by their range" in line for line in lines)
    assert any("absolute targets, in the recorded range" in line for line in lines)


# ---------------------------------------------------------------- two data sets of one robot


def test_two_days_of_one_robot_are_read_together_with_bounds_for_both(tmp_path) -> None:
    v3(tmp_path / "monday", lens=(5, 7), d=6, names=list(JOINTS))
    v3(tmp_path / "tuesday", lens=(9,), d=6, names=list(JOINTS))
    monday, tuesday = lerobot.read(tmp_path / "monday"), lerobot.read(tmp_path / "tuesday")
    assert monday.spec != tuesday.spec
    both = concatenate([monday, tuesday.with_action_spec(monday.spec)])
    assert len(both) == 3
    assert both.spec.low == tuple(np.minimum(monday.spec.low, tuesday.spec.low))
    assert both.spec.high == tuple(np.maximum(monday.spec.high, tuesday.spec.high))


def test_actions_out_of_range_are_reported_with_their_share(tmp_path, capsys) -> None:
    v3(tmp_path / "set", lens=(11,), d=6, names=list(JOINTS))
    episodes = lerobot.read(tmp_path / "set")
    warn_out_of_range(episodes, episodes.spec, "policy")
    assert capsys.readouterr().err == ""
    narrow = replace(episodes.spec, high=(*episodes.spec.high[:5], 0.5))
    warn_out_of_range(episodes, narrow, "policy")
    said = capsys.readouterr().err
    assert said.startswith("policy: 50% of the data's actions are out of range, axis 'gripper.pos' most")
    assert said.count("\n") == 1
    assert clipped_share(WORLDGYM, np.zeros((0, 10))) == 0
