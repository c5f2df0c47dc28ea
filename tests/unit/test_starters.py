"""The starter components of every robot fit together and fit their `quickstart`."""

from __future__ import annotations

from typing import get_args

import pytest

from worldgymnast.cli.starters import component_files, refuse_unknown_tasks
from worldgymnast.errors import InputError
from worldgymnast.recipes.presets import QUICKSTARTS
from worldgymnast.recipes.quickstart import Robot, starter, starter_budget
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.testing import check_judge, check_policy, check_world

ROBOTS: tuple[Robot, ...] = get_args(Robot)


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_starter_fits_its_quickstart(robot: Robot) -> None:
    config = QUICKSTARTS[robot]()
    assert config.robot == robot
    files = component_files(robot, policy=None, world=None, judge=None)
    policy, world, judge = load_policy(files["policy"]), load_world(files["world"]), load_judge(files["judge"])
    check_policy(policy)
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


@pytest.mark.parametrize("robot", ROBOTS)
def test_parts_of_another_robot_are_refused(robot: Robot) -> None:
    other = next(one for one in ROBOTS if one != robot)
    with pytest.raises(InputError, match="omitted, but the starter components are for"):
        component_files(robot, policy=starter("policy", other), world=None, judge=None)


def test_a_missing_starter_names_the_command_that_makes_it() -> None:
    with pytest.raises(InputError, match="reproduce libero"):
        starter("policy-2", "libero")
