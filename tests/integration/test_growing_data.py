"""A data set that grows after a training: what was held out stays held out, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from episode_builders import episodes

from worldgymnast.cli.inputs import hold_out
from worldgymnast.cli.main import main
from worldgymnast.cli.origins import held_out_keys, holds_out
from worldgymnast.episodes import formats
from worldgymnast.episodes.lerobot import write
from worldgymnast.episodes.windows import episode_keys

TINY = ["--world.transformer.width", "32", "--world.transformer.layers", "1", "--world.autoencoder.widths", "8", "8"]
FIT = ["--fit.steps", "1", "--autoencoder.steps", "1", "--clips", "2", "--length", "6", "--threads", "1"]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[str]]:
    """A data set of 22 episodes, a world model trained when it had 12, and the keys of the others at that time."""
    folder = tmp_path_factory.mktemp("grown")
    every = episodes(22, size=32)
    write(folder / "data", every[:12])
    write(folder / "more", every[12:])
    tiny = [*TINY, "--world.autoencoder.blocks", "1", "1"]
    words = ["--held-out", "auto", *tiny, *FIT, "--out", str(folder / "world")]
    assert main(["train-world", str(folder / "data"), *words]) == 0
    old = set(episode_keys(formats.read(folder / "data")))
    assert main(["data", "add", str(folder / "data"), str(folder / "more"), "--in-place"]) == 0
    world = folder / "world/world.safetensors"
    return folder / "data", world, old - held_out_keys(world)


def test_no_episode_of_the_training_is_held_out_afterwards(grown: tuple[Path, Path, set[str]]) -> None:
    data, world, trained = grown
    now = formats.read(data)
    assert len(now) == 22
    assert trained & set(episode_keys(hold_out(now, "auto")[1])), "this data set would not show the fault"
    rest, held = hold_out(now, "auto", keys=held_out_keys(world))
    assert set(episode_keys(held)) == held_out_keys(world)
    assert trained < set(episode_keys(rest))
    assert holds_out(world, "auto", held)
    assert not holds_out(world, "auto", rest)


def test_eval_world_measures_on_them(
    grown: tuple[Path, Path, set[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, world, _ = grown
    words = ["--held-out", "auto", "--length", "4", "--out", str(tmp_path / "a.json")]
    assert main(["eval-world", str(world), "--data", str(data), *words]) == 0
    count = len(held_out_keys(world))
    assert f"{data}: {count} of 22 episodes are held out, as in the training before" in capsys.readouterr().out


def test_measuring_on_the_training_is_said(
    grown: tuple[Path, Path, set[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, world, _ = grown
    write(tmp_path / "new", episodes(25, size=32)[22:])
    words = ["--length", "4", "--drift", "0", "--out", str(tmp_path / "a.json")]
    assert main(["eval-world", str(world), "--data", str(data), str(tmp_path / "new"), *words]) == 0
    said, count = capsys.readouterr().out, len(held_out_keys(world))
    assert f"warning: {data}: the world model was trained on it and held out {count} episodes" in said
    assert f"warning: {tmp_path / 'new'}" not in said


def test_a_training_that_continues_keeps_them_out(grown: tuple[Path, Path, set[str]], tmp_path: Path) -> None:
    data, world, _ = grown
    words = ["--begin-with", str(world), "--held-out", "auto", *FIT, "--out", str(tmp_path / "next")]
    assert main(["train-world", str(data), *words]) == 0
    assert held_out_keys(tmp_path / "next/world.safetensors") == held_out_keys(world)


def test_another_data_set_is_split_as_ever(grown: tuple[Path, Path, set[str]]) -> None:
    data, world, _ = grown
    added = formats.read(data).select(np.arange(12, 22))
    expected, found = hold_out(added, "auto"), hold_out(added, "auto", keys=held_out_keys(world))
    assert [episode_keys(part) for part in found] == [episode_keys(part) for part in expected]
