"""rl and sft print the memory plan before they begin, and refuse what does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_builders import episodes
from tiny_flags import BRIEF, TINY_POLICY

from worldgymnast.actions import metaworld_spec
from worldgymnast.cli import memory_plan
from worldgymnast.cli.main import main
from worldgymnast.episodes.lerobot import write
from worldgymnast.errors import InputError
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_judge, load_learned_judge, load_policy, load_world
from worldgymnast.video import png


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory") / "data"
    write(folder, episodes(6, size=64, spec=metaworld_spec(3), fps=40 / 3))
    return folder


def has(gigabytes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have that much memory."""
    monkeypatch.setattr(memory_plan, "device_bytes", lambda device: int(gigabytes * 1e9))


def test_sft(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sft", str(data), *BRIEF, *TINY_POLICY, "--demonstrations", "1", "--out", str(tmp_path / "sft")]
    has(1e-4, monkeypatch)
    assert main(words) == 2
    said = capsys.readouterr()
    assert "Memory of sft on cpu, GB" in said.out
    assert "It would run out of memory. " in said.err
    assert "--over-memory begins nevertheless" in said.err
    assert not (tmp_path / "sft/policy.safetensors").exists()
    assert main([*words, "--over-memory"]) == 0
    has(1.0, monkeypatch)
    words[-1] = str(tmp_path / "more")
    assert main([*words[:2], *BRIEF, "--begin-with", str(tmp_path / "sft/policy.safetensors"), *words[-4:]]) == 0
    assert "of 1 GB" in capsys.readouterr().out
    assert main([*words[:2], *BRIEF, "--begin-with", str(tmp_path / "sft/policy.safetensors"), *words[-4:]]) == 0
    assert "Memory of" not in capsys.readouterr().out, "nothing is left to do"


def test_rl(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--rl.steps", "1", "--rl.starts", "2", "--rl.group-size", "2", "--rl.rows", "4", "--rl.horizon", "8"]
    flags = [
        "--judge",
        str(starter("judge")),
        "--unscored",
        "--anyway",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "rl"),
    ]
    words = ["rl", "debug", "--data", str(data), *few, *flags]
    has(0.1, monkeypatch)
    assert main(words) == 2
    said = capsys.readouterr()
    assert "Memory of rl on cpu, GB" in said.out
    assert "Add --rl.trainer.micro-batch" in said.err
    assert not (tmp_path / "rl/policy.safetensors").exists()
    has(1.0, monkeypatch)
    assert main([*words, "--rl.trainer.micro-batch", "2"]) == 0
    assert "of 1 GB" in capsys.readouterr().out


OTHERS = {
    "adapt": (["--frame", "FRAME", "--instruction", "open the drawer", "--rl.horizon", "8"], "Add --rl."),
    "dyna": (["--data", "DATA", "--finetune.rl.horizon", "8"], "Add --finetune.rl."),
    "iter-sft": (["--data", "DATA", "--unscored", "--demonstrations", "1", "--horizon", "8"], "Add --"),
}
"""Flags of the other commands that train a policy in a world model, and the beginning of the advice."""


@pytest.mark.parametrize("name", OTHERS)
def test_every_training_in_a_world_model(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, out = tmp_path / "frame.png", tmp_path / "run"
    frame.write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    flags, advice = OTHERS[name]
    words = [{"FRAME": str(frame), "DATA": str(data)}.get(word, word) for word in flags]
    has(0.1, monkeypatch)
    assert main([name, *words, "--threads", "1", "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert f"Memory of {name} on cpu, GB" in said.out
    assert f"{name} needs" in said.err
    assert advice in said.err
    assert "--over-memory begins nevertheless" in said.err
    assert not (out / "policy.safetensors").exists()


QUICK = """
import time
import torch
import worldgymnast as wg
from worldgymnast.cli.memory_plan import plan_rl
from worldgymnast.rl.reinforce import ReinforceConfig


def imagine(rows, frames):
    state = world.start(torch.zeros(rows, *world.frame_size, 3, dtype=torch.uint8))
    world.step(state, torch.zeros(rows, frames, world.action_spec.dim), generator=torch.Generator())


rl, world = ReinforceConfig(), wg.load_world(wg.starter("world"))
parts = wg.load_policy(wg.starter("policy")), world, wg.load_judge(wg.starter("judge"))
plan_rl(*parts, ReinforceConfig(rows=1, horizon=2), "cpu")  # imports what every training imports
imagine(2, 2)
began = time.process_time()
plan = plan_rl(*parts, rl, "cpu")
planned = time.process_time()
imagine(rl.rows // 4, rl.horizon)
imagined = 4 * (time.process_time() - planned)
print((planned - began) / (imagined * rl.steps), len(plan.roles), len(plan.unknown))
"""


def test_the_plan_is_quick() -> None:
    """Less than a twentieth of the CPU time in which its training imagines; without the type checks of the tests."""
    found = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=True).stdout.split()
    assert float(found[0]) < 0.05, "measured on an AMX core: 0.03"
    assert found[1:] == ["3", "0"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "words",
    [
        ["rl", "debug", "--policy", "NONE"],
        ["sft", "NONE"],
        ["train-world", "NONE"],
        ["train-judge", "NONE", "--world", "NONE"],
        ["distill", "NONE", "--world", "NONE"],
        ["evaluate", "NONE", "NONE"],
        ["adapt", "--frame", "NONE.png", "--instruction", "open the drawer", "--policy", "NONE"],
        ["dyna", "--data", "NONE", "--policy", "NONE"],
        ["iter-sft", "--data", "NONE", "--policy", "NONE"],
    ],
    ids=lambda words: words[0],
)
def test_a_missing_device_is_refused_before_anything_is_loaded(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [word.replace("NONE", str(tmp_path / "none.safetensors")) for word in words]
    assert main([*files, "--device", "cuda", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said == "worldgymnast: error: --device: no CUDA device is available. Use --device cpu\n"
    assert not (tmp_path / "run").exists()


def test_components_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for load in (load_policy, load_world, load_learned_judge, load_judge):
        with pytest.raises(
            InputError, match="no cuda device is available" if not torch.cuda.is_available() else "last"
        ):
            load(tmp_path / "none.safetensors", "cuda:99")
