"""Trains a world model on logged episodes; resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldgymnast.actions import union
from worldgymnast.arguments import implements
from worldgymnast.configs import LATER, Positive, checked
from worldgymnast.episodes.shares import balanced_weights, share_weights
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash, state_hash
from worldgymnast.errors import FieldError, InputError
from worldgymnast.protocols import ComponentInfo, TrainableWorld, WorldModel, tiling_of
from worldgymnast.registry import Manifest, WorldConfig, load_world, make, save_component, to_dict
from worldgymnast.run import Run
from worldgymnast.training.batches import encode_all, frame_batches, latent_batches
from worldgymnast.training.fit import Batches, FitConfig, fit
from worldgymnast.weights import identity
from worldgymnast.worldmodel.autoencoder import Autoencoder
from worldgymnast.worldmodel.objective import FlowConfig
from worldgymnast.worldmodel.vae import ImageVAE

EMBEDDED = WorldConfig(
    objective=FlowConfig(pure_noise=1.0, self_rollout=0.0, unroll=0.67, unroll_from=0.3, success=0.5),
    detail=0.3,
    success_head=64,
)
"""Default world model: one sampling step per frame, trained on its own rollouts, with a success head."""


@checked
class WorldTraining:
    """Training of the autoencoder, then of the transformer over its latents.

    Attributes:
        world: the world model: its sizes, and how it imagines.
        frames: frames per step of the autoencoder.
        autoencoder: training loop of the autoencoder.
        clips: clips per step of the transformer. If omitted, `train-world` takes fewer where `length` is longer: 12 at
            30 frames per second.
        length: actions per clip. If omitted, `train-world` scales it to the data's rate: 48, the most, at 30 frames
            per second.
        fit: training loop of the transformer.
        balanced: draw half of the clips of each task from successful episodes, half from failed ones.
        thaw: when starting from a world model, also finetune its autoencoder (for unseen colors and objects).
        new_robot: when starting from a world model of another robot, learn what actions and state mean anew.
    """

    world: WorldConfig = EMBEDDED
    frames: Positive = 32
    autoencoder: FitConfig = FitConfig(steps=1800, lr=2e-3, weight_decay=0.0, ema=0.99)
    clips: Positive = 24
    length: Positive = 24
    fit: FitConfig = FitConfig(steps=2000, lr=1.5e-3, ema=0.995)
    balanced: bool = True
    thaw: bool = False
    new_robot: bool = field(default=False, metadata=LATER)


_OF_THE_ROBOT = ("transformer.action_embedder.", "transformer.state_embedder.", "state_head.")
"""Prefixes of the weights that depend on the robot's actions and state."""
_ADDED = ("success_head", "state_dim", "state_input")
"""Fields of a config that are added to a world model to start from, if it has none."""
Origin = Mapping[str, Any] | None
"""See `Manifest.origin`."""


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
    """Train an autoencoder, then the transformer over its latents; write OUT/world.safetensors.

    Args:
        episodes: one data set or several.
        out: the run folder.
        config: the training. `start` and `autoencoder` override its world model, except that a success head, a state
            head and the state as an input are added if `start` has none.
        device: of the training.
        shares: share of each set in the clips and frames; by default proportional to its length.
        start: a world model to finetune, including its autoencoder; of another robot with `config.new_robot`.
        autoencoder: a trained autoencoder to use unchanged.
        origin: see `Manifest.origin`.

    Raises:
        InputError: `autoencoder` is given and `config.thaw` is set, or the kind of `start` cannot be trained here.
    """
    initial = _initial(start, autoencoder, config)
    before = None if config.new_robot else initial.world
    result = out / "world.safetensors"
    sets = [episodes] if isinstance(episodes, EpisodeSet) else episodes
    data, weights = concatenate(sets), share_weights(sets, shares)
    spec = data.spec if before is None else union([before.action_spec, data.spec])
    inputs: dict[str, Any] = {"data": data_hash(data)}
    if shares:
        inputs["shares"] = [[float(share), len(part)] for part, share in zip(sets, shares, strict=True)]
    if (component := initial.component) is not None:
        inputs["start"] = identity(component)
    config = replace(config, world=initial.config(config.world, has_labels=bool(data.labelled.any())))
    if (state_dim := config.world.state_dim) and state_dim != data.state_dim:
        raise InputError(
            f"world model predicts a state of {state_dim} numbers, but the data have {data.state_dim or 'none'}. Give "
            "data with the same state, or train without a state head"
        )
    if state_dim:
        inputs["state"] = state_hash(data)
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.summary is None:
            torch.manual_seed(config.fit.seed)
            tiling = tiling_of(before) or data.tiling
            stored = ComponentInfo(action_spec=spec, fps=data.fps, tiling=tiling)
            world = make("worlds", config.world, stored).to(device)
            if state_dim and data.state is not None:
                world.measure_state(data.state[data.rows])
            initial.load_into(world)
            if component is None or config.thaw:
                train_autoencoder(world, data, out / "autoencoder", config, weights)
            batches = _clip_batches(world, data, config, weights)
            metrics = fit(world, batches, config.fit, run, "world model")
            save_component(result, world, Manifest(run.command, config.fit.seed, inputs["data"], metrics, origin))
            run.finish(metrics)
    return load_world(result, device)


@dataclass(frozen=True)
class _Initial:
    """The weights a training starts from: those of a world model, of an autoencoder, or none."""

    world: TrainableWorld | None
    autoencoder: Autoencoder | ImageVAE | None
    new_robot: bool = False

    @property
    def component(self) -> TrainableWorld | Autoencoder | ImageVAE | None:
        """The component that provides weights, or None."""
        return self.world or self.autoencoder

    def config(self, config: WorldConfig, has_labels: bool) -> WorldConfig:
        """Return the config of the world model to train.

        Without labels, no success head can be trained.
        """
        if self.world is not None:
            own = self.world.config
            if self.new_robot:
                transformer = replace(own.transformer, action_dim=config.transformer.action_dim)
                own = replace(own, transformer=transformer, state_dim=0, state_input=False)
            config = replace(own, **{name: getattr(own, name) or getattr(config, name) for name in _ADDED})
        elif self.autoencoder is not None:
            config = replace(config, autoencoder=self.autoencoder.config)
        return config if has_labels else replace(config, success_head=0)

    def load_into(self, world: Any) -> None:
        """Copy the weights into `world`; a success head and a state head may be missing in them.

        For a new robot, what reads actions and state keeps its fresh weights.
        """
        if self.world is not None:
            weights = self.world.state_dict()
            if self.new_robot:
                weights = {name: value for name, value in weights.items() if not name.startswith(_OF_THE_ROBOT)}
            world.load_state_dict(weights, strict=False)
        elif self.autoencoder is not None:
            world.autoencoder.load_state_dict(self.autoencoder.state_dict())


def _initial(start: WorldModel | None, autoencoder: Autoencoder | ImageVAE | None, config: WorldTraining) -> _Initial:
    """Check what a training starts from.

    Raises:
        InputError: see `train_world`.
    """
    if start is not None and not implements(start, TrainableWorld):
        raise InputError(
            f"{type(start).__name__} cannot be trained here. Train it with its own program, and pass the resulting file"
        )
    if autoencoder is not None and config.thaw:
        raise FieldError(
            "thaw, autoencoder",
            "found both, expected one: thaw is for the autoencoder of a world model to start from",
        )
    return _Initial(start, autoencoder, config.new_robot)


def _clip_batches(
    world: TrainableWorld, data: EpisodeSet, config: WorldTraining, weights: np.ndarray | None
) -> Batches:
    """Encode all frames, and return the batches of the transformer."""
    latents = encode_all(world.autoencoder, data.frames, precision=config.fit.precision)
    drawn = balanced_weights(data, weights) if config.balanced else weights
    return latent_batches(data, latents, config.length, config.clips, config.fit.seed, world.device, drawn)


def train_autoencoder(
    world: TrainableWorld, episodes: EpisodeSet, out: Path, config: WorldTraining, weights: np.ndarray | None = None
) -> None:
    """Train the autoencoder of `world` in place, and measure its latents.

    Args:
        world: the world model; its transformer does not change.
        episodes: provide the frames.
        out: a run folder of its own.
        config: the training.
        weights: probability that a frame is drawn from each episode, float [e]; by default all frames are equally
            likely.

    Raises:
        InputError: the autoencoder is an image VAE.
    """
    autoencoder = world.autoencoder
    if not isinstance(autoencoder, Autoencoder):
        raise FieldError(
            "autoencoder",
            "found an image VAE, whose weights cannot be trained here. Name a world model, a folder or a hub "
            "repository that has them",
        )
    autoencoder.requires_grad_(True)
    batches = frame_batches(episodes, config.frames, config.autoencoder.seed, weights)
    with Run(out, to_dict(config.autoencoder)) as run:
        metrics = fit(autoencoder, batches, config.autoencoder, run, "autoencoder")
        autoencoder.measure_latents(batches(step)["frames"] for step in range(32))
        run.finish(metrics)
    autoencoder.requires_grad_(False)
