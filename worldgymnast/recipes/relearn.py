"""Finetunes world model and judge on new recordings."""

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
class RelearnConfig:
    """Finetuning of world model and judge on new episodes.

    Attributes:
        new: share of new episodes in the training data of the world model; the rest is old data.
        world: training of the world model; its sizes are ignored.
        judge: training of the judge; its sizes are ignored.
    """

    new: Annotated[float, Between(0.01, 0.99)] = 0.5
    world: WorldTraining = WorldTraining(fit=FitConfig(steps=300, lr=5e-4, ema=0.995))
    judge: JudgeTraining = JudgeTraining(fit=FitConfig(steps=1000, lr=5e-4))


Training = TypeVar("Training", PolicyTraining, WorldTraining, JudgeTraining)


def with_seed(config: Training, seed: int) -> Training:
    """Return the training config with another seed."""
    return replace(config, fit=replace(config.fit, seed=seed))


def relearn_world(
    recorded: Sequence[EpisodeSet],
    world: WorldModel,
    out: Path,
    config: RelearnConfig,
    seed: int,
    device: str = "cpu",
) -> WorldModel:
    """Finetune the world model on `recorded`: old episodes first, then new sets in equal parts."""
    shares = (1 - config.new, *[config.new / (len(recorded) - 1)] * (len(recorded) - 1))
    return train_world(recorded, out, with_seed(config.world, seed), device, shares, start=world)


def relearn_judge(
    recorded: Sequence[EpisodeSet],
    world: WorldModel,
    judge: TrainableJudge,
    out: Path,
    config: RelearnConfig,
    seed: int,
    device: str = "cpu",
) -> TrainableJudge:
    """Finetune the judge on all of `recorded` and on their replays in the world model."""
    settings = with_seed(config.judge, seed)
    return train_judge(concatenate(recorded), world, out, settings, device, start=judge, require_both=False)
