"""Writers of files and data sets that are killed: what they leave is hidden, and the next one clears it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from episode_builders import SPEC, assert_identical, episode, episodes

from worldgymnast import staging
from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.lerobot_writer import LeRobotWriter
from worldgymnast.episodes.merge import merge
from worldgymnast.errors import InputError
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


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed(function: Callable[[], object]) -> None:
    """Run a function in a process that it kills."""
    if (child := os.fork()) == 0:
        function()
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["add", "before", "after"])
def test_a_kill_at_any_moment_loses_nothing(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lerobot.write(tmp_path / "base", episodes(2))
    lerobot.write(tmp_path / "more", [episode(5), episode(7)])
    before = files(tmp_path / "base")

    def exchange_and_die(first: Path, second: Path) -> None:
        exchange(first, second)
        kill()

    exchange = staging.exchange
    with monkeypatch.context() as patch:
        if moment == "add":
            patch.setattr(LeRobotWriter, "_episode_row", kill)
        else:
            patch.setattr(staging, "exchange", kill if moment == "before" else exchange_and_die)
        killed(lambda: merge([tmp_path / "base", tmp_path / "more"], None))
    if moment == "after":
        assert len(list(formats.stream(tmp_path / "base").episodes)) == 4
        with pytest.raises(InputError, match="is also episode 2 of"):
            merge([tmp_path / "base", tmp_path / "more"], None)
    else:
        assert files(tmp_path / "base") == before
        merge([tmp_path / "base", tmp_path / "more"], None)
    for found, expected in zip(
        list(formats.stream(tmp_path / "base").episodes), [*episodes(2), episode(5), episode(7)], strict=True
    ):
        assert np.array_equal(found.frames, expected.frames)
    assert sorted(os.listdir(tmp_path)) == ["base", "more"], "the next command clears what a killed one left"
