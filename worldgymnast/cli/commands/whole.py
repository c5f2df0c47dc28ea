"""The commands that do everything: doctor, quickstart, reproduce, dyna."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from worldgymnast import doctor
from worldgymnast.cli.command import (
    LENT,
    Command,
    Evaluating,
    Watching,
    Weights,
    agree,
    drives,
    labelled,
    read,
    sees,
)
from worldgymnast.cli.conclude import conclude
from worldgymnast.cli.fitting import same_cameras
from worldgymnast.cli.starters import parts, refuse_starters, refuse_tasks
from worldgymnast.configs import checked
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.recipes.dyna import DynaConfig, dyna
from worldgymnast.recipes.quickstart import QuickstartConfig, quickstart
from worldgymnast.recipes.reproduce import Recipe, reproduce
from worldgymnast.registry import load_learned_judge, load_policy, load_world, to_dict
from worldgymnast.run import Run, check_folder
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.world import WorldTraining


@checked(kw_only=True)
class Doctor(Command):
    """What this machine can run, what is missing, and what to do about it."""

    def __call__(self) -> int:
        """Prints the checks."""
        checks = doctor.diagnose()
        print(doctor.report(checks))
        return doctor.exit_code(checks)


@checked(kw_only=True)
class Quickstart(Evaluating):
    """Finetune the starter policy in the starter world, measure both for real, and write the report.

    Attributes:
        config: how much of everything.
        out: the run folder.
        policy: another policy than the starter's.
        world: another world model.
        judge: another judge.
    """

    config: Annotated[QuickstartConfig, LENT] = QuickstartConfig()
    out: Path = Path("runs/quickstart")
    policy: Weights = None
    world: Weights = None
    judge: Weights = None

    def __call__(self) -> int:
        """Runs the loop, prints the table and writes the report."""
        self.prepare()
        check_folder(self.out)
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        files = {name: path for name, path in given.items() if path is not None}
        env = self.config.env
        paths = parts(**given)
        policy, world = load_policy(paths["policy"]), load_world(paths["world"])
        agree(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        same_cameras(*paths.values())
        drives(paths["policy"], policy, env, "--env.hold")
        sees(world, (env.size, env.size), "--env.size")
        check_tasks(env.tasks)
        refuse_tasks(self.judge, env.tasks)
        found = quickstart(self.out, self.config, files, self.device, self.imagined)
        conclude(self.out, found)
        return 0


@checked(kw_only=True)
class Dyna(Evaluating, Watching):
    """Rounds of real rollouts of the newest policy, more training of world and judge on them, and RL again.

    Attributes:
        config: the rounds, and the real-robot budget.
        data: the labelled data sets that world and judge were trained on.
        policy: the policy's file; the starter's if left out.
        world: the world model's file; the starter's if left out.
        judge: the learned judge's file; the starter's if left out.
        out: the run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        MetaWorldConfig: ("horizon",), WorldTraining: ("world",), JudgeTraining: ("judge",)
    }  # fmt: skip
    instead: ClassVar[str] = "world and judge keep their sizes, and the horizon is --finetune.rl.horizon"
    config: Annotated[DynaConfig, LENT] = DynaConfig()
    data: tuple[Path, ...]
    policy: Weights = None
    world: Weights = None
    judge: Weights = None
    out: Path

    def __call__(self) -> int:
        """Runs every stage that is not finished, prints the table and writes the report."""
        self.prepare()
        env = self.config.env
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        paths = parts(**given)
        policy, world = load_policy(paths["policy"], self.device), load_world(paths["world"], self.device)
        judge = load_learned_judge(paths["judge"], self.device)
        same_cameras(*paths.values(), asked=self.image_key)
        agree(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        drives(paths["policy"], policy, env, "--env.hold")
        sees(world, (env.size, env.size), "--env.size")
        check_tasks(env.tasks)
        old = read(self.data, env.size, self.cameras, self.fps)
        refuse_starters(given, self.data[0], old.spec)
        labelled(self.data, old)
        agree(paths["policy"], policy.action_spec, self.data[0], old.spec)
        parts_of = (policy, world, judge)
        found = dyna(paths["policy"], parts_of, old, self.out, self.config, self.device, self.imagined)
        conclude(self.out, found)
        return 0


@checked(kw_only=True)
class Reproduce(Evaluating):
    """The whole method from nothing: record, imitate, world, judge, explore, gate, RL, evaluate, report.

    Attributes:
        config: the recipe; `--env...` holds for every stage.
        preset: the recipe's name.
        out: the run folder; runs/PRESET if left out.
    """

    takes_preset: ClassVar[bool] = True
    config: Annotated[Recipe, LENT]
    preset: tyro.conf.Suppress[str] = ""
    out: Path

    @classmethod
    def start(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.start`."""
        return cls(config=recipe, preset=name, out=Path("runs") / name)

    def __call__(self) -> int:
        """Runs every stage that is not finished, prints the table and writes the report."""
        self.prepare()
        recipe = self.config
        check_tasks(recipe.env.tasks)
        with Run(self.out, to_dict(recipe)) as run:
            found = reproduce(self.out, recipe, self.device, self.imagined)
            if run.finished is None:
                run.finish({"preset": self.preset})
        conclude(self.out, found)
        return 0
