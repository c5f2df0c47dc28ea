"""Factorized causal video transformer: spatial attention within a frame, temporal attention across frames.

Each layer has one spatial block (all tokens of a frame attend to each other) and one temporal block (a token attends to
the same position in at most `window` frames, itself included). Both are modulated by the frame's noise level and action
(adaLN-zero, Peebles and Xie 2023). Rotary positions (Su et al. 2021) follow the arithmetic of WorldGym
(arXiv 2506.00613), so its checkpoints load. The key-value cache is an argument and a return value, never module state.

Two options go beyond the published layout: the latents of the previous and of the first frame as additional input
channels, and learned positions.
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
from worldgymnast.precision import kind_of

_STATE_OCTAVES = 4
"""Frequencies of the sines of a state: 1, 2, 4, ... per standard deviation."""
Cache = tuple[Tensor, ...]
"""Per layer the rotated keys and the values of the last s frames: [b n m s d] each (n tokens, m heads of width d)."""


@checked
class TransformerConfig:
    """Sizes of a `VideoTransformer`.

    Attributes:
        channels: latent channels, c.
        grid: latent height and width. If omitted, `train-world` takes those of the data's frames.
        patch: side of a token, in latents.
        width: features of a token.
        layers: pairs of a spatial and a temporal block.
        heads: attention heads.
        window: frames that temporal attention spans, the current one included. If omitted, `train-world` scales it to
            the data's rate: 18 at 30 frames per second.
        action_dim: numbers in an action. If omitted, `train-world` takes those of the data.
        context: clean frames concatenated to the noisy latents: 0 for none (the published layout), 1 for the previous
            frame, 2 for the previous and the first frame of the rollout.
        learned_positions: add a learned vector per token to the rotary positions.
        rotary: spatial rotary positions: "standard" (0, 1, 2, ... with frequencies decreasing from 1) or "pixel"
            (-1..1 with frequencies increasing from pi).
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
                f"found {self.width}, expected a multiple of 4 x heads ({4 * self.heads}), which rotary positions "
                "on two axes need",
            )
        if self.grid[0] % self.patch or self.grid[1] % self.patch:
            raise FieldError("grid", f"found {self.grid[0]} {self.grid[1]}, expected multiples of patch ({self.patch})")

    @property
    def tokens(self) -> int:
        """Tokens per frame."""
        return (self.grid[0] // self.patch) * (self.grid[1] // self.patch)


def sinusoid(level: Tensor, width: int = 256) -> Tensor:
    """Sinusoidal embedding [... width]: cosines, then sines, of frequencies exp(-ln(10000) i / (width/2))."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=level.device) / half)
    angles = level[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def rotary(positions: Tensor, dim: int, frequencies: Tensor | None = None) -> Tensor:
    """Rotary phases, complex [p dim/2], of positions [p n] on n axes.

    Each axis has dim/2n of them.

    The default `frequencies` [dim/2n] are 10000^(-i / (dim/2n)).
    """
    half = dim // (2 * positions.shape[-1])
    if frequencies is None:
        frequencies = 10000.0 ** (-torch.arange(half, device=positions.device) / half)
    angles = (positions.float()[..., None] * frequencies).flatten(-2)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, phases: Tensor) -> Tensor:
    """Rotate adjacent pairs of the last axis: (x0, x1) to (x0 cos - x1 sin, x1 cos + x0 sin)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * phases).flatten(-2).to(x.dtype)


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
    """Modulated attention and feed-forward layers; subclasses define the attention pattern."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), modulation)
        self.attn = _Attention(width, heads)
        self.ffwd = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def modulation(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Six chunks [b t 1 D]: shift, scale and gate of the attention, then of the feed-forward layer."""
        return self.adaLN_modulation(condition)[:, :, None].chunk(6, -1)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class SpatialBlock(_Block):
    """Attention among the tokens of one frame."""

    def forward(self, x: Tensor, condition: Tensor, phases: Tensor) -> Tensor:
        """Output [b t n D] from `x` [b t n D] and `condition` [b t D]."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)
        q, k, v = (y.transpose(-3, -2).flatten(0, 1) for y in self.attn.split(_modulate(x, shift, scale)))
        mixed = _attend(rotate(q, phases), rotate(k, phases), v)
        mixed = mixed.transpose(-3, -2).reshape(x.shape)
        x = x + gate * self.attn.out_proj(mixed)
        return x + gate2 * self.ffwd(_modulate(x, shift2, scale2))


class TemporalBlock(_Block):
    """Causal attention of each token to the same position in earlier frames."""

    def forward(
        self, x: Tensor, condition: Tensor, phases: Tensor, mask: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Output [b t n D], and the keys and values [b n m t d] of the new frames.

        Args:
            x: tokens [b t n D].
            condition: [b t D].
            phases: rotary phases of the frames.
            mask: bool [t s+t], True where a frame attends.
            past: keys and values [b n m s d] of earlier frames, or ().
        """
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)
        q, k, v = (y.permute(0, 2, 3, 1, 4) for y in self.attn.split(_modulate(x, shift, scale)))  # [b n m t d]
        q, k = rotate(q, phases), rotate(k, phases)
        if past and x.shape[1] == 1:
            mixed = _attend_one(q, k, v, *past)
        elif past and x.shape[1] == 2:
            mixed = _attend_few(q, k, v, past[0], past[1], mask)
        else:
            keys, values = k, v
            if past:
                keys, values = torch.cat([past[0], k], 3), torch.cat([past[1], v], 3)
            mixed = _attend(q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), mask)
            mixed = mixed.unflatten(0, q.shape[:2])
        x = x + gate * self.attn.out_proj(mixed.permute(0, 3, 1, 2, 4).flatten(-2))
        return x + gate2 * self.ffwd(_modulate(x, shift2, scale2)), (k, v)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention [... t d] over short sequences.

    On a CPU always in float32, whatever the autocast precision: torch's bfloat16 backward pass is 25 times slower.
    """
    if kind_of(q.device) != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(v.dtype)


def _attend_one(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one new frame [b n m 1 d] to all cached frames and itself, without copying the cache."""
    scores = torch.cat([q @ keys.transpose(-1, -2), (q * k).sum(-1, keepdim=True)], -1) * q.shape[-1] ** -0.5
    weights = scores.float().softmax(-1).to(v.dtype)
    return weights[..., :-1] @ values + weights[..., -1:] * v


def _attend_few(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of new frames [b n m t d] to cached frames and to each other, without copying the cache."""
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


class _StateEmbedder(nn.Module):
    """Embedding of a normalized state; zeros at first, so that it can be added to trained weights.

    Sines and cosines resolve differences of a hundredth of a standard deviation.
    """

    def __init__(self, state_dim: int, width: int):
        super().__init__()
        out = nn.Linear(width, width)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        self.mlp = nn.Sequential(nn.Linear((1 + 2 * _STATE_OCTAVES) * state_dim, width), nn.SiLU(), out)

    def forward(self, state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t d"]:
        angles = torch.cat([state * 2.0**i for i in range(_STATE_OCTAVES)], -1)
        return self.mlp(torch.cat([state, angles.sin(), angles.cos()], -1))


class VideoTransformer(nn.Module):
    """Noisy latents, noise levels and actions in, one latent-shaped prediction per frame out.

    Args:
        config: its sizes.
        state_dim: numbers of the robot's state that follow those of each action; 0 for none.
    """

    def __init__(self, config: TransformerConfig, state_dim: int = 0):
        super().__init__()
        c = self.config = config
        self.x_proj = nn.Conv2d(c.channels * (1 + c.context), c.width, c.patch, stride=c.patch)
        self.timestep_mlp = nn.Sequential(nn.Linear(256, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.action_embedder = nn.Linear(c.action_dim, c.width)
        self.state_embedder = _StateEmbedder(state_dim, c.width) if state_dim else None
        if c.learned_positions:
            positions = torch.empty(c.tokens, c.width)
            if not positions.is_meta:  # on "meta", torch would first import its compiler
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

    def _spatial_phases(self, device: torch.device) -> Tensor:
        c = self.config
        head, sides = c.width // c.heads, [side // c.patch for side in c.grid]
        axes, frequencies = [torch.arange(side, device=device) for side in sides], None
        if c.rotary == "pixel":
            axes = [torch.linspace(-1, 1, side, device=device) for side in sides]
            frequencies = torch.pi * torch.linspace(1, 128, head // 4, device=device)
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
        return rotary(positions, head, frequencies)

    def forward(
        self,
        noisy: Float[Tensor, "b t h w c"],
        level: Float[Tensor, "b t"],
        actions: Float[Tensor, "b t a"],
        context: Float[Tensor, "b t h w cc"] | None = None,
        cache: Cache = (),
        first: int = 0,
        replaces_cached: bool = False,
    ) -> tuple[Float[Tensor, "b t h w c"], Cache]:
        """Predictions for t frames given the `cache` of earlier frames.

        Args:
            noisy: latents at their noise levels.
            level: noise level of each frame, in the units of the sinusoidal embedding (0..1000).
            actions: the action that led to each frame, followed by the robot's state before it if that is an input.
            context: latents of the clean context frames, if the config has any.
            cache: keys and values of earlier frames, or () for none.
            first: index of the first frame, for rotary positions.
            replaces_cached: each frame replaces the frame of the same index in `cache`: it attends to the cached frames
                before it and to itself. This evaluates every step of a rollout in parallel.

        Returns:
            The prediction, and the keys and values of these t frames only.
        """
        x, condition, fresh = self.hidden(noisy, level, actions, context, cache, first, replaces_cached)
        return self.predict(x, condition), fresh

    def predict(self, hidden: Float[Tensor, "b t n d"], condition: Float[Tensor, "b t d"]) -> Tensor:
        """Prediction [b t h w c] from hidden states and their modulation."""
        return self._latents(self.final_layer(hidden, condition))

    def hidden(
        self,
        noisy: Float[Tensor, "b t h w c"],
        level: Float[Tensor, "b t"],
        actions: Float[Tensor, "b t a"],
        context: Float[Tensor, "b t h w cc"] | None = None,
        cache: Cache = (),
        first: int = 0,
        replaces_cached: bool = False,
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b t d"], Cache]:
        """Hidden states after the last layer, their modulation, and the new keys and values.

        The arguments are those of `forward`.
        """
        t = noisy.shape[1]
        past = cache[0].shape[3] if cache else 0
        numbers = self.config.action_dim
        condition = self.timestep_mlp(sinusoid(level)) + self.action_embedder(actions[..., :numbers])
        if self.state_embedder is not None:
            condition = condition + self.state_embedder(actions[..., numbers:])
        x = self._tokens(noisy if context is None else torch.cat([noisy, context], -1))
        if self.config.learned_positions:
            x = x + self.positions
        head = self.config.width // self.config.heads
        spatial = self._spatial_phases(x.device)
        temporal = rotary(torch.arange(first, first + t, device=x.device)[:, None], head)
        mask = self._replacement_mask(t, x.device) if replaces_cached else self._mask(t, past, x.device)
        fresh: list[Tensor] = []
        for i, layer in enumerate(self.blocks):
            assert isinstance(layer, _Layer)
            x = layer.s_block(x, condition, spatial)
            x, new = layer.t_block(x, condition, temporal, mask, cache[2 * i : 2 * i + 2])
            fresh += new
        return x, condition, tuple(fresh)

    def _mask(self, t: int, past: int, device: torch.device) -> Tensor:
        """Causal banded mask, bool [t past+t]: each frame attends to the `window` newest frames, itself included."""
        query = torch.arange(past, past + t, device=device)[:, None]
        key = torch.arange(past + t, device=device)[None]
        return (key <= query) & (key > query - self.config.window)

    def _replacement_mask(self, t: int, device: torch.device) -> Tensor:
        """Mask, bool [t 2t]: each frame attends to the `window` - 1 cached frames before it, and to itself."""
        before = self._mask(t, 0, device) & ~torch.eye(t, dtype=torch.bool, device=device)
        return torch.cat([before, torch.eye(t, dtype=torch.bool, device=device)], 1)
