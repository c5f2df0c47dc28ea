"""The factorised causal video transformer: spatial blocks within a frame, temporal blocks across frames.

Each layer is one spatial block (all tokens of a frame see each other) and one temporal block (a token sees the same
place in earlier frames, at most `window` of them, itself included); both are modulated by the frame's noise level and
action (adaLN-zero, Peebles and Xie 2023) and use rotary positions (Su et al. 2021) in the arithmetic of WorldGym
(arXiv 2506.00613), so that its checkpoints fit. The key-value cache is an argument and a result, never state.

Beyond the published layout, by configuration: the latents of the previous and of the first frame enter beside the
noisy ones, and positions can be learned.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldgymnast.configs import Between, Layers, Width, checked
from worldgymnast.errors import FieldError

Cache = tuple[Tensor, ...]
"""Rotated keys, then values, of every layer's last s frames: [b n m s d] each (n tokens, m heads of width d)."""


@checked
class TransformerConfig:
    """Sizes of a `VideoTransformer`.

    Attributes:
        channels: latent channels, c.
        grid: latent height and width.
        patch: latents a token is wide.
        width: width of a token.
        layers: pairs of a spatial and a temporal block.
        heads: attention heads.
        window: frames a temporal block sees, the current one included.
        action_dim: width of an action.
        context: clean frames whose latents enter beside the noisy ones: 0 for none (the published layout), 1 for the
            previous frame, 2 for the previous and the first frame of the rollout.
        learned_positions: a learned vector per token beside the rotary positions.
        rotary: the spatial rotary positions: "standard" (0, 1, 2, ... and frequencies falling from 1) or "pixel"
            (-1..1 and frequencies rising from pi).
    """

    channels: Width = 32
    grid: tuple[Width, Width] = (4, 4)
    patch: Width = 1
    width: Width = 192
    layers: Layers = 5
    heads: Width = 4
    window: Layers = 8
    action_dim: Width = 4
    context: Annotated[int, Between(0, 2)] = 2
    learned_positions: bool = True
    rotary: Literal["standard", "pixel"] = "standard"

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise FieldError(
                "width",
                f"found {self.width}, expected a multiple of 4 x heads ({4 * self.heads}), as rotary positions on two "
                "axes need",
            )

    @property
    def tokens(self) -> int:
        """Tokens a frame."""
        return (self.grid[0] // self.patch) * (self.grid[1] // self.patch)


def sinusoid(level: Tensor, width: int = 256) -> Tensor:
    """Features [... width] of a number, cosines first, frequencies exp(-ln(10000) i / (width/2))."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=level.device) / half)
    angles = level[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def rotary(positions: Tensor, dim: int, frequencies: Tensor | None = None) -> Tensor:
    """Turns, complex [p dim/2], for positions [p n] on n axes; each axis owns dim/2n of them.

    Without `frequencies` [dim/2n] they are 10000^(-i / (dim/2n)).
    """
    half = dim // (2 * positions.shape[-1])
    if frequencies is None:
        frequencies = 10000.0 ** (-torch.arange(half, device=positions.device) / half)
    angles = (positions.float()[..., None] * frequencies).flatten(-2)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turns neighbouring pairs of the last axis: (x0, x1) to (x0 cos - x1 sin, x1 cos + x0 sin)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [... m d]."""
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v


class _Block(nn.Module):
    """Attention and a feed-forward, both modulated; the attention itself is given by the subclass."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), modulation)
        self.attn = _Attention(width, heads)
        self.ffwd = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def modulation(self, condition: Tensor) -> tuple[Tensor, ...]:
        """The six chunks [b t 1 D]: shift, scale, gate of attention; shift, scale, gate of the feed-forward."""
        return self.adaLN_modulation(condition)[:, :, None].chunk(6, -1)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class SpatialBlock(_Block):
    """Tokens of one frame see each other."""

    def forward(self, x: Tensor, condition: Tensor, turn: Tensor) -> Tensor:
        """`x` [b t n D], `condition` [b t D]."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)
        q, k, v = (y.transpose(-3, -2).flatten(0, 1) for y in self.attn.split(_modulate(x, shift, scale)))
        mixed = _attend(rotate(q, turn), rotate(k, turn), v)
        mixed = mixed.transpose(-3, -2).reshape(x.shape)
        x = x + gate * self.attn.out_proj(mixed)
        return x + gate2 * self.ffwd(_modulate(x, shift2, scale2))


class TemporalBlock(_Block):
    """A token sees the same place in earlier frames, causally."""

    def forward(
        self, x: Tensor, condition: Tensor, turn: Tensor, mask: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`x` [b t n D], `past` keys and values [b n m s d] or (), `mask` bool [t s+t]; also returns the new ones."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)
        q, k, v = (y.permute(0, 2, 3, 1, 4) for y in self.attn.split(_modulate(x, shift, scale)))  # [b n m t d]
        q, k = rotate(q, turn), rotate(k, turn)
        if past and x.shape[1] == 1:
            mixed = _attend_one(q, k, v, *past)
        elif past and x.shape[1] == 2:
            mixed = _attend_few(q, k, v, past[0], past[1], mask)
        else:
            keys, values = (torch.cat([old, new], 3) for old, new in zip(past, (k, v), strict=True)) if past else (k, v)
            mixed = _attend(q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), mask)
            mixed = mixed.unflatten(0, q.shape[:2])
        x = x + gate * self.attn.out_proj(mixed.permute(0, 3, 1, 2, 4).flatten(-2))
        return x + gate2 * self.ffwd(_modulate(x, shift2, scale2)), (k, v)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention [... t d] over short sequences.

    On a CPU in 32 bits whatever the precision around it: the backward pass of torch's kernel in 16 bits takes 25 times
    as long there.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(v.dtype)


def _attend_one(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one new frame [b n m 1 d] to all earlier ones and to itself, without copying the earlier ones."""
    scores = torch.cat([q @ keys.transpose(-1, -2), (q * k).sum(-1, keepdim=True)], -1) * q.shape[-1] ** -0.5
    weights = scores.float().softmax(-1).to(v.dtype)
    return weights[..., :-1] @ values + weights[..., -1:] * v


def _attend_few(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of new frames [b n m t d] to earlier ones and to one another, without copying the earlier ones."""
    scores = torch.cat([q @ keys.transpose(-1, -2), q @ k.transpose(-1, -2)], -1) * q.shape[-1] ** -0.5
    weights = scores.float().masked_fill(~mask, -torch.inf).softmax(-1).to(v.dtype)
    return weights[..., : keys.shape[-2]] @ values + weights[..., keys.shape[-2] :] @ v


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.s_block = SpatialBlock(width, heads)
        self.t_block = TemporalBlock(width, heads)


class _FinalLayer(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, out)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, :, None].chunk(2, -1)
        return self.linear(_modulate(x, shift, scale))


class VideoTransformer(nn.Module):
    """Noisy latents, noise levels and actions in, one latent-shaped answer per frame out."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        c = self.config = config
        self.x_proj = nn.Conv2d(c.channels * (1 + c.context), c.width, c.patch, stride=c.patch)
        self.timestep_mlp = nn.Sequential(nn.Linear(256, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.action_embedder = nn.Linear(c.action_dim, c.width)
        if c.learned_positions:
            positions = torch.empty(c.tokens, c.width)
            if not positions.is_meta:  # where only shapes are asked for, torch would load its compiler first
                positions.normal_().mul_(0.02)
            self.positions = nn.Parameter(positions)
        self.blocks = nn.ModuleList([_Layer(c.width, c.heads) for _ in range(c.layers)])
        self.final_layer = _FinalLayer(c.width, c.patch * c.patch * c.channels)

    def _tokens(self, latents: Tensor) -> Tensor:
        b, t = latents.shape[:2]
        x = self.x_proj(latents.flatten(0, 1).permute(0, 3, 1, 2))
        return x.flatten(2).transpose(1, 2).unflatten(0, (b, t))

    def _latents(self, x: Tensor) -> Tensor:
        p, (h, w) = self.config.patch, self.config.grid
        x = x.unflatten(2, (h // p, w // p)).unflatten(-1, (p, p, self.config.channels))
        return x.permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(2, 3)

    def _spatial_turn(self, device: torch.device) -> Tensor:
        c = self.config
        head, sides = c.width // c.heads, [side // c.patch for side in c.grid]
        axes, frequencies = [torch.arange(side, device=device) for side in sides], None
        if c.rotary == "pixel":
            axes = [torch.linspace(-1, 1, side, device=device) for side in sides]
            frequencies = torch.pi * torch.linspace(1, 128, head // 4, device=device)
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
        return rotary(places, head, frequencies)

    def forward(
        self,
        noisy: Float[Tensor, "b t h w c"],
        level: Float[Tensor, "b t"],
        actions: Float[Tensor, "b t a"],
        context: Float[Tensor, "b t h w cc"] | None = None,
        cache: Cache = (),
        first: int = 0,
        instead: bool = False,
    ) -> tuple[Float[Tensor, "b t h w c"], Cache]:
        """Answers for t frames of which the first has index `first`, given the `cache` of those before it.

        Args:
            noisy: latents at their noise levels.
            level: noise level of each frame, in the units the objective gives the sinusoid (0..1000).
            actions: the action that led to each frame.
            context: latents of the clean frames beside each frame, where the configuration has them.
            cache: keys and values of earlier frames, or () for none.
            first: index of the first frame, from which rotary positions count.
            instead: each frame stands in the place of the frame of its index in `cache`, and sees those before it and
                itself: what sampling sees at every frame of a clip, all at once.

        Returns:
            The answer, and the keys and values of these t frames alone (see `extend`).
        """
        x, condition, fresh = self.hidden(noisy, level, actions, context, cache, first, instead)
        return self.answer(x, condition), fresh

    def answer(self, hidden: Float[Tensor, "b t n d"], condition: Float[Tensor, "b t d"]) -> Tensor:
        """The answer [b t h w c] that hidden states and what they were modulated by come to."""
        return self._latents(self.final_layer(hidden, condition))

    def hidden(
        self,
        noisy: Float[Tensor, "b t h w c"],
        level: Float[Tensor, "b t"],
        actions: Float[Tensor, "b t a"],
        context: Float[Tensor, "b t h w cc"] | None = None,
        cache: Cache = (),
        first: int = 0,
        instead: bool = False,
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b t d"], Cache]:
        """Hidden states behind the last layer, what modulates them, and new keys and values; see `forward`."""
        t = noisy.shape[1]
        past = cache[0].shape[3] if cache else 0
        condition = self.timestep_mlp(sinusoid(level)) + self.action_embedder(actions)
        x = self._tokens(noisy if context is None else torch.cat([noisy, context], -1))
        if self.config.learned_positions:
            x = x + self.positions
        head = self.config.width // self.config.heads
        space = self._spatial_turn(x.device)
        time = rotary(torch.arange(first, first + t, device=x.device)[:, None], head)
        mask = self._instead(t, x.device) if instead else self._mask(t, past, x.device)
        fresh: list[Tensor] = []
        for i, layer in enumerate(self.blocks):
            assert isinstance(layer, _Layer)
            x = layer.s_block(x, condition, space)
            x, new = layer.t_block(x, condition, time, mask, cache[2 * i : 2 * i + 2])
            fresh += new
        return x, condition, tuple(fresh)

    def _mask(self, t: int, past: int, device: torch.device) -> Tensor:
        """Causal and banded, bool [t past+t]: a frame sees the `window` newest frames, itself included."""
        now = torch.arange(past, past + t, device=device)[:, None]
        seen = torch.arange(past + t, device=device)[None]
        return (seen <= now) & (seen > now - self.config.window)

    def _instead(self, t: int, device: torch.device) -> Tensor:
        """Bool [t 2t]: a frame sees the `window` - 1 cached frames before it, and itself."""
        before = self._mask(t, 0, device) & ~torch.eye(t, dtype=torch.bool, device=device)
        return torch.cat([before, torch.eye(t, dtype=torch.bool, device=device)], 1)

    def extend(self, cache: Cache, fresh: Cache) -> Cache:
        """The cache with new frames behind it, cut to the frames a next one can still see."""
        keep = self.config.window - 1
        new = [x[..., max(0, x.shape[-2] - keep) :, :] for x in fresh]
        if not cache:
            return tuple(x.contiguous() for x in new)
        old = [x[..., max(0, x.shape[-2] + y.shape[-2] - keep) :, :] for x, y in zip(cache, new, strict=True)]
        return tuple(torch.cat(both, -2) for both in zip(old, new, strict=True))
