"""Label files, their rules, and how labels reach data sets."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from episode_builders import episodes
from foreign_data import v3
from hypothesis import given
from hypothesis import strategies as st

import worldgymnast as wg
from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.labels import (
    FrameRule,
    Label,
    Labels,
    LabelWriter,
    combine,
    episode_key,
    keys_of,
    read_labels,
)
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.labellers import Concordance


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lerobot.write(tmp_path / "set", [replace(one, success=None) for one in episodes(4)])
    return tmp_path / "set"


def write(path: Path, data: Path, votes: dict[str, dict[int, bool | None]], frame: int | None = None) -> Path:
    """A label file with the votes of each labeller by episode."""
    keys = keys_of(formats.read(data))
    writer = LabelWriter(path, data.name)
    for name, by_episode in votes.items():
        for number, success in by_episode.items():
            writer.add(Label(number, keys[number], name, success, frame if success else None))
    return path


def test_labels_reach_reading_and_conversion(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "l.jsonl", data, {"anna": {0: True, 1: False, 3: True}}, frame=2)
    found = formats.read(data, labels=Labels([path]))
    assert found.labelled.tolist() == [True, True, False, True]
    assert found.succeeded.tolist() == [True, False, False, True]
    assert np.array_equal(found.success[found.first[0] :][:5], [False, False, True, True, True])
    assert f"{data}: 2 of 3 labelled episodes succeeded" in capsys.readouterr().out
    done = formats.convert(data, tmp_path / "copy", labels=Labels([path]))
    assert (done.labelled, done.succeeded) == (3, 2)
    copy = formats.read(tmp_path / "copy")
    assert copy.labelled.tolist() == found.labelled.tolist()
    assert copy.success.tolist() == found.success.tolist()
    assert not formats.read(data).labelled.any(), "the data set itself is not changed"


def test_labels_in_python(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", data, {"anna": {0: True, 1: False}}, frame=2)
    assert wg.read(data, labels=path).labelled.tolist() == [True, True, False, False]
    assert wg.read(data, labels=[str(path)]).succeeded.tolist() == [True, False, False, False]
    lerobot.write(tmp_path / "other", episodes(9)[4:])
    with pytest.raises(InputError, match="none of its 2 labels"):
        wg.read(tmp_path / "other", labels=path)


def test_labels_follow_episodes_that_were_renumbered(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", data, {"anna": {0: True, 2: False, 3: True}})
    lerobot.write(tmp_path / "part", [formats.read(data).episode(i) for i in (3, 2)])
    found = formats.read(tmp_path / "part", labels=Labels([path]))
    assert found.succeeded.tolist() == [True, False]
    assert found.labelled.all()


def test_equal_actions_are_told_apart_by_number(tmp_path: Path) -> None:
    one = replace(episodes(1)[0], success=None)
    lerobot.write(tmp_path / "twins", [one, one])
    path = write(tmp_path / "l.jsonl", tmp_path / "twins", {"anna": {0: True, 1: False}})
    found = formats.read(tmp_path / "twins", labels=Labels([path]))
    assert found.succeeded.tolist() == [True, False]


def test_labels_of_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", data, {"anna": {0: True}})
    lerobot.write(tmp_path / "other", episodes(9)[4:])
    labels = Labels([path])
    formats.read(tmp_path / "other", labels=labels)
    with pytest.raises(InputError, match=r"none of its 1 labels belongs to an episode of X.* made for 'set'"):
        labels.require_used("X")


def test_majority_counts_and_ties_stay_unlabelled(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    votes = {"anna": {0: True, 1: True, 2: True}, "ben": {0: False, 1: False}, "vlm": {0: True, 2: None}}
    found = formats.read(data, labels=Labels([write(tmp_path / "l.jsonl", data, votes)]))
    assert found.labelled.tolist() == [True, False, True, False]
    assert found.succeeded.tolist() == [True, False, True, False]
    assert "1 are left unlabelled, since the labellers are tied" in capsys.readouterr().out


def test_the_newest_label_counts_and_can_be_withdrawn(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", data, {"anna": {0: True, 1: True}})
    write(path, data, {"anna": {0: False, 1: None}})
    found = formats.read(data, labels=Labels([path]))
    assert found.labelled.tolist() == [True, False, False, False]
    assert not found.succeeded.any()


def test_own_labels_are_replaced_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = [replace(one, success=np.zeros(len(one.frames), bool)) for one in episodes(2)]
    lerobot.write(tmp_path / "set", known)
    path = write(tmp_path / "l.jsonl", tmp_path / "set", {"anna": {0: True}})
    found = formats.read(tmp_path / "set", labels=Labels([path]))
    assert found.succeeded.tolist() == [True, False]
    assert found.labelled.all()
    assert "1 differ from the data set's own label" in capsys.readouterr().out


def test_a_frame_beyond_the_episode_is_refused(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", data, {"anna": {0: True}}, frame=99)
    with pytest.raises(InputError, match=r"episode 0: the marked frame is 99, expected at most 4"):
        formats.read(data, labels=Labels([path]))


@given(
    count=st.integers(1, 30),
    frame=st.none() | st.integers(0, 29),
    tail=st.integers(1, 40),
    rule=st.sampled_from(["from-frame", "last"]),
)
def test_rules_keep_outcome_and_end(count: int, frame: int | None, tail: int, rule: str) -> None:
    frame = None if frame is None or frame >= count else frame
    made = FrameRule(rule, tail)  # pyright: ignore[reportArgumentType]
    success = made.frames(True, frame, count)
    assert len(success) == count
    assert success[-1]
    assert not made.frames(False, frame, count).any()
    assert (np.diff(success.astype(int)) >= 0).all(), "once accomplished, a task stays so"
    if rule == "last" or frame is None:
        assert success.sum() == min(tail, count)
    else:
        assert success.sum() == count - frame


def test_rule_of_a_file_is_kept_and_can_be_changed(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    LabelWriter(path, "set", FrameRule("last", 2))
    assert LabelWriter(path, "set").file.rule == FrameRule("last", 2)
    assert LabelWriter(path, "set", FrameRule()).file.rule == FrameRule()
    assert read_labels(path).rule == FrameRule()


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_killed_write_loses_only_its_own_line(data: Path, tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "l.jsonl", data, {"anna": {0: True, 1: False}})
    os.truncate(path, path.stat().st_size - cut)
    assert [label.episode for label in read_labels(path).labels.values()] == [0]
    write(path, data, {"anna": {2: True}})
    assert [label.episode for label in read_labels(path).labels.values()] == [0, 2]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_file_killed_in_its_first_line_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"worldgym')
    assert LabelWriter(path, "set").file.labels == {}
    assert read_labels(path).data == "set"


HEAD = '{"worldgymnast_labels": 1, "data": "x", "rule": "from-frame", "tail": 1}\n'
GOOD = {"episode": 0, "key": "0" * 16, "labeller": "a", "success": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no complete line"),
        ("{}\n", "line 1: found no field 'worldgymnast_labels'"),
        ("[1]\n", "line 1"),
        ("nonsense\n", "line 1"),
        ('{"worldgymnast_labels": 2}\n', "found 2, expected 1"),
        (HEAD.replace("from-frame", "first"), "rule"),
        (HEAD + "{}\n", "line 2: field 'episode': found null"),
        (HEAD + json.dumps(GOOD | {"episode": -1}) + "\n", "field 'episode': found -1"),
        (HEAD + json.dumps(GOOD | {"episode": True}) + "\n", "field 'episode'"),
        (HEAD + json.dumps(GOOD | {"key": "x"}) + "\n", "field 'key'"),
        (HEAD + json.dumps(GOOD | {"success": 1}) + "\n", "field 'success'"),
        (HEAD + json.dumps(GOOD | {"frame": 1.5}) + "\n", "field 'frame'"),
        (HEAD + json.dumps(GOOD | {"labeller": None}) + "\n", "field 'labeller'"),
        (HEAD + json.dumps(GOOD | {"probability": "high"}) + "\n", "field 'probability'"),
    ],
)
def test_broken_files_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "l.jsonl")


def test_numbers_are_those_of_the_data_set(tmp_path: Path) -> None:
    v3(tmp_path / "foreign", lens=(5, 7, 6))
    assert formats.episode_numbers(tmp_path / "foreign", 3) == [0, 1, 2]
    found = formats.read(tmp_path / "foreign")
    streamed = [episode_key(one.actions) for one in formats.stream(tmp_path / "foreign").episodes]
    assert keys_of(found) == streamed, "reading and converting name an episode alike"


def test_median_frame_of_those_in_favor() -> None:
    votes = [Label(0, "", name, True, frame) for name, frame in (("a", 3), ("b", 9), ("c", None), ("d", 4))]
    assert combine(votes, FrameRule()).frame == 4


def test_tasks_are_instructions_where_the_data_have_none(tmp_path: Path) -> None:
    v3(tmp_path / "named", lens=(5, 6, 7), tasks=["open the  door", "close it", "open the  door"])
    assert formats.read(tmp_path / "named").task == ("open the door", "close it", "open the door")
    v3(tmp_path / "dummy", lens=(5, 6), tasks=["<task>", ""])
    found = formats.read(tmp_path / "dummy")
    assert found.task == ("", "")
    assert found.kinds == ("no task", "no task")
    many = from_episodes(
        [replace(one, task="", instruction=f"do thing {'x' * i}") for i, one in enumerate(episodes(22))]
    )
    assert set(many.with_task_names().task) == {""}
    mixed = from_episodes(
        [replace(one, task="own" if i else "", instruction="lift") for i, one in enumerate(episodes(2))]
    )
    assert mixed.with_task_names().task == ("lift", "own")


def test_kappa_knows_chance_and_is_humble_with_few() -> None:
    same = Concordance.of([True, False] * 3, [True, False] * 3)
    assert same.kappa.value == 1
    assert same.kappa.low < 0.8
    many = Concordance.of([True, False] * 200, [True, False] * 200)
    assert many.kappa.low > 0.97
    constant = Concordance.of([True] * 10, [True, False] * 5)
    assert constant.kappa.value == pytest.approx(0)
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 2000)) < 0.8
    chance = Concordance.of(first.tolist(), second.tolist())
    assert chance.agreement.value > 0.6
    assert abs(chance.kappa.value) < 0.06
    assert chance.kappa.low < 0 < chance.kappa.high
