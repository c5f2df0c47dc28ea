"""Transformer layers of two streams: a vision-language prefix, and an action expert that reads its keys and values.

SmolVLA, pi0 and pi0.5 share them. The prefix never sees the suffix, so its keys and values are computed once per look
and reused in every step of the flow. Attention, norms and rotary positions are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_ROPE_BASE = 10_000.0

Heads = tuple[int, int, int]
"""Query heads, key-value heads, and width of a head."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a network at one look, as the checkpoint expects them.

    Attributes:
        images: float32 [b 3 s s] of each camera in -1..1, missing cameras included.
        image_mask: bool [b cameras], False for a missing camera.
        tokens: int64 [b n], the prompt, padded on the right.
        token_mask: bool [b n], False for padding.
        state: float32 [b d], normalized and padded with zeros.
    """

    images: Sequence[Float[Tensor, "b 3 s s"]]
    image_mask: Bool[Tensor, "b cameras"]
    tokens: Int[Tensor, "b n"]
    token_mask: Bool[Tensor, "b n"]
    state: Float[Tensor, "b d"]


@dataclass(frozen=True)
class Context:
    """Keys and values of the prefix in every layer.

    Attributes:
        cache: post-rotary keys and values [b heads p d] of each layer.
        mask: bool [b p], False for padding.
        state: float32 [b d], see `Inputs`.
    """

    cache: Sequence[tuple[Tensor, Tensor]]
    mask: Bool[Tensor, "b p"]
    state: Float[Tensor, "b d"]


def rotate(x: Float[Tensor, "b h n d"], positions: Int[Tensor, "b n"]) -> Float[Tensor, "b h n d"]:
    """Apply rotary position embedding with split halves and base 10000 (Su et al. 2021, arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    periods = _ROPE_BASE ** (torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = (positions.float()[..., None] / periods)[:, None]
    low, high = x.float().split(half, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Bool[Tensor, "b n m"]) -> Float[Tensor, "b n c"]:
    """Grouped-query attention in float32; every query must see at least one key."""
    with torch.autocast(q.device.type, enabled=False):
        mixed = F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), attn_mask=mask[:, None], enable_gqa=q.shape[1] != k.shape[1]
        )
    return mixed.transpose(1, 2).flatten(2).to(v.dtype)


def block_mask(blocks: Bool[Tensor, " n"], mask: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n n"]:
    """Which keys each query sees: valid ones of its own or an earlier block.

    Padding as a query sees them too; its output is never read.

    Args:
        blocks: True where a new block begins.
        mask: False for padding.

    >>> block_mask(torch.tensor([False, True]), torch.ones(1, 2, dtype=torch.bool)).int().tolist()
    [[[1, 0], [1, 1]]]
    """
    order = blocks.cumsum(0)
    return (order[None, :] <= order[:, None]) & mask[:, None, :]


def positions_of(mask: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Position of each token, counted over valid ones."""
    return mask.cumsum(1) - 1


def time_features(time: Float[Tensor, " b"], width: int, shortest: float, longest: float) -> Float[Tensor, "b w"]:
    """Sines and cosines of `time`, with periods from `shortest` to `longest`, computed in float64."""
    share = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=time.device)
    periods = shortest * (longest / shortest) ** share
    angles = time.double()[:, None] * (2 * math.pi / periods)
    return torch.cat([angles.sin(), angles.cos()], -1).float()


class Norm(nn.Module):
    """Root-mean-square norm in float32.

    Args:
        width: channels.
        epsilon: added to the mean square.
        offset: added to the weight: 1 in Gemma, 0 in Llama.
    """

    def __init__(self, width: int, epsilon: float, offset: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))
        self.epsilon, self.offset = epsilon, offset

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The normalized `x`, and no gate."""
        return (_unit(x, self.epsilon) * (self.offset + self.weight.float())).to(x.dtype), None


class AdaptiveNorm(nn.Module):
    """Norm whose scale, shift and gate depend on a condition (adaLN, Peebles and Xie 2022, arXiv 2212.09748)."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)
        self.epsilon = epsilon

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The normalized `x`, and the gate [b 1 c] of its residual branch."""
        assert condition is not None
        scale, shift, gate = self.dense(condition)[:, None].chunk(3, -1)
        return (_unit(x, self.epsilon) * (1 + scale.float()) + shift.float()).to(x.dtype), gate


def _unit(x: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)


def _residual(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    return x + branch if gate is None else x + branch * gate


class _Attention(nn.Module):
    def __init__(self, width: int, heads: Heads, kv_width: int):
        super().__init__()
        queries, keys, head = heads
        self.q_proj = nn.Linear(width, queries * head, bias=False)
        self.k_proj = nn.Linear(kv_width, keys * head, bias=False)
        self.v_proj = nn.Linear(kv_width, keys * head, bias=False)
        self.o_proj = nn.Linear(queries * head, width, bias=False)


class _GatedMLP(nn.Module):
    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Decoder layer of one stream, whose attention the caller computes.

    Args:
        width: channels.
        hidden: width of the MLP.
        heads: query heads, key-value heads, and width of a head.
        activation: of the gated MLP.
        norm: builds a norm of a width.
        kv_width: input width of the key and value projections; `width` by default.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: Heads,
        activation: Callable[[Tensor], Tensor],
        norm: Callable[[int], nn.Module],
        kv_width: int | None = None,
    ):
        super().__init__()
        self.head = heads[2]
        self.self_attn = _Attention(width, heads, kv_width or width)
        self.mlp = _GatedMLP(width, hidden, activation)
        self.input_layernorm, self.post_attention_layernorm = norm(width), norm(width)

    def split(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b h n d"]:
        """Split channels into heads."""
        return x.unflatten(-1, (-1, self.head)).transpose(1, 2)

    def queries(self, x: Tensor, positions: Int[Tensor, "b n"]) -> Tensor:
        """Rotated queries of a normalized input."""
        return rotate(self.split(self.self_attn.q_proj(x)), positions)

    def keys_values(self, x: Tensor, positions: Int[Tensor, "b n"]) -> tuple[Tensor, Tensor]:
        """Rotated keys, and values, of a normalized input."""
        attention = self.self_attn
        return rotate(self.split(attention.k_proj(x)), positions), self.split(attention.v_proj(x))

    def finish(self, x: Tensor, mixed: Tensor, gate: Tensor | None, condition: Tensor | None = None) -> Tensor:
        """Output of the layer, given its input and the mixed values."""
        x = _residual(x, self.self_attn.o_proj(mixed), gate)
        y, gate = self.post_attention_layernorm(x, condition)
        return _residual(x, self.mlp(y), gate)


def run_prefix(
    layers: Sequence[Layer], x: Float[Tensor, "b p c"], blocks: Bool[Tensor, " p"], mask: Bool[Tensor, "b p"]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the prefix in every layer; nothing else of its last layer is read."""
    positions, visible = positions_of(mask), block_mask(blocks, mask)
    x, cache = x.to(layers[0].self_attn.q_proj.weight.dtype), []
    for index, layer in enumerate(layers):
        y, gate = layer.input_layernorm(x)
        k, v = layer.keys_values(y, positions)
        cache.append((k, v))
        if index + 1 < len(layers):
            x = layer.finish(x, attend(layer.queries(y, positions), k, v, visible), gate)
    return cache


def extend(layers: Sequence[Layer], x: Float[Tensor, "b n c"], context: Context) -> Context:
    """Append tokens that see the prefix and one another, but are not seen by it.

    If `x` alone depends on trained weights, the gradient passes through these few tokens only.

    Args:
        layers: layers of the prefix.
        x: embedded tokens, all valid.
        context: the prefix.
    """
    shown = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    mask = torch.cat([context.mask, shown], 1)
    positions = positions_of(mask)[:, context.mask.shape[1] :]
    visible = mask[:, None, :].expand(-1, x.shape[1], -1)
    x, cache = x.to(layers[0].self_attn.q_proj.weight.dtype), []
    for index, (layer, (keys, values)) in enumerate(zip(layers, context.cache, strict=True)):
        y, gate = layer.input_layernorm(x)
        k, v = layer.keys_values(y, positions)
        k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        cache.append((k, v))
        if index + 1 < len(layers):
            x = layer.finish(x, attend(layer.queries(y, positions), k, v, visible), gate)
    return Context(cache, mask, context.state)


def run_suffix(
    layers: Sequence[Layer],
    x: Float[Tensor, "b n c"],
    blocks: Bool[Tensor, " n"],
    context: Context,
    condition: Tensor | None = None,
    crosses: Callable[[int], bool] = lambda index: False,
) -> Float[Tensor, "b n c"]:
    """Output of the last layer of the action expert.

    Args:
        layers: layers of the expert.
        x: embedded suffix.
        blocks: True where a new block of the suffix begins.
        context: the prefix.
        condition: condition of adaptive norms.
        crosses: whether a layer attends to projections of the prefix' keys and values alone (SmolVLA).
    """
    b, n = x.shape[:2]
    own = torch.arange(n, device=x.device).expand(b, n)
    positions = own + context.mask.sum(1, keepdim=True)
    prefix = context.mask[:, None, :].expand(b, n, -1)
    joint = torch.cat([prefix, block_mask(blocks, torch.ones_like(own, dtype=torch.bool))], -1)
    for index, (layer, (keys, values)) in enumerate(zip(layers, context.cache, strict=True)):
        y, gate = layer.input_layernorm(x, condition)
        if crosses(index):
            attention = layer.self_attn
            k = layer.split(attention.k_proj(keys.transpose(1, 2).flatten(2)))
            v = layer.split(attention.v_proj(values.transpose(1, 2).flatten(2).to(attention.v_proj.weight.dtype)))
            mixed = attend(layer.queries(y, own), k, v, prefix)
        else:
            k, v = layer.keys_values(y, positions)
            k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
            mixed = attend(layer.queries(y, positions), k, v, joint)
        x = layer.finish(x, mixed, gate, condition)
    return x
