"""A world model that starts from that of another robot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from episode_builders import episodes
from small_worlds import SMALL, SPEC, randomised

from worldgymnast.actions import libero_spec
from worldgymnast.cli.main import main
from worldgymnast.episodes.lerobot import write
from worldgymnast.registry import Manifest, load_trainable_world, save_component

FIT = ["--fit.steps", "1", "--fit.lr", "1e-9", "--clips", "2", "--length", "6", "--threads", "1"]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """The command for data of a Franka that starts from a world model of Meta-World."""
    save_component(tmp_path / "world.safetensors", randomised(), Manifest())
    write(tmp_path / "data", episodes(4, size=64, spec=libero_spec(4), fps=5.0))
    words = ["train-world", tmp_path / "data", "--begin-with", tmp_path / "world.safetensors"]
    return [*map(str, words), *FIT, "--out", str(tmp_path / "run")]


def test_only_what_the_actions_mean_is_learned_anew(given: list[str], tmp_path: Path) -> None:
    assert main([*given, "--new-robot"]) == 0
    before, after = randomised(), load_trainable_world(tmp_path / "run" / "world.safetensors", "cpu")
    assert after.action_spec.is_same_kind(libero_spec(4))
    assert after.fps == 5.0
    assert after.config.transformer.action_dim == 7
    kept = {name: value for name, value in before.state_dict().items() if "action_embedder" not in name}
    found = after.state_dict()
    assert len(kept) < len(before.state_dict())
    for name, value in kept.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)
    assert before.action_spec == SPEC
    assert before.config.transformer.action_dim == SMALL.transformer.action_dim


def test_actions_of_another_robot_are_refused_otherwise(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "axes" in said
    assert "--new-robot" in said
    begin = given.index("--begin-with")
    assert main([*given[:begin], *given[begin + 2 :], "--new-robot"]) == 2
    assert "without --begin-with" in capsys.readouterr().err
