"""A killed process leaves a complete checkpoint, and a running one keeps others out."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worldgymnast.errors import InputError
from worldgymnast.run import (
    Run,
)


def test_a_folder_in_which_another_process_works_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    victim = subprocess.Popen([sys.executable, "-c", _VICTIM, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    with pytest.raises(InputError, match="another process is using this run folder"):
        Run(tmp_path / "a", {"seed": 0})
    victim.kill()
    victim.wait()
    assert Run(tmp_path / "a", {"seed": 0}).summary is None


_VICTIM = """
import sys, torch
from pathlib import Path
from worldgymnast.run import Run
run = Run(Path(sys.argv[1]), {"seed": 0}, command="victim")
step = 0
print("ready", flush=True)
while True:
    step += 1
    run.save(step, {f"w{i}": torch.full((250_000,), float(step)) for i in range(4)}, {"step": step})
    print(step, flush=True)
"""


def test_kill_9_in_the_middle_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    child = subprocess.Popen([sys.executable, "-c", _VICTIM, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "3":
            break
    deadline = time.monotonic() + 20  # wait until it is inside a save, then kill it there
    while not list((folder / "checkpoints").glob(".tmp-*/tensors.safetensors")):
        assert time.monotonic() < deadline
    child.send_signal(signal.SIGKILL)
    child.wait()
    run = Run(folder, {"seed": 0})
    found = run.load()
    assert found is not None
    assert found.step >= 3
    assert found.state == {"step": found.step}
    assert all(torch.equal(t, torch.full((250_000,), float(found.step))) for t in found.tensors.values())
    assert not list((folder / "checkpoints").glob(".tmp-*"))
