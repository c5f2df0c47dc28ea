"""The whole method end to end with tiny everything, and once more, when nothing is left to do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studies.pack import PARTS, pack
from worldgymnast.cli.main import main
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import load_policy, manifest_of
from worldgymnast.weights import identity

STAGES = [
    "record",
    "imitate",
    "record the policy",
    "world model",
    "judge",
    "explore 1",
    "record the explorers 1",
    "world model after round 1",
    "judge after round 1",
    "gate",
    "adapt",
    "reinforce 0",
    "evaluate",
]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each result was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".jsonl", ".parquet", ".mp4")
        or path.name in ("gate.json", "evaluation.json")
    }


def work(folder: Path) -> tuple[int, int]:
    """Steps of all trainings in a run, and frames of all its recordings."""
    logs = [path.read_text().splitlines() for path in folder.rglob("metrics.jsonl")]
    recorded = [json.loads(path.read_text()) for path in folder.rglob("meta/info.json")]
    return sum(json.loads(log[-1])["step"] + 1 for log in logs), sum(info["total_frames"] for info in recorded)


@pytest.mark.usefixtures("gl", "one_process")
def test_reproduce_debug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["reproduce", "debug", "--out", str(out), "--threads", str(torch.get_num_threads())]

    assert main(words) == 0
    said = capsys.readouterr().out
    assert "mean over tasks" in said
    assert str(out / "report.html") in said
    page = (out / "report.html").read_text()
    assert "drawer-open" in page
    assert "data:video/mp4" in page
    assert list(json.loads((out / "stages.json").read_text())) == STAGES

    steps, frames = work(out)
    assert steps <= 60, "ten a training, one or two of RL: a minute of one core"
    assert frames <= 300

    before = snapshot(out)
    assert {
        "adapted/policy.safetensors",
        "rl-0/policy.safetensors",
        "world/world.safetensors",
        "judge/judge.safetensors",
    } <= before.keys()
    assert main(words) == 0
    assert snapshot(out) == before

    packed = pack(out, tmp_path / "starter")
    adapted = load_policy(out / "adapted/policy.safetensors")
    assert packed["parts"]["policy"]["data"] == manifest_of(out / "adapted/policy.safetensors")["data"]
    assert identity(adapted) != identity(load_policy(out / "sft/policy.safetensors"))
    assert packed["budget"]["demonstrations"] == 4
    assert packed["budget"]["labelled policy rollouts, of explorers"] == 4
    for i in range(2):
        config = load_policy(tmp_path / "starter" / f"explorer-{i}.safetensors").config
        assert replace(config, image_sizes=()) == debug().policy.policy
    for name, load in PARTS.items():
        component = load[1](tmp_path / "starter" / f"{name}.safetensors")
        assert identity(component) != ""
        assert packed["parts"][name]["data"] != ""

    capsys.readouterr()
    assert main([*words, "--score.per-task", "3"]) == 2
    assert "--score.per-task: " in capsys.readouterr().err
