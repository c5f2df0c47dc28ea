"""The commands that run several stages: quickstart, reproduce, dyna; and doctor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from worldgymnast import doctor
from worldgymnast.cli.checks import (
    check_frame_size,
    check_frames,
    check_observed,
    check_same_actions,
    require_labels,
)
from worldgymnast.cli.command import (
    NO_PREFIX,
    REPORT,
    Command,
    EvaluationCommand,
    HeldOut,
    LabelledCommand,
    OptionalPath,
)
from worldgymnast.cli.data_defaults import RATE, fit_judge, fit_world, horizon_of
from worldgymnast.cli.environment import HIDDEN_HORIZON, check_policy, check_tasks, fitted
from worldgymnast.cli.inputs import Components, hold_out_each, read, read_each, state_for
from worldgymnast.cli.memory_plan import MemoryPlan, advise_rl, move_to_device, plan_rl
from worldgymnast.cli.origins import cameras_of, check_same_cameras, rule_of
from worldgymnast.cli.results import print_results
from worldgymnast.cli.starters import component_files, refuse_starters, refuse_unknown_tasks, robot_of
from worldgymnast.configs import checked
from worldgymnast.environments import environment
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.preprocessing import compact
from worldgymnast.protocols import predicts_state
from worldgymnast.recipes.dyna import DynaConfig, dyna
from worldgymnast.recipes.dyna_recorded import dyna_recorded
from worldgymnast.recipes.presets import QUICKSTARTS
from worldgymnast.recipes.quickstart import QuickstartConfig, quickstart
from worldgymnast.recipes.relearn import RelearnConfig
from worldgymnast.recipes.reproduce import Recipe, reproduce
from worldgymnast.registry import load_learned_judge, load_policy, load_world, to_dict
from worldgymnast.report.collect import collect
from worldgymnast.report.report import write
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.run import Run
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.world import WorldTraining

_NEEDS_ENVIRONMENT = (
    *("--env", "--rounds", "--budget", "--pairs", "--alpha", "--temperatures", "--length", "--layout", "--planned"),
    *("--photograph", "--score", "--imagined", "--finetune.scoring"),
)
"""Beginnings of flags of dyna that have no effect with --from."""


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

    The first argument may name the robot.

    Attributes:
        config: sizes of training and evaluation.
        out: run folder.
        policy: policy file; the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: judge file; the starter judge if omitted.
    """

    sizes: ClassVar[Mapping[str, Callable[[], QuickstartConfig]]] = QUICKSTARTS
    config: Annotated[QuickstartConfig, NO_PREFIX] = QuickstartConfig()
    out: Path = Path("runs/quickstart")
    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None

    @classmethod
    def from_size(cls, size: str) -> Command:
        """See `Command.from_size`."""
        return cls(config=QUICKSTARTS[size](), out=Path("runs") / f"quickstart-{size}")

    def __call__(self) -> int:
        """Train, evaluate, print the table and write the report."""
        self.prepare(self.out)
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        files = {name: path for name, path in given.items() if path is not None}
        paths = component_files(self.config.robot, **given)
        policy, world = load_policy(paths["policy"]), load_world(paths["world"])
        env = fitted(self.config.env, self.given_flags, world.frame_size, policy.chunk)
        config = replace(self.config, env=env)
        check_same_actions(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        check_observed(paths["policy"], policy, paths["world"], world)
        check_same_cameras(*paths.values())
        check_policy(paths["policy"], policy, env, "--env.hold")
        check_frames(world.frame_size, env)
        check_tasks(env)
        refuse_unknown_tasks(self.judge, environment(env).tasks, self.config.robot)
        print_results(self.out, quickstart(self.out, config, files, self.device, self.imagined))
        return 0


@checked(kw_only=True)
class Dyna(EvaluationCommand, LabelledCommand):
    """Alternate real rollouts, world model and judge updates, and RL.

    With --from, one round learns from episodes that were recorded elsewhere, without a real environment. Nothing is
    verified for real then, so both policies are kept.

    Attributes:
        config: the rounds, and the budget of real episodes.
        recorded: labelled data sets with new episodes, instead of real rollouts of this command.
        held_out: with --from, recorded episodes per task to hold out; predictions of outcomes are measured on them.
        data: labelled data sets that world model and judge were trained on.
        policy: policy file; the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: file of a learned judge; the starter judge if omitted.
        over_memory: begin although the memory plan does not fit in the device.
        out: run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        **HIDDEN_HORIZON,
        WorldTraining: ("world", "new_robot"),
        JudgeTraining: ("judge",),
    }
    hidden_hint: ClassVar[str] = "World model and judge keep their architecture; the horizon is --finetune.rl.horizon"
    config: Annotated[DynaConfig, NO_PREFIX] = DynaConfig()
    recorded: Annotated[tuple[Path, ...], tyro.conf.arg(name="from", metavar="DATA...")] = ()
    held_out: HeldOut = None
    data: tuple[Path, ...]
    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    over_memory: bool = False
    out: Path

    def __call__(self) -> int:
        """Run all unfinished stages, print the table and write the report."""
        self._check_flags()
        self.prepare(self.out)
        if self.recorded:
            return self._learn_from_recorded()
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        starter = robot_of(self.config.env)
        paths = component_files(starter, **given)
        policy, world = load_policy(paths["policy"], is_tested=False), load_world(paths["world"])
        judge = load_learned_judge(paths["judge"])
        check_same_cameras(*paths.values(), requested=self.image_key)
        check_same_actions(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        env = fitted(self.config.env, self.given_flags, world.frame_size, policy.chunk)
        check_observed(paths["policy"], policy, paths["world"], world)
        check_policy(paths["policy"], policy, env, "--env.hold")
        check_frames(world.frame_size, env)
        check_tasks(env)
        self._move_to_device(Components(policy, world, judge), paths["policy"], self.config.finetune.rl)
        rule = rule_of(*paths.values(), requested=self.resize)
        state, labels, size = state_for(world), self.labels, compact(world.frame_size)
        cameras = self.cameras or cameras_of(paths["world"])
        episodes = read(self.data, size, cameras, self.fps, labels=labels, resize=rule, state=state)
        refuse_starters(given, self.data[0], episodes.spec, starter)
        require_labels(self.data, episodes)
        check_same_actions(paths["policy"], policy.action_spec, self.data[0], episodes.spec)
        components = (policy, world, judge)
        config = replace(self.config, env=env)
        rows = dyna(paths["policy"], components, episodes, self.out, config, self.device, self.imagined)
        print_results(self.out, rows)
        return 0

    def _check_flags(self) -> None:
        """Refuse flags that have no effect with, or without, --from."""
        if not self.recorded and self.held_out is not None:
            raise InputError("--held-out: needs --from, the data sets that episodes are held out of. Omit it")
        unused = sorted(flag for flag in self.given_flags if flag.startswith(_NEEDS_ENVIRONMENT))
        if self.recorded and unused:
            raise InputError(f"{', '.join(unused)}: needs a real environment, which --from does without. Omit it")

    def _learn_from_recorded(self) -> int:
        """Run one round from recorded episodes; print what is known, and write the report."""
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        starter = robot_of(self.config.env)
        paths = component_files(starter, **given)
        policy, world = load_policy(paths["policy"], is_tested=False), load_world(paths["world"])
        judge = load_learned_judge(paths["judge"])
        check_same_cameras(*paths.values(), requested=self.image_key)
        check_same_actions(paths["policy"], policy.action_spec, paths["world"], world.action_spec)
        folders = (*self.data, *self.recorded)
        cameras = self.cameras or cameras_of(paths["world"])
        check_observed(paths["policy"], policy, paths["world"], world)
        sets = read_each(
            folders,
            compact(world.frame_size),
            cameras=cameras,
            fps=self.fps,
            assumed_fps=world.fps,
            labels=self.labels,
            resize=rule_of(*paths.values(), requested=self.resize),
            state=predicts_state(world),
        )
        refuse_starters(given, folders[0], sets[0].spec, starter)
        old, recorded = concatenate(sets[: len(self.data)]), sets[len(self.data) :]
        require_labels(self.recorded, concatenate(recorded))
        check_frame_size(world.frame_size, sets[0].size, "data convert SOURCE TARGET --size")
        check_same_actions(paths["policy"], policy.action_spec, folders[0], sets[0].spec)
        rest, held = hold_out_each(self.recorded, recorded, "auto" if self.held_out is None else self.held_out)
        config, rl = self._fitted(old, Components(policy, world, judge), concatenate(recorded))
        self._move_to_device(Components(policy, world, judge), paths["policy"], rl)
        result = dyna_recorded(
            paths["policy"],
            (policy, world, judge),
            [old],
            [part for part in rest if len(part)],
            concatenate(held),
            self.out,
            config,
            rl,
            self.config.seed,
            self.device,
        )
        for name, rates in result.predictions.items():
            print(
                f"{name}: on {sum(map(len, held))} held-out recorded episodes, replayed in the world model, balanced "
                f"accuracy of outcomes {rates['imagined_balanced_accuracy']:.2f}; on their real frames "
                f"{rates['real_balanced_accuracy']:.2f}"
            )
        print(result.said)
        write(self.out / REPORT, collect(self.out))
        print(f"Report: {self.out / REPORT}")
        return 0

    def _move_to_device(self, components: Components, policy: Path, rl: ReinforceConfig) -> None:
        """See `memory_plan.move_to_device`; the plan is that of RL."""

        def make_plan() -> MemoryPlan:
            plan = plan_rl(components.policy, components.world, components.judge, rl, self.device, what="dyna")
            plan.unknown.append("world model and judge: their own training is not counted")
            return plan

        def advise(plan: MemoryPlan, room: float) -> str:
            return advise_rl(plan, rl, room).replace("--rl.", "--finetune.rl.")

        move_to_device(components, policy, self.device, self.out, make_plan, advise, is_overruled=self.over_memory)

    def _fitted(
        self, old: EpisodeSet, components: Components, recorded: EpisodeSet
    ) -> tuple[RelearnConfig, ReinforceConfig]:
        """Adapt durations to the data's frame rate, and the judge's calibration to the number of episodes."""

        def given_under(prefix: str) -> set[str]:
            return {f"--{flag.removeprefix(prefix)}" for flag in self.given_flags if flag.startswith(prefix)}

        judge = self.config.judge
        if "--judge.calibration" not in self.given_flags:
            judge = replace(judge, calibration=0)
        judge = fit_judge(judge, old, given_under("--judge."))
        world = fit_world(self.config.world, RATE, old, given_under("--world."), is_new=False)
        rl = self.config.finetune.rl
        flag = "--finetune.rl.horizon"
        horizon = horizon_of(rl.horizon, flag, components, self.given_flags, recorded, rl.execute)
        return RelearnConfig(self.config.new, world, judge), replace(rl, horizon=horizon)


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
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {WorldTraining: ("new_robot",)}
    hidden_hint: ClassVar[str] = "Every stage has the same robot; train-world starts from another one's world model"
    config: Annotated[Recipe, NO_PREFIX]
    preset: tyro.conf.Suppress[str] = ""
    out: Path

    @classmethod
    def from_preset(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.from_preset`."""
        return cls(config=recipe, preset=name, out=Path("runs") / name)

    def __call__(self) -> int:
        """Run all unfinished stages, print the table and write the report."""
        self.prepare(self.out)
        recipe = self.config
        check_tasks(recipe.env)
        with Run(self.out, to_dict(recipe)) as run:
            rows = reproduce(self.out, recipe, self.device, self.imagined)
            if run.summary is None:
                run.finish({"preset": self.preset})
        print_results(self.out, rows)
        return 0
