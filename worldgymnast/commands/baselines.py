"""The commands that train what the method is compared with: iter-sft, rl-simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from worldgymnast.commands.command import (
    LENT,
    REPORT,
    Command,
    Computing,
    Weights,
    components,
    drives,
    ledger,
    parts,
    read,
    wrote,
)
from worldgymnast.config import load_policy
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.envs.simulator import SimulatorConfig
from worldgymnast.execution.surrogate import Imagination, Simulation
from worldgymnast.loops import reproduce
from worldgymnast.loops.finetune import FinetuneConfig, finetune, from_photographs, photographs
from worldgymnast.loops.iter_sft import IterSftConfig, iter_sft
from worldgymnast.loops.quickstart import QuickstartConfig
from worldgymnast.loops.reinforce import ReinforceConfig
from worldgymnast.loops.score import layouts
from worldgymnast.loops.train import demonstrations
from worldgymnast.report.collect import collect
from worldgymnast.report.report import write
from worldgymnast.types import in_range


@dataclass(frozen=True, kw_only=True)
class IterSft(Computing):
    """A baseline: imitation of the policy's own imagined successes beside its demonstrations, round by round.

    Attributes:
        config: the rounds.
        policy: the policy's file; the starter's if left out.
        world: the world model's file; the starter's if left out.
        judge: the judge's file; the starter's if left out.
        data: data sets with the demonstrations.
        demonstrations: expert episodes per task that are imitated, the first ones.
        photographs: starts are photographs of that many new layouts a task.
        out: the run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {MetaWorldConfig: ("horizon",)}
    instead: ClassVar[str] = "use --horizon"
    config: Annotated[IterSftConfig, LENT] = IterSftConfig()
    policy: Weights = None
    world: Weights = None
    judge: Weights = None
    data: tuple[Path, ...]
    demonstrations: int = 5
    photographs: int = 30
    out: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, 1, "photographs", "demonstrations")

    def __call__(self) -> int:
        """Trains and writes the report."""
        self.prepare()
        env = self.config.env
        files = parts(policy=self.policy, world=self.world, judge=self.judge)
        found = components(files, self.device, ledger(self.out), env)
        demos = demonstrations(read(self.data, env.size), self.demonstrations)
        starts = from_photographs(photographs(env, self.photographs, QuickstartConfig().photograph_layout))
        imagine = Imagination.of(found.policy, found.world, found.judge, self.config.horizon)
        iter_sft(found.policy, imagine, starts, demos, self.out, self.config, self.device)
        write(self.out / REPORT, collect(self.out))
        print(f"Report: {self.out / REPORT}")
        return wrote(self.out / "policy.safetensors")


@dataclass(frozen=True, kw_only=True)
class RlSimulator(Computing):
    """A baseline: the same reinforcement learning in a software simulator, which somebody had to build.

    Attributes:
        config: the training.
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
    simulator: SimulatorConfig = SimulatorConfig()
    dense: bool = True
    policy: Weights = None
    layouts: int = 1000
    out: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, 1, "layouts", high=100_000)

    @classmethod
    def start(cls, recipe: reproduce.Recipe, name: str) -> Command:
        """See `Command.start`."""
        return cls(config=recipe.finetune, out=Path("runs") / f"rl-simulator-{name}")

    def __call__(self) -> int:
        """Trains and writes the report."""
        self.prepare()
        env = replace(self.config.env, horizon=self.config.rl.horizon)
        files = parts(policy=self.policy)
        policy = load_policy(files["policy"], self.device)
        drives(files["policy"], policy, env)
        check_tasks(env.tasks)
        starts = from_photographs(layouts(env, self.layouts, QuickstartConfig().photograph_layout))
        simulator = replace(self.simulator, env=env)
        simulation = Simulation(simulator, policy.config.chunk, self.config.workers, self.dense)
        finetune(policy, simulation, starts, self.out, self.config, self.device, f"{self.layouts} layouts")
        write(self.out / REPORT, collect(self.out))
        print(f"Report: {self.out / REPORT}")
        return wrote(self.out / "policy.safetensors")
