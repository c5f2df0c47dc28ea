"""Durations in seconds in place of numbers of actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from episode_builders import episode

from worldgymnast.actions import ActionSpec, metaworld_spec
from worldgymnast.cli.durations import Timing, resolve, split_seconds, to_actions
from worldgymnast.cli.main import main
from worldgymnast.cli.parse import parse
from worldgymnast.episodes import lerobot
from worldgymnast.errors import InputError
from worldgymnast.measure.agreement import AgreeConfig
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, save_component
from worldgymnast.worldmodel.sampler import LatentWorldModel


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--rl.horizon", "6s"], {"--rl.horizon": ("6s",)}),
        (["--rl.horizon=0.5s"], {"--rl.horizon": ("0.5s",)}),
        (["--lengths", "1s", "2s", "40", "--out", "3s"], {"--lengths": ("1s", "2s", "40")}),
        (["--rl.horizon", "24", "--rl.steps", "3"], {}),
        (["DATA", "--policy", "5s", "--seed", "6s"], {}),
        (["--horizon", "2s", "DATA", "--stride=3"], {"--horizon": ("2s",)}),
        (["--env.horizon", "3s", "--policy.chunk", ".2s"], {"--env.horizon": ("3s",), "--policy.chunk": (".2s",)}),
    ],
)
def test_which_words_are_durations(words: list[str], given: dict[str, tuple[str, ...]]) -> None:
    others, found = split_seconds(words)
    assert found == given
    assert len(others) == len(words)
    if not given:
        assert others == words


def test_horizons_are_whole_looks() -> None:
    timing = Timing(10.0, 4, "the world")
    assert to_actions(1.0, timing, is_looks=True) in (8, 12)
    assert to_actions(0.01, timing, is_looks=True) == 4
    assert to_actions(1.0, timing) == 10
    assert resolve(AgreeConfig(), {"--lengths": ("1.2s", "8")}, timing).lengths == (12, 8)
    with pytest.raises(InputError, match="--lengths: found 0s, expected more than 0 seconds"):
        resolve(AgreeConfig(), {"--lengths": ("0s",)}, timing)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, recipe = tmp_path_factory.mktemp("files"), debug()
    spec = ActionSpec(tuple("abcdef"), "unknown", (-1.0,) * 6, (1.0,) * 6, frame="unknown", rate=20.0)
    policy = SmallVLA(replace(recipe.policy.policy, chunk=5), spec)
    shape = replace(recipe.world.world.transformer, action_dim=6)
    save_component(folder / "policy.safetensors", policy, Manifest())
    save_component(
        folder / "world.safetensors",
        LatentWorldModel(replace(recipe.world.world, transformer=shape), spec, 20.0),
        Manifest(),
    )
    return {name: folder / f"{name}.safetensors" for name in ("policy", "world")}


def test_the_rate_of_the_world_model_counts(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    every = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    command = parse("rl", ["debug", *every, "--rl.horizon", "1.9s"], {})
    assert command.config.rl.horizon == 40
    assert "--rl.horizon" in command.given_flags
    assert "--rl.horizon: 1.9s is 40 actions (2 s) at 20 per second, the rate of" in capsys.readouterr().out
    command = parse("rl", ["debug", *every, "--rl.horizon", "1.9s", "--rl.execute", "0.1s"], {})
    assert (command.config.rl.horizon, command.config.rl.execute) == (38, 2)
    command = parse(
        "adapt", ["--frame", "x.png", "--instruction", "go", *every, "--rl.horizon", "2s", "--out", "x"], {}
    )
    assert command.config.rl.horizon == 40


def test_the_rate_of_policy_data_or_environment(files: dict[str, Path], tmp_path: Path) -> None:
    policy = str(files["policy"])
    assert parse("record-policy", [policy, "--length", "2s", "--out", "x"], {}).config.length == 40
    command = parse(
        "agree",
        [policy, str(files["world"]), "--lengths", "1s", "2s", "--world", str(files["world"]), "--out", "x"],
        {},
    )
    assert command.config.lengths == (20, 40)
    spec = replace(metaworld_spec(3), rate=30.0)
    lerobot.write(tmp_path / "set", [replace(episode(i), fps=30.0, spec=spec) for i in range(2)])
    data = str(tmp_path / "set")
    assert parse("sft", [data, "--policy.chunk", "0.1s", "--out", "x"], {}).config.policy.chunk == 3
    assert parse("sft", [data, "--policy.chunk", "0.2s", "--fps", "15", "--out", "x"], {}).config.policy.chunk == 3
    assert parse("sft", [data, "--after-success", "2s", "--out", "x"], {}).config.after_success == 60
    assert parse("train-world", [data, "--length", "1s", "--out", "x"], {}).config.length == 30
    assert parse("record", ["debug", "--length", "3s", "--out", "x"], {}).config.length == 40


def test_other_flags_do_not_take_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", "debug", "--rl.steps", "6s"]) == 2
    assert capsys.readouterr().err.endswith("--rl.steps: found '6s', expected an integer\n")


def test_what_is_no_duration_names_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", "debug", "--rl.horizon", "5m"]) == 2
    assert "--rl.horizon: found '5m', expected an integer or seconds such as 6s" in capsys.readouterr().err


def test_the_help_names_the_flags_that_take_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rl", "debug", "--help"])
    last = capsys.readouterr().out.split("Seconds are accepted")[1]
    assert "--rl.horizon" in last
    assert "--rl.steps" not in last
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert "Seconds are accepted" not in capsys.readouterr().out
