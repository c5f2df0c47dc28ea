import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episode_builders import SPEC, assert_identical, episode, episodes

from worldgymnast import video
from worldgymnast.actions import BRIDGE, ActionSpecMismatch, motionless
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.check import check
from worldgymnast.episodes.lerobot_layout import IMAGE_KEY
from worldgymnast.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data set of 9 episodes over several files; tests that change it copy it."""
    path = tmp_path_factory.mktemp("lerobot") / "set"
    with lerobot.LeRobotWriter(path, SPEC, 80 / 3, 32, frames_per_file=20) as writer:
        for one in episodes(9):
            writer.add(one)
    return path


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "set", ignore=shutil.ignore_patterns(".cache"))


def make_foreign(path):
    """Takes away what only this project writes."""
    info = json.loads((path / "meta/info.json").read_text())
    del info["features"]["action"]["worldgymnast"], info["features"]["success"]
    (path / "meta/info.json").write_text(json.dumps(info))
    for file in path.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["success"]), file)
    for file in path.glob("meta/episodes/*/*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.select([name for name in table.column_names if "worldgymnast" not in name]), file)


def write_v21(path, with_stats=True):
    """A v2.1 data set by hand, one file an episode, with next.success."""
    whole = episodes(3)
    feature = {"dtype": "float32", "shape": [4], "names": {"motors": ["x", "y", "z", "gripper"]}}
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "chunks_size": 2,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "total_episodes": 3,
        "total_frames": sum(len(e.frames) for e in whole),
        "features": {"action": feature, "observation.image": {"dtype": "video", "shape": [32, 32, 3], "names": None}},
    }
    (path / "meta").mkdir(parents=True)
    (path / "meta/info.json").write_text(json.dumps(info))
    lines, stats = [], []
    for i, one in enumerate(whole):
        rows = len(one.frames)
        lines.append(json.dumps({"episode_index": i, "tasks": [one.instruction], "length": rows}))
        low, high = one.actions.min(0).tolist(), one.actions.max(0).tolist()
        stats.append(json.dumps({"episode_index": i, "stats": {"action": {"min": low, "max": high}}}))
        actions = np.concatenate([one.actions, one.actions[-1:]])
        data = path / info["data_path"].format(episode_chunk=i // 2, episode_index=i)
        data.parent.mkdir(parents=True, exist_ok=True)
        after = np.arange(rows) >= rows - 2
        table = {"action": actions.tolist(), "episode_index": [i] * rows, "next.success": after}
        pq.write_table(pa.table(table), data)
        clip = path / info["video_path"].format(episode_chunk=i // 2, episode_index=i, video_key="observation.image")
        clip.parent.mkdir(parents=True, exist_ok=True)
        video.encode(clip, one.frames, 10)
    (path / "meta/episodes.jsonl").write_text("\n".join(lines))
    if with_stats:
        (path / "meta/episodes_stats.jsonl").write_text("\n".join(stats))
    return whole


def test_lerobot_episode_written_and_read_back_is_identical(written, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path))
    for _ in range(2):  # decoded, then from the cache
        found = lerobot.read(written)
        for index, expected in enumerate(episodes(9)):
            assert_identical(found.episode(index), expected)
    assert isinstance(found.frames, np.memmap)
    assert len(list(tmp_path.glob("frames/*"))) == 1
    assert not (written / ".cache").exists()


def test_layout_on_disk_is_v3(written):
    info = json.loads((written / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["total_episodes"] == 9
    action = {"dtype": "float32", "shape": [4], "names": ["x", "y", "z", "gripper"]}
    assert {name: info["features"]["action"][name] for name in action} == action
    assert len(list(written.glob(f"videos/{IMAGE_KEY}/chunk-000/*.mp4"))) > 1
    stats = json.loads((written / "meta/stats.json").read_text())
    assert np.array(stats[IMAGE_KEY]["mean"]).shape == (3, 1, 1)
    held = [motionless(SPEC, e.actions[-1:], e.actions[-1]) for e in episodes(9)]
    whole = np.concatenate([e.actions for e in episodes(9)] + held).astype(float)
    assert np.allclose(stats["action"]["std"], whole.std(0))
    assert stats["action"]["count"] == [len(whole)]
    rows = pq.read_table(written / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert rows[-1]["dataset_to_index"] == info["total_frames"]
    assert all(row["dataset_to_index"] - row["dataset_from_index"] == row["length"] for row in rows)
    table = pq.read_table(written / "data/chunk-000/file-000.parquet")
    assert table.schema.field("action").type == pa.list_(pa.float32(), 4)
    tasks = pq.read_table(written / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]


def test_frames_can_be_resized_on_reading(written):
    found = lerobot.read(written, size=16)
    assert found.size == (16, 16)
    assert np.array_equal(found.episode(3).frames, video.resize(episodes(9)[3].frames, 16))


def test_changed_files_are_decoded_again(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))
    lerobot.read(copy)
    file = next(copy.glob("videos/*/*/file-000.mp4"))
    black = np.zeros((video.frame_count(file), 32, 32, 3), np.uint8)
    video.encode(file, black, 80 / 3)
    assert not lerobot.read(copy).episode(0).frames.any()
    assert len(list(tmp_path.glob("cache/frames/*"))) == 1


def test_a_read_only_folder_can_be_read(copy):
    copy.chmod(0o555)
    found = lerobot.read(copy)
    copy.chmod(0o755)
    assert_identical(found.episode(2), episodes(9)[2])
    assert not (copy / ".cache").exists()


def test_foreign_v3_gets_its_spec_from_names_and_statistics(copy):
    make_foreign(copy)
    found, expected = lerobot.read(copy), episodes(9)
    assert found.spec.axes == ("x", "y", "z", "gripper")
    assert found.spec.unit == "unknown"
    assert found.spec.high[0] == pytest.approx(max(e.actions[:, 0].max() for e in expected))
    assert not found.labelled.any()
    assert np.array_equal(found.episode(4).frames, expected[4].frames)
    assert np.array_equal(found.episode(4).actions, expected[4].actions)


def test_foreign_v21_is_read_with_its_success(tmp_path):
    whole = write_v21(tmp_path / "old")
    found = lerobot.read(tmp_path / "old")
    for index, expected in enumerate(whole):
        one = found.episode(index)
        assert np.array_equal(one.frames, expected.frames)
        assert np.array_equal(one.actions, expected.actions)
        assert one.success is not None
        assert one.success.tolist() == [False] * (len(one.frames) - 1) + [True]
    assert found.spec.axes == ("x", "y", "z", "gripper")


@pytest.mark.parametrize("old", [True, False])
def test_missing_statistics_of_a_foreign_set_are_taken_from_its_rows(copy, tmp_path, old):
    path = copy
    if old:
        path = tmp_path / "old"
        write_v21(path, with_stats=False)
    else:
        make_foreign(copy)
        (copy / "meta/stats.json").unlink()
    found = lerobot.read(path)
    rows = np.concatenate([found.episode(index).actions for index in range(len(found))])
    assert (np.array(found.spec.low) <= rows.min(0)).all()
    assert (np.array(found.spec.high) >= rows.max(0)).all()
    assert max(found.spec.high) < 2


def test_truncated_video_missing_file_and_wrong_paths(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"no meta/info\.json"):
        lerobot.read(tmp_path)
    file = next(copy.glob("videos/*/*/file-001.mp4"))
    blob = file.read_bytes()
    file.write_bytes(blob[: len(blob) // 2])
    with pytest.raises(InputError, match=r"file-001\.mp4.*truncated"):
        lerobot.read(copy)
    file.unlink()
    with pytest.raises(InputError, match=r"file-001\.mp4.*no such file"):
        lerobot.read(copy)
    assert not list(tmp_path.glob("cache/frames/*"))


def test_nan_and_wrong_width_in_the_rows_are_errors(copy):
    file = copy / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    place = table.schema.names.index("action")
    rows = np.array(table["action"].to_pylist(), np.float32)
    rows[0, 1] = np.nan
    pq.write_table(table.set_column(place, "action", pa.array(rows.tolist())), file)
    with pytest.raises(InputError, match=r"file-001\.parquet: episode \d+: field 'action': found NaN"):
        lerobot.read(copy)
    pq.write_table(table.set_column(place, "action", pa.array(rows[:, :3].tolist())), file)
    with pytest.raises(InputError, match=r"found 3 numbers per row, expected 4"):
        lerobot.read(copy)


def test_writer_refuses_mismatched_episodes(tmp_path, written):
    with pytest.raises(InputError, match="exists already"):
        lerobot.LeRobotWriter(written, SPEC, 20, 32)
    path = tmp_path / "new"
    bad = episode(1)
    bad.actions[0, 0] = np.nan
    cases = [
        (episode(1, spec=BRIDGE), ActionSpecMismatch, "action specs differ"),
        (bad, ActionSpecMismatch, "NaN"),
        (episode(1, size=16), InputError, "found observation.images.camera 16x16, expected .* 32x32"),
        (episode(1, fps=5.0), InputError, "field 'fps': found 5.0"),
    ]
    for one, kind, message in cases:
        with pytest.raises(kind, match=message), lerobot.LeRobotWriter(path, SPEC, 80 / 3, 32) as writer:
            writer.add(one)
        assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="found 0 episodes"), lerobot.LeRobotWriter(path, SPEC, 80 / 3, 32):
        pass
    with pytest.raises(InputError, match="found 0 episodes"):
        lerobot.write(path, [])
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_no_files(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video.VideoWriter, "add", full)
    with pytest.raises(InputError, match="no space left"):
        lerobot.write(tmp_path / "set", episodes(2))
    assert os.listdir(tmp_path) == []


def test_write_resizes_and_streams(tmp_path):
    lerobot.write(tmp_path / "set", (one for one in episodes(3)), size=(8, 12))
    assert lerobot.read(tmp_path / "set").size == (8, 12)


@pytest.mark.parametrize("column", [["True", "False"], ["yes", "yes"], [0.5, 1.0]])
def test_invalid_labels_are_refused_by_read_and_check(column, copy):
    """Every word would count as a success."""
    file = sorted(copy.rglob("data/*/*.parquet"))[0]
    table = pq.read_table(file)
    values = [column[i % 2] for i in range(table.num_rows)]
    pq.write_table(table.set_column(table.schema.get_field_index("success"), "success", pa.array(values)), file)
    with pytest.raises(InputError, match="expected true or false per frame"):
        lerobot.read(copy)
    assert any("success" in str(finding) and finding.severity == "error" for finding in check(copy))
