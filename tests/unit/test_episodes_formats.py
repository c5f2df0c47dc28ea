import json
import os
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from episode_builders import SPEC, assert_identical, episode, episodes, shared

from worldgymnast import video
from worldgymnast.actions import BRIDGE, WORLDGYM, ActionSpecMismatch
from worldgymnast.episodes import cache, formats, lerobot, rlds, tfrecord, worldgym
from worldgymnast.episodes.check import check, convert, detect
from worldgymnast.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """A WorldGym folder of 3 episodes."""
    worldgym.write(tmp_path / "gym", episodes(3, spec=WORLDGYM))
    return tmp_path / "gym"


@pytest.fixture
def bridge(tmp_path):
    path = tmp_path / "rlds"
    shutil.copytree(shared("bridge_rlds"), path, copy_function=shutil.copyfile)
    path.chmod(0o755)
    return path


def test_worldgym_episode_written_and_read_back_is_identical(folder):
    found = worldgym.read(folder)
    for index, expected in enumerate(episodes(3, spec=WORLDGYM)):
        assert_identical(found.episode(index), expected)
    with np.load(folder / "000000001.npz") as archive:
        assert archive["arr_0"].shape == (6, 10)


def test_worldgym_converts_bridge_and_refuses_the_rest(tmp_path):
    worldgym.write(tmp_path / "gym", [episode(0, spec=BRIDGE)])
    assert worldgym.read(tmp_path / "gym").spec == WORLDGYM
    with pytest.raises(ActionSpecMismatch, match="no conversion"):
        worldgym.write(tmp_path / "other", [episode(0)])
    assert not list(tmp_path.glob("other*"))


def test_real_worldgym_folder():
    found = worldgym.read(shared("bridge_worldgym"), size=32)
    assert len(found) == 7
    assert found.fps == 5.0
    rows = np.load(shared("bridge_worldgym") / "000000000.npz")["arr_0"]
    assert np.array_equal(found.episode(0).actions, rows[:-1])
    assert found.episode(0).frames.shape == (len(rows), 32, 32, 3)


def test_worldgym_errors_name_the_problem(folder):
    with pytest.raises(InputError, match="no mp4 files"):
        worldgym.read(folder.parent)
    np.savez(folder / "000000001.npz", np.zeros((6, 7), np.float32))
    with pytest.raises(InputError, match=r"000000001\.npz: field 'arr_0': found shape \[6, 7\]"):
        worldgym.read(folder)
    np.savez(folder / "000000001.npz", np.zeros((9, 10), np.float32))
    with pytest.raises(InputError, match=r"found 6 frames, expected 9"):
        worldgym.read(folder)
    (folder / "000000001.npz").unlink()
    with pytest.raises(InputError, match=r"000000001\.npz: no such file"):
        worldgym.read(folder)


def test_crc32c_has_its_published_value():
    assert tfrecord.crc32c(b"123456789") == 0xE3069283
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
    data = np.random.default_rng(0).bytes(5001)
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert tfrecord.crc32c(data) == state ^ 0xFFFFFFFF


def test_real_rlds_shard():
    found = rlds.read(shared("bridge_rlds"))
    assert len(found) == 25
    assert found.spec == BRIDGE
    assert found.instruction[0] == "put cup from counter or drying rack into sink"
    assert found.frames.shape[1:] == (64, 64, 3)
    assert found.frames.std() > 10
    assert (np.abs(found.actions[:, 6]) <= 1).all()
    assert not found.labelled.any()


def test_damaged_rlds_is_an_error(bridge):
    shard = next(bridge.glob("*.tfrecord*"))
    blob = shard.read_bytes()
    shard.write_bytes(blob[: len(blob) // 2])
    with pytest.raises(InputError, match=r"record \d+: found \d+ bytes.*truncated"):
        rlds.read(bridge)
    shard.write_bytes(blob[:1000] + bytes([blob[1000] ^ 1]) + blob[1001:])
    with pytest.raises(InputError, match="record 0: the checksum of its data is wrong"):
        rlds.read(bridge)
    shard.write_bytes(b"no tfrecord at all")
    with pytest.raises(InputError, match="checksum of its length"):
        rlds.read(bridge)
    kept = list(tfrecord.records(shared("bridge_rlds") / shard.name))[:3]
    tfrecord.write_records(shard, kept)
    with pytest.raises(InputError, match=r"found 3 records, expected 25"):
        rlds.read(bridge)
    with pytest.raises(InputError, match="expected 'image_9'"):
        rlds.read(bridge, image_key="image_9")


@pytest.mark.parametrize(("name", "kind"), [("bridge_rlds", "rlds"), ("bridge_worldgym", "worldgym")])
def test_real_data_convert_to_lerobot_unchanged(tmp_path, name, kind):
    source = shared(name)
    assert detect(source) == kind
    before = formats.read(source, size=32)
    convert(source, tmp_path / "new", size=32, lossless=True)
    assert detect(tmp_path / "new") == "lerobot-v3.0"
    after = formats.read(tmp_path / "new")
    assert len(after) == len(before)
    for index in (0, len(before) - 1):
        assert_identical(after.episode(index), before.episode(index))
    with pytest.raises(InputError, match="exists already"):
        convert(source, tmp_path / "new")
    assert [one for one in check(tmp_path / "new") if one.severity == "error"] == []


def test_detect_refuses_other_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        detect(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt: is a file, expected a folder"):
        detect(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"found \['notes.txt'\]"):
        detect(tmp_path)


def test_a_valid_set_has_no_findings(tmp_path):
    lerobot.write(tmp_path / "set", episodes(5))
    assert check(tmp_path / "set") == []


def test_check_finds_duplicates_still_scenes_ranges_and_missing_labels(tmp_path):
    still = episode(3)
    still.frames[:] = still.frames[:1]
    wild = episode(6)
    wild.actions[0, 2] = 7.0
    lerobot.write(tmp_path / "set", [still, wild, wild])
    text = "\n".join(map(str, check(tmp_path / "set")))
    for part in (
        "identical frames",
        "a copy of episode 1",
        "axis 'z': found",
        "7 (2 of 3",
        "no success labels: world models can be trained on it, judges cannot",
    ):
        assert part in text
    assert "error" not in text


def test_check_finds_damage_in_lerobot(tmp_path):
    path = tmp_path / "set"
    with lerobot.LeRobotWriter(path, episode(0).spec, 80 / 3, 32, frames_per_file=10) as writer:
        for one in episodes(4):
            writer.add(one)
    (path / "meta/stats.json").unlink()
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"total_frames": 3}))
    (path / "data/chunk-000/file-000.parquet").write_bytes(b"nothing")
    clip = next(path.glob("videos/*/chunk-000/file-001.mp4"))
    clip.write_bytes(clip.read_bytes()[:900])
    errors = "\n".join(str(one) for one in check(path) if one.severity == "error")
    for part in ("total_frames: found 3", "file-000.parquet", "file-001.mp4"):
        assert part in errors
    assert any("stats.json: statistics" in str(one) for one in check(path) if one.severity == "warning")


def test_check_finds_damage_in_worldgym(folder):
    video.encode(folder / "000000000.mp4", episode(0, size=16).frames[:5], 20)
    (folder / "000000001.mp4").unlink()
    np.savez(folder / "000000002.npz", np.full((7, 10), np.nan, np.float32))
    errors = "\n".join(str(one) for one in check(folder) if one.severity == "error")
    for part in ("000000001.npz: video: found none", "NaN", "frame size: found 16x16"):
        assert part in errors


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two labelled episodes; tests that change them copy them."""
    path = tmp_path_factory.mktemp("sound") / "set"
    lerobot.write(path, [episode(1), episode(2)])
    return path


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "set", ignore=shutil.ignore_patterns(".cache"))


def put(path, key, value):
    """Sets the dotted `key` of info.json; None takes it away."""
    *parents, last = key.split(".")
    info = json.loads((path / "meta/info.json").read_text())
    place = info
    for name in parents:
        place = place[name]
    place.pop(last, None)
    if value is not None:
        place[last] = value
    (path / "meta/info.json").write_text(json.dumps(info))


SPEC_FIELD = "features.action.worldgymnast.action_spec"
REFUSED = [
    (
        "features.action",
        {"shape": [7], "names": list("abcdefg"), "worldgymnast": {"action_spec": SPEC.to_dict()}},
        r"'features.action.shape': found \[7\], expected the 4",
    ),
    ("features.action.names", list("abcdefg"), "'features.action.names': found .* expected the 4 axes"),
    ("features.action.shape", 4, r"'features.action.shape': found 4, expected \[number of axes\]"),
    ("features.action", None, "'features.action' is missing, .* expected the shape"),
    ("features", [], r"'features': found \[\], expected a JSON object"),
    (f"{SPEC_FIELD}.frame", "camera", '.frame\': found "camera", expected one of base, end_effector'),
    (f"{SPEC_FIELD}.rotation", "upside", '.rotation\': found "upside", expected one of none, rpy'),
    (f"{SPEC_FIELD}.gripper", "hook", '.gripper\': found "hook", expected one of none, effort'),
    (f"{SPEC_FIELD}.unit", "", 'unit\': found "", expected the meaning of 1.0'),
    (f"{SPEC_FIELD}.axes", [1, 2, 3, 4], r"axes': found \[1, 2, 3, 4\], expected a list of names"),
    (f"{SPEC_FIELD}.low", [2.0, 2.0, 2.0, 2.0], "low': found 2.0, expected at most 1.0, the 'high' of axis 'x'"),
    (f"{SPEC_FIELD}.high", "abcd", 'high\': found "abcd", expected a list of finite numbers'),
    (f"{SPEC_FIELD}.high", [1.0], "action_spec' is not a valid action spec .*4 lower and 1 upper"),
    (f"{SPEC_FIELD}.rate", 0, "rate': found 0, expected more than 0"),
    (SPEC_FIELD, None, "action_spec': found null, expected a JSON object"),
    ("video_path", None, "'video_path' is missing"),
    ("data_path", "data/{nonsense}.parquet", 'data_path\': found "data/{nonsense}.parquet", .* but {chunk_index}'),
    ("fps", "ten", "'fps': found \"ten\", expected a number more than 0"),
    ("fps", 0, "'fps': found 0, expected more than 0"),
    ("fps", -5, "'fps': found -5, expected more than 0"),
]


@pytest.mark.parametrize(("key", "value", "said"), REFUSED)
def test_impossible_metadata_are_one_line_for_the_reader_and_the_check(copy, key, value, said):
    put(copy, key, value)
    with pytest.raises(InputError, match=f"^[^ ]*/meta/info.json: field .*{said.lstrip('.')}") as refused:
        formats.read(copy)
    assert "\n" not in str(refused.value)
    assert [str(one) for one in check(copy)] == [f"error: {refused.value}"]


@pytest.mark.parametrize("function", [formats.read, lerobot.read, check])
def test_metadata_that_are_not_an_object(copy, function):
    (copy / "meta/info.json").write_text("[]")
    with pytest.raises(InputError, match=r"info\.json: found \[\], expected a JSON object"):
        function(copy)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "features.action.worldgymnast",
            None,
            r"action_spec: the data do not .* read as \[x y z gripper\], at .* Hz, .*from one robot",
        ),
        (f"{SPEC_FIELD}.unit", "furlong", "action_spec.unit: found 'furlong', expected one such as"),
        ("features.success", None, "features: found no 'success'"),
    ],
)
def test_check_warns_of_odd_metadata_that_can_be_read(copy, key, value, said):
    put(copy, key, value)
    assert len(formats.read(copy)) == 2
    (found,) = check(copy)
    assert re.search(f"^warning: .*/info.json: .*{said}", str(found))


@pytest.mark.parametrize(
    "unit", ["6cm", "4*6cm", "m", "m+rad", "4x5cm+0.5rad", "4*0.1m-0.1rad", "effort*0.06m", "worldgym", "unknown"]
)
def test_known_units_have_no_finding(copy, unit):
    put(copy, f"{SPEC_FIELD}.unit", unit)
    assert check(copy) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("stats.json", "{nope", "stats.json: line 1 is not JSON"),
        ("stats.json", "[]", r"stats.json: found \[\], expected a JSON object"),
        ("tasks.parquet", None, "tasks.parquet: tasks: found no such file"),
        ("tasks.parquet", "nope", "tasks.parquet: cannot be read as parquet"),
    ],
)
def test_check_looks_at_metadata_only_others_read(copy, name, text, said):
    (copy / "meta" / name).unlink()
    if text:
        (copy / "meta" / name).write_text(text)
    (found,) = check(copy)
    assert re.search(f"^error: .*/meta/{said}", str(found))


def test_check_warns_about_undeclared_labels(copy):
    put(copy, "features.success", None)
    for file in copy.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["success"]), file)
    sentence = "no success labels: world models can be trained on it, judges cannot"
    assert [str(one) for one in check(copy)] == [f"warning: {copy}: {sentence}"]


def test_check_lines_are_single_sentences(copy):
    clip = next(copy.glob("videos/*/*/*.mp4"))
    clip.write_bytes(clip.read_bytes()[:900])
    (cut,) = check(copy)
    assert str(cut).startswith(f"error: {clip}: the video is truncated or damaged: found ")
    assert str(cut).count("expected") == 1
    info = json.loads((copy / "meta/info.json").read_text())
    put(copy, "features", info["features"] | {"second": {"dtype": "video", "shape": [32, 32, 3]}})
    (cameras,) = check(copy)
    assert re.fullmatch(
        r"error: .*/info.json: field 'features': found cameras \[.*\], expected one camera; name one .*", str(cameras)
    )


@pytest.mark.parametrize("kind", ["lerobot", "worldgym"])
def test_a_full_disk_disables_the_cache_and_reading_continues(copy, folder, capsys, kind, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = {"lerobot": copy, "worldgym": folder}[kind]
    expected = formats.read(path)
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_write", full)
    capsys.readouterr()
    found = formats.read(path)
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: no space left on the disk; decoded frames are not cached but held in memory"
    ]
    assert os.listdir(tmp_path / "cache" / "frames") == []
    assert np.array_equal(found.frames, expected.frames)
    assert not found.frames.flags.writeable


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": -3}, "field 'size': found -3, expected at least 1"),
        ({"size": (8, 0)}, "field 'size': found 0, expected at least 1"),
        ({"fps": -1.0}, "field 'fps': found -1, expected more than 0"),
    ],
)
def test_size_and_fps_are_refused_before_anything_is_read(tmp_path, options, said):
    for work in (
        lambda: formats.read(tmp_path / "none", **options),
        lambda: convert("none", tmp_path / "x", **options),
    ):
        with pytest.raises(InputError, match=said):
            work()


def test_check_names_the_first_bad_records_of_a_shard_and_counts_the_rest(bridge):
    features = bridge / "features.json"
    features.write_text(features.read_text().replace('"7"', '"6"'))
    shard = next(bridge.glob("*.tfrecord*"))
    lines = [str(one) for one in check(bridge) if one.severity == "error"]
    assert len(lines) == 10
    assert lines[0].startswith(f"error: {shard}: record 0: field 'action': found ")
    assert lines[0].endswith("expected 6 per step by features.json")
    assert lines[-1].endswith("(15 more like this)")
