"""Starter components fit together and fit their `quickstart`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_worlds import SMALL

from worldgymnast.actions import ActionSpec, libero_spec, metaworld_spec
from worldgymnast.cli.checks import check_observed
from worldgymnast.cli.environment import has_real_environment, names_environment
from worldgymnast.cli.main import main
from worldgymnast.cli.parse import parse
from worldgymnast.cli.starters import component_files, refuse_unknown_tasks, robot_of
from worldgymnast.environments import DEFAULT_ENVIRONMENT, environment_config
from worldgymnast.errors import InputError
from worldgymnast.recipes.presets import QUICKSTARTS
from worldgymnast.recipes.quickstart import Robot, starter, starter_budget
from worldgymnast.registry import Manifest, load_judge, load_policy, load_world, save_component
from worldgymnast.testing import check_judge, check_policy, check_world
from worldgymnast.worldmodel.sampler import LatentWorldModel


@pytest.mark.parametrize("robot", QUICKSTARTS)
def test_the_starter_fits_its_quickstart(robot: Robot) -> None:
    config = QUICKSTARTS[robot]()
    assert config.robot == robot
    files = component_files(robot, policy=None, world=None, judge=None)
    policy, world, judge = load_policy(files["policy"]), load_world(files["world"]), load_judge(files["judge"])
    check_policy(policy, state_size=getattr(policy, "state_dim", 0))
    check_observed(files["policy"], policy, files["world"], world)
    check_world(world)
    check_judge(judge)
    spec = config.env.action_spec
    assert policy.action_spec.is_same_kind(spec)
    assert world.action_spec.is_same_kind(spec)
    assert world.frame_size == (config.env.size, config.env.size)
    assert config.finetune.rl.horizon % policy.chunk == 0
    assert sum(starter_budget(robot).values()) > 100
    refuse_unknown_tasks(None, config.env.tasks, robot)
    with pytest.raises(InputError, match="knows only"):
        refuse_unknown_tasks(None, ["stack-cups"], robot)


@pytest.mark.parametrize(
    ("robot", "name", "other"),
    [("metaworld", "Meta-World", libero_spec(4)), ("libero", "LIBERO", metaworld_spec(6))],
)
def test_parts_of_another_robot_are_refused(robot: Robot, name: str, other: ActionSpec, tmp_path: Path) -> None:
    sizes = replace(SMALL, transformer=replace(SMALL.transformer, action_dim=other.dim))
    save_component(tmp_path / "world.safetensors", LatentWorldModel(sizes, other, 5.0), Manifest())
    with pytest.raises(InputError, match=f"omitted, but the starter components are for {name}"):
        component_files(robot, policy=None, world=tmp_path / "world.safetensors", judge=None)


def test_starter_components_are_small_enough_to_ship() -> None:
    for robot in QUICKSTARTS:
        assert sum(starter(name, robot).stat().st_size for name in ("policy", "world", "judge")) < 30e6


def test_a_missing_starter_component_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"missing.* reproduce libero"):
        starter("critic", "libero")


def test_a_misspelled_robot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["quickstart", "libro", "--out", str(tmp_path / "run")]) == 2
    assert "'libro' is no robot (metaworld or libero); did you mean 'libero'?" in capsys.readouterr().err


ENVIRONMENTS = {"metaworld": "metaworld", "libero": "libero", "gym:CartPole-v1": "metaworld"}


@pytest.mark.parametrize(("reference", "robot"), ENVIRONMENTS.items())
def test_omitted_components_follow_the_environment(reference: str, robot: Robot) -> None:
    assert robot_of(environment_config(reference)) == robot


WITH_ENVIRONMENT = {
    "rl": ["quickstart"],
    "iter-sft": ["--data", "d"],
    "evaluate": ["a", "b"],
    "best-of": ["a"],
    "agree": ["a", "b"],
    "adapt": ["--task", "t", "--layout", "3"],
    "dyna": ["--data", "d"],
}


@pytest.mark.parametrize(("name", "words"), WITH_ENVIRONMENT.items())
def test_an_environment_by_its_name_alone_is_given(name: str, words: list[str]) -> None:
    command: Any = parse(name, [*words, "--env", "libero", "--out", "run"], {})
    assert names_environment(command.given_flags)
    command = parse(name, [*words, "--out", "run"], {})
    assert not names_environment(command.given_flags)


def test_a_preset_of_another_robot_has_its_environment_and_its_starters() -> None:
    command: Any = parse("rl", ["libero"], {})
    spec = load_policy(component_files(robot_of(command.env), policy=None)["policy"]).action_spec
    assert has_real_environment(command.env, spec, command.given_flags)
    assert not has_real_environment(command.env, spec, command.given_flags, has_own_starts=True)
    assert not has_real_environment(command.env, spec, command.given_flags, is_unscored=True)
    assert not has_real_environment(DEFAULT_ENVIRONMENT, spec, command.given_flags)
