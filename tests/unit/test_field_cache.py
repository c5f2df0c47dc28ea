"""The frame cache ignores planted, damaged and foreign entries."""

import json
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from foreign_data import FD, IMG, TXT, T, acts, features, frame, png, rlds
from rlds_builders import SHARD, seed_rlds

from worldgymnast.episodes import cache, formats
from worldgymnast.episodes.cache import cache_folder, cache_usage, cached_frames, files_hash
from worldgymnast.errors import InputError

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)


class Decoder:
    """Gives `FRAMES` and counts how often it is asked."""

    def __init__(self, pause=0.0):
        self.calls, self.pause = 0, pause

    def __call__(self):
        self.calls += 1
        time.sleep(self.pause)
        return (("a.mp4", frame) for frame in FRAMES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "frames"


def read(root, decoder, key="k"):
    found = cached_frames(root, "cam", key, len(FRAMES), decoder)
    assert np.array_equal(found, FRAMES)
    assert not found.flags.writeable
    return found


def entry(folder):
    (path,) = folder.glob("*.npy")
    return path


def test_frames_are_decoded_once_and_private_to_their_owner(folder, tmp_path):
    umask = os.umask(0)
    try:
        decoder = Decoder()
        read(tmp_path, decoder)
        assert isinstance(read(tmp_path, decoder), np.memmap)
    finally:
        os.umask(umask)
    assert decoder.calls == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert entry(folder).stat().st_mode & 0o777 == 0o600
    assert os.listdir(folder) == [entry(folder).name]
    assert cache_usage() == (1, 128 + FRAMES.nbytes)


def test_the_cache_is_in_the_users_folder_not_the_dataset(monkeypatch, tmp_path):
    monkeypatch.delenv("WORLDGYMNAST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home/.cache/worldgymnast/frames"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification: to be ignored
    assert cache_folder() == tmp_path / "home/.cache/worldgymnast/frames"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/worldgymnast/frames"
    (tmp_path / "data/.cache").mkdir(parents=True)
    read(tmp_path / "data", Decoder())
    assert not os.listdir(tmp_path / "data/.cache")
    assert entry(tmp_path / "xdg/worldgymnast/frames").is_file()


def test_different_files_roots_and_counts_are_different_entries(folder, tmp_path):
    decoder = Decoder()
    read(tmp_path / "a", decoder)
    read(tmp_path / "b", decoder)
    read(tmp_path / "a", decoder, "changed")
    assert decoder.calls == 3
    assert len(os.listdir(folder)) == 2  # the earlier entry of "a" is gone


def saved(array):
    return lambda path: np.save(path.open("wb"), array, allow_pickle=True)


PLANTED = {
    "other numbers": saved(FRAMES.astype(np.float32)),
    "fewer frames": saved(FRAMES[:4]),
    "four channels": saved(np.zeros((5, 8, 6, 4), np.uint8)),
    "column order": saved(np.asfortranarray(FRAMES)),
    "a pickle": saved(np.array([print], object)),
    "no array": lambda path: path.write_text("hello"),
    "nothing": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "more at its end": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a header without end": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{" + b"(" * 65534),
    "writable by others": lambda path: path.chmod(0o666),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_an_invalid_entry_is_decoded_again(folder, tmp_path, kind):
    decoder = Decoder()
    read(tmp_path, decoder)
    PLANTED[kind](entry(folder))
    read(tmp_path, decoder)
    read(tmp_path, decoder)
    assert decoder.calls == 2


def test_links_and_pipes_in_the_cache_are_not_followed(folder, tmp_path):
    decoder = Decoder()
    read(tmp_path, decoder)
    path = entry(folder)
    elsewhere = tmp_path / "elsewhere.npy"
    np.save(elsewhere, np.zeros_like(FRAMES))
    path.unlink()
    path.symlink_to(elsewhere)
    read(tmp_path, decoder)
    path.unlink()
    os.mkfifo(path)
    read(tmp_path, decoder)
    assert decoder.calls == 3
    assert not np.load(elsewhere).any()
    assert not path.is_symlink()


def word(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("; decoded frames are not cached but held in memory")
    return line


def test_a_folder_of_another_user_is_not_used(folder, tmp_path, capsys, monkeypatch):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    read(tmp_path, Decoder())
    assert "others may write to it; chmod 700 it" in word(capsys)
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    read(tmp_path, Decoder())
    assert "no cache in" in word(capsys)
    folder.unlink()
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    read(tmp_path, Decoder())
    assert "it belongs to another user" in word(capsys)
    assert not os.listdir(folder)
    assert not os.listdir(tmp_path / "theirs")


def test_without_a_folder_or_space_frames_are_held_in_memory(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "file"))
    read(tmp_path, Decoder())
    assert "(File exists)" in word(capsys)
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(folder.parent))
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    read(tmp_path, Decoder())
    assert "it is read-only" in word(capsys)
    folder.chmod(0o700)
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096))
    read(tmp_path, Decoder())
    assert word(capsys).startswith(f"{tmp_path}: no space left on the disk")
    assert not os.listdir(folder)
    with pytest.raises(InputError, match=r"1,000,000,000,000 frames of 6x8 pixels take 144,000.0 GB"):
        cached_frames(tmp_path, "cam", "k", 10**12, Decoder())


def test_of_two_concurrent_processes_one_decodes(folder, tmp_path):
    decoder = Decoder(pause=0.3)
    threads = [threading.Thread(target=read, args=(tmp_path, decoder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoder.calls == 1
    assert os.listdir(folder) == [entry(folder).name]


def test_expired_entries_and_leftovers_of_killed_processes_are_removed(folder, tmp_path):
    decoder = Decoder()
    for name in "ab":
        read(tmp_path / name, decoder)
    for path in folder.glob("*.npy"):
        os.utime(path, (0, 0))
    read(tmp_path / "a", decoder)  # used today
    (folder / ".x.npy.1-2.partial").write_text("")
    os.utime(folder / ".x.npy.1-2.partial", (0, 0))
    (folder / "notes.txt").write_text("mine")
    os.utime(folder / "notes.txt", (0, 0))
    read(tmp_path / "d", decoder)
    assert sorted(path.suffix for path in folder.iterdir()) == [".npy", ".npy", ".txt"]
    read(tmp_path / "a", decoder)
    assert decoder.calls == 3


def test_an_error_while_decoding_leaves_nothing(folder, tmp_path):
    def broken():
        yield "a.mp4", FRAMES[0]
        raise InputError("a.mp4: damaged")

    with pytest.raises(InputError, match="damaged"):
        cached_frames(tmp_path, "cam", "k", 5, broken)
    assert not os.listdir(folder)
    with pytest.raises(InputError, match="found 5 frames, expected 6 by the metadata"):
        cached_frames(tmp_path, "cam", "k", 6, Decoder())
    assert not os.listdir(folder)


def test_a_null_byte_in_a_path_of_the_metadata_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        cache.files_hash([tmp_path / "a\0b"])


def test_corrected_metadata_of_rlds_are_not_answered_from_the_cache(folder, tmp_path):
    """Raw tensors are cut into rows by features.json: the same bytes are other pictures by another shape."""
    wide = [frame(0, i, 32, 64) for i in range(3)]
    record = {
        "steps/observation/image": np.concatenate([one.ravel() for one in wide]).astype(np.int64),
        "steps/action": acts(0, 3).ravel(),
        "steps/language_instruction": [b"open the drawer"] * 3,
    }

    def step(height, width):
        observation = FD({"image": T([height, width, 3], "uint8")})
        return {"observation": observation, "action": T([7]), "language_instruction": TXT}

    root = tmp_path / "set"
    rlds(root, [record], step(64, 32))
    assert formats.read(root, fps=5).size == (64, 32)
    (root / "features.json").write_text(json.dumps(features(step(32, 64))))
    found = formats.read(root, fps=5)
    assert np.array_equal(found.frames[:], np.stack(wide))


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", SHARD])
def test_every_file_of_rlds_that_changes_is_read_anew(folder, tmp_path, name):
    root = seed_rlds(tmp_path / "set")
    formats.read(root, fps=5)
    (before,) = folder.glob("*.npy")
    os.utime(root / name, ns=(1, 1))
    formats.read(root, fps=5)
    (after,) = folder.glob("*.npy")
    assert before != after


def test_a_file_replaced_with_its_old_time_is_decoded_anew(folder, tmp_path):
    """As `cp -p` and `rsync -t` do: size and time of change stay, the content does not."""
    file = tmp_path / "a.mp4"
    file.write_bytes(b"first")
    state = file.stat()
    before = files_hash([file])
    file.write_bytes(b"other")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert files_hash([file]) != before


def test_the_order_of_cameras_is_part_of_the_key(folder, tmp_path):
    root = tmp_path / "set"
    pictures = {f"steps/observation/{name}": [png(frame(k, i)) for i in range(3)] for k, name in enumerate("ab")}
    record = pictures | {"steps/action": acts(0, 3).ravel(), "steps/language_instruction": [b"open"] * 3}
    rlds(root, [record], {"observation": FD({"a": IMG(), "b": IMG()}), "action": T([7]), "language_instruction": TXT})
    one, other = (formats.read(root, fps=5, image_key=key).frames[:] for key in ("a,b", "b,a"))
    assert np.array_equal(one[:, :, :64], other[:, :, 64:])
    assert not np.array_equal(one, other)
