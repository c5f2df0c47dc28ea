"""Writers of files and data sets that are killed: what they leave is hidden, and the next one clears it."""

import os
import signal
from pathlib import Path

from episode_builders import SPEC, assert_identical, episode, episodes

from worldgymnast.episodes import lerobot
from worldgymnast.staging import TEMPORARY, StagedFolder, atomic_path
from worldgymnast.weights import write_text


def test_killed_writer_leaves_only_hidden_files_which_the_next_clears(tmp_path):
    path = tmp_path / "set"
    child = os.fork()
    if child == 0:
        writer = lerobot.LeRobotWriter(path, SPEC, 80 / 3, 32)
        writer.add(episode(1))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert os.listdir(tmp_path)
    assert all(name.startswith(".set.worldgymnast") for name in os.listdir(tmp_path))
    lerobot.write(path, episodes(2))
    assert os.listdir(tmp_path) == ["set"]
    assert_identical(lerobot.read(path).episode(1), episodes(2)[1])


def test_a_dead_writer_s_leftovers_go_and_those_of_a_live_one_or_another_target_stay(tmp_path):
    child = os.fork()
    if child == 0:
        for name in ("set", "set-2"):
            (StagedFolder(tmp_path / name).path / "gigabytes").write_bytes(b"x" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    living = StagedFolder(tmp_path / "live")
    assert len([name for name in os.listdir(tmp_path) if ".worldgymnast-" in name]) == 3
    StagedFolder(tmp_path / "set").publish()
    left = [name for name in os.listdir(tmp_path) if ".worldgymnast-" in name]
    assert sorted(name.rsplit("-", 1)[0] for name in left) == [".live.worldgymnast", ".set-2.worldgymnast"]
    living.discard()
    StagedFolder(tmp_path / "set-2").publish()
    assert sorted(os.listdir(tmp_path)) == ["set", "set-2"]


def test_a_killed_writer_leaves_the_old_file_and_the_next_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.read_text() == "old"
    assert len(list(tmp_path.glob(f"{TEMPORARY}*"))) == 1
    write_text(path, "new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "new"
