"""Episodes that are added to a data set in place: without a copy, and all or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_data
import numpy as np
import pyarrow.parquet as pq
import pytest
import two_cameras
from episode_builders import SPEC, assert_identical, episode, episodes
from foreign_data import v3, v21

from worldgymnast.cli.main import main
from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.check import check
from worldgymnast.episodes.lerobot_writer import LeRobotWriter
from worldgymnast.episodes.merge import merge
from worldgymnast.errors import InputError
from worldgymnast.staging import exchange
from worldgymnast.types import Episode


def content(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def complete(folder: Path) -> list[Episode]:
    return list(formats.stream(folder).episodes)


def test_added_episodes_are_as_in_a_merged_copy(tmp_path: Path) -> None:
    known = episodes(7)
    lerobot.write(tmp_path / "base", known[:3])
    lerobot.write(tmp_path / "more", known[3:5])
    lerobot.write(tmp_path / "last", known[5:])
    video = next((tmp_path / "base").rglob("*.mp4"))
    before, place = content(tmp_path / "base"), video.stat().st_ino
    merge([tmp_path / "base", tmp_path / "more", tmp_path / "last"], tmp_path / "all", source="policy@x", lossless=True)
    merge([tmp_path / "base", tmp_path / "more"], None, source="policy@x")
    merge([tmp_path / "base", tmp_path / "last"], None, source="policy@x")
    for found, expected, index in zip(complete(tmp_path / "base"), known, range(7), strict=True):
        origin = expected.source or ("policy@x" if index > 2 else "")
        assert_identical(found, replace(expected, source=origin))
    assert not [str(finding) for finding in check(tmp_path / "base") if finding.severity == "error"]
    after = content(tmp_path / "base")
    assert video.stat().st_ino == place, "the old video is the same file"
    assert {name for name in before if before[name] == after[name]} >= {n for n in before if not n.startswith("meta")}
    assert sorted(os.listdir(tmp_path)) == ["all", "base", "last", "more"]
    stats = [json.loads((tmp_path / name / "meta/stats.json").read_text()) for name in ("base", "all")]
    for feature, part in stats[1].items():
        for name, expected in part.items():
            assert np.allclose(stats[0][feature][name], expected), (feature, name)
    infos = [json.loads((tmp_path / name / "meta/info.json").read_text()) for name in ("base", "all")]
    assert infos[0] == infos[1]
    listed = pq.read_table(tmp_path / "base/meta/episodes/chunk-000/file-000.parquet")
    other = pq.read_table(tmp_path / "all/meta/episodes/chunk-000/file-000.parquet")
    assert listed.column_names == other.column_names
    for name in ("dataset_from_index", "dataset_to_index", "episode_index", "length", "tasks"):
        assert listed[name].to_pylist() == other[name].to_pylist(), name


def test_a_data_set_of_another_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = foreign_data.acts
    v3(tmp_path / "base", lens=(5, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign_data, "acts", lambda ep, n, d=7, seed=0: original(ep + 10, n, d, seed) * 2)
        v3(tmp_path / "more", lens=(6,), tasks=["do thing 1"])
    kept, added = complete(tmp_path / "base"), complete(tmp_path / "more")
    words = ["data", "add", str(tmp_path / "base"), str(tmp_path / "more"), "--in-place", "--source", "policy@act"]
    assert main(words) == 0
    assert f"{tmp_path / 'base'}: 3 episodes" in capsys.readouterr().out
    found = complete(tmp_path / "base")
    assert [one.source for one in found] == ["", "", "policy@act"]
    assert [one.success for one in found] == [None] * 3
    for one, expected in zip(found[:2], kept, strict=True):
        assert np.array_equal(one.frames, expected.frames)
        assert np.array_equal(one.actions, expected.actions)
    assert np.array_equal(found[2].actions, added[0].actions)
    assert np.array_equal(found[2].last_action, added[0].last_action)
    assert found[2].instruction == "do thing 1"
    assert foreign_data.ident(found[2].frames[4]) == (0, 4)
    schemas = [pq.read_schema(file) for file in sorted((tmp_path / "base/data").rglob("*.parquet"))]
    assert len(schemas) == 2
    assert schemas[0].equals(schemas[1])
    assert formats.read(tmp_path / "base").spec.high[1] == pytest.approx(
        max(one.actions[:, 1].max() for one in found), abs=1e-3
    )


def test_two_cameras_and_state(tmp_path: Path) -> None:
    two_cameras.write(tmp_path / "base", 2)
    with LeRobotWriter(tmp_path / "more", two_cameras.SPEC, 10.0) as writer:
        writer.add(two_cameras.episode(7))
    merge([tmp_path / "base", tmp_path / "more"], None)
    last = complete(tmp_path / "base")[2]
    expected = two_cameras.episode(7)
    assert np.array_equal(last.frames, expected.frames)
    assert np.array_equal(last.success, expected.success)
    assert np.array_equal(last.cameras[two_cameras.WRIST], expected.cameras[two_cameras.WRIST])
    assert np.array_equal(last.state, expected.state)


def own(*known: Episode) -> Callable[[Path], None]:
    return lambda path: lerobot.write(path, known)


def foreign(version: Callable[..., object] = v3, **options: object) -> Callable[[Path], None]:
    return lambda path: version(path, **options) and None


def with_reward(path: Path) -> None:
    feature = {"next.reward": {"dtype": "float32", "shape": [1], "names": None}}
    v3(path, extra=lambda number, count: {"next.reward": np.zeros(count)}, feats=feature)


def with_splits(path: Path) -> None:
    lerobot.write(path, episodes(2))
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | {"splits": {"train": "0:1", "val": "1:2"}}))


OTHER = foreign(lens=(9,))


@pytest.mark.parametrize(
    ("base", "more", "said"),
    [
        (
            own(replace(episode(1), success=None)),
            own(episode(2)),
            "has a success label, but the data set has no column",
        ),
        (own(episode(4), episode(11)), own(episode(11)), "episode 0 is also episode 1 of"),
        (own(episode(4)), own(episode(11, size=48)), "field 'cameras'"),
        (with_splits, own(episode(11)), "has several splits"),
        (with_reward, OTHER, "has 'next.reward', which added episodes would lack"),
        (foreign(v21), OTHER, "found LeRobot v2.1, expected v3.0"),
    ],
    ids=["labels", "duplicate", "size", "splits", "column", "version"],
)
def test_refused_in_one_line_and_nothing_changes(
    base: Callable[[Path], None], more: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    base(tmp_path / "base")
    more(tmp_path / "more")
    before = content(tmp_path / "base")
    with pytest.raises(InputError) as error:
        merge([tmp_path / "base", tmp_path / "more"], None)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert content(tmp_path / "base") == before
    assert sorted(os.listdir(tmp_path)) == ["base", "more"]


def test_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lerobot.write(tmp_path / "base", [episode(1)])
    lerobot.write(tmp_path / "more", [episode(2)])
    words = ["data", "add", str(tmp_path / "base"), str(tmp_path / "more")]
    for flags, said in (
        ([], "--out, --in-place: neither is given"),
        (["--in-place", "--out", str(tmp_path / "new")], "--out, --in-place: both are given"),
        (["--in-place", "--size", "16"], "--size, --lossless: frames are written as those of the data set"),
    ):
        assert main([*words, *flags]) == 2
        assert said in capsys.readouterr().err
    assert len(complete(tmp_path / "base")) == 1


def no_links(old: object, new: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("worldgymnast.episodes.lerobot_appender.os.link", no_links, r"no hard links \(Operation not permitted\)"),
        ("worldgymnast.staging._exchange", lambda first, second: "Invalid argument", r"at once \(Invalid argument\)"),
    ],
    ids=["exFAT", "FUSE"],
)
def test_a_file_system_that_cannot_do_it_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, value: Any, said: str
) -> None:
    """As measured on exFAT (no hard links) and bindfs (no exchange of folders)."""
    lerobot.write(tmp_path / "base", [episode(1)])
    lerobot.write(tmp_path / "more", [episode(2)])
    before = content(tmp_path / "base")
    monkeypatch.setattr(place, value)
    monkeypatch.setattr(LeRobotWriter, "add", None)
    with pytest.raises(InputError, match=f"{said}.*--out"):
        merge([tmp_path / "base", tmp_path / "more"], None)
    assert content(tmp_path / "base") == before
    assert sorted(os.listdir(tmp_path)) == ["base", "more"]


def test_folders_of_two_file_systems_are_not_exchanged(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        (tmp_path / "base").mkdir()
        (tmp_path / "base/file").touch()
        with pytest.raises(InputError, match=r"base: its file system cannot exchange .*cross-device"):
            exchange(Path(other), tmp_path / "base")
        assert (tmp_path / "base/file").exists()
        assert not os.listdir(other)


def test_a_link_to_a_data_set_is_refused(tmp_path: Path) -> None:
    lerobot.write(tmp_path / "base", [episode(1)])
    lerobot.write(tmp_path / "more", [episode(2)])
    (tmp_path / "link").symlink_to(tmp_path / "base")
    with pytest.raises(InputError, match="no link to one"):
        merge([tmp_path / "link", tmp_path / "more"], None)
    assert complete(tmp_path / "base")[0].spec == SPEC
