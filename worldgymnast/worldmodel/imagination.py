"""What every world model over latents does alike: encode, imagine frame by frame, decode.

What differs is how one frame follows from the state: `_next`, in `sampler` (ours) and `diffusion` (the published one).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.types import WorldState


@runtime_checkable
class Codec(Protocol):
    """Frames to latents and back."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode(self, frames: UInt8[Tensor, "*n h w 3"]) -> Float[Tensor, "*n hl wl c"]:
        """Latents."""
        ...

    def decode(self, latents: Float[Tensor, "*n hl wl c"]) -> UInt8[Tensor, "*n h w 3"]:
        """Frames."""
        ...


class Imagination(nn.Module):
    """The `WorldModel` methods of a world model over latents; a subclass gives `codec`, `start_latent` and `_next`."""

    action_spec: ActionSpec

    @property
    def codec(self) -> Codec:
        """What encodes and decodes its frames."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.codec.device

    @torch.no_grad()
    def start(self, frames: UInt8[Tensor, "b h w 3"]) -> WorldState:
        """See `WorldModel.start`."""
        return self.start_latent(self.codec.encode(frames))

    def start_latent(self, latent: Float[Tensor, "b h w c"]) -> WorldState:
        """The state in which `latent` is what is seen now."""
        raise NotImplementedError

    @torch.no_grad()
    def step(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator
    ) -> tuple[WorldState, UInt8[Tensor, "b k h w 3"]]:
        """See `WorldModel.step`."""
        state, latents = self.imagine(state, actions, generator=generator)
        return state, self.codec.decode(latents)

    @torch.no_grad()
    def imagine(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator
    ) -> tuple[WorldState, Float[Tensor, "b k h w c"]]:
        """Like `step`, but the frames stay latents."""
        self.action_spec.check(actions, "world model step")
        made = []
        for action in actions.to(self.device).unbind(1):
            noise = torch.randn(state.latent.shape, generator=generator).to(self.device)
            state = self._next(state, action, noise)
            made.append(state.latent)
        return state, torch.stack(made, 1)

    def _next(self, state: WorldState, action: Tensor, noise: Tensor) -> WorldState:
        """The state one frame later: `action` [b a], `noise` [b h w c]."""
        raise NotImplementedError
