"""Flags of a config beside --begin-with: what can be changed is, and the rest is refused, never ignored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_builders import episodes
from refusals import Refuses

import worldgymnast as wg
from worldgymnast.cli.main import main
from worldgymnast.episodes.lerobot import write
from worldgymnast.protocols import AddsState
from worldgymnast.registry import load_learned_judge, load_trainable_world
from worldgymnast.types import IMAGE, STATE, Observation

FIT = ["--fit.steps", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begin") / "data"
    world = wg.load_world(wg.starter("world"))
    made = episodes(6, size=64, spec=world.action_spec, fps=world.fps)
    write(folder, [replace(each, success=np.full(len(each.frames), i < 3)) for i, each in enumerate(made)])
    return folder


def test_the_objective_of_a_world_model_can_be_changed(data: Path, tmp_path: Path) -> None:
    before = load_trainable_world(Path(wg.starter("world")), "cpu").config
    words = ["--begin-with", str(wg.starter("world")), "--held-out", "0", "--clips", "2", "--length", "6", *FIT]
    changed = ["--world.objective.motion", "1.5", "--world.no-cached"]
    assert main(["train-world", str(data), *words, *changed, "--out", str(tmp_path / "run")]) == 0
    after = load_trainable_world(tmp_path / "run/world.safetensors", "cpu").config
    assert (after.objective.motion, after.cached) == (1.5, False)
    assert (before.objective.motion, before.cached) != (1.5, False)
    assert after.transformer == before.transformer
    assert after.detail == before.detail


def test_the_augmentation_of_a_judge_can_be_changed(data: Path, tmp_path: Path) -> None:
    words = ["--begin-with", str(wg.starter("judge")), "--held-out", "0", "--batch", "4", *FIT]
    assert main(["train-judge", str(data), *words, "--judge.jitter", "0.02", "--out", str(tmp_path / "run")]) == 0
    after = load_learned_judge(tmp_path / "run/judge.safetensors", "cpu").config
    assert after.jitter == 0.02
    assert after.widths == load_learned_judge(Path(wg.starter("judge")), "cpu").config.widths


@pytest.mark.parametrize(
    ("command", "part", "flag", "value"),
    [
        ("train-world", "world", "--world.transformer.width", "64"),
        ("train-world", "world", "--world.autoencoder.channels", "8"),
        ("train-judge", "judge", "--judge.widths", "8 16"),
        ("sft", "policy", "--policy.chunk", "3"),
        ("sft", "policy", "--policy.jitter", "0.5"),
        ("sft", "policy", "--policy.cameras", "wrist"),
    ],
)
def test_what_is_kept_is_not_silently_ignored(
    command: str, part: str, flag: str, value: str, data: Path, refuses: Refuses, tmp_path: Path
) -> None:
    path = wg.starter(part)
    said = refuses(command, data, "--begin-with", path, flag, *value.split(), "--out", tmp_path / "run")
    assert f"{flag}: found {value}, but {path}, which --begin-with continues, has " in said
    assert "Nothing was trained" in said
    assert not (tmp_path / "run").exists()


def test_the_same_value_is_no_change(data: Path, tmp_path: Path) -> None:
    chunk = str(wg.load_policy(wg.starter("policy")).chunk)
    words = ["--begin-with", str(wg.starter("policy")), "--policy.chunk", chunk, "--batch", "2", *FIT]
    assert main(["sft", str(data), *words, "--demonstrations", "1", "--out", str(tmp_path / "run")]) == 0


def test_a_length_of_imagination_without_a_world_model(data: Path, refuses: Refuses, tmp_path: Path) -> None:
    said = refuses("sft", data, "--imagined-length", "20", "--out", tmp_path / "run")
    assert said.startswith("worldgymnast: error: --imagined-length: found without --imagined-in")


def test_the_state_is_added_without_effect() -> None:
    before = wg.load_policy(wg.starter("policy"))
    assert isinstance(before, AddsState)
    states = np.random.default_rng(0).normal(3, 2, (20, 5)).astype(np.float32)
    after = before.with_state(states)
    frames = {IMAGE: torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)}
    looks = Observation(frames, ["open the drawer"] * 3, torch.from_numpy(states[:3]), frames)
    then = before.act(looks, temperature=1.0, generator=torch.Generator().manual_seed(0))
    now = after.act(looks, temperature=1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(now.logprobs, then.logprobs)
    assert torch.equal(now.actions, then.actions)
    assert STATE in after.needs
    assert STATE not in before.needs


def test_a_policy_learns_to_read_the_state(tmp_path: Path) -> None:
    spec = wg.load_policy(wg.starter("policy")).action_spec
    made = episodes(4, size=64, spec=spec)
    random = np.random.default_rng(0)
    states = [random.normal(size=(len(each.frames), 5)).astype(np.float32) for each in made]
    names = tuple("abcde")
    write(tmp_path / "data", [replace(e, state=s, state_names=names) for e, s in zip(made, states, strict=True)])
    words = ["--begin-with", str(wg.starter("policy")), "--state", "--demonstrations", "1", "--batch", "4", *FIT]
    assert main(["sft", str(tmp_path / "data"), *words, "--out", str(tmp_path / "run")]) == 0
    policy = wg.load_policy(tmp_path / "run/policy.safetensors")
    assert STATE in policy.needs
    assert policy.config.state_dim == 5
