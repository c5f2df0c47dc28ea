"""Small vision-language-action policy: image and sentence in, a chunk of action tokens out.

One head on the features of `policies.trunk` predicts all `k a` action tokens in parallel, as in OpenVLA-OFT (Kim et al.
2025). Each token is a softmax over `bins` equally spaced values, as in RT-1 and OpenVLA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import LATER, MOST_WIDE, Between, Layers, NonNegative, Width, checked
from worldgymnast.errors import FieldError
from worldgymnast.policies.trunk import Pixels, Trunk, add_noise, augment, check_camera_names, check_image_sizes
from worldgymnast.protocols import ComponentInfo
from worldgymnast.text import SENTENCE_WIDTH, SentenceEncoder
from worldgymnast.types import IMAGE, ActionChunk, Metrics, Observation


@checked
class SmallVLAConfig:
    """A small convolutional policy with discrete actions; config of `SmallVLA`.

    Attributes:
        chunk: actions per look, k. If omitted, `sft` scales it to the data's rate: 4 at 30 frames per second.
        bins: vocabulary size of an action token.
        width: channels of the trunk.
        blocks: residual blocks.
        hidden: hidden width of the head.
        shift: largest random image shift in imitation, in pixels.
        jitter: strength of random brightness, contrast and color in imitation.
        smoothing: standard deviation, in bins, of the target distribution around the demonstrated token.
        text_noise: standard deviation of noise on the sentence vector in imitation, relative to its length.
        state_dim: numbers of the robot's state (proprioception) that the policy reads; 0 for none.
        state_noise: standard deviation of noise on the state in imitation, in standard deviations of the data.
        cameras: names of the cameras that the policy reads; "image" alone is the whole frame.
        image_sizes: height and width of the pictures of each camera, set by training; other pictures are refused. None
            for any size, as in files of earlier versions.
    """

    chunk: Width = 2
    bins: Annotated[int, Between(2, MOST_WIDE)] = 33
    width: Annotated[int, Between(8, MOST_WIDE)] = 64
    blocks: Layers = 3
    hidden: Width = 256
    shift: Annotated[int, Between(0, 4096)] = 3
    jitter: NonNegative = 0.2
    smoothing: NonNegative = 0.7
    text_noise: NonNegative = 0.1
    state_dim: Annotated[int, Between(0, MOST_WIDE)] = field(default=0, metadata=LATER)
    state_noise: NonNegative = field(default=0.1, metadata=LATER)
    cameras: tuple[str, ...] = field(default=(IMAGE,), metadata=LATER)
    image_sizes: tuple[tuple[Pixels, Pixels], ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        if self.width % 8:
            raise FieldError("width", f"found {self.width}, expected a multiple of 8")
        check_camera_names(self.cameras)
        check_image_sizes(self.image_sizes, self.cameras)


class SmallVLA(Trunk):
    """Discrete-token `Policy` of about a million parameters, without the frozen sentence encoder."""

    config_type: ClassVar[type] = SmallVLAConfig
    centres: Tensor

    def __init__(self, config: SmallVLAConfig, action_spec: ActionSpec, text: SentenceEncoder | None = None):
        super().__init__(config.width, config.blocks, text, config.cameras, config.state_dim, config.image_sizes)
        self.config, self.action_spec = config, action_spec
        c = config
        self.head = nn.Sequential(
            nn.Linear(self.feature_width, c.hidden),
            nn.ReLU(),
            nn.Linear(c.hidden, c.hidden),
            nn.ReLU(),
            nn.Linear(c.hidden, c.chunk * action_spec.dim * c.bins),
        )
        low, high = (torch.tensor(ends, device="cpu") for ends in (action_spec.low, action_spec.high))
        share = torch.linspace(0, 1, c.bins, device="cpu")
        self.register_buffer("centres", low[:, None] + (high - low)[:, None] * share)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - in torch, not in its stubs

    @classmethod
    def from_config(cls, config: SmallVLAConfig, info: ComponentInfo) -> SmallVLA:
        """Build the policy with fresh weights."""
        return cls(config, info.spec)

    def with_state(self, state: Float[np.ndarray, "n s"]) -> SmallVLA:
        """Copy that also reads the state; the weights of this input are 0, so that it acts as before."""
        policy = SmallVLA(replace(self.config, state_dim=state.shape[1]), self.action_spec, self.text).to(self.device)
        own, weights, first = policy.state_dict(), self.state_dict(), "head.0.weight"
        added = torch.zeros_like(own[first][:, self.feature_width :])
        policy.load_state_dict(own | weights | {first: torch.cat([weights[first], added], 1)})
        policy.measure_state(state)
        return policy

    @property
    def chunk(self) -> int:
        """Actions per look, k."""
        return self.config.chunk

    def logits(
        self,
        images: Float[Tensor, "b 3 h w"] | Sequence[Tensor],
        sentence: Float[Tensor, "b s"],
        state: Tensor | None = None,
    ) -> Float[Tensor, "b k a v"]:
        """Logits of every token; see `features`."""
        logits = self.head(self.features(images, sentence, state))
        return logits.view(len(sentence), self.config.chunk, self.action_spec.dim, self.config.bins)

    def distribution(self, obs: Observation, temperature: float) -> Float[Tensor, "b k a v"]:
        """Log-probabilities of the vocabulary; temperature 0 returns those at temperature 1."""
        return F.log_softmax(self.logits(*self.preprocess(obs)) / (temperature or 1.0), dim=-1)

    def detokenize(self, tokens: Int[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Action values of tokens."""
        axes = torch.arange(self.action_spec.dim, device=tokens.device)
        return self.centres[axes.expand_as(tokens), tokens]

    def tokenize(self, actions: Float[Tensor, "b k a"]) -> Int[Tensor, "b k a"]:
        """Nearest token of every action value."""
        return (actions[..., None] - self.centres).abs().argmin(-1)

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Sample a chunk per row; temperature 0 is greedy."""
        logprobs = self.distribution(obs, temperature)
        if temperature == 0:
            tokens = logprobs.argmax(-1)
        else:  # inverse transform sampling: one uniform number per token, identical on every device
            uniform = torch.rand(logprobs.shape[:-1], generator=generator).to(self.device)
            cumulative = logprobs.exp().cumsum(-1)
            tokens = (cumulative < uniform[..., None] * cumulative[..., -1:]).sum(-1).clamp(max=self.config.bins - 1)
        chosen = logprobs.gather(-1, tokens[..., None])[..., 0]
        return ActionChunk(self.detokenize(tokens), tokens, chosen, temperature)

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Float[Tensor, "b k a"]:
        """Log-probabilities of the tokens in `chunk.sample`, differentiable."""
        tokens = self._tokens(chunk).to(self.device)
        return self.distribution(obs, chunk.temperature).gather(-1, tokens[..., None])[..., 0]

    @staticmethod
    def _tokens(chunk: ActionChunk) -> Int[Tensor, "b k a"]:
        """Sample of this policy: the bin index of every action."""
        assert isinstance(chunk.sample, Tensor)
        return chunk.sample

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Imitation loss: cross-entropy to the demonstrated tokens, smoothed over adjacent bins.

        Args:
            batch: "obs" (`Observation`), "actions" float32 [b k a], "mask" bool [b k] and "generator".
        """
        obs, actions, generator = batch["obs"], batch["actions"], batch["generator"]
        images, sentence, state = self.preprocess(obs)
        state = add_noise(state, self.config.state_noise, generator)
        scale = self.config.text_noise / SENTENCE_WIDTH**0.5
        sentence = sentence + torch.randn(sentence.shape, generator=generator).to(self.device) * scale
        seen = [augment(image, self.config.shift, self.config.jitter, generator) for image in images]
        logprobs = F.log_softmax(self.logits(seen, sentence, state), dim=-1)
        tokens = self.tokenize(actions.to(self.device))
        distance = torch.arange(self.config.bins, device=self.device) - tokens[..., None]
        target = F.softmax(-(distance**2) / (2 * max(self.config.smoothing, 1e-3) ** 2), dim=-1)
        mask = batch["mask"]
        weight = mask.to(self.device)[..., None].float().expand(tokens.shape)
        loss = (-(target * logprobs).sum(-1) * weight).sum() / weight.sum()
        accuracy = ((logprobs.argmax(-1) == tokens).float() * weight).sum() / weight.sum()
        return loss, {"loss": float(loss.detach()), "token_accuracy": float(accuracy)}
