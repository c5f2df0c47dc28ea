import json
import shutil

import numpy as np
import pytest
from episode_builders import assert_identical, episode, episodes, shared

from worldgymnast import video
from worldgymnast.actions import BRIDGE, WORLDGYM, ActionSpecMismatch
from worldgymnast.episodes import lerobot, rlds, tfrecord, worldgym
from worldgymnast.episodes.check import check, convert, detect
from worldgymnast.types import InputError


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


def test_worldgym_names_what_is_wrong(folder):
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
    with pytest.raises(InputError, match=r"record \d+: found \d+ bytes.*cut short"):
        rlds.read(bridge)
    shard.write_bytes(blob[:1000] + bytes([blob[1000] ^ 1]) + blob[1001:])
    with pytest.raises(InputError, match="record 0: checksum of its data is wrong"):
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
    before = convert(source, tmp_path / "new", size=32)
    assert detect(tmp_path / "new") == "lerobot-v3.0"
    after = lerobot.read(tmp_path / "new")
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
    with pytest.raises(InputError, match=r"found \['notes.txt'\]"):
        detect(tmp_path)


def test_a_sound_set_gives_no_findings(tmp_path):
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
        "one picture throughout",
        "a copy of episode 1",
        "axis 'z': found",
        "7 (2 of 3",
        "no episode with labels",
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
    for part in ("stats.json: statistics", "total_frames: found 3", "file-000.parquet", "file-001.mp4"):
        assert part in errors


def test_check_finds_damage_in_worldgym(folder):
    video.encode(folder / "000000000.mp4", episode(0, size=16).frames[:5], 20)
    (folder / "000000001.mp4").unlink()
    np.savez(folder / "000000002.npz", np.full((7, 10), np.nan, np.float32))
    errors = "\n".join(str(one) for one in check(folder) if one.severity == "error")
    for part in ("000000001.npz: video: found none", "NaN", "frame size: found 16x16"):
        assert part in errors
