"""The commands that train what the method is compared with: iter-sft, rl-simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

from worldgymnast.cli.command import (
    LENT,
    REPORT,
    Command,
    Computing,
    Watching,
    Weights,
    components,
    drives,
    ledger,
    read,
    wrote,
)
from worldgymnast.cli.commands.train import imitated
from worldgymnast.cli.fitting import horizon_of, same_cameras
from worldgymnast.cli.starters import is_metaworld, parts, refuse_starters, refuse_tasks
from worldgymnast.configs import Between, Positive, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.envs.simulator import SimulatorConfig
from worldgymnast.measure.real import Scorer, ScoringConfig
from worldgymnast.protocols import StartSampler
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.iterated_sft import IterSftConfig, iter_sft
from worldgymnast.recipes.quickstart import QuickstartConfig
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import environment, load_policy
from worldgymnast.report.collect import collect
from worldgymnast.report.report import write
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, ParaphrasedStarts, PhotographedStarts
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.simulation import Simulation
from worldgymnast.training.policy import PolicyTraining, demonstrations


@checked(kw_only=True)
class IterSft(Computing, Watching):
    """A baseline: imitation of the policy's own imagined successes beside its demonstrations, round by round.

    Attributes:
        config: the rounds.
        policy: the policy's file; the starter's if left out.
        world: the world model's file; the starter's if left out.
        judge: the judge's file; the starter's if left out.
        data: data sets with the demonstrations.
        demonstrations: expert episodes per task that are imitated, the first ones.
        photographs: starts are photographs of that many new layouts a task; of another robot's data the first frames.
        env: the real environment of the photographs and the scorings.
        scoring: the scorings before the first round and after each.
        unscored: train without a real environment: nothing is scored for real, and the first round is kept.
        out: the run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {MetaWorldConfig: ("horizon",)}
    instead: ClassVar[str] = "use --horizon"
    config: Annotated[IterSftConfig, LENT] = IterSftConfig()
    policy: Weights = None
    world: Weights = None
    judge: Weights = None
    data: tuple[Path, ...]
    demonstrations: Positive = 5
    photographs: Positive = 30
    env: MetaWorldConfig = MetaWorldConfig()
    scoring: ScoringConfig = ScoringConfig(per_task=8)
    unscored: bool = False
    out: Path

    def __call__(self) -> int:
        """Trains and writes the report."""
        self.prepare()
        given = {"policy": self.policy, "world": self.world, "judge": self.judge}
        files, config, env = parts(**given), self.config, self.env
        real = not self.unscored or is_metaworld(load_policy(files["policy"]).action_spec)
        found = components(files, self.device, ledger(self.out), env if real else None)
        same_cameras(*files.values(), asked=self.image_key)
        if real:
            refuse_tasks(self.judge, env.tasks)
        episodes = read(self.data, found.world.frame_size[0], self.cameras, self.fps)
        refuse_starters(given, self.data[0], episodes.spec)
        episodes, wanted = imitated(episodes, PolicyTraining(demonstrations=self.demonstrations))
        demos = demonstrations(episodes, wanted.demonstrations)
        if real:
            first = QuickstartConfig().photograph_layout
            starts: StartSampler = PhotographedStarts(environment(env), self.photographs, first)
        else:
            starts = EpisodeStarts(demos, sorted(set(demos.task)), 0.0)
            config = replace(config, horizon=horizon_of(config.horizon, "--horizon", found, self.given, demos))
        imagine = Imagination.of(found.policy, found.world, found.judge, config.horizon)
        scorer = None if self.unscored else Scorer(environment(env), self.scoring)
        iter_sft(found.policy, imagine, starts, demos, self.out, config, scorer, self.device)
        write(self.out / REPORT, collect(self.out))
        print(f"Report: {self.out / REPORT}")
        return wrote(self.out / "policy.safetensors")


@checked(kw_only=True)
class RlSimulator(Computing):
    """A baseline: the same reinforcement learning in a software simulator, which somebody had to build.

    Attributes:
        config: the training.
        env: the real environment, and what is simulated.
        simulator: which simulator, and how wrong.
        dense: whether a group without a success is rewarded by how far it came.
        policy: the policy's file; the starter's if left out.
        layouts: how many a task it practises on.
        out: the run folder; runs/rl-simulator-PRESET if left out.
    """

    takes_preset: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {
        MetaWorldConfig: ("horizon",),
        SimulatorConfig: ("env",),
        ReinforceConfig: ("middle", "jitter", "uncertainty", "uncertainty_threshold", "uncertain_limit"),
    }
    instead: ClassVar[str] = (
        "a simulator is not doubted and begins at new layouts; use --rl.horizon, and --env for what it simulates"
    )
    config: Annotated[FinetuneConfig, LENT]
    env: MetaWorldConfig = MetaWorldConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    dense: bool = True
    policy: Weights = None
    layouts: Annotated[int, Between(1, 100_000)] = 1000
    out: Path

    @classmethod
    def start(cls, recipe: Recipe, name: str) -> Command:
        """See `Command.start`."""
        return cls(config=recipe.finetune, env=recipe.env, out=Path("runs") / f"rl-simulator-{name}")

    def __call__(self) -> int:
        """Trains and writes the report."""
        self.prepare()
        env = replace(self.env, horizon=self.config.rl.horizon)
        files = parts(policy=self.policy)
        policy = load_policy(files["policy"], self.device)
        drives(files["policy"], policy, env)
        check_tasks(env.tasks)
        robot, scoring = environment(env), self.config.scoring
        layouts = FixedStarts(robot.layouts(self.layouts, QuickstartConfig().photograph_layout))
        starts = ParaphrasedStarts(layouts, robot.instructions)
        simulation = Simulation(replace(self.simulator, env=env), policy.chunk, scoring.workers, self.dense)
        finetune(policy, simulation, starts, self.out, self.config.rl, Scorer(robot, scoring))
        write(self.out / REPORT, collect(self.out))
        print(f"Report: {self.out / REPORT}")
        return wrote(self.out / "policy.safetensors")
