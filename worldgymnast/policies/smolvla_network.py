"""Network of SmolVLA (Shukor et al. 2025, arXiv 2506.01844), with the tensor names of lerobot's checkpoints."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldgymnast.configs import Layers, Positive, Width, checked
from worldgymnast.errors import FieldError
from worldgymnast.policies.experts import Context, Inputs, Layer, Norm, extend, run_prefix, run_suffix, time_features
from worldgymnast.policies.siglip import Siglip

_EPSILON = 1e-5


@checked
class SmolVLASizes:
    """Sizes of a SmolVLA network; the defaults are those of the published checkpoint (450 M parameters).

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
        self_attention_every: one expert layer of this many attends to itself and the prefix, the others to projections
            of the prefix' keys and values.
        vision_width: channels of the vision tower.
        vision_hidden: width of its MLPs.
        vision_layers: its layers.
        vision_heads: its heads.
        image: side of an image, in pixels.
        patch: side of a patch, in pixels.
        shuffle: side of the square of patches that become one token.
        action: padded width of actions.
        state: padded width of the state.
    """

    vocabulary: Positive = 49_280
    width: Width = 960
    hidden: Width = 2560
    layers: Layers = 16
    heads: Width = 15
    kv_heads: Width = 5
    head: Width = 64
    expert_width: Width = 720
    expert_hidden: Width = 2048
    self_attention_every: Layers = 2
    vision_width: Width = 768
    vision_hidden: Width = 3072
    vision_layers: Layers = 12
    vision_heads: Width = 12
    image: Width = 512
    patch: Width = 16
    shuffle: Width = 4
    action: Width = 32
    state: Width = 32

    def __post_init__(self) -> None:
        if self.image % (self.patch * self.shuffle):
            expected = f"a multiple of patch x shuffle, {self.patch * self.shuffle}"
            raise FieldError("image", f"found {self.image}, expected {expected}")


def _norm(width: int) -> Norm:
    return Norm(width, _EPSILON)


class _Expert(nn.Module):
    def __init__(self, layers: list[Layer], width: int):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), _norm(width)


class _Text(_Expert):
    def __init__(self, layers: list[Layer], width: int, vocabulary: int):
        super().__init__(layers, width)
        self.embed_tokens = nn.Embedding(vocabulary, width)


class _Projection(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.proj = nn.Linear(width, out, bias=False)


class _Connector(nn.Module):
    """Merge squares of patches into one token each (pixel shuffle)."""

    def __init__(self, width: int, out: int, shuffle: int):
        super().__init__()
        self.modality_projection = _Projection(width * shuffle**2, out)
        self.shuffle = shuffle

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b m w"]:
        side, r = math.isqrt(x.shape[1]), self.shuffle
        squares = x.unflatten(1, (side // r, r, side // r, r)).transpose(2, 3)
        return self.modality_projection.proj(squares.flatten(3).flatten(1, 2))


class _VisionLanguage(nn.Module):
    def __init__(self, sizes: SmolVLASizes, layers: list[Layer]):
        super().__init__()
        s = sizes
        patches = (s.image // s.patch) ** 2
        self.vision_model = Siglip(s.vision_width, s.vision_layers, s.vision_heads, s.vision_hidden, s.patch, patches)
        self.connector = _Connector(s.vision_width, s.width, s.shuffle)
        self.text_model = _Text(layers, s.width, s.vocabulary)


class _Model(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class SmolVLANetwork(nn.Module):
    """Prefix of images, prompt and state; action expert that predicts the velocity of the flow.

    Args:
        sizes: its sizes.
        periods: shortest and longest period of the time features.
    """

    def __init__(self, sizes: SmolVLASizes, periods: tuple[float, float] = (4e-3, 4.0)):
        super().__init__()
        self.sizes, self.periods = sizes, periods
        s, heads = sizes, (sizes.heads, sizes.kv_heads, sizes.head)
        text = [Layer(s.width, s.hidden, heads, F.silu, _norm) for _ in range(s.layers)]
        cross = s.kv_heads * s.head
        expert = [
            Layer(s.expert_width, s.expert_hidden, heads, F.silu, _norm, cross if self._crosses(i) else None)
            for i in range(s.layers)
        ]
        vlm = _Model(_VisionLanguage(s, text))
        self.vlm_with_expert = nn.ModuleDict({"vlm": vlm, "lm_expert": _Expert(expert, s.expert_width)})
        self.state_proj = nn.Linear(s.state, s.width)
        self.action_in_proj = nn.Linear(s.action, s.expert_width)
        self.action_out_proj = nn.Linear(s.expert_width, s.action)
        self.action_time_mlp_in = nn.Linear(2 * s.expert_width, s.expert_width)
        self.action_time_mlp_out = nn.Linear(s.expert_width, s.expert_width)

    def _crosses(self, index: int) -> bool:
        """Whether an expert layer attends to projections of the prefix' keys and values alone."""
        return index % self.sizes.self_attention_every != 0

    @property
    def _vlm(self) -> Any:
        return self.vlm_with_expert["vlm"].model

    @property
    def expert(self) -> Any:
        """The action expert."""
        return self.vlm_with_expert["lm_expert"]

    def _embed(self, inputs: Inputs) -> tuple[Float[Tensor, "b p c"], Bool[Tensor, "b p"]]:
        """Embedded images and prompt, and their mask."""
        vlm, scale = self._vlm, math.sqrt(self.sizes.width)
        images = [vlm.connector(vlm.vision_model(image)) * scale for image in inputs.images]
        count = images[0].shape[1]
        prompt = vlm.text_model.embed_tokens(inputs.tokens) * scale
        shown = inputs.image_mask.repeat_interleave(count, 1)
        return torch.cat([*images, prompt], 1), torch.cat([shown, inputs.token_mask], 1)

    def embed(self, inputs: Inputs) -> tuple[Float[Tensor, "b p c"], Bool[Tensor, " p"], Bool[Tensor, "b p"]]:
        """Embedded prefix, where its blocks begin, and its mask: images and prompt see each other, then the state."""
        seen, mask = self._embed(inputs)
        x = torch.cat([seen, self.state_proj(inputs.state)[:, None].to(seen.dtype)], 1)
        blocks = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        blocks[-1] = True
        return x, blocks, torch.cat([mask, torch.ones_like(mask[:, :1])], 1)

    def context(self, inputs: Inputs) -> Context:
        """Keys and values of the prefix; the same for every step of the flow.

        Images and prompt do not see the state, so they are computed without it, and without gradient if the
        vision-language model is fixed.
        """
        seen, mask = self._embed(inputs)
        layers = list(self._vlm.text_model.layers)
        together = torch.zeros(seen.shape[1], dtype=torch.bool, device=seen.device)
        prefix = Context(run_prefix(layers, seen, together, mask), mask, inputs.state)
        return extend(layers, self.state_proj(inputs.state)[:, None], prefix)

    def hidden(self, context: Context, x: Float[Tensor, "b k a"], time: Float[Tensor, " b"]) -> Float[Tensor, "b k w"]:
        """Last hidden state of the expert for the noisy actions `x` at `time`, 1 (noise) to 0 (actions)."""
        actions = self.action_in_proj(x)
        features = time_features(time, self.sizes.expert_width, *self.periods).to(actions.dtype)
        mixed = torch.cat([actions, features[:, None].expand_as(actions)], -1)
        suffix = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(mixed)))
        causal = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        out = run_suffix(list(self.expert.layers), suffix, causal, context, crosses=self._crosses)
        return self.expert.norm(out)[0].float()

    def velocity(self, hidden: Float[Tensor, "b k w"]) -> Float[Tensor, "b k a"]:
        """Velocity, noise minus actions, of a hidden state."""
        return self.action_out_proj(hidden).float()
