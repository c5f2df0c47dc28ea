"""Networks of pi0 (Black et al. 2024, arXiv 2410.24164) and pi0.5 (2025, arXiv 2504.16054).

The tensors have the names of the PyTorch checkpoints of openpi and lerobot.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldgymnast.configs import Layers, Positive, Width, checked
from worldgymnast.errors import FieldError
from worldgymnast.policies.experts import (
    AdaptiveNorm,
    Context,
    Inputs,
    Layer,
    Norm,
    run_prefix,
    run_suffix,
    time_features,
)
from worldgymnast.policies.siglip import Siglip

_EPSILON = 1e-6


@checked
class Pi0Sizes:
    """Sizes of a pi0 or pi0.5 network; the defaults are those of the published checkpoints (3.3 G parameters).

    Attributes:
        vocabulary: entries of the token embedding.
        width: channels of the language model.
        hidden: width of its MLPs.
        layers: its layers, of which the expert has as many.
        heads: its query heads.
        kv_heads: its key-value heads.
        head: width of a head.
        expert_width: channels of the action expert.
        expert_hidden: width of its MLPs.
        vision_width: channels of the vision tower.
        vision_hidden: width of its MLPs.
        vision_layers: its layers.
        vision_heads: its heads.
        image: side of an image, in pixels.
        patch: side of a patch, in pixels.
        action: padded width of actions.
        state: padded width of the state.
    """

    vocabulary: Positive = 257_152
    width: Width = 2048
    hidden: Width = 16_384
    layers: Layers = 18
    heads: Width = 8
    kv_heads: Width = 1
    head: Width = 256
    expert_width: Width = 1024
    expert_hidden: Width = 4096
    vision_width: Width = 1152
    vision_hidden: Width = 4304
    vision_layers: Layers = 27
    vision_heads: Width = 16
    image: Width = 224
    patch: Width = 14
    action: Width = 32
    state: Width = 32

    def __post_init__(self) -> None:
        if self.image % self.patch:
            raise FieldError("image", f"found {self.image}, expected a multiple of patch, {self.patch}")


_gelu = functools.partial(F.gelu, approximate="tanh")


def _norm(width: int) -> Norm:
    return Norm(width, _EPSILON, offset=1.0)


def _adaptive_norm(width: int) -> AdaptiveNorm:
    return AdaptiveNorm(width, _EPSILON)


class _Gemma(nn.Module):
    def __init__(self, width: int, hidden: int, sizes: Pi0Sizes, *, is_adaptive: bool = False, vocabulary: int = 0):
        super().__init__()
        norm = _adaptive_norm if is_adaptive else _norm
        heads = (sizes.heads, sizes.kv_heads, sizes.head)
        if vocabulary:
            self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList([Layer(width, hidden, heads, _gelu, norm) for _ in range(sizes.layers)])
        self.norm = norm(width)


class _PaliGemma(nn.Module):
    def __init__(self, sizes: Pi0Sizes):
        super().__init__()
        s = sizes
        patches = (s.image // s.patch) ** 2
        vision = Siglip(s.vision_width, s.vision_layers, s.vision_heads, s.vision_hidden, s.patch, patches)
        self.vision_tower = nn.ModuleDict({"vision_model": vision})
        self.multi_modal_projector = nn.ModuleDict({"linear": nn.Linear(s.vision_width, s.width)})
        self.language_model = _Gemma(s.width, s.hidden, s, vocabulary=s.vocabulary)


class _Model(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class Pi0Network(nn.Module):
    """Prefix of images and prompt; action expert that predicts the velocity of the flow.

    Args:
        sizes: its sizes.
        is_adaptive: pi0.5, where the time conditions the norms of the expert, and the state is part of the prompt. In
            pi0 the time is mixed into the actions, and the state is a token of the expert.
        periods: shortest and longest period of the time features.
    """

    def __init__(self, sizes: Pi0Sizes, *, is_adaptive: bool, periods: tuple[float, float] = (4e-3, 4.0)):
        super().__init__()
        self.sizes, self.is_adaptive, self.periods = sizes, is_adaptive, periods
        s = sizes
        expert = _Gemma(s.expert_width, s.expert_hidden, s, is_adaptive=is_adaptive)
        self.paligemma_with_expert = nn.ModuleDict({"paligemma": _Model(_PaliGemma(s)), "gemma_expert": _Model(expert)})
        self.action_in_proj = nn.Linear(s.action, s.expert_width)
        self.action_out_proj = nn.Linear(s.expert_width, s.action)
        if is_adaptive:
            self.time_mlp_in = nn.Linear(s.expert_width, s.expert_width)
            self.time_mlp_out = nn.Linear(s.expert_width, s.expert_width)
        else:
            self.state_proj = nn.Linear(s.state, s.expert_width)
            self.action_time_mlp_in = nn.Linear(2 * s.expert_width, s.expert_width)
            self.action_time_mlp_out = nn.Linear(s.expert_width, s.expert_width)

    @property
    def _vlm(self) -> Any:
        return self.paligemma_with_expert["paligemma"].model

    @property
    def expert(self) -> Any:
        """The action expert."""
        return self.paligemma_with_expert["gemma_expert"].model

    def embed(self, inputs: Inputs) -> tuple[Float[Tensor, "b p c"], Bool[Tensor, " p"], Bool[Tensor, "b p"]]:
        """Embedded prefix, where its blocks begin (nowhere: all see each other), and its mask."""
        vlm = self._vlm
        vision, project = vlm.vision_tower["vision_model"], vlm.multi_modal_projector["linear"]
        images = [project(vision(image)) for image in inputs.images]
        count = images[0].shape[1]
        prompt = vlm.language_model.embed_tokens(inputs.tokens) * math.sqrt(self.sizes.width)
        x = torch.cat([*images, prompt], 1)
        mask = torch.cat([inputs.image_mask.repeat_interleave(count, 1), inputs.token_mask], 1)
        return x, torch.zeros(x.shape[1], dtype=torch.bool, device=x.device), mask

    def context(self, inputs: Inputs) -> Context:
        """Keys and values of the prefix; the same for every step of the flow."""
        x, blocks, mask = self.embed(inputs)
        return Context(run_prefix(list(self._vlm.language_model.layers), x, blocks, mask), mask, inputs.state)

    def hidden(self, context: Context, x: Float[Tensor, "b k a"], time: Float[Tensor, " b"]) -> Float[Tensor, "b k w"]:
        """Last hidden state of the expert for the noisy actions `x` at `time`, 1 (noise) to 0 (actions)."""
        actions = self.action_in_proj(x)
        features = time_features(time, self.sizes.expert_width, *self.periods).to(actions.dtype)
        condition = None
        if self.is_adaptive:
            condition = F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(features))))
            suffix = actions
        else:
            mixed = torch.cat([actions, features[:, None].expand_as(actions)], -1)
            mixed = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(mixed)))
            suffix = torch.cat([self.state_proj(context.state)[:, None], mixed], 1)
        blocks = torch.zeros(suffix.shape[1], dtype=torch.bool, device=x.device)
        blocks[: suffix.shape[1] - x.shape[1] + 1] = True
        out = run_suffix(list(self.expert.layers), suffix, blocks, context, condition)
        return self.expert.norm(out[:, -x.shape[1] :], condition)[0].float()

    def velocity(self, hidden: Float[Tensor, "b k w"]) -> Float[Tensor, "b k a"]:
        """Velocity, noise minus actions, of a hidden state."""
        return self.action_out_proj(hidden).float()
