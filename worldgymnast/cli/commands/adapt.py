"""The command adapt: finetuning for one scene at test time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro

from worldgymnast.cli.checks import (
    check_frame_size,
    check_in_distribution,
    check_observed,
    check_same_actions,
    check_same_rate,
)
from worldgymnast.cli.command import NO_PREFIX, DeviceCommand, LabelledCommand, OptionalPath, print_written
from worldgymnast.cli.environment import HIDDEN_HORIZON, check_policy, check_spelling, check_tasks, fitted, is_metaworld
from worldgymnast.cli.inputs import Components, open_ledger, read, state_for
from worldgymnast.cli.memory_plan import advise_rl, move_to_device, plan_rl
from worldgymnast.cli.origins import cameras_of, check_same_cameras, rule_of
from worldgymnast.cli.results import print_results, print_training
from worldgymnast.cli.starters import (
    component_files,
    refuse_other_robot,
    refuse_starters,
    refuse_unknown_tasks,
    robot_of,
)
from worldgymnast.configs import Count, Positive, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment, with_horizon
from worldgymnast.episodes.starts import read_frame
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import Rate
from worldgymnast.judges.combined import check
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.real import ScoreConfig, score_real
from worldgymnast.preprocessing import Resize, Size, compact
from worldgymnast.protocols import Policy, RealEnvironment, StartSampler
from worldgymnast.recipes.adapt import AdaptConfig, adapt, measure_forgetting
from worldgymnast.recipes.quickstart import QuickstartConfig
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.report import tables
from worldgymnast.rl.objective import ObjectiveConfig
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.rollout import executed_per_look, open_vector
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, PhotographedStarts
from worldgymnast.run import is_finished
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import Layout, Start

_REAL_SCORING = ("evaluate_every", "keep_best", "keep_evidence", "trust")
"""Fields that have no effect without real scoring."""


@checked(kw_only=True)
class Adapt(DeviceCommand, LabelledCommand):
    """Finetune a policy for one scene, from one frame and one instruction.

    Attributes:
        config: the training.
        frame: picture of the scene, or a video whose first frame shows it.
        instruction: instruction for the scene.
        task: name of the task, for --layout and for judges with thresholds or criteria per task.
        layout: layout of --task in the real environment, instead of --frame; both policies are also evaluated there.
        crop: crop a picture that is not square to its central square.
        anyway: continue with an out-of-distribution frame or instruction.
        policy: policy file; the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: judge file; the starter judge if omitted.
        data: data sets of other scenes, for replay and to measure forgetting; photographs if omitted.
        photographs: new layouts per task to photograph, if --data is omitted.
        others: imagined starts per task on which forgetting is measured.
        real: real episodes per task, before and after; 0 for none.
        env: real environment of --layout, photographs and --real.
        over_memory: begin although the memory plan does not fit in the device.
        out: run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        **HIDDEN_HORIZON,
        ReinforceConfig: (*_REAL_SCORING, "middle", "curriculum"),
        ObjectiveConfig: ("hold",),
    }
    hidden_hint: ClassVar[str] = (
        "A single frame has no logged episode and no other task, and nothing is scored for real"
    )
    config: Annotated[AdaptConfig, NO_PREFIX] = AdaptConfig()
    frame: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    instruction: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    task: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    layout: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    crop: bool = False
    anyway: bool = False
    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    data: tuple[Path, ...] = ()
    photographs: Positive = 30
    others: Count = 8
    real: Count = 0
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    over_memory: bool = False
    out: Path

    def __post_init__(self) -> None:
        if self.policy is None and not self.anyway:
            check_spelling(self.task)
        if (self.frame is None) == (self.layout is None):
            problem = "neither is given" if self.frame is None else "both are given"
            raise InputError(f"--frame, --layout: {problem}. Give a picture, or a layout of --task")
        if self.layout is not None and not self.task:
            raise InputError("--layout: --task is missing. Give the task of this layout")
        if self.frame is not None and not self.instruction.strip():
            raise InputError("--instruction: missing. Give an instruction, such as 'open the drawer'")

    def __call__(self) -> int:
        """Train, print success and forgetting, and write the report."""
        self.prepare(self.out)
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        starter = robot_of(self.env)
        files = component_files(starter, **given)
        policy, world = load_policy(files["policy"], is_tested=False), load_world(files["world"])
        is_description = files["judge"].suffix == ".json"  # a local vision-language model is loaded where it runs
        judge = load_judge(files["judge"], self.device if is_description else "cpu", open_ledger(self.out))
        if is_metaworld(policy.action_spec) and not self.anyway:
            check_spelling(self.task)
        check_same_actions(files["policy"], policy.action_spec, files["world"], world.action_spec)
        check_same_cameras(*files.values(), requested=self.image_key)
        check_observed(files["policy"], policy, files["world"], world)
        move_to_device(
            Components(policy, world, judge),
            files["policy"],
            self.device,
            self.out,
            lambda: plan_rl(policy, world, judge, self.config.rl, self.device, what="adapt"),
            lambda plan, room: advise_rl(plan, self.config.rl, room),
            is_overruled=self.over_memory,
        )
        rule = rule_of(*files.values(), requested=self.resize)
        env = with_horizon(fitted(self.env, self.given_flags, world.frame_size), self.config.rl.horizon)
        is_suite = is_metaworld(policy.action_spec)
        if self.layout is not None or self.real or (is_suite and not self.data):
            check_policy(files["policy"], policy, env)
        start = self._start(env, compact(world.frame_size), rule)
        robot = environment(env)
        if self.layout is not None:
            refuse_unknown_tasks(self.judge, [self.task], starter)
        if not is_finished(self.out):
            check(judge, [(start.task, start.instruction)])
        known_instructions: tuple[str, ...] = ()
        if self.data:
            cameras = self.cameras or cameras_of(files["world"])
            state = state_for(world)
            size, labels = compact(world.frame_size), self.labels
            episodes = read(self.data, size, cameras, self.fps, labels=labels, resize=rule, state=state)
            refuse_starters(given, self.data[0], episodes.spec, starter)
            refuse_other_robot(files["policy"], policy.action_spec, self.data[0], episodes.spec)
            check_frame_size(world.frame_size, episodes.size, "data convert SOURCE TARGET --size")
            check_same_rate(self.data[0], episodes.fps, files["world"], world.fps, is_data=True)
            known_instructions = tuple(episodes.instruction)
            others: StartSampler = EpisodeStarts(episodes, sorted(set(episodes.task)), 0.0)
            sample = others(np.random.default_rng(self.config.rl.seed), self.others * len(set(episodes.task)))
            known = measured = [start for start in sample if isinstance(start, Start)]
        elif not is_suite:
            if self.config.replay:
                raise InputError("--replay: --data is missing. Give data sets of other scenes, or --replay 0")
            print("--data: omitted, so the frame is not compared with the training data, and forgetting not measured")
            others, known, measured = FixedStarts([start]), list[Start](), list[Start]()
        else:
            first = QuickstartConfig().photograph_layout
            others = PhotographedStarts(robot, self.photographs, first)
            known, measured = others.photographs, list[Start]()
            if self.others:
                measured = PhotographedStarts(robot, self.others, first + self.photographs).photographs
        imagination = Imagination.of(policy, world, judge, self.config.rl.horizon, self.config.rl.execute)
        flags = ("--frame" if self.frame else "--layout", "--instruction")
        check_in_distribution(world, [start], known, flags, self.anyway, known_instructions)
        after = adapt(policy, imagination, start, others, self.out, self.config)
        change = measure_forgetting((policy, after), imagination, start, measured, self.config)
        print(f"This scene, imagined, sampled: before {change.before}, after {change.after}.")
        if change.others is not None:
            tables.show(tables.success(change.others, "Imagined success in other scenes"))
        if start.scene is not None:
            self._print_real_success(robot, start.scene, policy, after)
        return self._finish(robot, files["policy"])

    def _start(self, env: EnvironmentConfig, size: Size, rule: Resize | None) -> Start:
        """Return the start of the scene."""
        if self.frame is None:
            check_tasks(env, (self.task,))
            assert self.layout is not None
            robot = environment(env)
            instruction = self.instruction.strip() or robot.instructions(self.task)[0]
            return robot.photograph([Layout(self.task, self.layout, instruction)])[0]
        return Start(read_frame(self.frame, size, self.crop, rule), self.instruction.strip(), self.task)

    def _print_real_success(self, robot: RealEnvironment, scene: Layout, before: Policy, after: Policy) -> None:
        """Print the real success of both policies in the scene."""
        env = open_vector(
            robot, 2, executed_per_look(before, self.config.rl.execute), horizon=robot.horizon, keyframes_only=True
        )
        layouts, temperature = [scene] * self.config.trials, self.config.rl.temperature
        rates = list[Rate]()
        try:
            for policy in (before, after):
                rollouts = score_real(policy, env, layouts, temperature=temperature, seed=0)
                rates.append(Rate.of(rollout.verdict.succeeded for rollout in rollouts))
        finally:
            env.close()
        print(f"This scene, real, sampled: before {rates[0]}, after {rates[1]}.")

    def _finish(self, robot: RealEnvironment, before: Path) -> int:
        """Evaluate both policies for real if requested, and write the report."""
        if not self.real:
            return print_training(self.out)
        after = self.out / "policy.safetensors"
        policies = {"before": Contender(before), "after": Contender(after)}
        score = ScoreConfig(per_task=self.real, execute=self.config.rl.execute)
        print_results(self.out, evaluate(self.out / "evaluation.json", policies, robot, score, self.device))
        return print_written(after)
