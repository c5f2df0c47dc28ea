"""Recordings for the Rerun viewer, read back by rerun's own reader."""

import importlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_builders import episode
from PIL import Image
from run_builders import seed_run

from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.formats import read
from worldgymnast.recipes.quickstart import starter
from worldgymnast.video import encode

HAS_RERUN = importlib.util.find_spec("rerun") is not None
with_rerun = pytest.mark.skipif(not HAS_RERUN, reason="the extra rerun is not installed")
Rows = dict[str, list[dict[str, Any]]]


def rows_of(file: Path) -> Rows:
    """The rows of every entity; a row has its times and its values by component."""
    found: Rows = {}
    for chunk in importlib.import_module("rerun.chunk").RrdReader(str(file)).stream().to_chunks():
        if not chunk.entity_path.startswith("/__"):  # of the recording itself
            batch = chunk.to_record_batch()
            kept = [name for name in batch.schema.names if name != "log_time"]
            found.setdefault(chunk.entity_path, []).extend(batch.select(kept).to_pylist())
    return found


def numbers(rows: Rows, entity: str, timeline: str = "frame") -> dict[int, float]:
    """The numbers of an entity by time."""
    return {row[timeline]: row["Scalars:scalars"][0] for row in rows[entity] if row.get("Scalars:scalars")}


def picture(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(row["EncodedImage:blob"][0]))))


def pictures(rows: Rows, entity: str) -> dict[int, np.ndarray]:
    return {row["frame"]: picture(row) for row in rows[entity] if row.get("EncodedImage:blob")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, spec = tmp_path_factory.mktemp("data") / "set", metaworld_spec(6)
    with lerobot.LeRobotWriter(folder, spec, 80 / 6, (64, 64)) as writer:
        for index in range(4):
            writer.add(episode(index, steps=3 + index, size=64, spec=spec, fps=80 / 6))
    return folder


@with_rerun
def test_episodes_beside_imagination(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.rrd"
    words = ["export-rerun", data, "--out", out, "--world", starter("world"), "--judge", starter("judge")]
    assert main([*map(str, words), "--episodes", "3", "--threads", "1"]) == 0
    rows, episodes = rows_of(out), read(data)
    real, imagined = pictures(rows, "/real"), pictures(rows, "/imagined")
    lengths = [int(length) + 1 for length in episodes.length[:3]]
    assert sorted(real) == sorted(imagined) == list(range(sum(lengths))), "one episode after the other"
    for frame, shown in real.items():
        np.testing.assert_array_equal(shown, np.asarray(episodes.frames[frame]))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    assert all(np.abs(imagined[start].astype(int) - real[start]).mean() < 1 for start in starts), "the same start"
    assert any(not np.array_equal(imagined[start + 1], real[start + 1]) for start in starts)
    actions = numbers(rows, "/action/x")
    assert len(actions) == sum(lengths) - 3, "no action at the last frame"
    assert actions[1] == pytest.approx(float(episodes.actions[1, 0]))
    known = numbers(rows, "/success/real")
    labelled = [start for start, is_known in zip(starts, episodes.labelled[:3], strict=True) if is_known]
    assert 0 < len(labelled) < 3
    assert {start in known for start in labelled} == {True}
    assert not any(start in known for start in starts if start not in labelled)
    for entity in ("/success/judge", "/success/judge_imagined"):
        beliefs = numbers(rows, entity)
        assert set(starts) <= set(beliefs)
        assert all(0 <= belief <= 1 for belief in beliefs.values())
    texts = [row["TextDocument:text"][0] for row in rows["/instruction"]]
    assert [text.splitlines()[0] for text in texts] == list(episodes.instruction[:3])


@with_rerun
def test_a_run_with_its_videos_and_metrics(tmp_path: Path) -> None:
    run = seed_run(tmp_path)
    clips = {name: np.full((length, 32, 32, 3), level, np.uint8) for name, length, level in
             (("imagined", 5, 40), ("real", 3, 200))}  # fmt: skip
    (run / "videos").mkdir(exist_ok=True)
    for name, frames in clips.items():
        encode(run / "videos" / f"open-right-{name}.mp4", frames, 10.0, lossless=True)
    out = tmp_path / "run.rrd"
    assert main(["export-rerun", str(run), "--out", str(out)]) == 0
    rows = rows_of(out)
    assert [len(pictures(rows, f"/{name}")) for name in clips] == [5, 3]
    assert abs(int(pictures(rows, "/real")[2].mean()) - 200) < 3
    assert numbers(rows, "/success/judge_imagined") == {0: 0.9, 4: 0.9}
    assert numbers(rows, "/success/real") == {0: 1.0, 4: 1.0}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = numbers(rows, "/metrics/run/reward", "step")
    assert rewards == {line["step"]: pytest.approx(line["reward"]) for line in lines}
    assert "/metrics/run/loss" not in rows, "null is no number"


def test_what_cannot_be_exported(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "absent"], "no such folder"),
        ([tmp_path / "empty"], "has no policy rollouts"),
        ([tmp_path / "empty", "--world", starter("world")], "is no data set, so nothing can be imagined or judged"),
    ]
    if not HAS_RERUN:
        cases.append(([data], "rerun-sdk is not installed. Nothing was written. Run pip install 'worldgymnast[rerun]'"))
    for words, expected in cases:
        assert main(["export-rerun", *map(str, words), "--out", str(tmp_path / "out.rrd")]) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("\n") == 1
    assert main(["export-rerun", str(data), "--out", str(tmp_path / "out.mp4")]) == 2
    assert not list(tmp_path.glob("out*"))
