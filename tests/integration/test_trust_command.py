"""`eval-world` as it is run: its tables, what it needs, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from episode_builders import episode

from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.episodes import lerobot
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, save_component
from worldgymnast.worldmodel.sampler import LatentWorldModel

# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world and judge, and data with labels and without."""
    folder, recipe = tmp_path_factory.mktemp("trust"), debug()
    spec = metaworld_spec(6)
    save_component(folder / "world.safetensors", LatentWorldModel(recipe.world.world, spec, 13.3), Manifest())
    save_component(folder / "judge.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    made = [episode(i, steps=6, size=64, spec=spec, fps=80 / 6) for i in range(6)]
    for name, wanted in (("labelled", made), ("plain", [replace(e, success=None) for e in made])):
        with lerobot.LeRobotWriter(folder / name, spec, 80 / 6, (64, 64)) as writer:
            for one in wanted:
                writer.add(one)
    return folder


def run(folder: Path, *words: object) -> int:
    common = ["eval-world", folder / "world.safetensors", "--threads", 1, "--drift", 12, "--length", 4]
    return main([str(word) for word in (*common, *words)])


def test_eval_world_prints_and_writes_every_table(held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = ("--judge", held_out / "judge.safetensors", "--data", held_out / "labelled", "--starts", 2)
    assert run(held_out, *judge, "--out", held_out / "found.json") == 0
    said = capsys.readouterr().out
    for title in ("PSNR, dB", "SSIM", "Action-following", "Drift over 12", "true outcomes", "AUROC", "uncertain"):
        assert title in said
    found = json.loads((held_out / "found.json").read_text())
    assert len(found["fidelity"]["psnr"]["world"]["mean"]) == 4
    assert found["fidelity"]["episodes"] == 6
    counts = found["detection"]["judged futures"]["wrong"]
    assert counts["wrong"] + counts["right"] == 4  # two of the six have no label
    assert run(held_out, *judge, "--out", held_out / "found.md") == 0
    page = (held_out / "found.md").read_text()
    assert "| frame | world model | start frame copied | first frame copied |" in page
    assert "| judged futures | " in page
    assert "not measured" not in page


def test_eval_world_needs_neither_judge_nor_labels(held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(held_out, "--data", held_out / "plain", "--drift", 0, "--out", held_out / "plain.md") == 0
    said = capsys.readouterr().out
    line = "--judge was not given; "
    assert f"Outcomes were not measured: {line}{held_out / 'plain'}: field 'success': no episode has a label." in said
    assert "Drift" not in said
    assert line in (held_out / "plain.md").read_text()
    judge = ("--judge", held_out / "judge.safetensors")
    assert run(held_out, *judge, "--data", held_out / "plain", "--drift", 0) == 0
    assert f"not measured: {held_out / 'plain'}: field" in capsys.readouterr().out


def test_eval_world_refuses(held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", held_out / "plain")
    for words, expected in (
        (("--out", "x.html"), "--out: found x.html, expected a file that ends in .md or .json"),
        (("--starts", 9), "--starts: found 9 starts of 4 actions in an episode of 6, expected at most 3"),
        (("--starts", 0), "--starts: found 0, expected 1 or more"),
    ):
        assert run(held_out, *data, *words) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.skipif(find_spec("lpips") is not None, reason="lpips is installed")
def test_perceptual_says_what_to_install(held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(held_out, "--data", held_out / "plain", "--perceptual") == 2
    said = capsys.readouterr().err
    assert "--perceptual needs the package 'lpips'" in said
    assert "pip install 'worldgymnast[perceptual]'" in said
