"""Folders of starts of phones, editors and strangers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from foreign_data import episode, ident, mp4, png
from fuzz_pixels import run
from PIL import Image
from test_field_pixels import png_16, remux

from worldgymnast.episodes.starts import folder_hash, list_pictures, read_frame, read_starts
from worldgymnast.errors import InputError
from worldgymnast.scenes.cutouts import load_cutouts

SAID = {"instruction": "open the drawer"}


def put(folder: Path, name: str, content: bytes | None = None, said: object = SAID) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(png(episode(3, 1)[0]) if content is None else content)
    raw = said if isinstance(said, bytes) else json.dumps(said, ensure_ascii=False).encode()
    (folder / name).with_suffix(".json").write_bytes(raw)
    return folder


def test_hidden_files_of_macos_are_ignored(tmp_path):
    put(tmp_path / "s", "a.png")
    for name in ("._a.png", "._a.json", ".DS_Store", "._.png"):
        (tmp_path / "s" / name).write_bytes(b"\0\5\26\7Mac OS X")
    assert [ident(start.frame) for start in read_starts(tmp_path / "s", 64)] == [(3, 0)]
    Image.fromarray(np.dstack([episode(3, 1)[0], np.eye(64, dtype=np.uint8) * 255])).save(tmp_path / "s" / "a.png")
    assert len(load_cutouts(tmp_path / "s")) == 1


def test_a_rotated_photograph_and_a_rotated_video_stand_upright(tmp_path):
    upright, exif = episode(5, 1)[0], Image.Exif()
    exif[274] = 6  # held so that a quarter turn clockwise is needed
    put(tmp_path / "s", "a.jpg")
    Image.fromarray(np.rot90(upright, 1).copy()).save(tmp_path / "s" / "a.jpg", exif=exif, quality=95)
    mp4(tmp_path / "b.mp4", np.rot90(episode(5, 2), 1, (1, 2)), 10)
    put(tmp_path / "s", "b.mp4")
    remux(tmp_path / "b.mp4", tmp_path / "s" / "b.mp4", matrix=(0, 1, -1, 0))
    assert [ident(start.frame) for start in read_starts(tmp_path / "s", 64)] == [(5, 0), (5, 0)]
    assert ident(read_frame(tmp_path / "s" / "a.jpg", None)) == ident(upright)


def test_the_first_displayed_frame_of_a_lossless_cut_counts(tmp_path):
    mp4(tmp_path / "a.mp4", episode(4, 20), 10, opts={"g": "20"})
    put(tmp_path / "s", "a.mp4")
    remux(tmp_path / "a.mp4", tmp_path / "s" / "a.mp4", start=0.7)
    assert [ident(start.frame) for start in read_starts(tmp_path / "s", 64)] == [(4, 7)]


@pytest.mark.parametrize("said", [b"\xef\xbb\xbf" + json.dumps(SAID).encode(), {**SAID, "note": "a\u2028b\u0085c"}])
def test_byte_order_marks_and_unicode_line_ends_are_accepted(tmp_path, said):
    (start,) = read_starts(put(tmp_path / "s", "a.png", said=said), 64)
    assert start.instruction == "open the drawer"


WRONG = [
    (b"", "a.json: line 1 is not JSON"),
    (json.dumps(SAID).encode("utf-16"), "a.json: is not UTF-8"),
    (b"[" * 100_000, "a.json: cannot be read as JSON"),
    (b'{"instruction":' + b"9" * 5000 + b"}", "a.json: cannot be read as JSON"),
    ([1, 2], "field 'instruction': found None"),
    (3, "field 'instruction': found None"),
    ({"instruction": None}, "field 'instruction': found None"),
    ({"instruction": [None]}, r"field 'instruction': found \[null\]"),
    ({"instruction": []}, r"field 'instruction': found \[\]"),
    ({"instruction": {"a": 1}}, "field 'instruction': found"),
    (b'{"instruction": "\\ud800"}', "field 'instruction': found"),
    ({**SAID, "task": ""}, "field 'task': found"),
    ({**SAID, "task": ["a"]}, "field 'task': found"),
]


@pytest.mark.parametrize(("said", "expected"), WRONG)
def test_an_invalid_sentence_is_one_line(tmp_path, said, expected):
    with pytest.raises(InputError, match=expected) as caught:
        read_starts(put(tmp_path / "s", "a.png", said=said), 64)
    assert len(str(caught.value).splitlines()) == 1
    str(caught.value).encode()  # can be printed


BROKEN = png(episode(3, 1)[0]).replace(b"IDAT", b"\xfa\x1a=j")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.png", BROKEN, "a.png: not a readable picture"),
        ("a.png", b"", "a.png: not a readable picture"),
        ("a.png", png_16(1), "a.png: found one channel of more than 8 bits"),
        ("a.mp4", b"", "a.mp4: the video is truncated or damaged"),
        ("a.mp4", png(episode(3, 1)[0]), "a.mp4: the video is truncated or damaged"),
        ("a.heic", b"ftypheic", "a.heic: cannot be read, expected one of .png, .*; convert it to PNG"),
    ],
)
def test_a_picture_that_cannot_be_read_is_one_line(tmp_path, name, content, expected):
    with pytest.raises(InputError, match=expected):
        read_starts(put(tmp_path / "s", name, content), 64)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    """They would share one sentence without a word."""
    put(tmp_path / "s", "a.png")
    put(tmp_path / "s", "a.jpg")
    put(tmp_path / "s", "b.png")
    with pytest.raises(InputError, match=r"shares its JSON file with a\.(png|jpg), expected unique names"):
        list_pictures(tmp_path / "s")


def test_a_path_that_is_not_a_file_is_refused_before_reading(tmp_path):
    put(tmp_path / "s", "a.png")
    for make in (os.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")):
        (tmp_path / "s" / "a.png").unlink()
        make(tmp_path / "s" / "a.png")
        for read in (folder_hash, lambda folder: read_starts(folder, 64)):
            with pytest.raises(InputError, match=r"a\.png: found no regular file"):
                read(tmp_path / "s")
        if (tmp_path / "s" / "a.png").is_dir():
            (tmp_path / "s" / "a.png").rmdir()
            (tmp_path / "s" / "a.png").write_text("")
    with pytest.raises(InputError, match="found no folder"):
        read_starts(tmp_path / "a\0b", 64)


def test_damaged_inputs_end_in_frames_or_in_one_line(monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", "")  # given back after the script has set its own
    ended = run(tries=700, seconds=60, seed=0)
    assert sum(ended.values()) == 700
    assert sum(n for kind, n in ended.items() if kind.endswith("refused")) > 200
    assert {kind.rsplit(": ")[1] for kind in ended} == {"read", "refused"}  # and not of several lines
