"""File writes are atomic under any failure; a full disk is one line."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from worldgymnast import video
from worldgymnast.errors import InputError
from worldgymnast.staging import DiskFull, atomic_path, is_disk_full, space_for
from worldgymnast.weights import write_text

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("I/O error: No space left (os error 28)"),
]


def fails(path: Path, error: BaseException) -> None:
    with atomic_path(path, 3) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [*FULL, OSError(errno.EIO, "bad"), ValueError("bad"), KeyboardInterrupt()], ids=str)
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("old")
    with pytest.raises(DiskFull if error in FULL else type(error)) as raised:
        fails(path, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page"]
    if error in FULL:
        assert str(raised.value).startswith(f"{path}: no space left on the disk (")
        assert "\n" not in str(raised.value)
    assert is_disk_full(error) == (error in FULL)


def test_a_file_larger_than_the_disk_is_refused_before_the_write(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull, match=r"no space left on the disk \(\d+ MB free"),
        atomic_path(tmp_path / "a" / "b", 2**62),
    ):
        pytest.fail("it was begun")
    assert not os.listdir(tmp_path)


def test_a_full_disk_with_an_unknown_size_has_a_fix(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"No partial file is kept. Free some space"), space_for(tmp_path):
        raise FULL[1]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_written_to_an_open_folder_that_was_moved(durable: bool, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    handle = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        (tmp_path / "a").rename(tmp_path / "b")
        with atomic_path(Path("page"), durable=durable, dir_fd=handle) as temporary:
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=handle), "w") as file:
                file.write("new")
            assert os.listdir(tmp_path / "b") == [temporary.name]
    finally:
        os.close(handle)
    assert os.listdir(tmp_path / "b") == ["page"]
    assert (tmp_path / "b" / "page").read_text() == "new"


def test_concurrent_writers_of_one_file_are_atomic(tmp_path: Path) -> None:
    gate = threading.Barrier(8)

    def one(letter: str) -> None:
        gate.wait()
        for _ in range(20):
            write_text(tmp_path / "page", letter * 10_000)

    threads = [threading.Thread(target=one, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["page"]
    text = (tmp_path / "page").read_text()
    assert text == text[0] * 10_000


def test_encoding_no_frames_keeps_the_old_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("old")
    with pytest.raises(InputError, match="found 0 frames"):
        video.encode(tmp_path / "a.mp4", np.zeros((0, 16, 16, 3), np.uint8), 10)
    assert (tmp_path / "a.mp4").read_text() == "old"
