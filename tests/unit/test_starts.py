"""Starts from a folder of pictures with sentences, and its errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene_builders import put

from worldgymnast.episodes.starts import read_starts
from worldgymnast.errors import InputError
from worldgymnast.rl.starts import FixedStarts, starts_hash


def test_pictures_and_videos_become_starts(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    put(folder, "b.png", {"instruction": ["open the drawer", " pull it open "], "task": "drawer"}, (128, 128))
    put(folder, "a.mp4", {"instruction": "lift eggplant", "partial_credit_criteria": "touches it"}, value=30)
    (folder / "notes.txt").write_text("not a picture")
    starts = read_starts(folder, 64)
    assert [(s.task, s.instruction) for s in starts] == [
        ("lift eggplant", "lift eggplant"),
        ("drawer", "open the drawer"),
        ("drawer", "pull it open"),
    ]
    assert all(s.frame.shape == (64, 64, 3) and s.layout is None for s in starts)
    assert [int(s.frame.mean()) for s in starts] == [30, 100, 100], "of a video the first frame counts"
    drawn = FixedStarts(starts)(np.random.default_rng(0), 40)
    assert sum(s.task == "drawer" for s in drawn) == 20, "tasks in equal parts, however many pictures each has"
    assert {s.instruction for s in drawn} == {s.instruction for s in starts}
    assert starts_hash(starts) == starts_hash(read_starts(folder, 64)) != starts_hash(starts[:2])


def test_a_wide_picture_is_cropped_only_with_crop(tmp_path: Path) -> None:
    put(tmp_path / "scenes", "a.jpg", {"instruction": "open the drawer"}, (64, 96))
    with pytest.raises(InputError, match="found 96x64 pixels, expected a square picture"):
        read_starts(tmp_path / "scenes", 64)
    assert read_starts(tmp_path / "scenes", 32, crop=True)[0].frame.shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, "a.json: no such file beside its picture"),
        ("{", "a.json: line 1 is not JSON"),
        ([], "field 'instruction': found None"),
        ({"task": "drawer"}, "field 'instruction': found None"),
        ({"instruction": " "}, "field 'instruction': found ' '"),
        ({"instruction": ["open it", 3]}, "field 'instruction'"),
        ({"instruction": "open it", "task": 3}, "field 'task': found 3"),
        ({"instruction": "open it", "tsk": "drawer"}, "field 'tsk': found an unknown key, expected 'task'"),
    ],
)
def test_a_picture_without_its_sentence_is_refused(said: Any, expected: str, tmp_path: Path) -> None:
    put(tmp_path / "scenes", "a.png", said)
    with pytest.raises(InputError, match=expected):
        read_starts(tmp_path / "scenes", 64)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no folder"):
        read_starts(tmp_path / "nowhere", 64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no picture"):
        read_starts(tmp_path / "empty", 64)
    (tmp_path / "empty" / "a.png").write_bytes(b"\x89PNG cut off")
    (tmp_path / "empty" / "a.json").write_text('{"instruction": "open it"}')
    with pytest.raises(InputError, match="not a readable picture"):
        read_starts(tmp_path / "empty", 64)
