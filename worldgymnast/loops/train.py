"""Training each learned part from logged episodes: one run folder in, one component file out.

Every function is resumable, and does nothing but read its result where it is already there.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from worldgymnast.actions import require_same, union
from worldgymnast.config import Manifest, load_classifier, load_policy, load_world, save_component, to_dict
from worldgymnast.envs.metaworld import INSTRUCTIONS
from worldgymnast.episodes.shares import balanced, weigh
from worldgymnast.episodes.windows import EpisodeSet, concatenate, warn_outside
from worldgymnast.judges.classifier import ClassifierConfig, SuccessClassifier
from worldgymnast.loops.batches import encode_all, frame_batches, imitation_batches, latent_batches, success_batches
from worldgymnast.loops.replay import replay
from worldgymnast.loops.supervised import Batches, FitConfig, fit
from worldgymnast.loops.thresholds import calibrate, calibration_of, split_for_calibration, unsolved_at
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.run import Run
from worldgymnast.scenes.language import AFFORDANCES
from worldgymnast.types import InputError, WorldModel, in_range
from worldgymnast.weights import identity
from worldgymnast.worldmodel.autoencoder import Autoencoder
from worldgymnast.worldmodel.consistency import Consistency
from worldgymnast.worldmodel.objective import FlowConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.vae import ImageVAE


@dataclass(frozen=True)
class PolicyTraining:
    """Imitation of demonstrations.

    Attributes:
        policy: sizes.
        demonstrations: expert episodes per task that are imitated; the first ones logged.
        successes: whether every other episode that succeeded is imitated too, whoever acted (SFT on everything).
        batch: looks a step.
        fit: the optimiser.
    """

    policy: SmallVLAConfig = SmallVLAConfig()
    demonstrations: int = 5
    successes: bool = False
    batch: int = 64
    fit: FitConfig = FitConfig(steps=800, lr=1e-3)

    def __post_init__(self) -> None:
        in_range(self, 1, "demonstrations", "batch")


EMBEDDED = WorldModelConfig(
    objective=FlowConfig(pure_noise=1.0, self_rollout=0.0, unroll=0.67, unroll_from=0.3, success=0.5),
    detail=0.3,
    success_head=64,
)
"""The embedded world: one step a frame, trained through its own imagination, with an opinion of its own on success."""


@dataclass(frozen=True)
class WorldTraining:
    """The autoencoder first, then the transformer over its latents.

    Attributes:
        world: sizes.
        frames: frames a step of the autoencoder.
        autoencoder: its optimiser.
        clips: clips a step of the transformer.
        length: actions a clip.
        fit: its optimiser.
        balanced: whether half of each task's clips are of episodes that succeed, half of ones that fail.
        thaw: whether the autoencoder of a world model to go on from is trained on, too: for colours and objects that
            it has never seen.
    """

    world: WorldModelConfig = EMBEDDED
    frames: int = 32
    autoencoder: FitConfig = FitConfig(steps=1800, lr=2e-3, weight_decay=0.0, ema=0.99)
    clips: int = 24
    length: int = 24
    fit: FitConfig = FitConfig(steps=2000, lr=1.5e-3, ema=0.995)
    balanced: bool = True
    thaw: bool = False

    def __post_init__(self) -> None:
        in_range(self, 1, "frames", "clips", "length")


@dataclass(frozen=True)
class Distillation:
    """A world model that needs fewer steps and no guidance, from one that needs them.

    Attributes:
        sampling_steps: what the student will take for a frame.
        truth: weight of the error to the true frame; the rest is that to what the teacher believes.
        corruption: largest standard deviation of the noise on the past.
        clips: clips a step.
        length: actions a clip.
        fit: the optimiser.
    """

    sampling_steps: int = 1
    truth: float = 0.5
    corruption: float = 0.1
    clips: int = 4
    length: int = 12
    fit: FitConfig = FitConfig(steps=500, lr=5e-5, ema=0.99, save_every=100)

    def __post_init__(self) -> None:
        in_range(self, 1, "sampling_steps", "clips", "length")
        in_range(self, 0, "truth", high=1)
        in_range(self, 0, "corruption")


@dataclass(frozen=True)
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

    judge: ClassifierConfig = ClassifierConfig()
    batch: int = 64
    fit: FitConfig = FitConfig(steps=3000, lr=1e-3)
    calibration: int = 20
    stride: int = 2
    late: int = 8
    language: bool = False

    def __post_init__(self) -> None:
        in_range(self, 1, "batch", "stride")
        in_range(self, 0, "calibration", "late")


@dataclass(frozen=True)
class Relearning:
    """How world and judge go on learning when there are new episodes.

    Attributes:
        new: share of the new episodes in what the world is trained on; the rest is what it learned from before.
        world: how its training goes on; its sizes do not count.
        judge: the same for the judge.
    """

    new: float = 0.5
    world: WorldTraining = WorldTraining(fit=FitConfig(steps=300, lr=5e-4, ema=0.995))
    judge: JudgeTraining = JudgeTraining(fit=FitConfig(steps=1000, lr=5e-4))

    def __post_init__(self) -> None:
        in_range(self, 0.01, "new", high=0.99)


Origin = Mapping[str, Any] | None
Training = TypeVar("Training", PolicyTraining, WorldTraining, JudgeTraining)


def reseeded(config: Training, seed: int) -> Training:
    """The same training with another seed."""
    return replace(config, fit=replace(config.fit, seed=seed))


def every_sentence() -> dict[str, tuple[str, ...]]:
    """By task, all that is known to be said of it."""
    return {task: (*INSTRUCTIONS.get(task, ()), *known.sentences()) for task, known in AFFORDANCES.items()}


def data_hash(episodes: EpisodeSet) -> str:
    """First 16 hex digits of the SHA-256 over actions, labels, layouts, words, and three frames of each episode."""
    digest = hashlib.sha256()
    for part in (episodes.actions, episodes.success, episodes.layout, episodes.length):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update("\0".join([*episodes.instruction, *episodes.task, *episodes.source]).encode())
    for first, length in zip(episodes.first.tolist(), episodes.length.tolist(), strict=True):
        digest.update(np.asarray(episodes.frames[[first, first + length // 2, first + length]]).tobytes())
    return digest.hexdigest()[:16]


def demonstrations(episodes: EpisodeSet, per_task: int) -> EpisodeSet:
    """The first `per_task` expert episodes of every task."""
    chosen = [episodes.where(task=task, source_prefix="expert")[:per_task] for task in sorted(set(episodes.task))]
    short = [task for task, rows in zip(sorted(set(episodes.task)), chosen, strict=True) if len(rows) < per_task]
    if short:
        raise InputError(
            f"field 'demonstrations': found fewer than {per_task} expert episodes for {', '.join(short)}, expected "
            "that many a task; record more, or lower --demonstrations"
        )
    return episodes.select(np.concatenate(chosen))


def imitated(episodes: EpisodeSet, config: PolicyTraining) -> EpisodeSet:
    """What `config` imitates of `episodes`: demonstrations, and where it says so all other successes."""
    demos = demonstrations(episodes, config.demonstrations)
    if not config.successes:
        return demos
    others = episodes.succeeded & ~np.isin(episodes.first, demos.first)
    return concatenate([demos, episodes.select(others)])


def train_policy(
    episodes: EpisodeSet,
    out: Path,
    config: PolicyTraining,
    device: str = "cpu",
    *,
    start: SmallVLA | None = None,
    origin: Origin = None,
) -> SmallVLA:
    """Imitation learning; OUT/policy.safetensors.

    Args:
        episodes: with the demonstrations.
        out: the run folder.
        config: the training; its sizes count only where there is no `start`.
        device: where.
        start: a policy to go on from.
        origin: see `Manifest.origin`.
    """
    result = out / "policy.safetensors"
    inputs = {"data": data_hash(episodes)}
    if start is not None:
        require_same(start.action_spec, episodes.spec, "policy and demonstrations")
        warn_outside(episodes, start.action_spec, "policy")
        inputs["start"] = identity(start)
        config = replace(config, policy=start.config)
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.finished is None:
            demos = imitated(episodes, config)
            torch.manual_seed(config.fit.seed)
            policy = SmallVLA(config.policy, episodes.spec if start is None else start.action_spec).to(device)
            if start is not None:
                policy.load_state_dict(start.state_dict())
            batches = imitation_batches(demos, config.policy.chunk, config.batch, config.fit.seed, INSTRUCTIONS)
            metrics = fit(policy, batches, config.fit, run, "imitation")
            save_component(result, policy, Manifest(run.command, config.fit.seed, data_hash(demos), metrics, origin))
            run.finish(metrics)
    return load_policy(result, device)


def train_world(
    episodes: EpisodeSet | Sequence[EpisodeSet],
    out: Path,
    config: WorldTraining,
    device: str = "cpu",
    shares: Sequence[float] = (),
    *,
    start: LatentWorldModel | None = None,
    autoencoder: Autoencoder | ImageVAE | None = None,
    origin: Origin = None,
) -> LatentWorldModel:
    """Autoencoder and transformer; OUT/world.safetensors.

    Args:
        episodes: what they learn from, one set or several.
        out: the run folder.
        config: the training; of its world model only what `start` and `autoencoder` leave open counts: a success head
            too, where `start` has none.
        device: where.
        shares: how much of the clips and frames each set makes up; without, as much as it is long.
        start: a world model to go on from, its autoencoder included.
        autoencoder: one to take as it is, instead of training one.
        origin: see `Manifest.origin`.

    Raises:
        InputError: an autoencoder is given to be taken as it is, and the config thaws it.
    """
    if autoencoder is not None and config.thaw:
        raise InputError("fields 'thaw', 'autoencoder': found both, expected one: it is taken as it is, or trained on")
    result = out / "world.safetensors"
    sets = [episodes] if isinstance(episodes, EpisodeSet) else episodes
    data, weights = concatenate(sets), weigh(sets, shares)
    spec = data.spec if start is None else union([start.action_spec, data.spec])
    inputs: dict[str, Any] = {"data": data_hash(data)}
    if shares:
        inputs["shares"] = [[float(share), len(part)] for part, share in zip(sets, shares, strict=True)]
    if (begun := start or autoencoder) is not None:
        inputs["start"] = identity(begun)
        config = replace(config, world=_begun(config.world, start, autoencoder))
    if not data.labelled.any():
        config = replace(config, world=replace(config.world, success_head=0))  # it would speak without having learned
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.finished is None:
            torch.manual_seed(config.fit.seed)
            world = LatentWorldModel(config.world, spec, data.fps).to(device)
            if begun is not None:
                (world if start else world.autoencoder).load_state_dict(begun.state_dict(), strict=start is None)
            if begun is None or config.thaw:
                train_autoencoder(world, data, out / "autoencoder", config, weights)
            latents = encode_all(world.autoencoder, data.frames, precision=config.fit.precision)
            seed, length = config.fit.seed, config.length
            drawn = balanced(data, weights) if config.balanced else weights
            batches = latent_batches(data, latents, length, config.clips, seed, world.device, drawn)
            metrics = fit(world, batches, config.fit, run, "world model")
            save_component(result, world, Manifest(run.command, config.fit.seed, inputs["data"], metrics, origin))
            run.finish(metrics)
    return load_world(result, device)


def _begun(
    config: WorldModelConfig, start: LatentWorldModel | None, autoencoder: Autoencoder | ImageVAE | None
) -> WorldModelConfig:
    """The config of a world model that goes on from `start`, or that takes `autoencoder`."""
    if start is not None:
        return replace(start.config, success_head=start.config.success_head or config.success_head)
    return replace(config, autoencoder=config.autoencoder if autoencoder is None else autoencoder.config)


def train_autoencoder(
    world: LatentWorldModel, episodes: EpisodeSet, out: Path, config: WorldTraining, weights: np.ndarray | None = None
) -> None:
    """Train the autoencoder inside `world` in place and measure its latents; OUT is a run of its own.

    Args:
        world: the world model; its transformer is left alone.
        episodes: whose frames.
        out: the run folder.
        config: the training.
        weights: how likely a frame is of each episode, float [e]; without, all frames are equally likely.

    Raises:
        InputError: the autoencoder is an image VAE.
    """
    autoencoder = world.autoencoder
    if not isinstance(autoencoder, Autoencoder):
        raise InputError(
            "field 'autoencoder': found an image VAE, whose weights are not trained here; name a world model, a folder "
            "or a hub repository that has them"
        )
    autoencoder.requires_grad_(True)
    batches = frame_batches(episodes, config.frames, config.autoencoder.seed, weights)
    with Run(out, to_dict(config.autoencoder)) as run:
        metrics = fit(autoencoder, batches, config.autoencoder, run, "autoencoder")
        autoencoder.measure_latents(batches(step)["frames"] for step in range(32))
        run.finish(metrics)
    autoencoder.requires_grad_(False)


def distill(
    teacher: LatentWorldModel,
    episodes: EpisodeSet,
    out: Path,
    config: Distillation,
    device: str = "cpu",
    origin: Origin = None,
) -> LatentWorldModel:
    """A student of `teacher` that takes `sampling_steps` steps a frame without guidance; OUT/world.safetensors."""
    result = out / "world.safetensors"
    warn_outside(episodes, teacher.action_spec, "teacher")
    inputs = {"data": data_hash(episodes), "teacher": identity(teacher)}
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.finished is None:
            settings = replace(teacher.config, steps=config.sampling_steps, guidance=1.0, slide="band")
            student = LatentWorldModel(settings, teacher.action_spec, teacher.fps).to(device)
            student.load_state_dict(teacher.state_dict())
            latents = encode_all(teacher.autoencoder, episodes.frames, precision=config.fit.precision)
            batches = latent_batches(episodes, latents, config.length, config.clips, config.fit.seed, teacher.device)
            both = Consistency(teacher, student, config.truth, config.corruption)
            metrics = fit(both, batches, config.fit, run, "distillation")
            save_component(result, student, Manifest(run.command, config.fit.seed, identity(teacher), metrics, origin))
            run.finish(metrics)
    return load_world(result, device)


def train_judge(
    real: EpisodeSet,
    world: WorldModel,
    out: Path,
    config: JudgeTraining,
    device: str = "cpu",
    *,
    start: SuccessClassifier | None = None,
    origin: Origin = None,
) -> SuccessClassifier:
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
            judge = SuccessClassifier(config.judge).to(device)
            if start is not None:
                judge.load_state_dict(start.state_dict())
            said = every_sentence() if config.language else INSTRUCTIONS
            batches: Batches = success_batches(sets, config.batch, config.fit.seed, said)
            metrics = fit(judge, batches, config.fit, run, "judge")
            metrics |= calibrate(judge, imagine(aside, seed=config.fit.seed + 1), config.stride, real=aside)
            save_component(result, judge, Manifest(run.command, config.fit.seed, data_hash(train), metrics, origin))
            run.finish(metrics)
    return load_classifier(result, device)


def relearn_world(
    recorded: Sequence[EpisodeSet],
    world: LatentWorldModel,
    out: Path,
    config: Relearning,
    seed: int,
    device: str = "cpu",
) -> LatentWorldModel:
    """The world goes on learning from `recorded`, the old episodes first, then sets of new ones in equal parts."""
    shares = (1 - config.new, *[config.new / (len(recorded) - 1)] * (len(recorded) - 1))
    return train_world(recorded, out, reseeded(config.world, seed), device, shares, start=world)


def relearn_judge(
    recorded: Sequence[EpisodeSet],
    world: WorldModel,
    judge: SuccessClassifier,
    out: Path,
    config: Relearning,
    seed: int,
    device: str = "cpu",
) -> SuccessClassifier:
    """The judge goes on learning from all of `recorded`, and from the imagination of that world."""
    return train_judge(concatenate(recorded), world, out, reseeded(config.judge, seed), device, start=judge)
