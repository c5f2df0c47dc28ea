"""`worldgymnast label` and `data add` from end to end, without the browser."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from foreign_data import v3
from lamp import BrightJudge, lamp_episode

from worldgymnast.cli.main import main
from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.labels import read_labels
from worldgymnast.recipes.quickstart import starter
from worldgymnast.types import Clip, Verdict

COMMAND = "worldgymnast.cli.commands.label"


@pytest.fixture
def rewarded(tmp_path: Path) -> Path:
    """Four episodes with rewards: the odd ones reach 1 at their last but one row."""

    def extra(number: int, count: int) -> dict[str, pa.Array]:
        reward = np.full(count, 0.25)
        reward[-2] = 1.0 if number % 2 else 0.5
        done = reward >= 1
        return {"next.reward": pa.array(reward), "next.success": pa.array(done), "note": pa.array(["x"] * count)}

    v3(tmp_path / "data", lens=(6, 8, 7, 9), tasks=["open it", "open it", "close it", "close it"], extra=extra)
    return tmp_path / "data"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def frames_of(path: Path) -> dict[int, tuple[bool | None, int | None]]:
    return {label.episode: (label.success, label.frame) for label in read_labels(path).labels.values()}


def test_columns_become_labels(rewarded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels.jsonl"
    assert run("label", rewarded, "--column", "next.reward", "--out", out) == 2
    assert "--reward-threshold: missing, but column 'next.reward' has values from 0.25 to 1" in capsys.readouterr().err
    assert run("label", rewarded, "--column", "note", "--out", tmp_path / "no.jsonl") == 2
    assert run("label", rewarded, "--column", "gone", "--out", tmp_path / "no.jsonl") == 2
    assert "found no column 'gone', expected one of" in capsys.readouterr().err
    assert run("label", rewarded, "--column", "next.reward", "--reward-threshold", "1", "--out", out) == 0
    # `next.` belongs to the frame after the row: the last but one row is the last frame.
    expected = {0: (False, None), 1: (True, 7), 2: (False, None), 3: (True, 8)}
    assert frames_of(out) == expected
    assert run("label", rewarded, "--column", "next.success", "--out", tmp_path / "success.jsonl") == 0
    assert frames_of(tmp_path / "success.jsonl") == expected
    size = out.stat().st_size
    assert run("label", rewarded, "--column", "next.reward", "--reward-threshold", "1", "--out", out) == 0
    assert out.stat().st_size == size, "rerunning adds nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("episode,success\n0,true\n9,false\n", 'line 3: found episode "9", expected one of 0 to 3'),
        ("episode,success\n0,true\n0,true\n", "line 3: episode 0 was already labelled in line 2"),
        ("episode,success\n0,maybe\n", "line 2: field 'success': found \"maybe\", expected true or false"),
        ("episode,success\n0,\n", "line 2: field 'success'"),
        ("episode,frame,success\n0,99,true\n", "line 2: field 'frame': found \"99\", expected 0 to 5"),
        ("episode,frame,success\n0,2,false\n", "line 2: field 'frame': found 2 for a failure"),
        ("episode,success\n-1,true\n", 'line 2: found episode "-1"'),
        ("episode,success\n0,true,1\n", "line 2: found 3 values, expected 2"),
        ("number,success\n0,true\n", "line 1: found the columns number, success, expected 'episode' once"),
        ("", "is empty"),
        ("episode,success\n", "found no labels"),
        ("0\n", "line 1: found 1 values"),
        (b"\xff\xfe0,1", "is not UTF-8"),
    ],
)
def test_csv_errors_name_the_line(
    rewarded: Path, tmp_path: Path, text: str | bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run("label", rewarded, "--csv", tmp_path / "l.csv", "--out", tmp_path / "l.jsonl") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "episode,success,frame\n0,TRUE,2\n3,0,\n",
        "\ufeffFrame;Success;Episode\r\n2;yes;0\r\n;no;3\r\n",
        "0,2,success\n3,,failure\n",
        "episode\tsuccess\tframe\n3\tfalse\t\n\n0\t1\t2\n",
    ],
)
def test_csv_dialects(rewarded: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode())
    out = tmp_path / "l.jsonl"
    assert (
        run("label", rewarded, "--csv", tmp_path / "l.csv", "--labeller", "anna", "--out", out, "--rule", "last") == 0
    )
    assert frames_of(out) == {0: (True, 2), 3: (False, None)}
    assert read_labels(out).labellers == ["anna"]
    assert read_labels(out).rule.rule == "last"


class Failing(BrightJudge):
    """`BrightJudge` that costs, and fails on every third clip."""

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        good = [replace(verdict, cost=0.5) for verdict in super().score(clips)]
        return [Verdict(None, error="no answer", cost=0.5) if i % 3 == 2 else one for i, one in enumerate(good)]


def test_a_judge_labels_and_its_failures_stay_unlabelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = [lamp_episode(i, steps=8) for i in range(9)]
    lerobot.write(tmp_path / "lamps", truth)
    monkeypatch.setattr(f"{COMMAND}.load_judge_with_ledger", lambda path, device: Failing())
    (tmp_path / "bright.json").write_text("{}")
    out = tmp_path / "new.jsonl"
    assert run("label", tmp_path / "lamps", "--judge", tmp_path / "bright.json", "--out", out) == 0
    said = capsys.readouterr().out
    assert "bright.json: 6 of 9 episodes judged, cost 4.5" in said
    assert "3 judgments failed and are left unlabelled. Most common error (3x): no answer" in said
    found = {label.episode: label for label in read_labels(out).labels.values()}
    assert [found[i].success for i in range(9)] == [None if i % 3 == 2 else truth[i].succeeded for i in range(9)]
    assert found[2].error == "no answer"
    assert run("label", tmp_path / "lamps", "--compare", out) == 0
    said = capsys.readouterr().out
    assert "Agreement of labellers" in said
    assert "(6/6)" in said, "the judge is right wherever it answers"
    monkeypatch.setattr(f"{COMMAND}.load_judge_with_ledger", lambda path, device: _Dead())
    assert run("label", tmp_path / "lamps", "--judge", tmp_path / "bright.json", "--out", tmp_path / "d.jsonl") == 1


def test_a_judge_that_does_not_know_the_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = [replace(lamp_episode(i, steps=8), task="drawer-open", instruction="open the drawer") for i in range(2)]
    lerobot.write(tmp_path / "known", known)
    lerobot.write(tmp_path / "both", [*known, lamp_episode(2, steps=8)])
    for name in ("known", "both"):
        labels = tmp_path / f"{name}.jsonl"
        assert run("label", tmp_path / name, "--judge", starter("judge"), "--fps", 13.333, "--out", labels) == 0
        is_warned = (
            "judge.safetensors: its training data have no instruction of 1 of the 2 tasks, for example "
            in capsys.readouterr().out
        )
        assert is_warned == (name == "both")


class _Dead(BrightJudge):
    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return [Verdict(None, error="dead") for _ in clips]


def test_disagreement_is_reported_and_a_copy_written(
    rewarded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("0,true\n1,true\n2,false\n3,true\n")
    (tmp_path / "b.csv").write_text("0,false\n1,true\n2,false\n")
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert run("label", rewarded, "--csv", tmp_path / "a.csv", "--out", a) == 0
    capsys.readouterr()
    assert run("label", rewarded, "--csv", tmp_path / "b.csv", "--out", b, "--compare", a) == 0
    said = capsys.readouterr().out
    assert "Episodes on which the labellers differ" in said
    assert "Cohen's kappa" in said
    rows = [line.split() for line in said.splitlines() if line.strip().startswith("0 ")]
    assert rows == [["0", "open", "it", "failure", "failure", "success"]]
    assert run("data", "convert", rewarded, tmp_path / "copy", "--labels", a, b) == 0
    said = capsys.readouterr().out
    assert "2 of 3 labelled episodes succeeded" in said  # episode 0 is tied
    copy = formats.read(tmp_path / "copy")
    assert copy.labelled.tolist() == [False, True, True, True]
    assert run("label", rewarded, "--csv", tmp_path / "b.csv", "--out", tmp_path / "direct") == 0
    assert formats.read(tmp_path / "direct").succeeded.tolist() == [False, True, False, True]


def test_flags_that_do_not_fit_are_refused(rewarded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lamps, other = tmp_path / "lamps", tmp_path / "other.jsonl"
    lerobot.write(lamps, [lamp_episode(i, steps=8) for i in range(3)])
    (tmp_path / "lamps.csv").write_text("0,true\n")
    assert run("label", lamps, "--csv", tmp_path / "lamps.csv", "--out", other) == 0
    for words, message in (
        ((), "all are missing. Give at least one source"),
        (("--column", "success"), "--out: missing"),
        (("--by-hand", "--out", tmp_path / "folder"), "Give one that ends in .jsonl"),
        (("--column", "success", "--labeller", "x", "--out", tmp_path / "l.jsonl"), "--labeller: names a person"),
        (("--compare", tmp_path / "gone.jsonl"), "no such file"),
        (("--compare", other), "labels belongs to an episode of"),
    ):
        assert run("label", rewarded, *words) == 2
        assert message in capsys.readouterr().err


def test_label_files_beside_the_data_are_mentioned(
    rewarded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldgymnast.cli.inputs import read

    out = tmp_path / "data.labels.jsonl"
    assert run("label", rewarded, "--column", "next.success", "--out", out) == 0
    capsys.readouterr()
    read([rewarded], None)
    assert f"{out}: not used; to use these labels, add --labels {out}" in capsys.readouterr().out
    read([rewarded], None, labels=[out])
    assert "not used" not in capsys.readouterr().out
    plain = out.rename(tmp_path / "labels.jsonl")  # the name of docs/how-to/labels.md: the content says whose they are
    read([rewarded], None)
    assert f"{plain}: not used; to use these labels, add --labels {plain}" in capsys.readouterr().out
    plain.write_text(plain.read_text().replace(f'"data": "{rewarded.name}"', '"data": "another"'))
    read([rewarded], None)
    assert "not used" not in capsys.readouterr().out


def test_data_add(rewarded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    v3(tmp_path / "more", lens=(5, 4), tasks=["open it", "close it"], d=7)
    assert run("data", "add", rewarded, "--out", tmp_path / "all") == 2
    assert run("data", "add", rewarded, rewarded, "--out", tmp_path / "all") == 2
    capsys.readouterr()
    assert run("data", "add", rewarded, tmp_path / "more", "--out", tmp_path / "all", "--source", "policy@mine") == 0
    assert f"{tmp_path / 'all'}: 6 episodes, 33 actions, 2 of 4 labelled episodes succeeded" in capsys.readouterr().out
    found = formats.read(tmp_path / "all")
    assert found.source == ("data",) * 4 + ("policy@mine",) * 2
    info = json.loads((tmp_path / "all" / "meta" / "info.json").read_text())
    assert info["total_episodes"] == 6
