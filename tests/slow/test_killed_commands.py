"""kill -9 in the middle of each training command, run again: the weights of the run that was never killed.

The process that is killed is one of its own; what follows is the same command in this one, which costs no start.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worldgymnast.cli.main import main
from worldgymnast.episodes import formats, lerobot
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, save_component
from worldgymnast.text import SENTENCES_VARIABLE, save_sentences
from worldgymnast.weights import load_weights, weights_hash
from worldgymnast.worldmodel.sampler import LatentWorldModel

SHORT = ["--fit.steps", "16", "--fit.save-every", "3"]
WORLD = ["--world.transformer.layers", "1", "--clips", "2", "--length", "4", "--frames", "4"]

CASES = {
    "autoencoder": (
        ["train-world", "DATA", *WORLD, *SHORT, "--autoencoder.steps", "16", "--autoencoder.save-every", "3"],
        "autoencoder/checkpoints",
        "world",
    ),
    "judge, begun with another": (
        [
            *["train-judge", "DATA", "--world", "PARTS/world.safetensors", "--begin-with", "PARTS/judge.safetensors"],
            *["--batch", "4", "--calibration", "1", *SHORT],
        ],
        "checkpoints",
        "judge",
    ),
    "sft, begun with another": (
        ["sft", "DATA", "--begin-with", "PARTS/policy.safetensors", "--demonstrations", "2", "--batch", "8", *SHORT],
        "checkpoints",
        "policy",
    ),
    "world, begun with another, its autoencoder too": (
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
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small recording and untrained components of the debug preset."""
    folder, recipe = tmp_path_factory.mktemp("material"), debug()
    assert main(["record", "debug", "--out", str(folder / "recorded")]) == 0
    recorded = formats.read(folder / "recorded")
    recorded.success[recorded.first[::2] + recorded.length[::2]] = True  # a judge needs both outcomes
    lerobot.write(folder / "data", [recorded.episode(i) for i in range(len(recorded))])
    spec = recipe.env.action_spec
    torch.manual_seed(0)
    save_component(folder / "policy.safetensors", SmallVLA(recipe.policy.policy, spec), Manifest())
    save_component(folder / "world.safetensors", LatentWorldModel(recipe.world.world, spec, 80 / 6), Manifest())
    save_component(folder / "judge.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    save_sentences(
        folder / "sentences.safetensors", [words for task in recipe.env.tasks for words in INSTRUCTIONS[task]]
    )
    return {"DATA": folder / "data", "PARTS": folder}


def filled(words: list[str], material: dict[str, Path], out: Path) -> list[str]:
    """The command with the paths of its files."""
    found = []
    for word in words:
        for name, path in material.items():
            word = word.replace(name, str(path))
        found.append(word)
    return [*found, "--threads", "1", "--out", str(out)]


def start(words: list[str], sentences: Path) -> subprocess.Popen[bytes]:
    """The command as a user runs it, in a process group of its own; known sentences need no encoder there."""
    command, known = [sys.executable, "-m", "worldgymnast", *words], os.environ | {SENTENCES_VARIABLE: str(sentences)}
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, stdout=nothing, stderr=pipe, start_new_session=True, env=known)


def kill_at_second_checkpoint(process: subprocess.Popen[bytes], checkpoints: Path) -> None:
    """kill -9 of the whole process group, once two checkpoints have been there."""
    deadline, seen = time.monotonic() + 300, set[str]()
    while len(seen) < 2 and time.monotonic() < deadline and process.poll() is None:
        seen |= {p.name for p in checkpoints.glob("step-*")} if checkpoints.exists() else set()
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"ended before it could be killed: {said.decode()}"


@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("case", CASES)
def test_killed_and_run_again_gives_the_weights_of_the_run_never_killed(
    case: str, material: dict[str, Path], tmp_path: Path
) -> None:
    words, checkpoints, component = CASES[case]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    victim = start(filled(words, material, killed), material["PARTS"] / "sentences.safetensors")
    kill_at_second_checkpoint(victim, killed / checkpoints)
    assert not (killed / "summary.json").exists()
    for folder in (killed, whole):
        assert main(filled(words, material, folder)) == 0
    hashes = {weights_hash(load_weights(folder / f"{component}.safetensors")[0]) for folder in (whole, killed)}
    assert len(hashes) == 1
    assert len((killed / "command.txt").read_text().splitlines()) == 2
    assert len((whole / "command.txt").read_text().splitlines()) == 1
