"""Action tokens and statistics of OpenVLA: action values to vocabulary ids and back.

An action in -1..1 falls into one of 256 bins, and the ids of the bins run down from the end of the vocabulary as the
values go up (Kim et al. 2024, arXiv 2406.09246). All arithmetic is float64, as published.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldgymnast.configs import NonNegative, checked
from worldgymnast.errors import FieldError

BINS = 256
"""Edges of the bins, of which 255 centers follow."""
_TRAINING_EPSILON = 1e-8
"""Added to a range where data are normalized for training, whatever the policy's own epsilon is."""


def encode(actions: Float[Tensor, "*s"], vocabulary: int) -> Int[Tensor, "*s"]:
    """Vocabulary ids of normalized actions.

    Args:
        actions: normalized actions; those beyond -1..1 are clipped.
        vocabulary: size of the vocabulary without padding, 32000 for Llama 2.

    >>> encode(torch.tensor([-1.0, 0.0, 1.0]), 32000).tolist()
    [31999, 31872, 31744]
    """
    edges = np.linspace(-1, 1, BINS)
    bins = np.digitize(actions.detach().cpu().double().numpy().clip(-1, 1), edges)
    return torch.from_numpy(np.asarray(vocabulary - bins, np.int64)).to(actions.device)


def decode(tokens: Int[Tensor, "*s"], vocabulary: int) -> Float[Tensor, "*s"]:
    """Normalized actions of vocabulary ids, float64; the inverse of `encode` up to half a bin.

    Ids outside the bins get the nearest end. The two smallest ids of the bins, 31744 and 31745, are one value.

    >>> decode(torch.tensor([31999, 31745, 31744, 5]), 32000).round(decimals=5).tolist()
    [-0.99608, 0.99608, 0.99608, 0.99608]
    """
    edges = torch.linspace(-1, 1, BINS, dtype=torch.float64, device=tokens.device)
    centers = (edges[:-1] + edges[1:]) / 2
    return centers[(vocabulary - tokens - 1).clamp(0, BINS - 2)]


def draw(logprobs: Float[Tensor, "*s v"], generator: torch.Generator | None) -> Int[Tensor, "*s"]:
    """Sample an index per row by inverse transform: one uniform number per token, drawn on the CPU."""
    uniform = torch.rand(logprobs.shape[:-1], generator=generator, dtype=torch.float64).to(logprobs.device)
    cumulative = logprobs.double().exp().cumsum(-1)
    chosen = torch.searchsorted(cumulative, (uniform[..., None] * cumulative[..., -1:]), right=True)[..., 0]
    return chosen.clamp(max=logprobs.shape[-1] - 1)


@checked(kw_only=True)
class Statistics:
    """Ranges of the data that a policy was trained on.

    Attributes:
        key: name of the data set in the checkpoint, such as "bridge_orig".
        bounds: ends of the ranges: 1 % and 99 % quantiles ("q99"), or extremes ("minmax").
        epsilon: added to a range where actions are converted back: 0 in OpenVLA, 1e-8 in OpenVLA-OFT.
        low: lower end per action axis.
        high: upper end per action axis.
        mask: whether an axis is normalized; the gripper usually is not.
        state_low: lower end per number of the state; empty without proprioception.
        state_high: upper end per number of the state.
    """

    key: str
    bounds: Literal["q99", "minmax"]
    epsilon: NonNegative
    low: tuple[float, ...]
    high: tuple[float, ...]
    mask: tuple[bool, ...]
    state_low: tuple[float, ...] = ()
    state_high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.low) == len(self.high) == len(self.mask) or not self.low:
            counts = f"{len(self.low)}, {len(self.high)} and {len(self.mask)}"
            raise FieldError("low, high, mask", f"found {counts} entries, expected one per action axis each")
        if len(self.state_low) != len(self.state_high):
            counts = f"{len(self.state_low)} and {len(self.state_high)}"
            raise FieldError("state_low, state_high", f"found {counts} entries, expected equal numbers")
        if any(low > high for low, high in zip(self.low + self.state_low, self.high + self.state_high, strict=True)):
            raise FieldError("low, high", "found a lower end above the upper, expected low <= high")

    def unnormalize(self, actions: Float[Tensor, "*s a"]) -> Float[Tensor, "*s a"]:
        """Actions in the units of the data, float64, from normalized ones."""
        low, high, mask = self._ranges(actions)
        scaled = 0.5 * (actions.double() + 1) * (high - low + self.epsilon) + low
        return torch.where(mask, scaled, actions.double())

    def normalize(self, actions: Float[Tensor, "*s a"]) -> Float[Tensor, "*s a"]:
        """Normalized actions, float64 and within -1..1 where they are normalized, for training."""
        low, high, mask = self._ranges(actions)
        scaled = (2 * (actions.double() - low) / (high - low + _TRAINING_EPSILON) - 1).clamp(-1, 1)
        return torch.where(mask, scaled, actions.double())

    def normalize_state(self, state: Float[Tensor, "*s p"]) -> Float[Tensor, "*s p"]:
        """Normalized state, float64 in -1..1."""
        low, high = (
            torch.tensor(ends, dtype=torch.float64, device=state.device) for ends in (self.state_low, self.state_high)
        )
        return (2 * (state.double() - low) / (high - low + 1e-8) - 1).clamp(-1, 1)

    def _ranges(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = (torch.tensor(x, dtype=torch.float64, device=actions.device) for x in (self.low, self.high))
        return low, high, torch.tensor(self.mask, device=actions.device)
