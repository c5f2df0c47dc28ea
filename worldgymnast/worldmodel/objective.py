"""Noise schedule, prediction target and loss weights of a world model: `Flow` (ours) and `Diffusion` (published).

Both mix a clean frame x with noise, x_l = signal(l) x + spread(l) noise. The noise level l is an input of the network,
and every frame of a clip has its own (diffusion forcing, Chen et al. 2024). The two objectives differ in the schedule,
the network's input, its prediction target and the loss weights. A sampler denoises level by level: the prediction gives
an estimate of the clean frame, and `ddim_step` moves to the next level (DDIM, Song et al. 2021, eta 0; for the linear
schedule of `Flow` this is an Euler step).
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from worldgymnast.configs import Between, ByKind, Fraction, NonNegative, checked

LEVELS = 1000
"""Noise levels run from 0 to 1000, the range of the network's sinusoidal embedding."""


@checked
class FlowConfig:
    """Flow matching (Lipman et al. 2023) of the change from the previous frame.

    Most training frames are pure noise, where few-step sampling spends its steps. The previous frame is an input:
    clean, corrupted by noise, or imagined by the model itself (`self_rollout`). The last teaches the network to correct
    its own drift, as it must when a policy acts in it.

    Attributes:
        pure_noise: share of frames trained at pure noise; the levels of the others are uniform.
        corruption: largest standard deviation of the noise on the previous frame; drawn uniformly per clip.
        motion: additional loss weight of a token that moves as much as the average moving token.
        self_rollout: share of clips whose previous frames the model imagined itself.
        self_rollout_from: training progress (0..1) at which `self_rollout` begins.
        drop_action: share of clips trained with the null action, for classifier-free guidance.
        unroll: share of clips imagined from their first frame, with gradients through the whole rollout.
        unroll_from: training progress (0..1) at which `unroll` begins.
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
        context_level: noise level assigned to context frames; they are scaled to it, without added noise.
        drop_action: share of clips trained with the null action, for classifier-free guidance.
    """

    context_level: Annotated[int, Between(0, LEVELS - 1)] = 14
    drop_action: Fraction = 0.1


ObjectiveConfig = Annotated[FlowConfig | DiffusionConfig, ByKind()]


@runtime_checkable
class Objective(Protocol):
    """Noise schedule and prediction target. Levels are float tensors of any shape."""

    context_level: float
    """Noise level of clean context frames."""

    def timesteps(self, steps: int) -> list[float]:
        """Noise levels from pure noise to clean, steps + 1 of them."""
        ...

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and spread, in the shape of `level`."""
        ...

    def sample_levels(self, shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "b t"]:
        """Noise levels to train at, one per frame."""
        ...

    def network_input(self, noisy: Tensor, signal: Tensor) -> Tensor:
        """Scaling of noisy latents before they enter the network."""
        ...

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """Target of the network's prediction."""
        ...

    def clean(self, prediction: Tensor, noisy: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """Clean frame implied by a prediction."""
        ...


class Flow:
    """x_l = (1 - l/1000) noise + l/1000 x.

    The prediction is the change from the previous frame to x.

    A model without the previous frame as input predicts x itself.
    """

    context_level = float(LEVELS)

    def __init__(self, config: FlowConfig):
        self.config = config

    def timesteps(self, steps: int) -> list[float]:
        """Levels 0 (pure noise) to 1000 (clean), evenly spaced."""
        return torch.linspace(0, LEVELS, steps + 1).tolist()

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and spread: level / 1000 and 1 - level / 1000."""
        return level / LEVELS, 1 - level / LEVELS

    def sample_levels(self, shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "b t"]:
        """Levels 0 (pure noise), or uniform."""
        uniform, choice = torch.rand((2, *shape), generator=generator)
        return LEVELS * torch.where(choice < self.config.pure_noise, torch.zeros(()), uniform)

    def network_input(self, noisy: Tensor, signal: Tensor) -> Tensor:
        """Latents scaled by the signal: pure noise, which carries no information, becomes zeros.

        This is the input scaling of Karras et al. 2022 for this flow. Without it the noise drowns the previous frame.
        """
        return signal * noisy

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """Change from the previous frame to the clean one."""
        return clean - previous

    def clean(self, prediction: Tensor, noisy: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """Previous frame plus the predicted change."""
        return previous + prediction


class Diffusion:
    """x_l = sqrt(power) x + sqrt(1 - power) noise.

    The prediction is v = sqrt(power) noise - sqrt(1 - power) x.
    """

    def __init__(self, config: DiffusionConfig):
        self.context_level = float(config.context_level)
        self.power = torch.cat([sigmoid_schedule(), torch.ones(1, device="cpu")])  # last: level -1, clean

    def timesteps(self, steps: int) -> list[float]:
        """Integer levels from 999 (pure noise) to -1 (clean)."""
        return torch.linspace(-1, LEVELS - 1, steps + 1).long().flip(0).float().tolist()

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and spread: square roots of the power of signal and of noise."""
        power = self.power[level.long().cpu()].to(level.device)
        return power.sqrt(), (1 - power).sqrt()

    def sample_levels(self, shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "b t"]:
        """Uniform integer levels 0..999."""
        return torch.randint(LEVELS, shape, generator=generator).float()

    def network_input(self, noisy: Tensor, signal: Tensor) -> Tensor:
        """Noisy latents, unscaled."""
        return noisy

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """Velocity v of Salimans and Ho 2022."""
        return signal * noise - spread * clean

    def clean(self, prediction: Tensor, noisy: Tensor, signal: Tensor, spread: Tensor, previous: Tensor) -> Tensor:
        """Clean frame from the velocity."""
        return signal * noisy - spread * prediction


def objective(config: ObjectiveConfig) -> Objective:
    """Build the objective of a config."""
    return Flow(config) if isinstance(config, FlowConfig) else Diffusion(config)


def sigmoid_schedule(levels: int = LEVELS, start: float = -3.0, end: float = 3.0) -> Float[Tensor, " levels"]:
    """Signal power (alphas_cumprod) per level: a sigmoid from `start` to `end`, betas clipped to 0.999.

    Always on the CPU, even under another default device such as "meta".
    """
    t = torch.linspace(0, 1, levels + 1, dtype=torch.float64, device="cpu")
    first, last = torch.sigmoid(torch.tensor([start, end], dtype=torch.float64, device="cpu"))
    power = (last - torch.sigmoid(t * (end - start) + start)) / (last - first)
    power = power / power[0]
    betas = (1 - power[1:] / power[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0).float()


def ddim_step(clean: Tensor, noisy: Tensor, current: tuple[Tensor, Tensor], following: tuple[Tensor, Tensor]) -> Tensor:
    """Noisy latents at the next level, by a deterministic DDIM step (Song et al. 2021, eta 0).

    Args:
        clean: estimate of the clean latents.
        noisy: latents at the current level.
        current: signal and spread of the current level.
        following: signal and spread of the next level.
    """
    noise = (noisy - current[0] * clean) / current[1].clamp(min=1e-6)
    return following[0] * clean + following[1] * noise


def motion_weights(latents: Float[Tensor, "b t1 h w c"], patch: int, strength: float) -> Float[Tensor, "b t h w 1"]:
    """Loss weights of frames 1..t, mean 1.

    Higher where latents change between frames or since the first frame.
    """
    step = (latents[:, 1:] - latents[:, :-1]).square().mean(-1)
    since_start = (latents[:, 1:] - latents[:, :1]).square().mean(-1)
    moved = (step + 0.5 * since_start).unflatten(2, (-1, patch)).unflatten(4, (-1, patch)).mean((3, 5))
    weight = 1 + strength * (moved / (moved.mean() + 1e-6)).clamp(max=4.0)
    weight = weight / weight.mean()
    return weight.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., None]


def weighted_error(
    prediction: Float[Tensor, "b t h w c"],
    target: Float[Tensor, "b t h w c"],
    weight: Float[Tensor, "*#b #t #h #w #c"],
    mask: Bool[Tensor, "b t"],
) -> Tensor:
    """Mean weighted squared error over frames that are not padding."""
    error = ((prediction - target).square() * weight).mean((2, 3, 4))
    return (error * mask).sum() / mask.sum().clamp(min=1)
