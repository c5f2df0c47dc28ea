"""Noise, target and loss, in two ways: `Flow`, which ours are trained with, and `Diffusion`, the published one.

Both mix a clean frame x with noise, x_l = signal(l) x + spread(l) noise, where l is the level the network is told, and
every frame of a clip has a level of its own (diffusion forcing, Chen et al. 2024). They differ in the mixture, in what
the network is shown of x_l, in what it answers, and in what the loss weighs. A sampler walks from noise to x: given the
clean frame that the answer implies, `toward` goes on to the next level (DDIM, Song et al. 2021, with eta 0; with the
straight mixture of `Flow` that is an Euler step).
"""

from __future__ import annotations

from typing import Annotated, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldgymnast.configs import Between, ByKind, Fraction, NonNegative, checked

LEVELS = 1000
"""The sinusoid that tells the network a level is made for 0..1000."""


@checked
class FlowConfig:
    """Flow matching (Lipman et al. 2023) of the change from the previous frame; most levels are pure noise.

    Few-step sampling spends its steps at pure noise. The previous frame enters clean, corrupted by noise, or as the
    model itself imagined it (`self_rollout`): the network is then asked to come back from its own drift to the truth,
    which is what it must do when a policy acts inside it.

    Attributes:
        pure_noise: share of frames at pure noise; the others are uniform on the way.
        corruption: largest standard deviation of the noise on the previous frame, drawn uniformly a clip.
        motion: how much more a token counts that moves as much as the average moving one.
        self_rollout: share of clips whose previous frames are the model's own imagination, once training is
            `self_rollout_from` of its way.
        self_rollout_from: see there.
        drop_action: share of clips whose actions are the null action, for guidance.
        unroll: share of clips that are imagined from their first frame, as in use, with the gradient through all of it,
            once training is `unroll_from` of its way.
        unroll_from: see there.
        success: weight of the success head's cross-entropy.
    """

    pure_noise: Fraction = 0.7
    corruption: NonNegative = 0.1
    motion: NonNegative = 3.0
    self_rollout: Fraction = 0.5
    self_rollout_from: Fraction = 0.5
    drop_action: Fraction = 0.0
    unroll: Fraction = 0.0
    unroll_from: Fraction = 0.0
    success: NonNegative = 0.3


@checked
class DiffusionConfig:
    """v-prediction on a sigmoid schedule of 1000 levels, as published (WorldGym, arXiv 2506.00613).

    Attributes:
        context_level: the level that context frames are said to have; they are scaled to it, without noise.
        drop_action: share of clips whose actions are the null action, for guidance.
    """

    context_level: Annotated[int, Between(0, LEVELS - 1)] = 14
    drop_action: Fraction = 0.1


ObjectiveConfig = Annotated[FlowConfig | DiffusionConfig, ByKind()]


@runtime_checkable
class Objective(Protocol):
    """What training and sampling need to know of it. Levels are float tensors of any shape."""

    context: float
    """The level that a clean frame is filed at."""

    def walk(self, steps: int) -> list[float]:
        """Levels from pure noise to clean, steps + 1 of them."""
        ...

    def at(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and spread."""
        ...

    def draw(self, shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "b t"]:
        """Levels to train at, one a frame."""
        ...

    def shown(self, noisy: Tensor, signal: Tensor) -> Tensor:
        """What the network is shown of a noisy frame."""
        ...

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """The answer that is right."""
        ...

    def clean(self, answer: Tensor, noisy: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """The clean frame that an answer implies."""
        ...


class Flow:
    """x_l = (1 - l/1000) noise + l/1000 x; the answer is the change from the previous frame to x.

    A model that is not shown the previous frame answers with x itself.
    """

    context = float(LEVELS)

    def __init__(self, config: FlowConfig):
        self.config = config

    def walk(self, steps: int) -> list[float]:
        """See `Objective`."""
        return torch.linspace(0, LEVELS, steps + 1).tolist()

    def at(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        return level / LEVELS, 1 - level / LEVELS

    def draw(self, shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "b t"]:
        """Levels 0 (pure noise) or uniform."""
        uniform, chosen = torch.rand((2, *shape), generator=generator)
        return LEVELS * torch.where(chosen < self.config.pure_noise, torch.zeros(()), uniform)

    def shown(self, noisy: Tensor, signal: Tensor) -> Tensor:
        """Pure noise, which says nothing, enters as zeros.

        The input scaling of Karras et al. 2022 for this flow, without which that noise drowns the previous frame.
        """
        return signal * noisy

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """See `Objective`."""
        return clean - previous

    def clean(self, answer: Tensor, noisy: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """See `Objective`."""
        return previous + answer


class Diffusion:
    """x_l = sqrt(power) x + sqrt(1 - power) noise; the answer is v = sqrt(power) noise - sqrt(1 - power) x."""

    def __init__(self, config: DiffusionConfig):
        self.context = float(config.context_level)
        self.power = torch.cat([sigmoid_schedule(), torch.ones(1, device="cpu")])  # last: level -1, clean

    def walk(self, steps: int) -> list[float]:
        """Whole levels from 999 to -1."""
        return torch.linspace(-1, LEVELS - 1, steps + 1).long().flip(0).float().tolist()

    def at(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        power = self.power[level.long().cpu()].to(level.device)
        return power.sqrt(), (1 - power).sqrt()

    def draw(self, shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "b t"]:
        """Uniform whole levels."""
        return torch.randint(LEVELS, shape, generator=generator).float()

    def shown(self, noisy: Tensor, signal: Tensor) -> Tensor:
        """All of it."""
        return noisy

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """See `Objective`."""
        return signal * noise - spread * clean

    def clean(self, answer: Tensor, noisy: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """See `Objective`."""
        return signal * noisy - spread * answer


def objective(config: ObjectiveConfig) -> Objective:
    """The objective of that configuration."""
    return Flow(config) if isinstance(config, FlowConfig) else Diffusion(config)


def sigmoid_schedule(levels: int = LEVELS, start: float = -3.0, end: float = 3.0) -> Float[Tensor, " levels"]:
    """Signal power (alphas_cumprod) of every level: a sigmoid from `start` to `end`, betas clipped to 0.999.

    Always on the CPU, also where models are made on another default device, such as "meta".
    """
    t = torch.linspace(0, 1, levels + 1, dtype=torch.float64, device="cpu")
    first, last = torch.sigmoid(torch.tensor([start, end], dtype=torch.float64, device="cpu"))
    power = (last - torch.sigmoid(t * (end - start) + start)) / (last - first)
    power = power / power[0]
    betas = (1 - power[1:] / power[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0).float()


def toward(clean: Tensor, noisy: Tensor, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> Tensor:
    """The noisy frame at the next level, where `clean` is what is believed: signals and spreads now and then."""
    noise = (noisy - now[0] * clean) / now[1].clamp(min=1e-6)
    return then[0] * clean + then[1] * noise


def motion_weights(latents: Float[Tensor, "b t1 h w c"], patch: int, strength: float) -> Float[Tensor, "b t h w 1"]:
    """Loss weights of frames 1..t, mean 1: what differs from the frame before or from the first frame counts more."""
    step = (latents[:, 1:] - latents[:, :-1]).square().mean(-1)
    since_start = (latents[:, 1:] - latents[:, :1]).square().mean(-1)
    moved = (step + 0.5 * since_start).unflatten(2, (-1, patch)).unflatten(4, (-1, patch)).mean((3, 5))
    weight = 1 + strength * (moved / (moved.mean() + 1e-6)).clamp(max=4.0)
    weight = weight / weight.mean()
    return weight.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., None]


def weighted_error(
    answer: Float[Tensor, "b t h w c"],
    target: Float[Tensor, "b t h w c"],
    weight: Float[Tensor, "*#b #t #h #w #c"],
    mask: Bool[Tensor, "b t"],
) -> Tensor:
    """Squared error averaged over what is logged (not padding)."""
    error = ((answer - target).square() * weight).mean((2, 3, 4))
    return (error * mask).sum() / mask.sum().clamp(min=1)
