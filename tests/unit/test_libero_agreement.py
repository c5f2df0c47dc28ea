"""The study of agreement on LIBERO: which episodes are imitated, and outcomes from the scores of an RL run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from episode_builders import episode

from benchmarks.replays import GAP, SCALE, chosen, moving_picture
from studies.libero_agreement import OUTCOMES, Scored, report, successes
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.measure.agreement import AgreeConfig


def test_so_many_successes_of_every_task_become_demonstrations() -> None:
    def one(index: int, task: str, is_success: bool) -> object:
        plain = episode(index)
        success = np.zeros(len(plain.frames), bool)
        success[-1] = is_success
        return replace(plain, task=task, success=success, source="policy@1")

    known = from_episodes([one(i, ("push", "lift")[i % 2], i % 3 > 0) for i in range(24)])
    few = successes(known, 2, seed=0)
    assert sorted(few.task) == ["lift", "lift", "push", "push"]
    assert few.succeeded.all()
    assert set(few.source) == {"expert"}
    assert len(successes(known, 99, seed=0)) == int(known.succeeded.sum())
    assert successes(known, 2, seed=1).first.tolist() != few.first.tolist()


def test_scores_of_an_rl_run_become_outcomes_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    steps = {0: (0.5, 0.25), 12: (0.75, 0.5)}
    rows = [{"step": 6, "reward": 0.1}]
    for step, (real, imagined) in steps.items():
        own = {"real_success": real, "real_success/push": real, "real_success/lift": 0.0}
        rows.append({"step": step} | own | {"imagined_success/push": imagined, "imagined_success/lift": 0.0})
    (tmp_path / "rl-0").mkdir()
    (tmp_path / "rl-0/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Scored(out=tmp_path, name="rl-0", per_task=4)()
    outcomes = json.loads((tmp_path / "agreement" / OUTCOMES).read_text())
    counted = {
        name: {place: [row["task"] for row in each if row["success"] == [True]] for place, each in places.items()}
        for name, places in outcomes.items()
    }
    assert counted == {
        "sft": {"real": ["push"] * 2, "world": ["push"]},
        "rl-0, step 12": {"real": ["push"] * 3, "world": ["push"] * 2},
    }
    report(tmp_path / "agreement", AgreeConfig(lengths=(32,)))
    said = capsys.readouterr().out
    assert "all 2 policies" in said
    assert (tmp_path / "agreement/agreement.png").stat().st_size > 1000
    assert "38 %" in (tmp_path / "agreement/agreement.md").read_text()


def test_a_moving_picture_has_a_success_above_a_failure(tmp_path: Path) -> None:
    def one(index: int, steps: int, is_success: bool) -> object:
        plain = episode(index, steps=steps)
        return replace(plain, task="push", success=np.arange(steps + 1) == (steps if is_success else -1))

    known = from_episodes([one(0, 5, False), one(1, 4, True), one(2, 6, False)])
    pair = chosen(known, ["push", "push"])
    assert pair.length.tolist() == [4, 5]
    frames = moving_picture(pair, pair)
    assert frames.shape == (6, SCALE * (32 + GAP + 32), SCALE * (32 + GAP + 32), 3)
    left, right = frames[:, : SCALE * 32, : SCALE * 32], frames[:, : SCALE * 32, -SCALE * 32 :]
    assert np.array_equal(left, right)
    assert np.array_equal(frames[5, : SCALE * 32], frames[4, : SCALE * 32]), "a shorter episode stays at its end"
    assert np.array_equal(left[:, ::SCALE, ::SCALE][:5], pair.episode(0).frames)
