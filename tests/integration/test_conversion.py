"""`data convert`: keeps everything that was recorded, subsamples correctly, and round-trips."""

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episode_builders import assert_identical, episode, episodes
from foreign_data import IMG, TXT, T, acts, frame, ident, png, rlds, v3, v21

from worldgymnast.actions import BRIDGE, WORLDGYM, ActionSpec
from worldgymnast.cli.main import main
from worldgymnast.episodes import formats, lerobot, worldgym
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError
from worldgymnast.types import Episode

CAMERA, WRIST, STATE = "observation.images.cam", "observation.images.wrist", "observation.state"


def read_info(path):
    return json.loads((path / "meta/info.json").read_text())


def rows_of(path):
    return pa.concat_tables(pq.read_table(file) for file in sorted(path.glob("data/*/*.parquet")))


def recorded(index, steps=6, spec=None, **changes):
    """An episode as a robot records it: two cameras, state, last action, all numbered."""
    spec = spec or ActionSpec(
        axes=("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"),
        unit="unknown",
        low=(-90.0, 10.0, 0.0),
        high=(90.0, 80.0, 100.0),
        frame="unknown",
        rotation="unknown",
        rate=30.0,
        motion="absolute",
        space="joint",
    )
    rows = np.linspace(spec.low, spec.high, steps + 1, dtype=np.float32)
    made = Episode(
        frames=np.stack([frame(index, i) for i in range(steps + 1)]),
        actions=rows[:-1],
        last_action=rows[-1],
        instruction=f"stack cube {index}",
        task="",
        fps=30.0,
        spec=spec,
        camera=CAMERA,
        cameras={WRIST: np.stack([frame(index, i + 100, h=32, w=48) for i in range(steps + 1)])},
        state=np.arange((steps + 1) * 2, dtype=np.float32).reshape(-1, 2) + index,
        state_names=("shoulder_pan.pos", "elbow_flex.pos"),
        robot="so101_follower",
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """A data set of two episodes that has everything."""
    path = tmp_path_factory.mktemp("robot") / "set"
    lerobot.write(path, [recorded(0, 5), recorded(1, 8)])
    return path


# ---------------------------------------------------------------- what is written


def test_everything_recorded_is_written_and_read_back(robot):
    info = read_info(robot)
    assert info["robot_type"] == "so101_follower"
    assert [k for k, v in info["features"].items() if v["dtype"] == "video"] == [CAMERA, WRIST]
    assert info["features"][WRIST]["shape"] == [32, 48, 3]
    assert info["features"][STATE] == {
        "dtype": "float32",
        "shape": [2],
        "names": ["shoulder_pan.pos", "elbow_flex.pos"],
    }
    assert "worldgymnast" not in info
    for found, expected in zip(lerobot.episodes(robot), [recorded(0, 5), recorded(1, 8)], strict=True):
        assert np.array_equal(found.frames, expected.frames)
        assert np.array_equal(found.cameras[WRIST], expected.cameras[WRIST])
        assert np.array_equal(found.actions, expected.actions)
        assert found.last_action is not None
        assert np.array_equal(found.last_action, expected.last_action)
        assert np.array_equal(found.state, expected.state)
        assert (found.state_names, found.robot, found.instruction) == (
            expected.state_names,
            expected.robot,
            expected.instruction,
        )
        assert found.spec.is_same_kind(expected.spec)
        assert found.spec.motion == "absolute"


def test_without_labels_there_is_no_column_of_failures(robot):
    assert "success" not in read_info(robot)["features"]
    assert "success" not in rows_of(robot).column_names
    assert not lerobot.read(robot, image_key=CAMERA).labelled.any()


def test_the_last_row_asks_for_no_motion_where_none_was_recorded(tmp_path):
    lerobot.write(tmp_path / "joints", [recorded(0, 5, last_action=None)])
    rows = np.array(rows_of(tmp_path / "joints")["action"].to_pylist(), np.float32)
    assert len(rows) == 6
    assert np.array_equal(rows[-1], rows[-2])
    one = episode(1)
    lerobot.write(tmp_path / "deltas", [one])
    rows = np.array(rows_of(tmp_path / "deltas")["action"].to_pylist(), np.float32)
    assert np.array_equal(rows[-1], [0, 0, 0, one.actions[-1, 3]])
    assert "action_is_pad" not in rows_of(tmp_path / "deltas").column_names


def test_quantiles_are_written_for_every_feature(robot):
    stats = json.loads((robot / "meta/stats.json").read_text())
    assert set(stats) == set(read_info(robot)["features"])
    for name, part in stats.items():
        assert set(part) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}, name
        assert np.array(part["q50"]).shape == np.array(part["mean"]).shape
    assert stats[STATE]["q01"][0] < stats[STATE]["q50"][0] < stats[STATE]["q99"][0]
    assert stats[CAMERA]["q10"] == [[[pytest.approx(28 / 255)]]] * 3
    assert stats[CAMERA]["max"] == [[[pytest.approx(228 / 255)]]] * 3


def test_a_fractional_rate_is_whole_for_lerobot_and_true_for_us(tmp_path):
    one = episode(1)
    lerobot.write(tmp_path / "set", [one])
    assert read_info(tmp_path / "set")["fps"] == 27
    times = rows_of(tmp_path / "set")["timestamp"].to_numpy()
    assert times == pytest.approx(np.arange(len(times)) / 27, abs=1e-6)
    assert lerobot.read(tmp_path / "set").fps == one.fps == 80 / 3


def make_format_1(path):
    """The data set as versions before wrote it: last rows of zeros, the spec at the top of info.json."""
    info = read_info(path)
    info["worldgymnast"] = info["features"]["action"].pop("worldgymnast") | {"format": 1}
    info["features"]["action_is_pad"] = {"dtype": "bool", "shape": [1], "names": None}
    (path / "meta/info.json").write_text(json.dumps(info))
    for file in path.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        ends = np.append(np.diff(table["episode_index"].to_numpy()) != 0, True)
        actions = np.array(table["action"].to_pylist(), np.float32)
        actions[ends] = 0
        table = table.set_column(table.column_names.index("action"), "action", pa.array(actions.tolist()))
        pq.write_table(table.append_column("action_is_pad", pa.array(ends)), file)


def test_data_sets_of_the_first_format_are_still_read(tmp_path):
    expected = [replace(one, fps=5.0) for one in episodes(3, spec=BRIDGE)]
    lerobot.write(tmp_path / "old", expected)
    make_format_1(tmp_path / "old")
    found = lerobot.read(tmp_path / "old")
    for index, one in enumerate(expected):
        assert_identical(found.episode(index), one)
    assert all(one.last_action is None for one in lerobot.episodes(tmp_path / "old"))
    assert [str(one) for one in check(tmp_path / "old") if one.severity == "error"] == []


def test_what_does_not_fit_the_first_episode_is_refused(tmp_path):
    first = recorded(0)
    odd = {
        "cameras": replace(first, cameras={}),
        "state": replace(first, state=None),
        "robot": replace(first, robot="koch"),
    }
    for name, other in odd.items():
        with pytest.raises(InputError, match=f"episode 1 .*field '{name}': found .*expected .* as in the first"):
            lerobot.write(tmp_path / "set", [first, other])
    broken = replace(first, state=np.full((7, 2), np.nan, np.float32))
    with pytest.raises(InputError, match="'state': found NaN"):
        lerobot.write(tmp_path / "set", [broken])
    with pytest.raises(InputError, match="one frame and no action"):
        lerobot.write(tmp_path / "set", [recorded(0, 1, actions=first.actions[:0], frames=first.frames[:1],
                                                  cameras={}, state=None, last_action=None)])  # fmt: skip
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- conversions


def test_a_conversion_keeps_every_camera_the_state_and_the_last_action(robot, tmp_path):
    done = formats.convert(robot, tmp_path / "new")
    assert (done.episodes, done.actions, done.labelled, done.left_out) == (2, 13, 0, 0)
    for found, expected in zip(lerobot.episodes(tmp_path / "new"), lerobot.episodes(robot), strict=True):
        assert [ident(image) for image in found.frames] == [ident(image) for image in expected.frames]
        assert [ident(image) for image in found.cameras[WRIST]] == [ident(image) for image in expected.cameras[WRIST]]
        assert np.array_equal(found.state, expected.state)
        assert np.array_equal(found.actions, expected.actions)
        assert np.array_equal(found.last_action, expected.last_action)
        assert found.robot == "so101_follower"
    video = read_info(tmp_path / "new")["features"][CAMERA]["info"]
    assert (video["video.codec"], video["video.pix_fmt"]) == ("h264", "yuv420p")
    formats.convert(robot, tmp_path / "same", lossless=True)
    assert np.array_equal(next(lerobot.episodes(tmp_path / "same")).frames, next(lerobot.episodes(robot)).frames)


@pytest.mark.parametrize(("size", "pixels"), [((33, 47), "yuv444p"), ((32, 47), "yuv444p"), ((32, 48), "yuv420p")])
def test_odd_sizes_stay_odd(robot, tmp_path, size, pixels):
    formats.convert(robot, tmp_path / "new", size=size, image_key=CAMERA)
    assert lerobot.read(tmp_path / "new").size == size
    assert read_info(tmp_path / "new")["features"][CAMERA]["info"]["video.pix_fmt"] == pixels


def test_some_cameras_can_be_chosen(robot, tmp_path):
    formats.convert(robot, tmp_path / "one", image_key=WRIST)
    assert lerobot.read(tmp_path / "one").size == (32, 48)
    assert main(["data", "convert", str(robot), str(tmp_path / "two"), "--image-key", WRIST, CAMERA]) == 0
    assert [k for k, v in read_info(tmp_path / "two")["features"].items() if v["dtype"] == "video"] == [WRIST, CAMERA]


def test_the_first_frame_and_last_action_of_a_foreign_set_survive(tmp_path):
    for build, name in ((v3, "new"), (v21, "old")):
        actions = build(tmp_path / name)
        formats.convert(tmp_path / name, tmp_path / f"{name}-converted")
        for index, one in enumerate(lerobot.episodes(tmp_path / f"{name}-converted")):
            assert [ident(image) for image in one.frames] == [(index, i) for i in range(len(actions[index]))]
            assert np.allclose(np.concatenate([one.actions, one.last_action[None]]), actions[index])


def test_episodes_of_one_frame_are_left_out_with_a_word(tmp_path, capsys):
    v3(tmp_path / "set", lens=(5, 1, 7))
    assert main(["data", "convert", str(tmp_path / "set"), str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "1 episodes of one frame at 10 frames per second are skipped" in said
    assert "2 episodes, 10 actions" in said
    assert [ident(one.frames[0]) for one in lerobot.episodes(tmp_path / "new")] == [(0, 0), (2, 0)]
    v3(tmp_path / "short", lens=(1, 1))
    assert main(["data", "convert", str(tmp_path / "short"), str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_rlds_keeps_its_cameras_and_worldgym_its_labels(tmp_path):
    steps = {"action": T((7,)), "language_instruction": TXT,
             "observation": {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
                             "featuresDict": {"features": {"image": IMG(), "wrist_image": IMG()}}}}  # fmt: skip
    made = []
    for e in range(2):
        made.append({"steps/observation/image": [png(frame(e, i)) for i in range(4)],
                     "steps/observation/wrist_image": [png(frame(e, i + 50)) for i in range(4)],
                     "steps/action": acts(e, 4).ravel(),
                     "steps/language_instruction": [f"do {e}".encode()] * 4})  # fmt: skip
    rlds(tmp_path / "rlds", made, steps)
    done = formats.convert(tmp_path / "rlds", tmp_path / "new", fps=10)
    assert (done.episodes, done.actions, done.fps) == (2, 6, 10)
    one = list(lerobot.episodes(tmp_path / "new"))[1]
    assert one.camera == "observation.images.image"
    assert [ident(image) for image in one.frames] == [(1, i) for i in range(4)]
    assert [ident(image) for image in one.cameras["observation.images.wrist_image"]] == [(1, i + 50) for i in range(4)]
    assert np.array_equal(one.actions, acts(1, 4)[:3])
    worldgym.write(tmp_path / "gym", [episode(1, spec=WORLDGYM, fps=5.0)])
    assert formats.convert(tmp_path / "gym", tmp_path / "gym-new").labelled == 1


@pytest.mark.parametrize("name", ["out:1", "2026-11-26T10:15 run", "ü:x", "file:", "a%20b"])
def test_any_name_will_do(robot, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "convert", str(robot), name]) == 0
    assert main(["data", "convert", name, f"{name}-again"]) == 0
    assert len(list(lerobot.episodes(f"{name}-again"))) == 2


@pytest.mark.parametrize("fps", ["0", "-1", "nan", "inf", "1e9", "x"])
def test_a_rate_that_is_none_is_refused(robot, tmp_path, fps, capsys):
    assert main(["data", "convert", str(robot), str(tmp_path / "new"), "--fps", fps]) == 2
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="field 'fps'"):
        formats.convert(robot, tmp_path / "new", fps=float(fps) if fps not in ("x", "1e9") else -1)


def test_the_target_is_looked_at_before_anything_is_read(tmp_path, monkeypatch, robot):
    (tmp_path / "there").mkdir()
    monkeypatch.setattr("worldgymnast.episodes.formats.stream", lambda *_: pytest.fail("the source was read"))
    for target, message in ((tmp_path / "there", "exists already"), ("/proc/x/y", "cannot be written")):
        with pytest.raises(InputError, match=message):
            formats.convert(robot, target)


def test_frames_of_unequal_size_say_what_to_do(tmp_path, robot):
    first, other = recorded(0), recorded(1)
    small = replace(other, frames=other.frames[:, ::2, ::2])
    with pytest.raises(InputError, match=r"found .* 32x32.*expected .* 64x64.*resize all"):
        lerobot.write(tmp_path / "set", [first, small])


def test_a_disk_that_fills_up_leaves_nothing(robot, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for place in ("episodes.lerobot_writer.write_table", "video.VideoWriter.add", "video.VideoWriter.close"):
        with monkeypatch.context() as patch:
            patch.setattr(f"worldgymnast.{place}", full)
            with pytest.raises(InputError, match="no space left"):
                formats.convert(robot, tmp_path / "new")
        assert os.listdir(tmp_path) == []


def test_every_third_frame_with_the_action_before_the_next(robot, tmp_path):
    done = formats.convert(robot, tmp_path / "new", fps=10)
    assert (done.fps, done.actions) == (10, 1 + 2)
    first, second = lerobot.episodes(tmp_path / "new")
    assert [ident(image) for image in first.frames] == [(0, 0), (0, 3)]
    assert [ident(image) for image in second.frames] == [(1, 0), (1, 3), (1, 6)]
    assert [ident(image)[1] for image in second.cameras[WRIST]] == [100, 103, 106]
    whole = recorded(1, 8)
    assert np.array_equal(second.actions, whole.actions[[2, 5]])
    assert np.array_equal(second.last_action, whole.last_action)
    assert np.array_equal(second.state, whole.state[[0, 3, 6]])
    assert second.spec.rate == 10
