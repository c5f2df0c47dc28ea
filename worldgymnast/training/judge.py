"""Training the success classifier from labelled episodes and their imagined replays; resumable."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import torch

from worldgymnast.configs import Count, Positive, checked
from worldgymnast.episodes.windows import EpisodeSet, data_hash
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.protocols import TrainableJudge, WorldModel
from worldgymnast.registry import (
    JudgeConfig,
    Manifest,
    load_learned_judge,
    make,
    save_component,
    to_dict,
)
from worldgymnast.run import Run
from worldgymnast.scenes.language import AFFORDANCES
from worldgymnast.training.batches import success_batches
from worldgymnast.training.fit import Batches, FitConfig, fit
from worldgymnast.training.replay import replay
from worldgymnast.training.thresholds import calibrate, calibration_of, split_for_calibration, unsolved_at
from worldgymnast.training.world import Origin
from worldgymnast.weights import identity


@checked
class JudgeTraining:
    """The classifier, on real episodes and on imagined replays of them.

    Attributes:
        judge: sizes.
        batch: pairs of frames a step.
        fit: the optimiser.
        calibration: policy rollouts per task set aside to choose the threshold; 0 for one in four, at most 20.
        stride: the judge will see every that many frames; the policy's chunk.
        late: imagined replays also begin that many frames into the episodes, as rollouts do; 0 for not.
        language: whether it hears every sentence that `scenes.language` writes for a task, rather than a few.
    """

    judge: JudgeConfig = JudgeConfig()
    batch: Positive = 64
    fit: FitConfig = FitConfig(steps=3000, lr=1e-3)
    calibration: Count = 20
    stride: Positive = 2
    late: Count = 8
    language: bool = False


def every_sentence() -> dict[str, tuple[str, ...]]:
    """By task, all that is known to be said of it."""
    return {task: (*INSTRUCTIONS.get(task, ()), *known.sentences()) for task, known in AFFORDANCES.items()}


def train_judge(
    real: EpisodeSet,
    world: WorldModel,
    out: Path,
    config: JudgeTraining,
    device: str = "cpu",
    *,
    start: TrainableJudge | None = None,
    origin: Origin = None,
) -> TrainableJudge:
    """The success classifier, on `real` and on its imagined replays; OUT/judge.safetensors.

    Some policy rollouts of each task are set aside; the threshold is the one that best tells their imagined replays
    apart by their true outcome.

    Args:
        real: labelled episodes.
        world: imagines their replays.
        out: the run folder.
        config: the training; its sizes count only where there is no `start`.
        device: where.
        start: a judge to go on from.
        origin: see `Manifest.origin`.
    """
    result = out / "judge.safetensors"
    real = real if real.labelled.all() else real.select(real.labelled)
    config = replace(config, calibration=calibration_of(real, config.calibration))
    inputs = {"data": data_hash(real), "world": identity(world)}
    if start is not None:
        inputs["start"] = identity(start)
        config = replace(config, judge=replace(start.config, scales={}))
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.finished is None:
            torch.manual_seed(config.fit.seed)
            train, aside = split_for_calibration(real, config.calibration, config.fit.seed)
            imagine = functools.partial(replay, world, said="imagining what the judge learns from")
            sets = [train, imagine(train, seed=config.fit.seed)]
            if config.late and len(begun := unsolved_at(train, config.late)):
                sets.append(imagine(begun, seed=config.fit.seed))
            judge = make("judges", config.judge).to(device)
            if start is not None:
                judge.load_state_dict(start.state_dict())
            said = every_sentence() if config.language else INSTRUCTIONS
            batches: Batches = success_batches(sets, config.batch, config.fit.seed, said)
            metrics = fit(judge, batches, config.fit, run, "judge")
            metrics |= calibrate(judge, imagine(aside, seed=config.fit.seed + 1), config.stride, real=aside)
            save_component(result, judge, Manifest(run.command, config.fit.seed, data_hash(train), metrics, origin))
            run.finish(metrics)
    return load_learned_judge(result, device)
