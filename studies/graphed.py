"""Train a world-model variant on a GPU for a fixed time, with its imagination as one CUDA graph.

    python -m studies.graphed all runs/study/a1 --data runs/study/data --seconds 215 --clips 144 --lr 8e-4

Training a small world model on its own rollouts is bound by kernel launches: thousands per step, frame after frame.
Captured once and replayed, they take a ninth of the time (H100: 0.81 to 0.087 seconds for forward and backward of 32
clips of 24 frames), with bit-identical outputs and gradients. The learning rate follows the remaining time, so nothing
is measured first. A stopped training starts over.

OUT is laid out as by `worlds.py train`: OUT/world/world.safetensors, OUT/world-16.safetensors, OUT/plan.json.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tyro.conf import Positional

from studies.command import Out, run
from studies.episodes import load_shared
from studies.variants import training
from studies.worlds import HALVED, begin, device_name
from worldgymnast.episodes.shares import balanced_weights, share_weights
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.precision import Precision, autocast
from worldgymnast.registry import Manifest, save_component
from worldgymnast.training.batches import encode_all, frame_batches, latent_batches
from worldgymnast.training.fit import Batches, Prefetcher, step_generator
from worldgymnast.training.world import WorldTraining
from worldgymnast.weights import to_json, write_text
from worldgymnast.worldmodel.autoencoder import Autoencoder
from worldgymnast.worldmodel.objective import FlowConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel

_BETAS, _CLIP, _WARM = (0.9, 0.99), 1.0, 0.04


class Imagined(nn.Module):
    """Imagination of a world model from first latents, actions and noise, as a module with trainable weights."""

    world: LatentWorldModel

    def __init__(self, world: LatentWorldModel):
        super().__init__()
        self.transformer = world.transformer  # whose gradients the graph fills
        self.state_head = world.state_head if world.config.state_input else None  # and those of the states fed back
        object.__setattr__(self, "world", world)

    def forward(
        self, first: Tensor, actions: Tensor, noise: Tensor, *start: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Call `LatentWorldModel._unroll`."""
        return LatentWorldModel._unroll(self.world, first, actions, noise, *start)


def capture(world: LatentWorldModel, clips: int, length: int) -> Callable[..., Any]:
    """Return `Imagined`.

    On a GPU as a CUDA graph, captured before other threads use the GPU.
    """
    module, c = Imagined(world), world.config.transformer
    if world.device.type != "cuda":
        return module
    first = torch.zeros(clips, *c.grid, c.channels, device=world.device)
    actions = torch.zeros(clips, length, c.action_dim, device=world.device)
    noise = torch.randn(length, *first.shape, device=world.device)
    start = (torch.zeros(clips, world.state_dim, device=world.device),) if world.config.state_input else ()
    return torch.cuda.make_graphed_callables(module, (first, actions, noise, *start), allow_unused_input=True)


def train_for(
    module: nn.Module,
    batches: Batches,
    seconds: float,
    lr: float,
    *,
    ema: float,
    weight_decay: float,
    precision: Precision,
) -> tuple[int, dict[str, float]]:
    """Train `module` in place for `seconds`, load averaged weights, and return steps and last metrics."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, betas=_BETAS)
    averaged = [p.detach().clone() for p in trained]
    device, began, steps, last = trained[0].device, time.monotonic(), 0, {}
    with Prefetcher(batches, itertools.count()) as prefetcher:
        while (progress := (time.monotonic() - began) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = lr * _schedule(progress)
            batch = prefetcher.take()
            optimizer.zero_grad()
            with autocast(precision, device):
                loss, last = module.loss({**batch, "generator": step_generator(0, steps), "progress": progress})  # pyright: ignore[reportCallIssue]
            if not math.isfinite(last["loss"]):
                raise FloatingPointError(f"Loss is {last['loss']} at step {steps}. Training stopped. Lower --lr")
            loss.backward()
            nn.utils.clip_grad_norm_(trained, _CLIP)
            optimizer.step()
            with torch.no_grad():
                for mean, parameter in zip(averaged, trained, strict=True):
                    mean.lerp_(parameter, 1 - min(ema, (1 + steps) / (10 + steps)))
            if steps % 100 == 0:
                text = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
                print(f"step {steps}, {time.monotonic() - began:.0f} s: {text}", flush=True)
            steps += 1
    with torch.no_grad():
        for parameter, mean in zip(trained, averaged, strict=True):
            parameter.copy_(mean)
    return steps, last


def train_frames(
    world: LatentWorldModel, data: EpisodeSet, weights: np.ndarray | None, config: WorldTraining, seconds: float
) -> None:
    """Train the autoencoder of `world` in place for `seconds`, and measure its latents."""
    autoencoder, fit = world.autoencoder, config.autoencoder
    assert isinstance(autoencoder, Autoencoder)
    autoencoder.requires_grad_(True)
    batches = frame_batches(data, config.frames, 0, weights)
    train_for(
        autoencoder, batches, seconds, fit.lr, ema=fit.ema, weight_decay=fit.weight_decay, precision=fit.precision
    )
    autoencoder.measure_latents(batches(step)["frames"] for step in range(16))
    autoencoder.requires_grad_(False)


def train_clips(
    world: LatentWorldModel,
    data: EpisodeSet,
    weights: np.ndarray | None,
    config: WorldTraining,
    seconds: float,
    lr: float,
) -> tuple[int, dict[str, float]]:
    """Train the transformer of `world` in place for `seconds`, encoding of the frames included.

    Returns:
        Steps and last metrics.
    """
    deadline = time.monotonic() + seconds
    latents = encode_all(world.autoencoder, data.frames, precision=config.fit.precision)
    objective = world.config.objective
    assert isinstance(objective, FlowConfig)
    object.__setattr__(world, "_unroll", capture(world, round(objective.unroll * config.clips), config.length))
    drawn = balanced_weights(data, weights) if config.balanced else weights
    batches = latent_batches(data, latents, config.length, config.clips, config.fit.seed, world.device, drawn)
    return train_for(
        world,
        batches,
        deadline - time.monotonic(),
        lr,
        ema=config.fit.ema,
        weight_decay=config.fit.weight_decay,
        precision="fp32",
    )


def _schedule(progress: float) -> float:
    """Return the factor of the learning rate: linear warmup, then cosine decay."""
    return min(1, progress / _WARM + 0.01) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True, kw_only=True)
class Graphed:
    """Train one variant for a fixed time.

    Attributes:
        variant: its name in studies/variants.py.
        out: the run folder.
        data: folder written by `worlds.py record`.
        seconds: total time.
        start: "starter", "nothing", or a world model's file, as for `worlds.py train`.
        clips: clips per step.
        lr: peak learning rate.
        explored: share of clips from explorers' sets; by default proportional to their length.
        autoencoder: seconds of autoencoder training, if the world model starts from nothing.
        frames: frames per step of the autoencoder.
        device: of the training; nothing is captured without a GPU.
    """

    variant: Positional[str]
    out: Out
    data: Path
    seconds: float
    start: str = "starter"
    clips: int = 96
    lr: float = 1e-3
    explored: float | None = None
    autoencoder: float = 60.0
    frames: int = 128
    device: str = "cuda"

    def __call__(self) -> None:
        """Train, unless already done."""
        if (self.out / "plan.json").exists():
            print(f"{self.out}: already trained")
            return
        deadline = time.monotonic() + self.seconds
        torch.backends.cuda.matmul.allow_tf32 = True
        config = replace(training(self.variant), clips=self.clips, frames=self.frames)
        sets, shares = load_shared(self.data, self.explored)
        data, weights = concatenate(sets), share_weights(sets, shares)
        world, kept = self._initial(config, data, weights)
        steps, metrics = train_clips(world, data, weights, config, deadline - time.monotonic(), self.lr)
        made = Manifest(f"studies/graphed.py {self.variant}", config.fit.seed, data_hash(data), metrics)
        (self.out / "world").mkdir(parents=True, exist_ok=True)
        save_component(self.out / "world" / "world.safetensors", world, made)
        save_component(self.out / HALVED, world, made, half=True)
        plan = {
            **{"variant": self.variant, "start": self.start, "kept": kept, "clips": self.clips, "lr": self.lr},
            **{"explored": self.explored, "minutes": self.seconds / 60, "device": device_name(self.device)},
            **{"steps": steps, "seconds_a_step": self.seconds / steps},
            "training_frames": steps * self.clips * config.length,
            "parameters": sum(p.numel() for p in world.transformer.parameters()),
        }
        write_text(self.out / "plan.json", to_json(plan))
        print(f"{self.out}: {steps} steps")

    def _initial(
        self, config: WorldTraining, data: EpisodeSet, weights: np.ndarray | None
    ) -> tuple[LatentWorldModel, str]:
        """Return the world model to train, with a trained autoencoder, and what it kept of the start."""
        if self.start != "nothing":
            return begin(self.start, config, data, self.out.parent / "autoencoders", self.seconds / 60, self.device)
        torch.manual_seed(config.fit.seed)
        world = LatentWorldModel(config.world, data.spec, data.fps, data.tiling).to(self.device)
        train_frames(world, data, weights, config, self.autoencoder)
        return world, "nothing"


if __name__ == "__main__":
    sys.exit(run(Graphed, __doc__))
