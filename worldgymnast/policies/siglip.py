"""Vision tower of SmolVLA, pi0 and pi0.5: SigLIP (Zhai et al. 2023, arXiv 2303.15343) without its pooling head.

The tensors have the names of the published checkpoints, so they load as they are in every version of transformers.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_EPSILON = 1e-6


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(width, _EPSILON) for _ in range(2))
        self.self_attn, self.mlp = _Attention(width, heads), _MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, width: int, patch: int, patches: int):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position_embedding = nn.Embedding(patches, width)

    def forward(self, images: Tensor) -> Tensor:
        positions = self.position_embedding.weight
        return self.patch_embedding(images.to(positions.dtype)).flatten(2).transpose(1, 2) + positions


class Siglip(nn.Module):
    """SigLIP tower: images to the features of their patches, after the last norm.

    Args:
        width: channels.
        layers: transformer layers.
        heads: attention heads.
        hidden: width of the MLPs.
        patch: side of a patch, in pixels.
        patches: patches per image, a square number.

    >>> import torch
    >>> Siglip(16, 1, 2, 32, patch=14, patches=4)(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 4, 16])
    """

    def __init__(self, width: int, layers: int, heads: int, hidden: int, patch: int, patches: int):
        super().__init__()
        self.embeddings = _Embeddings(width, patch, patches)
        blocks = nn.ModuleList([_Layer(width, heads, hidden) for _ in range(layers)])
        self.encoder = nn.ModuleDict({"layers": blocks})
        self.post_layernorm = nn.LayerNorm(width, _EPSILON)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n c"]:
        """Patch features of square images in -1..1."""
        x = self.embeddings(images)
        for block in self.encoder["layers"]:  # pyright: ignore[reportGeneralTypeIssues] - a ModuleList
            x = block(x)
        return self.post_layernorm(x)
