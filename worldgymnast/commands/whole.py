"""The commands that do everything: doctor, quickstart, reproduce, dyna."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from worldgymnast import doctor, presets
from worldgymnast.commands.agree import compared
from worldgymnast.commands.command import (
    LENT,
    Command,
    Computing,
    Evaluating,
    Watching,
    Weights,
    agree,
    drives,
    labelled,
    read,
    sees,
    wrote,
)
from worldgymnast.commands.conclude import conclude
from worldgymnast.commands.fitting import same_cameras
from worldgymnast.commands.starters import parts, refuse_starters, refuse_tasks
from worldgymnast.config import load_classifier, load_policy, load_world, to_dict
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.loops import reproduce, tables
from worldgymnast.loops.agree import AgreeConfig
from worldgymnast.loops.dyna import DynaConfig, dyna
from worldgymnast.loops.finetune import FinetuneConfig
from worldgymnast.loops.iter_sft import IterSftConfig
from worldgymnast.loops.quickstart import QuickstartConfig, quickstart
from worldgymnast.loops.record import RecordConfig
from worldgymnast.loops.tables import TablesConfig
from worldgymnast.loops.train import JudgeTraining, WorldTraining
from worldgymnast.report import methods, results
from worldgymnast.report import tables as terminal
from worldgymnast.report.world import page
from worldgymnast.run import Run, check_folder
from worldgymnast.weights import write_bytes, write_text


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """What this machine can run, what is missing, and what to do about it."""

    def __call__(self) -> int:
        """Prints the checks."""
        checks = doctor.diagnose()
        print(doctor.report(checks))
        return doctor.exit_code(checks)


@dataclass(frozen=True, kw_only=True)
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
        env = self.config.finetune.env
        paths = parts(**given)
        policy, world = load_policy(paths["policy"]), load_world(paths["world"])
        agree(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        same_cameras(*paths.values())
        drives(paths["policy"], policy, env, "--finetune.env.hold")
        sees(world, (env.size, env.size), "--finetune.env.size")
        check_tasks(env.tasks)
        refuse_tasks(self.judge, env.tasks)
        found = quickstart(self.out, self.config, files, self.device, self.imagined)
        conclude(self.out, found)
        return 0


@dataclass(frozen=True, kw_only=True)
class Tables(Computing):
    """What docs/results.md compares: methods, diverse training, new scenes, Dyna by round, agreement; cell by cell.

    Attributes:
        config: how many cells, and how much each.
        quick: short trainings, one seed and few layouts: every table, its intervals wide.
        out: the folder of the cells; runs/tables, or runs/tables-quick, if left out.
        markdown: also write the tables to this .md file.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        RecordConfig: ("env",), FinetuneConfig: ("env",), IterSftConfig: ("env",), AgreeConfig: ("env",),
        DynaConfig: ("score",),
    }  # fmt: skip
    instead: ClassVar[str] = "every cell has the same environment: use --env flags"
    config: Annotated[TablesConfig, LENT] = TablesConfig()
    quick: bool = False
    out: Weights = None
    markdown: Weights = None

    def __call__(self) -> int:
        """Fills every cell that is not there, and prints and writes the tables."""
        self.prepare()
        out = self.out or Path("runs/tables-quick" if self.quick else "runs/tables")
        config = self.config.quick() if self.quick else self.config
        env = config.env
        config = replace(
            config,
            record=replace(config.record, env=env),
            finetune=replace(config.finetune, env=env),
            iter_sft=replace(config.iter_sft, env=env),
            agree=replace(config.agree, env=env),
            dyna=replace(config.dyna, finetune=replace(config.dyna.finetune, env=env)),
        )
        check_tasks((*env.tasks, *config.diverse.tasks))
        tables.tables(out, config, self.device)
        evaluations = tables.evaluations(out, config)
        shown = [
            *methods.sheets(evaluations, config.mismatch),
            *results.diverse(tables.places(out, config)),
            *results.scenes(tables.scenes_file(out, config)),
            *results.dyna(out, evaluations),
        ]
        folder = tables.agreement(out, config)
        if (file := folder / "outcomes.json").exists():
            agreed, scattered = compared(tables.compared_groups(json.loads(file.read_text())), config.agree)
            shown += agreed
            write_bytes(folder / "agreement.png", scattered)
        if (drawn := methods.picture(evaluations, config.mismatch)) is not None:
            write_bytes(out / "methods.png", drawn)
        for sheet in shown:
            terminal.show(terminal.sheet(sheet))
        target = self.markdown or out / "tables.md"
        write_text(target, page(shown, "Every method, measured for real"))
        return wrote(target)


@dataclass(frozen=True, kw_only=True)
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
        env = self.config.finetune.env
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        paths = parts(**given)
        policy, world = load_policy(paths["policy"], self.device), load_world(paths["world"], self.device)
        judge = load_classifier(paths["judge"], self.device)
        same_cameras(*paths.values(), asked=self.image_key)
        agree(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        drives(paths["policy"], policy, env, "--finetune.env.hold")
        sees(world, (env.size, env.size), "--finetune.env.size")
        check_tasks(env.tasks)
        old = read(self.data, env.size, self.cameras, self.fps)
        refuse_starters(given, self.data[0], old.spec)
        labelled(self.data, old)
        agree(paths["policy"], policy.action_spec, self.data[0], old.spec)
        parts_of = (policy, world, judge)
        found = dyna(paths["policy"], parts_of, old, self.out, self.config, self.device, self.imagined)
        conclude(self.out, found)
        return 0


@dataclass(frozen=True, kw_only=True)
class Reproduce(Evaluating):
    """The whole method from nothing: record, imitate, world, judge, explore, gate, RL, evaluate, report.

    Attributes:
        config: the recipe; `--env...` holds for every stage.
        preset: the recipe's name.
        out: the run folder; runs/PRESET if left out.
    """

    takes_preset: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {RecordConfig: ("env",), FinetuneConfig: ("env",)}
    instead: ClassVar[str] = "every stage has the same environment: use --env flags"
    config: Annotated[reproduce.Recipe, LENT]
    preset: tyro.conf.Suppress[str] = ""
    out: Path

    @classmethod
    def start(cls, recipe: reproduce.Recipe, name: str) -> Command:
        """See `Command.start`."""
        return cls(config=recipe, preset=name, out=Path("runs") / name)

    def __call__(self) -> int:
        """Runs every stage that is not finished, prints the table and writes the report."""
        self.prepare()
        recipe = presets.override(presets.preset(self.preset), self.config)
        check_tasks(recipe.env.tasks)
        with Run(self.out, to_dict(recipe)) as run:
            found = reproduce.reproduce(self.out, recipe, self.device, self.imagined)
            if run.finished is None:
                run.finish({"preset": self.preset})
        conclude(self.out, found)
        return 0
