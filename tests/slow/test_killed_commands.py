"""kill -9 in the middle of each training command, run again: the weights of the run that was never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worldgymnast.cli.main import main
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, save_component
from worldgymnast.weights import load_weights, weights_hash
from worldgymnast.worldmodel.sampler import LatentWorldModel

SHORT = ["--fit.steps", "24", "--fit.save-every", "4"]
WORLD = ["--world.transformer.layers", "1", "--clips", "2", "--length", "4", "--frames", "4"]

CASES = {
    "sft": (["sft", "DATA", "--demonstrations", "2", "--batch", "8", *SHORT], "checkpoints", "policy"),
    "autoencoder": (
        ["train-world", "DATA", *WORLD, *SHORT, "--autoencoder.steps", "24", "--autoencoder.save-every", "4"],
        "autoencoder/checkpoints",
        "world",
    ),
    "world": (
        ["train-world", "DATA", *WORLD, *SHORT, "--autoencoder.steps", "2"],
        "checkpoints",
        "world",
    ),
    "judge": (
        ["train-judge", "DATA", "--world", "PARTS/world.safetensors", "--batch", "4", "--calibration", "1", *SHORT],
        "checkpoints",
        "judge",
    ),
    "judge begun with another": (
        [
            *["train-judge", "DATA", "--world", "PARTS/world.safetensors", "--begin-with", "PARTS/judge.safetensors"],
            *["--batch", "4", "--calibration", "1", *SHORT],
        ],
        "checkpoints",
        "judge",
    ),
    "sft begun with another": (
        ["sft", "DATA", "--begin-with", "PARTS/policy.safetensors", "--demonstrations", "2", "--batch", "8", *SHORT],
        "checkpoints",
        "policy",
    ),
    "world begun with another, its autoencoder too": (
        [
            *["train-world", "DATA", "--begin-with", "PARTS/world.safetensors", "--thaw"],
            *["--clips", "2", "--length", "4", "--frames", "4", *SHORT, "--autoencoder.steps", "2"],
        ],
        "checkpoints",
        "world",
    ),
    "rl with a curriculum": (
        [
            *["rl", "debug", "--data", "DATA", "--policy", "PARTS/policy.safetensors", "--rl.curriculum"],
            *["--world", "PARTS/world.safetensors", "--judge", "PARTS/judge.safetensors"],
            *["--rl.steps", "8", "--rl.save-every", "1", "--rl.evaluate-every", "8"],
        ],
        "checkpoints",
        "policy",
    ),
    "rl": (
        [
            *["rl", "debug", "--data", "DATA", "--policy", "PARTS/policy.safetensors"],
            *["--world", "PARTS/world.safetensors", "--judge", "PARTS/judge.safetensors"],
            *["--rl.steps", "8", "--rl.save-every", "1", "--rl.evaluate-every", "8"],
        ],
        "checkpoints",
        "policy",
    ),
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small recording and untrained components of the debug preset."""
    folder, recipe = tmp_path_factory.mktemp("material"), debug()
    assert main(["record", "debug", "--out", str(folder / "data")]) == 0
    spec = recipe.env.action_spec
    torch.manual_seed(0)
    save_component(folder / "policy.safetensors", SmallVLA(recipe.policy.policy, spec), Manifest())
    save_component(folder / "world.safetensors", LatentWorldModel(recipe.world.world, spec, 80 / 6), Manifest())
    save_component(folder / "judge.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    return {"DATA": folder / "data", "PARTS": folder}


def start(words: list[str], material: dict[str, Path], out: Path) -> subprocess.Popen[bytes]:
    """The command as a user runs it, in a process group of its own."""
    filled = []
    for word in words:
        for name, path in material.items():
            word = word.replace(name, str(path))
        filled.append(word)
    command = [sys.executable, "-m", "worldgymnast", *filled, "--threads", "1", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits, and shows what was said where it failed."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()


def kill_at_second_checkpoint(process: subprocess.Popen[bytes], checkpoints: Path) -> None:
    """kill -9 of the whole process group, once two checkpoints have been there."""
    deadline, seen = time.monotonic() + 300, set[str]()
    while len(seen) < 2 and time.monotonic() < deadline and process.poll() is None:
        seen |= {p.name for p in checkpoints.glob("step-*")} if checkpoints.exists() else set()
        time.sleep(0.01)
    assert process.poll() is None, "finished before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("case", CASES)
def test_killed_and_run_again_gives_the_weights_of_the_run_never_killed(
    case: str, material: dict[str, Path], tmp_path: Path
) -> None:
    words, checkpoints, component = CASES[case]
    finish(start(words, material, tmp_path / "whole"))
    killed = tmp_path / "killed"
    kill_at_second_checkpoint(start(words, material, killed), killed / checkpoints)
    assert not (killed / "summary.json").exists()
    finish(start(words, material, killed))
    hashes = {
        weights_hash(load_weights(folder / f"{component}.safetensors")[0]) for folder in (tmp_path / "whole", killed)
    }
    assert len(hashes) == 1
    assert len((killed / "command.txt").read_text().splitlines()) == 2
