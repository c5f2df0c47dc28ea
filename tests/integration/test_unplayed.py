"""Layouts that are imagined and not played: kept, added to, and what the report says they are worth."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.measure.unplayed import imagine_unplayed
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.protocols import Policy
from worldgymnast.recipes.quickstart import starter, starter_explorers
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.report.powered import sheet
from worldgymnast.report.report import Report, render
from worldgymnast.types import IMAGE, ActionChunk, Rollout, Start, Verdict


def rollout(start: Start) -> Rollout:
    """An imagined rollout that succeeds on even layouts; the judge fails on every third."""
    assert start.layout is not None
    verdict = Verdict(None, error="blind") if start.layout % 3 == 0 else Verdict(float(start.layout % 2 == 0))
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    chunk = ActionChunk(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, dtype=torch.long), torch.zeros(1, 2, 4), 0.0)
    return Rollout(start, {IMAGE: frames[:1]}, chunk, frames, verdict, 1)


def test_what_is_there_is_not_imagined_again(tmp_path: Path) -> None:
    file, asked = tmp_path / "imagined.json", []

    def starts(count: int):
        return lambda seed: [
            Start(np.zeros((8, 8, 3), np.uint8), "open", "door", 1000 * seed + i) for i in range(count)
        ]

    def imagine(policy: Policy, chosen: Sequence[Start], seed: int, said: str) -> list[Rollout]:
        asked.append((seed, [s.layout for s in chosen]))
        return [rollout(s) for s in chosen]

    policy = SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), metaworld_spec(4))
    policies = {"before": (policy, (0, 1)), "rl-1": (policy, (1,))}
    first = imagine_unplayed(file, policies, starts(2), imagine)
    assert asked == [(0, [0, 1]), (1, [1000, 1001]), (1, [1000, 1001])]
    assert [row["imagined"] for row in first["before"]] == [None, False, True, False]
    assert imagine_unplayed(file, policies, starts(2), imagine) == first
    assert len(asked) == 3
    more = imagine_unplayed(file, policies, starts(3), imagine)
    assert asked[3:] == [(0, [2]), (1, [1002]), (1, [1002])]
    assert json.loads(file.read_text()) == more


def rows(successes: np.ndarray, imagined: np.ndarray | None, first: int = 0) -> list[dict]:
    return [
        {"task": "ab"[i % 2], "layout": first + i, "seed": 0, "success": None if imagined is None else bool(won),
         "imagined": bool(won if imagined is None else imagined[i])}
        for i, won in enumerate(successes)
    ]  # fmt: skip


def test_the_table_says_what_imagination_is_worth() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.random(60) < 0.4, rng.random(60) < 0.7
    evaluation = {name: rows(real, real ^ (rng.random(60) < 0.1)) for name, real in (("before", old), ("after", new))}
    alone = {"before": rows(rng.random(400) < 0.4, None, 500), "after": rows(rng.random(400) < 0.7, None, 500)}
    found = sheet(evaluation, alone, ["after"])
    assert found is not None
    assert [row[0] for row in found.rows] == ["before", "after", "after minus before"]
    assert [row[3:5] for row in found.rows] == [["60", "400"]] * 3
    assert all("real (60 count as " in row[6] for row in found.rows)
    assert "points" in found.rows[2][2]
    played = sheet(evaluation, {}, ["after"])
    assert played is not None
    assert "--imagined N" in played.note
    assert "at most" in played.rows[0][6]
    lies = {"before": rows(old, rng.random(60) < 0.5), "after": rows(new, rng.random(60) < 0.5)}
    lying = sheet(lies, alone, ["after"])
    assert lying is not None
    assert lying.rows[0][6] == "nothing"
    assert sheet({"before": [{"task": "a", "layout": 0, "seed": 0, "success": True}]}, {}, []) is None
    page = Report("a run", "worldgymnast evaluate", powered=found)
    for text in (render(page), markdown(page)):
        assert "Real success, with imagined episodes added" in text
        assert "one imagined is worth" in text


@pytest.mark.usefixtures("gl")
def test_evaluate_imagines_more_than_it_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, policies = tmp_path / "run", [str(starter("policy")), str(starter_explorers()[0])]
    flags = ["--env.tasks", "door-close", "--env.horizon", "4", "--score.per-task", "1", "--score.workers", "1"]
    command = ["evaluate", *policies, *flags, "--imagined", "1", "--out", str(out)]
    assert main(command) == 0
    assert "Real success, with imagined episodes added" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["frame_size"] == [64, 64]
    played = (out / "evaluation.json").stat().st_mtime_ns
    command[command.index("--imagined") + 1] = "2"
    assert main(command) == 0
    assert (out / "evaluation.json").stat().st_mtime_ns == played
    found = json.loads((out / "imagined.json").read_text())
    assert [[row["layout"] for row in found[name]] for name in found] == [[1_000_500, 1_000_501]] * 2
    page = collect(out)
    assert page.powered is not None
    assert page.powered.rows[0][4] == "2"
    assert main([*command[:-2], "--out", str(out), "--world", "nowhere.safetensors"]) == 2
    command[command.index("--imagined") + 1] = "401"
    assert main(command) == 2
    assert "imagined" in capsys.readouterr().err


@pytest.mark.usefixtures("gl")
def test_one_policy_is_scored_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, policy = tmp_path / "run", str(starter("policy"))
    flags = ["--env.tasks", "door-close", "--env.horizon", "4", "--score.per-task", "2", "--score.workers", "1"]
    assert main(["evaluate", policy, *flags, "--imagined", "1", "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Real success of the policy, 95 % intervals" in printed
    assert "(0/2)" in printed
    assert not re.search(r"\b(before|after)\b", printed)
    page = collect(out)
    for text in (render(page), markdown(page)):
        assert "Real success of the policy" in text
        assert "with a second one compares both" in text
        assert "no two policies" not in text
    assert main(["evaluate", policy, str(starter_explorers()[0]), *flags, "--imagined", "1", "--out", str(out)]) == 2
