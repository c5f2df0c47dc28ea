"""Distills a world model into one that takes fewer sampling steps per frame; resumable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from worldgymnast.arguments import implements
from worldgymnast.configs import Fraction, NonNegative, Positive, checked
from worldgymnast.episodes.windows import EpisodeSet, data_hash, warn_out_of_range
from worldgymnast.errors import InputError
from worldgymnast.protocols import ComponentInfo, TrainableWorld, WorldModel, tiling_of
from worldgymnast.registry import Manifest, load_world, make, save_component, to_dict
from worldgymnast.run import Run
from worldgymnast.training.batches import encode_all, latent_batches
from worldgymnast.training.fit import FitConfig, fit
from worldgymnast.training.world import Origin
from worldgymnast.weights import identity
from worldgymnast.worldmodel.consistency import Consistency


@checked
class Distillation:
    """Distillation into a world model with fewer sampling steps and without guidance.

    Attributes:
        sampling_steps: sampling steps of the student per frame.
        truth: weight of the error to the true frame; the rest is the error to the teacher's prediction.
        corruption: largest standard deviation of the noise on past frames.
        clips: clips per step.
        length: actions per clip.
        fit: the training loop.
    """

    sampling_steps: Positive = 1
    truth: Fraction = 0.5
    corruption: NonNegative = 0.1
    clips: Positive = 4
    length: Positive = 12
    fit: FitConfig = FitConfig(steps=500, lr=5e-5, ema=0.99, save_every=100)


def distill(
    teacher: WorldModel,
    episodes: EpisodeSet,
    out: Path,
    config: Distillation,
    device: str = "cpu",
    origin: Origin = None,
) -> WorldModel:
    """Train a student of `teacher`; write OUT/world.safetensors.

    Args:
        teacher: the world model to distill.
        episodes: real episodes to learn from.
        out: the run folder.
        config: the training.
        device: of the returned student.
        origin: see `Manifest.origin`.

    Raises:
        InputError: `teacher` has no latents to learn from.
    """
    teacher_module: Any = teacher
    if not implements(teacher, TrainableWorld):
        raise InputError(
            f"{type(teacher).__name__} cannot be distilled, because it has no latents for a student to learn from. "
            "Give a world model that was trained here"
        )
    result = out / "world.safetensors"
    warn_out_of_range(episodes, teacher.action_spec, "teacher")
    inputs = {"data": data_hash(episodes), "teacher": identity(teacher)}
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.summary is None:
            settings = replace(teacher.config, steps=config.sampling_steps, guidance=1.0, slide="band")
            stored = ComponentInfo(action_spec=teacher.action_spec, fps=teacher.fps, tiling=tiling_of(teacher))
            student = make("worlds", settings, stored).to(device)
            student.load_state_dict(teacher.state_dict())
            latents = encode_all(teacher.autoencoder, episodes.frames, precision=config.fit.precision)
            batches = latent_batches(episodes, latents, config.length, config.clips, config.fit.seed, teacher.device)
            consistency = Consistency(teacher_module, student, config.truth, config.corruption)
            metrics = fit(consistency, batches, config.fit, run, "distillation")
            save_component(result, student, Manifest(run.command, config.fit.seed, identity(teacher), metrics, origin))
            run.finish(metrics)
    return load_world(result, device)
