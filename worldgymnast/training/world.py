"""Training a world model from logged episodes: one run folder in, one file out; resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldgymnast.actions import union
from worldgymnast.configs import Positive, checked
from worldgymnast.episodes.shares import balanced, weigh
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.errors import FieldError, InputError
from worldgymnast.protocols import ComponentInfo, TrainableWorld, WorldModel
from worldgymnast.registry import Manifest, WorldConfig, load_world, make, save_component, to_dict
from worldgymnast.run import Run
from worldgymnast.training.batches import encode_all, frame_batches, latent_batches
from worldgymnast.training.fit import FitConfig, fit
from worldgymnast.weights import identity
from worldgymnast.worldmodel.autoencoder import Autoencoder
from worldgymnast.worldmodel.objective import FlowConfig
from worldgymnast.worldmodel.vae import ImageVAE

EMBEDDED = WorldConfig(
    objective=FlowConfig(pure_noise=1.0, self_rollout=0.0, unroll=0.67, unroll_from=0.3, success=0.5),
    detail=0.3,
    success_head=64,
)
"""The embedded world: one step a frame, trained through its own imagination, with an opinion of its own on success."""


@checked
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

    world: WorldConfig = EMBEDDED
    frames: Positive = 32
    autoencoder: FitConfig = FitConfig(steps=1800, lr=2e-3, weight_decay=0.0, ema=0.99)
    clips: Positive = 24
    length: Positive = 24
    fit: FitConfig = FitConfig(steps=2000, lr=1.5e-3, ema=0.995)
    balanced: bool = True
    thaw: bool = False


Origin = Mapping[str, Any] | None


def train_world(
    episodes: EpisodeSet | Sequence[EpisodeSet],
    out: Path,
    config: WorldTraining,
    device: str = "cpu",
    shares: Sequence[float] = (),
    *,
    start: WorldModel | None = None,
    autoencoder: Autoencoder | ImageVAE | None = None,
    origin: Origin = None,
) -> WorldModel:
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
        InputError: an autoencoder is given to be taken as it is, and the config thaws it; or `start` is of a kind that
            is not trained here.
    """
    if start is not None and not isinstance(start, TrainableWorld):
        raise InputError(f"{type(start).__name__} is not trained here. Train it by its own program, and give its file")
    if autoencoder is not None and config.thaw:
        raise FieldError("thaw, autoencoder", "found both, expected one: it is taken as it is, or trained on")
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
            world = make("worlds", config.world, ComponentInfo(action_spec=spec, fps=data.fps)).to(device)
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
    config: WorldConfig, start: TrainableWorld | None, autoencoder: Autoencoder | ImageVAE | None
) -> WorldConfig:
    """The config of a world model that goes on from `start`, or that takes `autoencoder`."""
    if start is not None:
        return replace(start.config, success_head=start.config.success_head or config.success_head)
    return replace(config, autoencoder=config.autoencoder if autoencoder is None else autoencoder.config)


def train_autoencoder(
    world: TrainableWorld, episodes: EpisodeSet, out: Path, config: WorldTraining, weights: np.ndarray | None = None
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
        raise FieldError(
            "autoencoder",
            "found an image VAE, whose weights are not trained here; name a world model, a folder "
            "or a hub repository that has them",
        )
    autoencoder.requires_grad_(True)
    batches = frame_batches(episodes, config.frames, config.autoencoder.seed, weights)
    with Run(out, to_dict(config.autoencoder)) as run:
        metrics = fit(autoencoder, batches, config.autoencoder, run, "autoencoder")
        autoencoder.measure_latents(batches(step)["frames"] for step in range(32))
        run.finish(metrics)
    autoencoder.requires_grad_(False)
