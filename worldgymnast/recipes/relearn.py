"""World and judge go on learning after new recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

from worldgymnast.configs import Between, checked
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.protocols import TrainableJudge, WorldModel
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import JudgeTraining, train_judge
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.training.world import WorldTraining, train_world


@checked
class Relearning:
    """How world and judge go on learning when there are new episodes.

    Attributes:
        new: share of the new episodes in what the world is trained on; the rest is what it learned from before.
        world: how its training goes on; its sizes do not count.
        judge: the same for the judge.
    """

    new: Annotated[float, Between(0.01, 0.99)] = 0.5
    world: WorldTraining = WorldTraining(fit=FitConfig(steps=300, lr=5e-4, ema=0.995))
    judge: JudgeTraining = JudgeTraining(fit=FitConfig(steps=1000, lr=5e-4))


Training = TypeVar("Training", PolicyTraining, WorldTraining, JudgeTraining)


def reseeded(config: Training, seed: int) -> Training:
    """The same training with another seed."""
    return replace(config, fit=replace(config.fit, seed=seed))


def relearn_world(
    recorded: Sequence[EpisodeSet],
    world: WorldModel,
    out: Path,
    config: Relearning,
    seed: int,
    device: str = "cpu",
) -> WorldModel:
    """The world goes on learning from `recorded`, the old episodes first, then sets of new ones in equal parts."""
    shares = (1 - config.new, *[config.new / (len(recorded) - 1)] * (len(recorded) - 1))
    return train_world(recorded, out, reseeded(config.world, seed), device, shares, start=world)


def relearn_judge(
    recorded: Sequence[EpisodeSet],
    world: WorldModel,
    judge: TrainableJudge,
    out: Path,
    config: Relearning,
    seed: int,
    device: str = "cpu",
) -> TrainableJudge:
    """The judge goes on learning from all of `recorded`, and from the imagination of that world."""
    return train_judge(concatenate(recorded), world, out, reseeded(config.judge, seed), device, start=judge)
