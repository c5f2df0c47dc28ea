"""Continuous parts of OpenVLA-OFT: the L1 regression head and the projector of proprioception.

Source: Kim et al. 2025, arXiv 2502.19645; tensor names as published.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class _ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class _ResidualNetwork(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, hidden)
        self.mlp_resnet_blocks = nn.ModuleList([_ResidualBlock(hidden) for _ in range(2)])
        self.layer_norm2 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class RegressionHead(nn.Module):
    """Hidden states of the action slots to normalized actions."""

    def __init__(self, hidden: int, axes: int):
        super().__init__()
        self.axes = axes
        self.model = _ResidualNetwork(hidden * axes, hidden, axes)

    def forward(self, slots: Float[Tensor, "b n h"]) -> Float[Tensor, "b k a"]:
        """Normalized actions; the n = k a slots of one action are read together."""
        return self.model(slots.unflatten(1, (-1, self.axes)).flatten(2))


class StateProjector(nn.Module):
    """Normalized state to one token of the language model."""

    def __init__(self, numbers: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(numbers, hidden)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, state: Float[Tensor, "b p"]) -> Float[Tensor, "b h"]:
        """Token of the state."""
        return self.fc2(F.gelu(self.fc1(state.to(self.fc1.weight.dtype))))
