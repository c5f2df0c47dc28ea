"""Temporal subsampling: kept frames, combined actions and labels."""

from dataclasses import replace

import numpy as np
import pytest
from episode_builders import assert_identical, episode
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from worldgymnast.actions import BRIDGE, ActionSpec, metaworld_spec
from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.rates import subsampling_factor
from worldgymnast.episodes.subsample import (
    combine_actions,
    subsample,
    subsample_set,
    warn_unknown_motion,
)
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.errors import InputError

# ---------------------------------------------------------------- lower rates


def test_deltas_add_up_and_grippers_do_not():
    spec = metaworld_spec(3)
    one = replace(episode(1, steps=7), actions=np.arange(28, dtype=np.float32).reshape(7, 4))
    found = subsample(one, 3)
    assert found.actions.tolist() == [[12, 15, 18, 11], [48, 51, 54, 23]]
    assert found.spec.high == (3.0, 3.0, 3.0, 1.0)
    assert found.spec.rate == pytest.approx(spec.rate / 3)
    assert found.fps == one.fps / 3
    assert found.last_action is None


def test_labels_between_kept_frames_and_after_the_last_are_kept():
    success = np.array([0, 0, 1, 0, 0, 0, 0, 1], bool)
    found = subsample(replace(episode(1, steps=7), success=success), 3)
    assert found.success.tolist() == [False, True, True]


def test_velocities_are_averaged():
    spec = replace(metaworld_spec(3), axes=("x.vel", "y", "z", "gripper"))
    assert combine_actions(spec, np.array([[[2, 2, 2, 2], [4, 4, 4, 4]]], np.float32)).tolist() == [[3, 6, 6, 4]]


def test_rotations_are_composed():
    quarter = np.pi / 2
    step = np.zeros((1, 2, 7), np.float32)
    step[0, 0, 5] = quarter  # turn left
    step[0, 1, 3] = quarter  # then roll about the base's x axis
    base = combine_actions(BRIDGE, step)[0]
    # Rx(90) Rz(90) sends x to z, y to -x and z to -y: pitch -90 in these angles
    assert base[4] == pytest.approx(-quarter, abs=1e-3)
    step[0, 1, 3], step[0, 1, 0] = 0, 0.02
    own = combine_actions(replace(BRIDGE, frame="end_effector"), step)[0]
    assert own[:3] == pytest.approx([0, 0.02, 0], abs=1e-6)  # it goes where the hand points by then
    assert own[5] == pytest.approx(quarter, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 4), st.floats(-0.25, 0.25))
def test_rotation_about_one_axis_is_a_sum(count, every, angle):
    groups = np.zeros((count, every, 7), np.float32)
    groups[:, :, 5] = angle
    assert combine_actions(BRIDGE, groups)[:, 5] == pytest.approx(every * angle, abs=1e-5)


@pytest.mark.parametrize(
    ("fps", "wanted", "every"), [(30, 10, 3), (29.97, 10, 3), (13.333, 13.333, 1), (80 / 6, 6.67, 2)]
)
def test_integer_fractions_of_a_rate(fps, wanted, every):
    assert subsampling_factor(fps, wanted) == every


@pytest.mark.parametrize(
    ("fps", "wanted", "choices"), [(30, 13, "15 or 10"), (10, 30, "such as 10"), (30, 25, "30 or 15")]
)
def test_other_rates_are_refused_with_alternatives(fps, wanted, choices):
    with pytest.raises(
        InputError, match=f"--fps: found {wanted} .*{choices}; frames can be dropped but not interpolated"
    ):
        subsampling_factor(fps, wanted)


@pytest.mark.parametrize(("fps", "wanted", "every"), [(25, 5, 5), (50, 10, 5), (60, 29.97, 2), (29.97, 30, 1)])
def test_rates_of_cameras(fps, wanted, every):
    assert subsampling_factor(fps, wanted) == every


@pytest.mark.parametrize(
    ("fps", "wanted", "choices"), [(15, 6, "7.5 or 5"), (24, 10, "12 or 8"), (5, 3, "2.5 or 1.667")]
)
def test_rates_that_do_not_divide_are_refused_with_the_nearest(fps, wanted, choices):
    with pytest.raises(InputError, match=f"expected an integer fraction of it, such as {choices}"):
        subsampling_factor(fps, wanted)


@pytest.mark.parametrize("every", [1, 2, 3, 7, 20])
def test_a_set_is_subsampled_like_its_episodes(every):
    each = [episode(i, steps=3 + 2 * i) for i in range(6)]
    whole = from_episodes(each)
    found = subsample_set(whole.select([4, 1, 0, 5]), every)
    assert found.fps == whole.fps / every
    for e, index in enumerate([4, 1, 0, 5]):
        expected = subsample(replace(each[index], spec=whole.spec), every)
        assert_identical(found.episode(e), expected)
        assert (found.actions[found.first[e] + found.length[e]] == 0).all()
    assert len(found.frames) == len(found.actions) == len(found.success)


def test_reading_subsamples_like_converting(tmp_path):
    each = [replace(episode(i, steps=9 + i), fps=30.0, spec=replace(metaworld_spec(3), rate=30.0)) for i in range(3)]
    lerobot.write(tmp_path / "set", each)
    read = formats.read(tmp_path / "set", fps=10)
    formats.convert(tmp_path / "set", tmp_path / "converted", fps=10, lossless=True)
    converted = formats.read(tmp_path / "converted")
    assert read.fps == converted.fps == read.spec.rate == 10
    for e in range(3):
        assert np.array_equal(read.episode(e).actions, converted.episode(e).actions)
        assert (read.episode(e).success is None) == (converted.episode(e).success is None)
    with pytest.raises(InputError, match=r"--fps: found 7 for data of 30 .*such as 7.5 or 6"):
        formats.read(tmp_path / "set", fps=7)
    with pytest.raises(InputError, match="found 30 frames per second in the dataset, expected 60"):
        formats.read(tmp_path / "set", fps=60)


def test_targets_are_those_at_the_end_and_unknown_motion_is_said(tmp_path, capsys):
    spec = ActionSpec(("j.pos", "gripper.pos"), "deg", (-90.0, 0.0), (90.0, 100.0), motion="absolute", space="joint")
    groups = np.array([[[1, 2], [3, 4], [5, 6]]], np.float32)
    assert combine_actions(spec, groups).tolist() == [[5, 6]]
    warn_unknown_motion(tmp_path, replace(spec, motion="unknown"))
    assert "they are added up, as deltas" in capsys.readouterr().err
    warn_unknown_motion(tmp_path, spec)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("frame", ["base", "end_effector"])
def test_rotation_vectors_of_any_unit_are_composed(frame):
    axes = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    spec = ActionSpec(axes, "5cm+0.5rad", (-1.0,) * 7, (1.0,) * 7, frame=frame, rotation="axis_angle", gripper="effort")
    step = np.random.default_rng(0).uniform(-1, 1, (5, 3, 7)).astype(np.float32)
    found = combine_actions(spec, step)
    for group, combined in zip(step, found, strict=True):
        turns = [Rotation.from_rotvec(0.5 * one[3:6]) for one in group]
        total = turns[2] * turns[1] * turns[0] if frame == "base" else turns[0] * turns[1] * turns[2]
        assert np.allclose(combined[3:6], total.as_rotvec() / 0.5, atol=1e-5)
        assert combined[6] == group[-1, 6]
    if frame == "base":
        assert np.allclose(found[:, :3], step[:, :, :3].sum(1), atol=1e-6)
