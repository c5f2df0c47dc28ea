"""The package, and RL on data, without metaworld and mujoco; commands over another environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from worldgymnast.cli.main import main

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("metaworld", "mujoco"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name.partition(".")[0])

sys.meta_path.insert(0, Blocker())
"""


def blocked(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", BLOCKED + code]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_rl_on_starts_needs_no_simulator() -> None:
    code = """
import numpy as np, worldgymnast as wg
scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door", "door-close")
files = [wg.starter(name) for name in ("policy", "world", "judge")]
brief = wg.ReinforceConfig(starts=2, group_size=2, rows=4, resample=0)
print(len(wg.finetune(*files, starts=wg.starts([scene]), steps=1, horizon=2, config=brief).metrics))
import worldgymnast.testing, worldgymnast.cli.commands
"""
    done = blocked(code)
    assert done.returncode == 0, done.stderr
    assert "2" in done.stdout


def test_what_to_install_is_said_in_one_line(tmp_path: Path) -> None:
    command = f"['quickstart', '--out', {str(tmp_path / 'run')!r}]"
    done = blocked(f"from worldgymnast.cli.main import main; sys.exit(main({command}))")
    assert done.returncode == 2
    assert "Meta-World is not installed" in done.stderr
    assert "pip install -c constraints.txt -e '.[metaworld]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def says(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main([str(word) for word in words]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_check_env(capsys: pytest.CaptureFixture[str]) -> None:
    told = says(capsys, "check-env", "other_environments:Cart", "--env.size", 32)
    assert "frame 32x32" in told
    assert "no problem found" in told
    told = says(capsys, "check-env", "other_environments:Bare", code=1)
    assert told.count("problem: ") == 2
    described = ("--env.instruction", "drive to the right", "--env.spec", '{"axes": ["x", "grip"]}')
    assert "no problem found" in says(capsys, "check-env", "gym:other/BareCart-v0", *described)
    assert "did you mean 'metaworld'" in says(capsys, "check-env", "metaworl", code=2)


def test_commands_take_another_environment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    kinds = ("--expert", 2, "--noisy", 1, "--play", 1, "--length", 6, "--workers", 1)
    says(capsys, "record", "debug", "--env", "other_environments:Cart", "--env.size", 32, *kinds, "--out", data)
    assert "8 episodes" in says(capsys, "data", "check", data) or data.exists()
    line = says(capsys, "record", "debug", "--env", "other_environments:Bare", *kinds, "--out", tmp_path / "x", code=2)
    assert "has no action_spec" in line
    photographs = tmp_path / "photographs"
    says(capsys, "scenes", "photograph", photographs, "--env=other_environments:Cart", "--per-task", 2)
    assert len(list(photographs.glob("*.png"))) == 4
    line = says(capsys, "evaluate", "--env", code=2)
    assert "--env: missing value" in line
    line = says(capsys, "rl-simulator", "debug", "--env", "other_environments:Cart", "--out", tmp_path / "y", code=2)
    assert "only Meta-World has a perturbed simulator" in line
