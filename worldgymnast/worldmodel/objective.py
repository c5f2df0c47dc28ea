"""Noise, target and loss: flow matching with an independent noise level per frame (diffusion forcing).

A frame at level s in [0, 1] is x_s = (1 - s) noise + s x (Lipman et al. 2023; s = 0 is pure noise); every frame of a
clip has its own s (Chen et al. 2024, diffusion forcing). The network answers with the change from the previous frame
to the clean frame x, and the loss is its squared error, weighted toward what moves. Most levels are 0, where few-step
sampling spends its steps.

The first frame of the clip enters beside the previous one, as an anchor for what does not move. The previous frame
enters clean, corrupted by noise, or as the model itself imagined it (`self_rollout`): the network is then asked to come
back from its own drift to the truth, which is what it must do when a policy acts inside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class FlowConfig:
    """The training objective.

    Attributes:
        pure_noise: share of frames at level 0; the others are uniform in [0, 1].
        corruption: largest standard deviation of the noise on the previous frame, drawn uniformly a clip.
        motion: how much more a token counts that moves as much as the average moving one.
        self_rollout: share of clips whose previous frames are the model's own imagination, once training is
            `self_rollout_from` of its way.
        self_rollout_from: see there.
    """

    pure_noise: float = 0.7
    corruption: float = 0.1
    motion: float = 3.0
    self_rollout: float = 0.5
    self_rollout_from: float = 0.5


def sample_levels(shape: tuple[int, int], pure_noise: float, generator: torch.Generator) -> Float[Tensor, "b t"]:
    """Independent noise levels."""
    uniform, chosen = torch.rand((2, *shape), generator=generator)
    return torch.where(chosen < pure_noise, torch.zeros(()), uniform)


def mix(
    clean: Float[Tensor, "b t h w c"], noise: Float[Tensor, "b t h w c"], level: Float[Tensor, "b t"]
) -> Float[Tensor, "b t h w c"]:
    """x_s = (1 - s) noise + s x."""
    s = level[:, :, None, None, None]
    return (1 - s) * noise + s * clean


def as_input(noisy: Float[Tensor, "b t h w c"], level: Float[Tensor, "b t"]) -> Float[Tensor, "b t h w c"]:
    """What the network is shown of a noisy frame: s x_s, so that pure noise, which says nothing, enters as zeros.

    The input scaling of Karras et al. 2022 for this flow, without which the noise of level 0 drowns the previous frame.
    """
    return level[:, :, None, None, None] * noisy


def motion_weights(
    latents: Float[Tensor, "b t1 h w c"], patch: int, strength: float
) -> Float[Tensor, "b t h w 1"]:
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
    weight: Float[Tensor, "b t h w #c"],
    mask: Bool[Tensor, "b t"],
) -> Tensor:
    """Squared error averaged over what is logged (not padding)."""
    error = ((answer - target).square() * weight).mean((2, 3, 4))
    return (error * mask).sum() / mask.sum().clamp(min=1)
