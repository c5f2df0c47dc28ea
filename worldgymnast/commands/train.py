"""The commands that train: sft, train-world, train-judge, rl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from worldgymnast.actions import BRIDGE, WORLDGYM
from worldgymnast.commands.command import (
    LENT,
    REPORT,
    Command,
    Computing,
    Learning,
    Weights,
    agree,
    drives,
    fits,
    parts,
    read,
    read_each,
    sees,
    wrote,
)
from worldgymnast.config import load_judge, load_policy, load_world
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.episodes.windows import EpisodeSet, check_shares
from worldgymnast.loops import reproduce, train
from worldgymnast.loops.finetune import FinetuneConfig, finetune, from_episodes, from_photographs, photographs
from worldgymnast.loops.quickstart import QuickstartConfig, starter
from worldgymnast.loops.supervised import check_parts
from worldgymnast.report.collect import collect
from worldgymnast.report.report import write
from worldgymnast.types import InputError, in_range

_SPECS = {"bridge": BRIDGE, "worldgym": WORLDGYM}


@dataclass(frozen=True, kw_only=True)
class Sft(Learning):
    """A policy by imitating demonstrations: the first expert episodes of each task.

    Where no episode says that it is an expert's, as in other people's data, all that nobody labelled a failure are
    imitated.

    Attributes:
        config: the training.
    """

    config: Annotated[train.PolicyTraining, LENT] = train.PolicyTraining()

    def __call__(self) -> int:
        """Trains."""
        self.prepare()
        check_parts(self.config)
        episodes, config = _imitated(read(self.data, self.size), self.config)
        train.train_policy(episodes, self.out, config, self.device)
        return wrote(self.out / "policy.safetensors")


@dataclass(frozen=True, kw_only=True)
class TrainWorld(Learning):
    """A world model (autoencoder and transformer) from everything logged, failures included.

    Attributes:
        shares: how much of the training each data set makes up, one number each; as much as it is long if left out.
        actions: what the model's actions mean; as in the first data set if left out.
        config: the training.
    """

    shares: Annotated[tuple[float, ...], tyro.conf.arg(metavar="N...")] = ()
    actions: Literal["bridge", "worldgym"] | None = None
    config: Annotated[train.WorldTraining, LENT] = train.WorldTraining()

    def __call__(self) -> int:
        """Trains."""
        self.prepare()
        check_parts(self.config)
        check_shares(self.shares, len(self.data))
        sets = read_each(self.data, self.size, _SPECS[self.actions] if self.actions else None)
        fits(self.config.world.frame_size, sets[0].size, "--size")
        if (width := self.config.world.transformer.action_dim) != (dim := sets[0].spec.dim):
            raise InputError(
                f"--world.transformer.action-dim: found {width}, expected {dim} as in the data; "
                f"add --world.transformer.action-dim {dim}"
            )
        train.train_world(sets, self.out, self.config, self.device, self.shares)
        return wrote(self.out / "world.safetensors")


@dataclass(frozen=True, kw_only=True)
class TrainJudge(Learning):
    """A judge of success from labelled episodes and their imagined replays.

    Attributes:
        world: the world model's file.
        config: the training.
    """

    world: Weights = None
    config: Annotated[train.JudgeTraining, LENT] = train.JudgeTraining()

    def __call__(self) -> int:
        """Trains."""
        self.prepare()
        check_parts(self.config)
        world = load_world(self.world or starter("world"), self.device)
        episodes = read(self.data, self.size)
        sees(world, episodes.size, "--size")
        train.train_judge(episodes, world, self.out, self.config, self.device)
        return wrote(self.out / "judge.safetensors")


@dataclass(frozen=True, kw_only=True)
class Rl(Computing):
    """Finetune a policy by reinforcement learning inside a world model, scored for real as it goes.

    Attributes:
        config: the training.
        policy: the policy's file; the starter's if left out.
        world: the world model's file; the starter's if left out.
        judge: the judge's file; the starter's if left out.
        data: data sets whose frames are the starts; without, photographs of new layouts.
        photographs: how many a task.
        out: the run folder; runs/rl-PRESET if left out.
    """

    takes_preset: ClassVar[bool] = True
    hidden: ClassVar[Mapping[type, str]] = {MetaWorldConfig: "horizon"}
    instead: ClassVar[str] = "use --rl.horizon"
    config: Annotated[FinetuneConfig, LENT]
    policy: Weights = None
    world: Weights = None
    judge: Weights = None
    data: tuple[Path, ...] = ()
    photographs: int = 30
    out: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, 1, "photographs")

    @classmethod
    def start(cls, recipe: reproduce.Recipe, name: str) -> Command:
        """See `Command.start`."""
        return cls(config=recipe.finetune, out=Path("runs") / f"rl-{name}")

    def __call__(self) -> int:
        """Trains and writes the report."""
        self.prepare()
        env = self.config.env
        files = parts(policy=self.policy, world=self.world, judge=self.judge)
        policy, world = load_policy(files["policy"], self.device), load_world(files["world"], self.device)
        judge = load_judge(files["judge"], self.device)
        agree(files["policy"], policy.action_spec, files["world"], world.action_spec)
        drives(files["policy"], policy, env)
        sees(world, (env.size, env.size), "--env.size")
        check_tasks(env.tasks)
        data = ""
        if self.data:
            episodes = read(self.data, env.size)
            data = train.data_hash(episodes)
            starts = from_episodes(episodes, env.tasks, self.config.rl.middle)
        else:
            first = QuickstartConfig().photograph_layout
            starts = from_photographs(photographs(env, self.photographs, first))
        finetune(policy, world, judge, starts, self.out, self.config, self.device, data)
        write(self.out / REPORT, collect(self.out))
        print(f"Report: {self.out / REPORT}")
        return wrote(self.out / "policy.safetensors")


def _imitated(episodes: EpisodeSet, config: train.PolicyTraining) -> tuple[EpisodeSet, train.PolicyTraining]:
    """The episodes and config as `train_policy` wants them, also where nobody said who the expert was."""
    if len(episodes.where(source_prefix="expert")):
        return episodes, config
    chosen = episodes.select(episodes.succeeded | ~episodes.labelled)
    if len(chosen) == 0:
        raise InputError("data: found only labelled failures, expected demonstrations; give another data set")
    print(f"no episode is marked as an expert's: imitating all {len(chosen)} that nobody labelled a failure")
    alike = replace(chosen, source=("expert",) * len(chosen), task=("",) * len(chosen))
    return alike, replace(config, demonstrations=len(chosen))
