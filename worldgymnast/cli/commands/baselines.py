"""The baseline commands: iter-sft, rl-simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

from worldgymnast.cli.checks import check_same_rate
from worldgymnast.cli.command import NO_PREFIX, Command, DeviceCommand, LabelledCommand, OptionalPath
from worldgymnast.cli.commands.train import episodes_to_imitate
from worldgymnast.cli.data_defaults import horizon_of
from worldgymnast.cli.environment import (
    HIDDEN_HORIZON,
    check_policy,
    check_tasks,
    has_default_environment,
    has_real_environment,
    names_environment,
    simulated,
)
from worldgymnast.cli.inputs import load_components, open_ledger, read_each
from worldgymnast.cli.memory_plan import advise_rounds, move_to_device, plan_rounds
from worldgymnast.cli.offline import announce, comparable, measure, split_references, warn_of_wrong_world
from worldgymnast.cli.origins import cameras_of, check_same_cameras, rule_of
from worldgymnast.cli.results import print_training
from worldgymnast.cli.starters import component_files, refuse_starters, refuse_unknown_tasks, robot_of
from worldgymnast.configs import Between, Positive, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment
from worldgymnast.envs.simulator import SimulatorConfig
from worldgymnast.episodes.windows import concatenate
from worldgymnast.measure.real import Scorer, ScoringConfig
from worldgymnast.preprocessing import compact
from worldgymnast.protocols import StartSampler
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.iterated_sft import IterSftConfig, iter_sft
from worldgymnast.recipes.quickstart import QuickstartConfig
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import load_policy
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, ParaphrasedStarts, PhotographedStarts
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.simulation import Simulation
from worldgymnast.training.policy import PolicyTraining, select_demonstrations
from worldgymnast.types import STATE


@checked(kw_only=True)
class IterSft(DeviceCommand, LabelledCommand):
    """Baseline: imitate imagined successes together with demonstrations, round by round.

    Attributes:
        config: the rounds.
        policy: policy file; the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: judge file; the starter judge if omitted.
        data: data sets with demonstrations.
        demonstrations: expert episodes per task to imitate.
        photographs: new layouts per task to photograph as starts; for another robot, its first frames are starts.
        env: real environment of photographs and scoring.
        scoring: real scoring before the first round and after each.
        unscored: train without real scoring; the result is that of the last round.
        over_memory: begin although the memory plan does not fit in the device.
        out: run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = HIDDEN_HORIZON
    hidden_hint: ClassVar[str] = "Use --horizon"
    config: Annotated[IterSftConfig, NO_PREFIX] = IterSftConfig()
    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    data: tuple[Path, ...]
    demonstrations: Positive = 5
    photographs: Positive = 30
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    scoring: ScoringConfig = ScoringConfig(per_task=8)
    unscored: bool = False
    over_memory: bool = False
    out: Path

    def __call__(self) -> int:
        """Train and write the report."""
        self.prepare(self.out)
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        starter = robot_of(self.env)
        files, config = component_files(starter, **given), self.config
        policy = load_policy(files["policy"], is_tested=False)
        spec = policy.action_spec
        is_scored = has_real_environment(self.env, spec, self.given_flags, is_unscored=self.unscored)
        takes_photographs = is_scored or has_default_environment(self.env, spec) or names_environment(self.given_flags)
        if not is_scored:
            announce(self.given_flags, self.unscored)
        used = self.env if takes_photographs else None
        ledger = open_ledger(self.out)
        components = load_components(files, self.device, ledger, used, self.given_flags, policy=policy, waits=True)
        env = components.env or self.env
        world, judge = components.world, components.judge
        check_same_cameras(*files.values(), requested=self.image_key)
        if takes_photographs:
            refuse_unknown_tasks(self.judge, environment(env).tasks, starter)
        rule, cameras = rule_of(*files.values(), requested=self.resize), self.cameras or cameras_of(files["world"])
        state = None if STATE in policy.needs else False
        size, labels = compact(world.frame_size), self.labels
        sets = read_each(self.data, size, cameras=cameras, fps=self.fps, labels=labels, resize=rule, state=state)
        episodes, references = concatenate(sets), None
        if not is_scored:
            episodes, references = split_references(sets, None, None, files)
        refuse_starters(given, self.data[0], episodes.spec, starter)
        check_same_rate(self.data[0], episodes.fps, files["world"], world.fps, is_data=True)
        episodes, training = episodes_to_imitate(episodes, PolicyTraining(demonstrations=self.demonstrations))
        demos = select_demonstrations(episodes, training.demonstrations)
        if takes_photographs:
            first = QuickstartConfig().photograph_layout
            starts: StartSampler = PhotographedStarts(environment(env), self.photographs, first)
        else:
            starts = EpisodeStarts(demos, sorted(set(demos.task)), 0.0)
            horizon = horizon_of(config.horizon, "--horizon", components, self.given_flags, demos, config.execute)
            config = replace(config, horizon=horizon)
        move_to_device(
            components,
            files["policy"],
            self.device,
            self.out,
            lambda: plan_rounds(policy, world, judge, config, self.device),
            lambda plan, room: advise_rounds(plan, config, room),
            is_overruled=self.over_memory,
        )
        imagination = Imagination.of(policy, world, judge, config.horizon, config.execute)
        scorer = Scorer(environment(env), self.scoring) if is_scored else None
        if not is_scored:
            references = comparable(references, world.action_spec)
            warn_of_wrong_world(self.out, references, world, config.horizon)
        trained = iter_sft(policy, imagination, starts, demos, self.out, config, scorer, self.device)
        if not is_scored:
            measure(self.out, (policy, trained), imagination, starts, (), references, config)
        return print_training(self.out)


@checked(kw_only=True)
class RlSimulator(DeviceCommand):
    """Baseline: the same reinforcement learning in a perturbed simulator.

    Attributes:
        config: the training.
        env: real environment, which is also what is simulated.
        simulator: simulator and its perturbation.
        dense: reward progress in groups without a success.
        policy: policy file; the starter policy if omitted.
        layouts: training layouts per task.
        out: run folder; runs/rl-simulator-PRESET if omitted.
    """

    takes_preset: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        **HIDDEN_HORIZON,
        SimulatorConfig: ("env",),
        ReinforceConfig: ("middle", "jitter", "uncertainty", "uncertainty_threshold", "uncertain_limit"),
    }
    hidden_hint: ClassVar[str] = (
        "A simulator needs no uncertainty and starts at new layouts. Use --rl.horizon, and --env for what is simulated"
    )
    config: Annotated[FinetuneConfig, NO_PREFIX]
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    simulator: SimulatorConfig = SimulatorConfig()
    dense: bool = True
    policy: OptionalPath = None
    layouts: Annotated[int, Between(1, 100_000)] = 1000
    out: Path

    @classmethod
    def from_preset(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.from_preset`."""
        return cls(config=recipe.finetune, env=recipe.env, out=Path("runs") / f"rl-simulator-{name}")

    def __call__(self) -> int:
        """Train and write the report."""
        self.prepare(self.out)
        env = replace(simulated(self.env, "rl-simulator"), horizon=self.config.rl.horizon)
        files = component_files(robot_of(self.env), policy=self.policy)
        policy = load_policy(files["policy"], self.device)
        check_policy(files["policy"], policy, env)
        check_tasks(env)
        robot, scoring = environment(env), self.config.scoring
        layouts = FixedStarts(robot.layouts(self.layouts, QuickstartConfig().photograph_layout))
        starts = ParaphrasedStarts(layouts, robot.instructions)
        executed = executed_per_look(policy, self.config.rl.execute)
        simulation = Simulation(replace(self.simulator, env=env), executed, scoring.workers, self.dense)
        finetune(policy, simulation, starts, self.out, self.config.rl, Scorer(robot, scoring))
        return print_training(self.out)
