"""RL in two real processes (gloo, torchrun) learns what one process learns, and resumes with another number."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from places import ROOT
from rl_worker import SPLIT, WHOLE, Stopped, adapted, learn
from test_scale import together

from worldgymnast.weights import load_weights

WORKER = ROOT / "tests/support/rl_worker.py"


def curve(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time", "seconds", "imagined_frames")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def differences(found: Path, expected: Path) -> tuple[float, float]:
    """Largest difference of the final weights and of the logged metrics."""
    left, right = (load_weights(run / "policy.safetensors")[0] for run in (found, expected))
    assert left.keys() == right.keys()
    weights = max(float((left[name] - right[name]).abs().max()) for name in left)
    assert [row.keys() for row in curve(found)] == [row.keys() for row in curve(expected)]
    pairs = [
        (a[name], b[name])
        for a, b in zip(curve(found), curve(expected), strict=True)
        for name in a
        if a[name] != b[name]
    ]
    return weights, max((abs(a - b) for a, b in pairs), default=0.0)


def kill_second_once_saved(running: subprocess.Popen[str], out: Path) -> str:
    """Kill process 1 after the first checkpoint of OUT/killed; return what all of them printed as errors."""
    deadline = time.monotonic() + 280
    while not (out / "killed/checkpoints/step-00000001").exists():
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    os.kill(int((out / "pid-1").read_text()), signal.SIGKILL)
    _, said = running.communicate(timeout=100)
    assert running.returncode != 0
    return said


def test_two_processes_learn_what_one_learns_and_resume_what_another_number_began(tmp_path: Path) -> None:
    for name in ("one-for-shards", "one-for-two"):
        with pytest.raises(Stopped):
            learn(tmp_path / name, SPLIT, stop=1)
    running = together(str(WORKER), str(tmp_path))
    torch.set_num_threads(1)
    learn(tmp_path / "one-whole", WHOLE)
    learn(tmp_path / "one", SPLIT)
    learn(tmp_path / "one-adapters", SPLIT, adapted())
    said = kill_second_once_saved(running, tmp_path)
    assert [line for line in said.splitlines() if "Rerun the same command" in line] == [
        line for line in said.splitlines() if line.startswith("process 0: ")
    ], said
    for name in ("shards-for-one", "killed"):
        learn(tmp_path / name, SPLIT)  # one process goes on with the shards of two
    assert differences(tmp_path / "plain", tmp_path / "one-whole") == (0, 0)
    for name in ("split", "shard", "shards-for-one", "killed", "shards-for-two", "one-for-shards", "one-for-two"):
        weights, metrics = differences(tmp_path / name, tmp_path / "one")
        assert weights < 5e-6, name
        assert metrics < 5e-6, name
    for name in ("adapters", "shard-adapters"):
        weights, metrics = differences(tmp_path / name, tmp_path / "one-adapters")
        assert weights < 5e-6, name
        assert metrics < 5e-6, name
    for run in (tmp_path / "plain", tmp_path / "shard"):
        assert json.loads((run / "sum-0.json").read_text()) == json.loads((run / "sum-1.json").read_text())
        assert len(list((run / "tensorboard").iterdir())) == 1
    assert (tmp_path / "refusal.txt").read_text().startswith("process 1 has another policy")
    shards = sorted(path.name for path in (tmp_path / "shard/checkpoints/step-00000002/shards").iterdir())
    assert shards == [f"shard-0000{rank}-of-00002.safetensors" for rank in (0, 1)]
    assert not (tmp_path / "split/checkpoints/step-00000002/shards").exists()
