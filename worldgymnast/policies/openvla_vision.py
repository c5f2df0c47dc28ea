"""Vision of OpenVLA: DINOv2 and SigLIP towers and the projector, with the published tensor names.

The towers are the vision transformers of timm (`vit_large_patch14_reg4_dinov2`, `vit_so400m_patch14_siglip_224`) up to
their last block but one, whose output OpenVLA reads without a final norm (Karamcheti et al. 2024, arXiv 2402.07865).
Prompts see the patches of both towers, concatenated on the channels.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldgymnast.configs import MOST_WIDE, Between, Layers, Width, checked
from worldgymnast.errors import FieldError

PATCH = 14
"""Side of a patch, in pixels."""
SIDE = 224
"""Side of an image, in pixels."""
PATCHES = (SIDE // PATCH) ** 2
"""Patches of an image."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of DINOv2's images."""
CENTERED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of SigLIP's images."""


@checked
class TowerConfig:
    """Size of a vision tower.

    Attributes:
        width: channels.
        blocks: blocks that run, which is one fewer than in the published tower.
        heads: attention heads.
        hidden: hidden width of the feed-forward layers.
        registers: class and register tokens before the patches.
        has_scales: whether a block scales its two branches (LayerScale).
    """

    width: Width
    blocks: Layers
    heads: Width
    hidden: Width
    registers: Annotated[int, Between(0, MOST_WIDE)] = 0
    has_scales: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise FieldError("heads", f"found {self.heads}, expected a divisor of the width {self.width}")


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, config: TowerConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = _Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = _FeedForward(config.width, config.hidden)
        if config.has_scales:
            self.ls1, self.ls2 = _Scale(config.width), _Scale(config.width)
        else:
            self.ls1 = self.ls2 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)


class Tower(nn.Module):
    """Vision transformer from normalized images to patches."""

    def __init__(self, config: TowerConfig, *, checkpointing: bool = False):
        super().__init__()
        self.registers, self.checkpointing = config.registers, checkpointing
        self.patch_embed = _PatchEmbedding(config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, PATCHES, config.width))
        if config.registers:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers - 1, config.width))
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.blocks)])

    def forward(self, images: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b 256 d"]:
        """Patches, row by row; class and register tokens are dropped."""
        weight = self.patch_embed.proj.weight
        x = self.patch_embed.proj(images.to(weight.dtype)).flatten(2).transpose(1, 2) + self.pos_embed
        if self.registers:
            first = torch.cat([self.cls_token, self.reg_token], 1).expand(len(x), -1, -1)
            x = torch.cat([first.to(x.dtype), x], 1)
        for block in self.blocks:
            x = self._run(block, x)
        return x[:, self.registers :]

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


class VisionBackbone(nn.Module):
    """Both towers."""

    def __init__(self, dino: TowerConfig, siglip: TowerConfig, *, checkpointing: bool = False):
        super().__init__()
        self.featurizer = Tower(dino, checkpointing=checkpointing)
        self.fused_featurizer = Tower(siglip, checkpointing=checkpointing)

    def forward(self, pixels: Float[Tensor, "b c 224 224"]) -> Float[Tensor, "b p d"]:
        """Patches of every image, one image after the other; 6 channels per image, DINOv2's 3 first."""
        images = pixels.unflatten(1, (-1, 6)).unbind(1)
        fused = [torch.cat([self.featurizer(x[:, :3]), self.fused_featurizer(x[:, 3:])], -1) for x in images]
        return torch.cat(fused, 1)


class Projector(nn.Module):
    """Patches of both towers to tokens of the language model ("no-align+fused-gelu-mlp")."""

    def __init__(self, vision: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(vision, 4 * vision)
        self.fc2 = nn.Linear(4 * vision, hidden)
        self.fc3 = nn.Linear(hidden, hidden)

    def forward(self, patches: Float[Tensor, "b p v"]) -> Float[Tensor, "b p h"]:
        """Tokens, one per patch."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(patches)))))
