"""State head: the robot's state (proprioception) at every imagined frame, from the world model's hidden states.

Policies that read the state need one in imagination, too. The head is trained together with the world model on logged
states, also along imagined rollouts. It sees the state at the start of the rollout, known or estimated from the start
frame, so what no camera shows (an offset, a gripper out of view) stays as it was. Its own predictions are not fed back,
so errors do not add up, unless `WorldModelConfig.state_input` is set: the head then sees the state before the action,
and the next frame depends on it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldgymnast.weights import mean_and_deviation

_KNOWN_SHARE = 0.75
"""Share of training clips whose state at the start is known; it is estimated in the others."""
_INPUT_NOISE = 0.05
"""Largest standard deviation of the noise on a state that is an input of the next frame, in standard deviations."""
_QUERIES = 8
"""Summaries of a frame's tokens."""
_MAX_DEVIATION = 8.0
"""Largest normalized target, in standard deviations: a sensor's outlier should not dominate the loss."""


class _Pool(nn.Module):
    """Attention of learned queries to a frame's tokens, with the tokens' positions."""

    def __init__(self, width: int, hidden: int, tokens: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.score = nn.Linear(width, _QUERIES)
        self.value = nn.Linear(width, hidden)

    def forward(self, tokens: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b f"]:
        x = self.norm(tokens) + self.positions
        return (self.score(x).softmax(-2).transpose(-1, -2) @ self.value(x)).flatten(-2)


class StateHead(nn.Module):
    """Normalized state of a frame, from its tokens and the state at the start.

    Args:
        width: features of a token.
        tokens: tokens per frame.
        state_dim: numbers in a state.
        sees_start: whether a known state is an input.
        hidden: hidden width.
    """

    def __init__(self, width: int, tokens: int, state_dim: int, sees_start: bool = True, hidden: int = 64):
        super().__init__()
        self.pool = _Pool(width, hidden, tokens)
        inputs = _QUERIES * hidden + (state_dim if sees_start else 0)
        self.out = nn.Sequential(
            nn.Linear(inputs, 2 * hidden),
            nn.SiLU(),
            nn.Linear(2 * hidden, 2 * hidden),
            nn.SiLU(),
            nn.Linear(2 * hidden, state_dim),
        )

    def forward(
        self, tokens: Float[Tensor, "b t n d"], known: Float[Tensor, "b s"] | Float[Tensor, "b t s"] | None = None
    ) -> Float[Tensor, "b t s"]:
        """State at each frame, in standard deviations from the mean.

        Args:
            tokens: tokens of each frame.
            known: state at the start, or before each frame.
        """
        pooled = self.pool(tokens)
        if known is None:
            return self.out(pooled)
        given = known if known.ndim == 3 else known[:, None].expand(-1, tokens.shape[1], -1)
        return given + self.out(torch.cat([pooled, given], -1))


class RobotState(nn.Module):
    """The state heads of a world model, of imagined frames and of the start frame, and the state's statistics.

    Args:
        state_dim: numbers in a state.
        width: features of a frame's token in the transformer.
        tokens: tokens per frame.
        channels: channels of a latent.
        cells: latents per frame.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, state_dim: int, width: int, tokens: int, channels: int, cells: int):
        super().__init__()
        self.head = StateHead(width, tokens, state_dim)
        self.start_head = StateHead(channels, cells, state_dim, sees_start=False)
        self.register_buffer("mean", torch.zeros(state_dim))
        self.register_buffer("deviation", torch.ones(state_dim))

    @torch.no_grad()
    def measure(self, state: Float[np.ndarray, "n s"]) -> None:
        """Set the statistics that normalize the state."""
        mean, deviation = mean_and_deviation(state)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def start(self, latent: Float[Tensor, "b h w c"], known: Float[Tensor, "b s"] | None) -> Float[Tensor, "b s"]:
        """Normalized state at the start: known, or estimated from the frame where it is NaN."""
        estimate = self.start_head(latent.flatten(1, 2)[:, None].float())[:, 0].float()
        if known is None:
            return estimate
        given = self._normalized(known.to(latent.device))
        return torch.where(given.isnan(), estimate, given)

    def predict(self, hidden: Float[Tensor, "b n d"] | None, start: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """State at the frame of `hidden`, or at the start, in the units of the data."""
        state = start if hidden is None else self.head(hidden[:, None].float(), start)[:, 0]
        return state.float() * self.deviation + self.mean

    def training_start(
        self, latents: Float[Tensor, "b t1 h w c"], state: Float[Tensor, "b t1 s"], generator: torch.Generator
    ) -> Float[Tensor, "b s"]:
        """Normalized state at the start of training clips: known in most, estimated from the frame in the others."""
        estimate = self.start_head(latents[:, :1].flatten(2, 3).float())[:, 0].detach().float()
        is_known = torch.rand((len(state), 1), generator=generator).to(estimate.device) < _KNOWN_SHARE
        return torch.where(is_known, self._normalized(state[:, 0]), estimate)

    def noisy(self, state: Float[Tensor, "b t s"], generator: torch.Generator) -> Float[Tensor, "b t s"]:
        """Normalized state with the noise that its own predictions have when they are fed back."""
        strength = _INPUT_NOISE * torch.rand((len(state), 1, 1), generator=generator)
        noise = strength * torch.randn(state.shape, generator=generator)
        return self._normalized(state) + noise.to(state.device)

    def _normalized(self, state: Float[Tensor, "*n s"]) -> Float[Tensor, "*n s"]:
        return (state.float() - self.mean) / self.deviation

    def loss(
        self,
        predicted: Float[Tensor, "b t s"],
        latents: Float[Tensor, "b t1 h w c"],
        state: Float[Tensor, "b t1 s"],
        mask: Bool[Tensor, "b t"],
    ) -> Float[Tensor, ""]:
        """Loss of both heads: on the first frame of each clip, and on the normalized predictions after each action."""
        truth = self._normalized(state)
        estimate = self.start_head(latents[:, :1].flatten(2, 3).float())
        first = state_loss(estimate, truth[:, :1], torch.ones_like(mask[:, :1]))
        return first + state_loss(predicted, truth[:, 1:], mask)


def state_loss(
    prediction: Float[Tensor, "b t s"], target: Float[Tensor, "b t s"], counts: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Mean smooth absolute error of normalized states over frames where `counts` is True; 0 without any."""
    clamped = target.clamp(-_MAX_DEVIATION, _MAX_DEVIATION)
    each = F.smooth_l1_loss(prediction, clamped, reduction="none", beta=0.1).mean(-1)
    return (each * counts).sum() / counts.sum().clamp(min=1)
