"""Flags that contradict the data, and words that mean something else: refused in one line, before any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from episode_builders import episodes
from refusals import Refuses

from worldgymnast.episodes.lerobot import write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four episodes of four to seven actions, without a state."""
    write(tmp_path / "data", episodes(4, size=32))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("sft", ("--policy.chunk", 1000), "--policy.chunk: found 1000, but the longest episode has 7 actions"),
        ("train-world", ("--length", 1000), "--length: found 1000, but the longest episode has 7 actions"),
        ("sft", ("--policy.state-dim", 3), "found no observation.state"),
        ("train-world", ("--held-out", -1), "--held-out: found -1, expected 0 or more, or auto"),
        ("train-world", ("--held-out", "some"), "--held-out: found 'some', expected a number or auto"),
    ],
)
def test_flags_that_the_data_contradict(
    data: Path, tmp_path: Path, refuses: Refuses, command: str, flags: tuple[object, ...], said: str
) -> None:
    assert said in refuses(command, data, *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.parametrize(("command", "flag"), [("sft", "--policy.state-dim"), ("train-world", "--world.state-dim")])
def test_the_width_of_the_state_is_that_of_the_data(tmp_path: Path, refuses: Refuses, command: str, flag: str) -> None:
    names = tuple(f"joint_{i}" for i in range(6))
    write(
        tmp_path / "data",
        [replace(one, state=np.zeros((len(one.frames), 6), np.float32), state_names=names) for one in episodes(4)],
    )
    line = refuses(command, tmp_path / "data", "--state", flag, 3, "--out", tmp_path / "run")
    assert f"{flag}: found 3, but the state of {tmp_path / 'data'} has 6 numbers" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quickstart", "widowx"), "'widowx' is no robot (metaworld or libero). Check the name; with a robot of your"),
        (("evaluate", "a.safetensors", "--out", "run", "--seed", 1), "unknown flag '--seed'; did you mean '--seeds'?"),
        (("evaluate", "--bogus", 1), "unknown flag '--bogus'"),
        (("rl", "quickstart", "--rl.no-keep-best", "--rl.steps", "x"), "--rl.steps: found 'x', expected an integer"),
        (("label", "data", "--by-hand", "--out", "labels.json"), "expected a label file, such as labels.jsonl"),
        (("data", "check", "lab/pick"), "hf download lab/pick --repo-type dataset --local-dir data/pick"),
        (("check-env", "--env", "libero"), "the environment is the first argument"),
        (("check-env", "widowx"), "found 'widowx', expected libero, metaworld, gym:ID"),
    ],
)
def test_words_in_the_wrong_place(refuses: Refuses, words: tuple[str, ...], said: str) -> None:
    assert said in refuses(*words)


def test_an_existing_folder_is_never_to_be_removed(data: Path, refuses: Refuses) -> None:
    for target in (data, data.parent):
        line = refuses("data", "convert", data, target)
        assert "Give a new path" in line or "give another path" in line
        assert "emove" not in line
