"""Atomic writes of datasets: concurrent writers, foreign files, full disks, and round trips."""

import os
import threading

import pytest
from episode_builders import episode, episodes

from worldgymnast.actions import WORLDGYM
from worldgymnast.episodes import lerobot, worldgym
from worldgymnast.errors import InputError
from worldgymnast.staging import StagedFolder

# ---------------------------------------------------------------- one writer at a time


def gym_episodes(count):
    return episodes(count, spec=WORLDGYM, fps=5.0)


WRITERS = {"lerobot": lerobot.write, "worldgym": worldgym.write}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_second_writer_of_one_target_is_refused(write, tmp_path):
    begun, done = threading.Event(), threading.Event()

    def slow():
        for one in gym_episodes(3):
            yield one
            begun.set()
            assert done.wait(20)

    first = threading.Thread(target=write, args=(tmp_path / "set", slow()))
    first.start()
    assert begun.wait(20)
    with pytest.raises(InputError, match=r"set: another process is writing this folder"):
        write(tmp_path / "set", gym_episodes(1))
    with pytest.raises(InputError, match=r"another process is writing this folder"):
        write(tmp_path / "." / "set", gym_episodes(1))
    done.set()
    first.join()
    read = {"lerobot": lerobot.read, "worldgym": worldgym.read}
    reader = next(read[name] for name, one in WRITERS.items() if one is write)
    assert os.listdir(tmp_path) == ["set"]
    assert len(reader(tmp_path / "set")) == 3


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_files_of_the_user_next_to_the_target_are_kept(write, tmp_path):
    for name in ("set.partial", ".set.partial", ".set.worldgymnast-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".set.worldgymnast.lock").write_text("not ours")
    write(tmp_path / "set", gym_episodes(2))
    for name in ("set.partial", ".set.partial", ".set.worldgymnast-mine"):
        assert (tmp_path / name / "thesis.txt").read_text() == "years"
    assert (tmp_path / ".set.worldgymnast.lock").read_text() == "not ours"


def test_a_target_created_during_the_write_is_kept(tmp_path):
    staged = StagedFolder(tmp_path / "set")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "theirs").write_text("kept")
    with pytest.raises(InputError, match="was created by another program during the write"):
        staged.publish()
    assert os.listdir(tmp_path) == ["set"]
    assert (tmp_path / "set" / "theirs").read_text() == "kept"


def test_of_many_concurrent_writers_exactly_one_publishes(tmp_path):
    gate, errors = threading.Barrier(8), []

    def one(number):
        gate.wait()
        try:
            with StagedFolder(tmp_path / "set") as folder:
                (folder.path / "who").write_text(str(number))
        except InputError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["set"]
    assert len(errors) == 7
    assert (tmp_path / "set" / "who").read_text() in "01234567"


def test_invalid_targets_are_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    cases = {
        tmp_path / "file": "exists already",
        tmp_path / "link": "exists already",
        tmp_path / "file" / "set": "cannot be written",
        tmp_path / ("x" * 300): "cannot be written",
        f"{tmp_path}/a\0b": "null byte",
        "/proc/set": "cannot be written",
    }
    for target, message in cases.items():
        with pytest.raises(InputError, match=message) as error:
            lerobot.write(target, [episode(1)])
        assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_a_published_folder_has_the_mode_of_any_new_one_and_a_long_name_works(tmp_path):
    (tmp_path / "new").mkdir()
    name = "ä" * 120
    with StagedFolder(tmp_path / name):
        hidden = [entry for entry in tmp_path.iterdir() if ".worldgymnast-" in entry.name]
        assert [entry.stat().st_mode & 0o777 for entry in hidden] == [0o700]
    assert (tmp_path / name).stat().st_mode == (tmp_path / "new").stat().st_mode
    assert len(os.listdir(tmp_path)) == 2


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_files(tmp_path):
    def full():
        yield gym_episodes(1)[0]
        raise OSError(28, "No space left on device")

    for write in WRITERS.values():
        with pytest.raises(InputError, match="no space left"):
            write(tmp_path / "set", full())
        assert os.listdir(tmp_path) == []
