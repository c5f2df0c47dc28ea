"""The commands that run several stages: quickstart, reproduce, dyna; and doctor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from worldgymnast import doctor
from worldgymnast.cli.checks import check_frame_size, check_observed, check_same_actions, require_labels
from worldgymnast.cli.command import NO_PREFIX, Command, DatasetCommand, EvaluationCommand, OptionalPath
from worldgymnast.cli.environment import check_policy, check_tasks
from worldgymnast.cli.inputs import read
from worldgymnast.cli.origins import check_same_cameras, rule_of
from worldgymnast.cli.results import print_results
from worldgymnast.cli.starters import component_files, refuse_starters, refuse_unknown_tasks
from worldgymnast.configs import checked
from worldgymnast.protocols import predicts_state
from worldgymnast.recipes.dyna import DynaConfig, dyna
from worldgymnast.recipes.quickstart import QuickstartConfig, quickstart
from worldgymnast.recipes.reproduce import Recipe, reproduce
from worldgymnast.registry import EnvironmentConfig, load_learned_judge, load_policy, load_world, to_dict
from worldgymnast.run import Run, check_folder
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.world import WorldTraining


@checked(kw_only=True)
class Doctor(Command):
    """Check what this machine can run, with fixes."""

    def __call__(self) -> int:
        """Print the checks."""
        checks = doctor.diagnose()
        print(doctor.report(checks))
        return doctor.exit_code(checks)


@checked(kw_only=True)
class Quickstart(EvaluationCommand):
    """Finetune the starter policy in the starter world model, then evaluate.

    Attributes:
        config: sizes of training and evaluation.
        out: run folder.
        policy: policy file; the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: judge file; the starter judge if omitted.
    """

    config: Annotated[QuickstartConfig, NO_PREFIX] = QuickstartConfig()
    out: Path = Path("runs/quickstart")
    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None

    def __call__(self) -> int:
        """Train, evaluate, print the table and write the report."""
        self.prepare()
        check_folder(self.out)
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        files = {name: path for name, path in given.items() if path is not None}
        env = self.config.env
        paths = component_files(**given)
        policy, world = load_policy(paths["policy"]), load_world(paths["world"])
        check_same_actions(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        check_observed(paths["policy"], policy, paths["world"], world)
        check_same_cameras(*paths.values())
        check_policy(paths["policy"], policy, env, "--env.hold")
        check_frame_size(world.frame_size, (env.size, env.size), "--env.size")
        check_tasks(env.tasks)
        refuse_unknown_tasks(self.judge, env.tasks)
        print_results(self.out, quickstart(self.out, self.config, files, self.device, self.imagined))
        return 0


@checked(kw_only=True)
class Dyna(EvaluationCommand, DatasetCommand):
    """Alternate real rollouts, world model and judge updates, and RL.

    Attributes:
        config: the rounds, and the budget of real episodes.
        data: labelled data sets that world model and judge were trained on.
        policy: policy file; the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: file of a learned judge; the starter judge if omitted.
        out: run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        EnvironmentConfig: ("horizon",),
        WorldTraining: ("world",),
        JudgeTraining: ("judge",),
    }
    hidden_hint: ClassVar[str] = "World model and judge keep their architecture; the horizon is --finetune.rl.horizon"
    config: Annotated[DynaConfig, NO_PREFIX] = DynaConfig()
    data: tuple[Path, ...]
    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    out: Path

    def __call__(self) -> int:
        """Run all unfinished stages, print the table and write the report."""
        self.prepare()
        env = self.config.env
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        paths = component_files(**given)
        policy, world = load_policy(paths["policy"], self.device), load_world(paths["world"], self.device)
        judge = load_learned_judge(paths["judge"], self.device)
        check_same_cameras(*paths.values(), requested=self.image_key)
        check_same_actions(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        check_observed(paths["policy"], policy, paths["world"], world)
        check_policy(paths["policy"], policy, env, "--env.hold")
        check_frame_size(world.frame_size, (env.size, env.size), "--env.size")
        check_tasks(env.tasks)
        rule = rule_of(*paths.values(), requested=self.resize)
        state = None if predicts_state(world) else False
        episodes = read(self.data, env.size, self.cameras, self.fps, resize=rule, state=state)
        refuse_starters(given, self.data[0], episodes.spec)
        require_labels(self.data, episodes)
        check_same_actions(paths["policy"], policy.action_spec, self.data[0], episodes.spec)
        components = (policy, world, judge)
        rows = dyna(paths["policy"], components, episodes, self.out, self.config, self.device, self.imagined)
        print_results(self.out, rows)
        return 0


@checked(kw_only=True)
class Reproduce(EvaluationCommand):
    """Run the whole method from scratch, stage by stage.

    Stages: record, imitate, train world model and judge, explore, gate, RL, evaluate, report.

    Attributes:
        config: the recipe; --env flags apply to all stages.
        preset: name of the recipe.
        out: run folder; runs/PRESET if omitted.
    """

    takes_preset: ClassVar[bool] = True
    config: Annotated[Recipe, NO_PREFIX]
    preset: tyro.conf.Suppress[str] = ""
    out: Path

    @classmethod
    def from_preset(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.from_preset`."""
        return cls(config=recipe, preset=name, out=Path("runs") / name)

    def __call__(self) -> int:
        """Run all unfinished stages, print the table and write the report."""
        self.prepare()
        recipe = self.config
        check_tasks(recipe.env.tasks)
        with Run(self.out, to_dict(recipe)) as run:
            rows = reproduce(self.out, recipe, self.device, self.imagined)
            if run.summary is None:
                run.finish({"preset": self.preset})
        print_results(self.out, rows)
        return 0
