"""Trains the success classifier on labeled episodes and their imagined replays; resumable."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from worldgymnast.configs import Count, Positive, checked
from worldgymnast.episodes.windows import EpisodeSet, data_hash, recorded_instructions
from worldgymnast.errors import InputError
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.protocols import TrainableJudge, WorldModel
from worldgymnast.registry import JudgeConfig, Manifest, load_learned_judge, make, origin_of, save_component, to_dict
from worldgymnast.run import Run
from worldgymnast.scenes.language import AFFORDANCES
from worldgymnast.training.batches import success_batches
from worldgymnast.training.fit import Batches, FitConfig, fit
from worldgymnast.training.replay import replay
from worldgymnast.training.thresholds import (
    FEW_LABELS,
    LEAST_LABELS,
    calibrate,
    resolve_calibration,
    split_for_calibration,
    unsolved_after,
)
from worldgymnast.training.world import Origin
from worldgymnast.types import require_frame_size
from worldgymnast.weights import identity


@checked
class JudgeTraining:
    """Training of the classifier on real episodes and their imagined replays.

    Attributes:
        judge: the judge: its sizes, and how it judges.
        batch: pairs of frames per step.
        fit: the training loop.
        calibration: held-out policy rollouts per task for choosing the threshold; 0 for one in four, at most 20.
        stride: frames between two that the judge sees; the policy's action chunk. If omitted, `train-judge` scales it
            to the data's rate: 4 at 30 frames per second.
        late: also start imagined replays this many frames into the episodes, as rollouts do; 0 disables. If omitted,
            `train-judge` scales it to the data's rate: 18 at 30 frames per second.
        language: train on every sentence that `scenes.language` writes for a task, instead of a few.
    """

    judge: JudgeConfig = JudgeConfig()
    batch: Positive = 64
    fit: FitConfig = FitConfig(steps=3000, lr=1e-3)
    calibration: Count = 20
    stride: Positive = 2
    late: Count = 8
    language: bool = False


def all_instructions() -> dict[str, tuple[str, ...]]:
    """Return all known instructions of each task."""
    return {task: (*INSTRUCTIONS.get(task, ()), *affordance.sentences()) for task, affordance in AFFORDANCES.items()}


def require_both_outcomes(episodes: EpisodeSet) -> None:
    """Raise InputError unless some of the labelled episodes succeed and others fail."""
    count, successes = int(episodes.labelled.sum()), int((episodes.succeeded & episodes.labelled).sum())
    if count == 0:
        raise InputError(
            "field 'success': no episode has a label. No judge can be trained. Label successes and failures, or record "
            "labelled episodes with record-policy"
        )
    if successes in (0, count):
        outcome, missing = ("a failure", "successes") if successes == 0 else ("a success", "failures")
        subject = "the only labelled episode" if count == 1 else f"each of the {count} labelled episodes"
        raise InputError(
            f"field 'success': {subject} is {outcome}. The judge could not learn to tell successes from failures. Add "
            f"labelled {missing} (record-policy records both)"
        )
    if count < LEAST_LABELS:
        raise InputError(
            f"field 'success': found {count} labelled episodes, expected at least {LEAST_LABELS}: a success and a "
            "failure to learn from, and one that is held out to set the threshold. Label more (worldgymnast label)"
        )


def _note_few_labels(labeled: EpisodeSet) -> None:
    """Print that the threshold is uncertain, if there are few successes or failures."""
    successes = int(labeled.succeeded.sum())
    if min(successes, len(labeled) - successes) < FEW_LABELS:
        print(
            f"{len(labeled)} labeled episodes, {successes} successes: the judge's threshold is uncertain below "
            f"{FEW_LABELS} of each outcome. Label more, and check it with judge calibrate"
        )


def _instructions(
    labeled: EpisodeSet, paraphrases: Mapping[str, Sequence[str]], start: TrainableJudge | None
) -> list[str]:
    """Return what the file records: instructions and paraphrases of the data, and the instructions of `start`.

    It is empty, which means unknown, if those of `start` are.
    """
    before = list[str]()
    if start is not None:
        before = list((origin_of(start) or {}).get("instructions") or ())
        if not before:
            return []
    more = [sentence for task in set(labeled.task) for sentence in paraphrases.get(task, ())]
    return recorded_instructions([*before, *labeled.instruction, *more])


def train_judge(
    real: EpisodeSet,
    world: WorldModel,
    out: Path,
    config: JudgeTraining,
    device: str = "cpu",
    *,
    start: TrainableJudge | None = None,
    origin: Origin = None,
    require_both: bool = True,
) -> TrainableJudge:
    """Train the success classifier on `real` and its imagined replays; write OUT/judge.safetensors.

    Some policy rollouts of each task are held out. Their imagined replays and true outcomes set the threshold.

    Args:
        real: labeled episodes.
        world: imagines their replays.
        out: the run folder.
        config: the training; its sizes are ignored if `start` is given.
        device: of the training.
        start: a judge to finetune.
        origin: see `Manifest.origin`. Its instructions are replaced by those that the judge has seen.
        require_both: refuse episodes that all succeed, or all fail. Recipes do not: they test their judge later.

    Raises:
        InputError: no episode is labelled, or `require_both` and all have the same outcome.
    """
    if require_both:
        require_both_outcomes(real)
    require_frame_size(real.size, world.frame_size, "episodes")
    result = out / "judge.safetensors"
    real = real if real.labelled.all() else real.select(real.labelled)
    config = replace(config, calibration=resolve_calibration(real, config.calibration))
    _note_few_labels(real)
    inputs = {"data": data_hash(real), "world": identity(world)}
    if start is not None:
        inputs["start"] = identity(start)
        config = replace(config, judge=replace(start.config, scales={}))
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.summary is None:
            torch.manual_seed(config.fit.seed)
            train, held_out = split_for_calibration(real, config.calibration, config.fit.seed)
            imagine = functools.partial(replay, world, label="imagining training data for the judge")
            sets = [train, imagine(train, seed=config.fit.seed)]
            if config.late and len(unsolved := unsolved_after(train, config.late)):
                sets.append(imagine(unsolved, seed=config.fit.seed))
            judge = make("judges", config.judge).to(device)
            if start is not None:
                judge.load_state_dict(start.state_dict())
            instructions = all_instructions() if config.language else INSTRUCTIONS
            batches: Batches = success_batches(sets, config.batch, config.fit.seed, instructions)
            metrics = fit(judge, batches, config.fit, run, "judge")
            metrics |= calibrate(judge, imagine(held_out, seed=config.fit.seed + 1), config.stride, real=held_out)
            known = dict(origin or {}) | {"instructions": _instructions(real, instructions, start)}
            save_component(result, judge, Manifest(run.command, config.fit.seed, data_hash(train), metrics, known))
            run.finish(metrics)
    return load_learned_judge(result, device)
