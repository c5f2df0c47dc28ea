"""The world model: start, step, fork, and the loss it is trained with.

A frame is imagined in `steps` Euler steps of the flow from pure noise at level 0 to the clean frame at level 1, given
the previous frame, the action and the cache. What enters the cache are the keys and values of the last of these steps:
a frame's tokens hold the previous clean frame and its action whatever their own noise, so together the cached frames
hold the whole past exactly, and no extra pass is needed to commit a frame. When the window slides, the oldest frame's
keys and values are dropped; what deeper layers had read from it stays in the others', as in banded attention over the
whole rollout. With `cached=False` exactly that is computed, from all inputs so far and for every frame anew: slow, and
the reference that the cached sampler must equal.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.types import Metrics, WorldState
from worldgymnast.worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldgymnast.worldmodel.imagination import Imagination
from worldgymnast.worldmodel.objective import (
    FlowConfig,
    as_input,
    mix,
    motion_weights,
    sample_levels,
    weighted_error,
)
from worldgymnast.worldmodel.transformer import TransformerConfig, VideoTransformer

_LEVEL_SCALE = 1000.0  # the sinusoid's frequencies are made for 0..1000


@dataclass(frozen=True)
class WorldModelConfig:
    """A `LatentWorldModel`.

    Attributes:
        autoencoder, transformer, objective: its parts.
        steps: flow steps a frame.
        cached: keep keys and values from frame to frame; without, the whole rollout is recomputed for every frame.
    """

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    transformer: TransformerConfig = TransformerConfig()
    objective: FlowConfig = FlowConfig()
    steps: int = 1
    cached: bool = True

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        h, w = self.transformer.grid
        return h * self.autoencoder.shrink, w * self.autoencoder.shrink


class LatentWorldModel(Imagination):
    """A `WorldModel` over the latents of a frozen `Autoencoder`."""

    def __init__(self, config: WorldModelConfig, action_spec: ActionSpec, fps: float):
        super().__init__()
        self.config, self.action_spec, self.fps = config, action_spec, fps
        self.autoencoder = Autoencoder(config.autoencoder).requires_grad_(False)
        self.transformer = VideoTransformer(config.transformer)

    @property
    def codec(self) -> Autoencoder:
        """See `Imagination.codec`."""
        return self.autoencoder

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of its frames."""
        return self.config.frame_size

    # -- imagination ------------------------------------------------------------------------------------------------

    def start_latent(self, latent: Float[Tensor, "b h w c"]) -> WorldState:
        """The state in which `latent` is what is seen now; it stays the anchor of the rollout."""
        return WorldState(latent, 0, extra={"anchor": latent})

    def _next(self, state: WorldState, action: Tensor, noise: Tensor) -> WorldState:
        """One frame: walks from noise to the clean frame, then files the last step's keys and values."""
        x, fresh = noise, ()
        times = torch.linspace(0, 1, self.config.steps + 1).tolist()
        entry: dict[str, Tensor] = {}
        for now, then in itertools.pairwise(times):
            entry = {
                "noisy": x[:, None],
                "level": torch.full((len(x), 1), now, device=x.device),
                "action": action[:, None],
                "context": self._context(state.latent[:, None], state.extra["anchor"][:, None]),
            }
            clean, fresh = self._predict(state, entry)
            x = x + (then - now) * (clean - x) / (1 - now)
        if self.config.cached:
            return WorldState(x, state.frame + 1, self.transformer.extend(state.cache, fresh), state.extra)
        history = {k: torch.cat([state.extra[k], v], 1) if k in state.extra else v for k, v in entry.items()}
        return WorldState(x, state.frame + 1, extra={**history, "anchor": state.extra["anchor"]})

    def _predict(self, state: WorldState, entry: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The clean frame [b h w c] as the network sees it from `entry`, with the cache or with the whole window."""
        first = state.frame
        if not self.config.cached and "level" in state.extra:
            entry = {k: torch.cat([state.extra[k], v], 1) for k, v in entry.items()}
            first = state.frame - state.extra["level"].shape[1]
        level = entry["level"]
        change, fresh = self.transformer(
            as_input(entry["noisy"], level),
            level * _LEVEL_SCALE,
            entry["action"],
            entry["context"],
            state.cache,
            first,
        )
        return state.latent + change[:, -1], fresh

    def _context(self, previous: Tensor, first: Tensor) -> Tensor:
        """The clean frames that enter beside the noisy one, [b t h w cc]; without any, an empty last axis."""
        return torch.cat([previous[..., :0], previous, first][: 1 + self.config.transformer.context], -1)

    # -- training ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """The objective of `worldmodel.objective` on a batch of clips.

        Args:
            batch: "latents" float [b t+1 h w c], "actions" float [b t a], "mask" bool [b t], "generator", and
                "progress" in 0..1.
        """
        latents, actions, mask = batch["latents"], batch["actions"], batch["mask"]
        generator, progress = batch["generator"], batch["progress"]
        o = self.config.objective
        clean = latents[:, 1:]
        previous = self._previous(latents, actions, generator, progress)
        level = sample_levels((clean.shape[0], clean.shape[1]), o.pure_noise, generator).to(self.device)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        noisy = as_input(mix(clean, noise, level), level)
        context = self._context(previous, latents[:, :1].expand_as(previous))
        change, _ = self.transformer(noisy, level * _LEVEL_SCALE, actions, context)
        weight = motion_weights(latents, self.config.transformer.patch, o.motion) * self.autoencoder.latent_weight
        answer = previous + change
        loss = weighted_error(answer, clean, weight, mask)
        still = weighted_error(previous, clean, weight, mask)
        return loss, {"loss": float(loss.detach()), "relative_error": float(loss.detach() / still.detach())}

    @torch.no_grad()
    def _previous(self, latents: Tensor, actions: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        """The previous frames [b t h w c] as training shows them: corrupted, or imagined by the model itself."""
        o = self.config.objective
        previous = latents[:, :-1]
        strength = torch.rand((len(latents), 1, 1, 1, 1), generator=generator).to(self.device) * o.corruption
        corrupted = previous + strength * torch.randn(previous.shape, generator=generator).to(self.device)
        rows = round(o.self_rollout * len(latents)) if progress >= o.self_rollout_from else 0
        rows = rows if actions.shape[1] > 1 else 0
        if rows:
            state = self.start_latent(latents[:rows, 0])
            _, imagined = self.imagine(state, actions[:rows, :-1], generator=generator)
            corrupted = torch.cat([torch.cat([latents[:rows, :1], imagined], 1), corrupted[rows:]])
        return corrupted
