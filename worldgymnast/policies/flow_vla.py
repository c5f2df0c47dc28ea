"""Small flow-matching policy, trained by RL through a stochastic sampler.

A velocity field transports noise to a chunk of actions in `steps` Euler steps (flow matching, Lipman et al. 2023, arXiv
2210.02747; as in pi0, Black et al. 2024, arXiv 2410.24164). Imitation regresses the velocity. For reinforcement
learning, a stochastic differential equation with the same marginals replaces the ordinary one (Flow-GRPO, Liu et al.
2025, arXiv 2505.05470, eq. 9; Flow-SDE of pi-RL, arXiv 2510.25889). Each step samples a Gaussian whose mean the policy
predicts, so the log-probability of the whole path is known. The path is the sample that `logprobs` evaluates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import LATER, MOST_WIDE, Between, Layers, NonNegative, Width, checked
from worldgymnast.errors import FieldError
from worldgymnast.policies.trunk import Pixels, Trunk, add_noise, augment, check_camera_names, check_image_sizes
from worldgymnast.protocols import ComponentInfo
from worldgymnast.text import SENTENCE_WIDTH, SentenceEncoder
from worldgymnast.types import IMAGE, ActionChunk, Metrics, Observation

_TIMES = 16
"""Features of the time embedding."""


@checked
class FlowVLAConfig:
    """A small convolutional policy with continuous actions by flow matching; config of `FlowVLA`.

    Attributes:
        chunk: actions per look, k. If omitted, `sft` scales it to the data's rate: 4 at 30 frames per second.
        steps: Euler steps from noise to actions.
        noise: noise scale of the stochastic sampler at temperature 1; it is 0 at temperature 0.
        width: channels of the trunk.
        blocks: residual blocks.
        hidden: hidden width of the velocity field.
        shift: largest random image shift in imitation, in pixels.
        jitter: strength of random brightness, contrast and color in imitation.
        text_noise: standard deviation of noise on the sentence vector in imitation, relative to its length.
        state_dim: numbers of the robot's state (proprioception) that the policy reads; 0 for none.
        state_noise: standard deviation of noise on the state in imitation, in standard deviations of the data.
        cameras: names of the cameras that the policy reads; "image" alone is the whole frame.
        image_sizes: height and width of the pictures of each camera, set by training; other pictures are refused. None
            for any size, as in files of earlier versions.
    """

    chunk: Width = 2
    steps: Layers = 4
    noise: Annotated[float, Between(1e-3, 10)] = 0.5
    width: Annotated[int, Between(8, MOST_WIDE)] = 64
    blocks: Layers = 3
    hidden: Width = 256
    shift: Annotated[int, Between(0, 4096)] = 3
    jitter: NonNegative = 0.2
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


class FlowVLA(Trunk):
    """Flow-matching `Policy`.

    Its sample is the path from noise to actions, [b steps+1 k a].
    """

    config_type: ClassVar[type] = FlowVLAConfig
    center: Tensor
    half_range: Tensor

    def __init__(self, config: FlowVLAConfig, action_spec: ActionSpec, text: SentenceEncoder | None = None):
        super().__init__(config.width, config.blocks, text, config.cameras, config.state_dim, config.image_sizes)
        self.config, self.action_spec = config, action_spec
        numbers = config.chunk * action_spec.dim
        self.field = nn.Sequential(
            nn.Linear(self.feature_width + numbers + _TIMES, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, numbers),
        )
        low, high = (torch.tensor(ends, device="cpu") for ends in (action_spec.low, action_spec.high))
        self.register_buffer("center", (high + low) / 2)
        self.register_buffer("half_range", ((high - low) / 2).clamp(min=1e-6))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - in torch, not in its stubs

    @classmethod
    def from_config(cls, config: FlowVLAConfig, info: ComponentInfo) -> FlowVLA:
        """Build the policy with fresh weights."""
        return cls(config, info.spec)

    @property
    def chunk(self) -> int:
        """Actions per look, k."""
        return self.config.chunk

    def velocity(
        self, features: Float[Tensor, "b f"], x: Float[Tensor, "b k a"], time: Float[Tensor, " b"]
    ) -> Float[Tensor, "b k a"]:
        """Velocity of `x` at `time`, 0 (noise) to 1 (actions).

        Actions are in -1..1.
        """
        octaves = 2.0 ** torch.arange(_TIMES // 2, device=x.device)
        angles = math.pi * time[:, None] * octaves
        inputs = torch.cat([features, x.flatten(1), angles.sin(), angles.cos()], -1)
        return self.field(inputs).view_as(x)

    def _step(
        self, features: Tensor, x: Tensor, index: int, temperature: float
    ) -> tuple[Float[Tensor, "b k a"], float]:
        """Mean and standard deviation after step `index` (Flow-GRPO, eq. 9, time reversed).

        With s^2 = noise^2 (1 - t) / t the drift is v + s^2 / (2 (1 - t)) (t v - x); t is at least half a step.
        """
        dt = 1 / self.config.steps
        time = max(index * dt, dt / 2)
        v = self.velocity(features, x, torch.full((len(x),), index * dt, device=x.device))
        strength = (self.config.noise * temperature) ** 2
        drift = v + strength / (2 * time) * (time * v - x)
        return x + drift * dt, math.sqrt(strength * (1 - index * dt) / time * dt)

    def _actions(self, x: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        return self.center + self.half_range * x.clamp(-1, 1)

    def _path_logprobs(
        self, features: Tensor, path: Float[Tensor, "b s1 k a"], temperature: float
    ) -> Float[Tensor, "b s k a"]:
        """Log-density of every number sampled along the path."""
        logprobs = []
        for index in range(self.config.steps):
            mean, deviation = self._step(features, path[:, index], index, temperature or 1.0)
            z = (path[:, index + 1] - mean) / deviation
            logprobs.append(-0.5 * z**2 - math.log(deviation * math.sqrt(2 * math.pi)))
        return torch.stack(logprobs, 1)

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Sample a chunk per row.

        At temperature 0 the path starts at zero and follows the velocity only.
        """
        features = self.features(*self.preprocess(obs))
        shape = (len(features), self.config.chunk, self.action_spec.dim)

        def draw() -> Tensor:
            if not temperature:
                return torch.zeros(shape, device=self.device)
            return torch.randn(shape, generator=generator).to(self.device)

        path = [draw()]
        for index in range(self.config.steps):
            mean, deviation = self._step(features, path[-1], index, temperature)
            path.append(mean + deviation * draw())
        sample = torch.stack(path, 1)
        logprobs = self._path_logprobs(features, sample, temperature)
        return ActionChunk(self._actions(path[-1]), sample, logprobs, temperature)

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Float[Tensor, "b s k a"]:
        """Log-densities of the path in `chunk.sample`, differentiable."""
        assert isinstance(chunk.sample, Tensor)
        features = self.features(*self.preprocess(obs))
        return self._path_logprobs(features, chunk.sample.to(self.device), chunk.temperature)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Imitation loss: squared error of the velocity (conditional flow matching).

        Args:
            batch: "obs" (`Observation`), "actions" float32 [b k a], "mask" bool [b k] and "generator".
        """
        obs, generator = batch["obs"], batch["generator"]
        images, sentence, state = self.preprocess(obs)
        state = add_noise(state, self.config.state_noise, generator)
        scale = self.config.text_noise / SENTENCE_WIDTH**0.5
        sentence = sentence + torch.randn(sentence.shape, generator=generator).to(self.device) * scale
        seen = [augment(image, self.config.shift, self.config.jitter, generator) for image in images]
        features = self.features(seen, sentence, state)
        target = ((batch["actions"].to(self.device) - self.center) / self.half_range).clamp(-1, 1)
        noise = torch.randn(target.shape, generator=generator).to(self.device)
        time = torch.rand(len(target), generator=generator).to(self.device)
        mixed = torch.lerp(noise, target, time[:, None, None])
        error = (self.velocity(features, mixed, time) - (target - noise)) ** 2
        weight = batch["mask"].to(self.device)[..., None].float().expand(error.shape)
        loss = (error * weight).sum() / weight.sum()
        return loss, {"loss": float(loss.detach())}
