"""SmolVLA with small sizes and random weights: 2 million parameters, for CPUs and small data sets.

The network, sampler and loss are those of `SmolVLA`. Three things differ. The weights begin random, so training changes
all of them; the scales of the embeddings are set such that images, words and layers begin equally loud. Imitation
shifts and recolors the images, as for the other policies that learn from a few demonstrations. The words are the first
entries of MiniLM's WordPiece vocabulary, which comes with a PyPI package, without its embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import Between, Layers, NonNegative, Positive, Width, checked
from worldgymnast.policies.experts import Inputs
from worldgymnast.policies.flow_chain import SamplerConfig
from worldgymnast.policies.prompts import MINILM, MINILM_ENTRIES
from worldgymnast.policies.smolvla import SmolVLA, SmolVLAConfig
from worldgymnast.policies.smolvla_network import SmolVLANetwork, SmolVLASizes
from worldgymnast.policies.trunk import augment

_POSITIONS = 0.2
"""Standard deviation of fresh position embeddings, relative to normalized patches."""


@checked
class TinySmolVLASizes(SmolVLASizes):
    """`SmolVLASizes` with defaults for images of 64 pixels; 2 million parameters.

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
        shuffle: side of the square of patches that become one token.
        action: padded width of actions.
    """

    vocabulary: Positive = MINILM_ENTRIES
    width: Width = 128
    hidden: Width = 384
    layers: Layers = 4
    heads: Width = 4
    kv_heads: Width = 2
    head: Width = 32
    expert_width: Width = 96
    expert_hidden: Width = 256
    vision_width: Width = 128
    vision_hidden: Width = 384
    vision_layers: Layers = 3
    vision_heads: Width = 4
    image: Width = 64
    patch: Width = 8
    shuffle: Width = 2
    action: Width = 8


@checked
class TinySmolVLAConfig(SmolVLAConfig):
    """SmolVLA with small sizes and random weights; config of `TinySmolVLA`, see `FlowExpertConfig`.

    Attributes:
        horizon: actions that the network predicts.
        chunk: actions that a look returns, the first of them. If omitted, `sft` scales it to the data's rate: 4 at 30
            frames per second.
        sizes: sizes of the network.
        tokenizer: "minilm", or folder or hub name of another tokenizer, with `sizes.vocabulary` to match.
        prompt_length: tokens of a padded prompt.
        sampler: the sampler in reinforcement learning. Greedy actions use its number of steps.
        ratio: log-probabilities per look ("look") or of every number ("number"). One update changes the sum over a look
            so much that half of the looks are clipped.
        trained: weights that training changes; all, since none are pretrained.
        shift: largest random image shift in imitation, in pixels.
        jitter: strength of random brightness, contrast and color in imitation.
    """

    horizon: Width = 2
    chunk: Width = 2
    sizes: TinySmolVLASizes = field(default_factory=TinySmolVLASizes)
    tokenizer: str = MINILM
    prompt_length: Positive = 16
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=4))
    ratio: Literal["look", "number"] = "number"
    trained: Literal["expert", "all"] = "all"
    shift: Annotated[int, Between(0, 4096)] = 3
    jitter: NonNegative = 0.2


class TinySmolVLA(SmolVLA):
    """Small SmolVLA `Policy` with random weights, for imitation and reinforcement learning on a CPU.

    >>> from worldgymnast.actions import metaworld_spec
    >>> policy = TinySmolVLA(TinySmolVLAConfig(), metaworld_spec(6))
    >>> sum(weight.numel() for weight in policy.parameters()) // 100_000
    23
    """

    config_type: ClassVar[type] = TinySmolVLAConfig
    config: TinySmolVLAConfig

    def __init__(self, config: TinySmolVLAConfig, action_spec: ActionSpec):
        super().__init__(config, action_spec)
        balance_embeddings(self.model)

    def training_inputs(self, batch: Mapping[str, Any]) -> Inputs:
        """Inputs with randomly shifted and recolored images."""
        inputs, config = super().training_inputs(batch), self.config
        images = [augment(image, config.shift, config.jitter, batch["generator"]) for image in inputs.images]
        return replace(inputs, images=images)


@torch.no_grad()
def balance_embeddings(network: nn.Module) -> None:
    """Scale fresh embeddings such that image and word tokens begin with mean square 1.

    The network multiplies both by the square root of its width, which suits pretrained weights. Random ones of torch's
    size would be so large that the layers changed them by a few percent only.
    """
    assert isinstance(network, SmolVLANetwork)
    vlm: Any = network.vlm_with_expert["vlm"]
    width = network.sizes.width
    vlm.model.text_model.embed_tokens.weight.mul_(width**-0.5)
    merged = vlm.model.connector.modality_projection.proj
    nn.init.normal_(merged.weight, std=(merged.in_features * width) ** -0.5)
    vlm.model.vision_model.embeddings.position_embedding.weight.mul_(_POSITIONS)
