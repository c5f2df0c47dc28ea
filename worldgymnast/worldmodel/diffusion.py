"""A world model as WorldGym publishes them: v-prediction diffusion over an image VAE's latents, sampled by DDIM.

The arithmetic is that of WorldGym (arXiv 2506.00613): a sigmoid noise schedule of 1000 levels, context frames shown at
a low level without noise, guidance between the given action and a null action. The published sampler recomputes the
whole window at every step of every frame. Here a frame of the context is computed once: causal attention makes its keys
and values the same whatever comes after it, so only the new frame walks down the noise levels, against a cache. The
frames that come out are the published ones.

When the window slides, its oldest frame goes. "recompute" then computes the remaining ones anew, as if the oldest had
never been: the published frames still, at one pass over the window a frame. "band" keeps the keys and values as they
are, which hold what deeper layers had read from frames that have gone: cheaper, and another function.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.types import Metrics, WorldState
from worldgymnast.worldmodel.imagination import Imagination
from worldgymnast.worldmodel.objective import weighted_error
from worldgymnast.worldmodel.transformer import TransformerConfig, VideoTransformer
from worldgymnast.worldmodel.vae import ImageVAE, VAEConfig

LEVELS = 1000


@dataclass(frozen=True)
class DiffusionConfig:
    """A `DiffusionWorldModel`.

    Attributes:
        vae: the image VAE.
        transformer: `window` is the most frames the model sees at once, the new one included.
        steps: DDIM steps a frame.
        guidance: 1 for none; g gives (1 - g) v(null action) + g v(action).
        context_level: the noise level that context frames are said to have.
        slide: what happens when the window slides, "recompute" or "band".
        drop_action: share of training clips whose actions are the null action.
    """

    vae: VAEConfig = VAEConfig()
    transformer: TransformerConfig = TransformerConfig(context=0, learned_positions=False)
    steps: int = 10
    guidance: float = 3.0
    context_level: int = 14
    slide: Literal["recompute", "band"] = "recompute"
    drop_action: float = 0.1


def sigmoid_schedule(levels: int = LEVELS, start: float = -3.0, end: float = 3.0) -> Float[Tensor, " levels"]:
    """Signal power (alphas_cumprod) of every level: a sigmoid from `start` to `end`, betas clipped to 0.999."""
    t = torch.linspace(0, 1, levels + 1, dtype=torch.float64)
    first, last = torch.sigmoid(torch.tensor([start, end], dtype=torch.float64))
    power = (last - torch.sigmoid(t * (end - start) + start)) / (last - first)
    power = power / power[0]
    betas = (1 - power[1:] / power[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0).float()


def null_action(actions: Float[Tensor, "*n a"]) -> Float[Tensor, "*n a"]:
    """The action that stands for none: zeros, the last entry 1."""
    blank = torch.zeros_like(actions)
    blank[..., -1] = 1.0
    return blank


class DiffusionWorldModel(Imagination):
    """A `WorldModel` that samples by DDIM with guidance over the latents of an image VAE."""

    power: Tensor

    def __init__(self, config: DiffusionConfig, action_spec: ActionSpec, fps: float):
        super().__init__()
        self.config, self.action_spec, self.fps = config, action_spec, fps
        self.vae = ImageVAE(config.vae).requires_grad_(False)
        self.transformer = VideoTransformer(config.transformer)
        self.register_buffer("power", sigmoid_schedule(), persistent=False)

    @property
    def codec(self) -> ImageVAE:
        """See `Imagination.codec`."""
        return self.vae

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of its frames."""
        h, w = self.config.transformer.grid
        return h * self.vae.shrink, w * self.vae.shrink

    # -- imagination ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start_latent(self, latent: Float[Tensor, "b h w c"]) -> WorldState:
        """The state in which `latent` is what is seen now; the action that led there is zeros."""
        blank = torch.zeros(len(latent), 1, self.config.transformer.action_dim, device=latent.device)
        return self._filed(WorldState(latent, 0, (), {"latents": latent[:, None], "actions": blank}))

    def _next(self, state: WorldState, action: Tensor, noise: Tensor) -> WorldState:
        """One frame: walks down the levels against the cache of its context, then joins it."""
        state = self._slid(state)
        action, x = action[:, None], noise[:, None]
        for level, then in itertools.pairwise(self._levels()):
            power = self.power[level]
            after = self.power[then] if then >= 0 else torch.ones_like(power)
            v, _ = self._answer(x, level, action, state)
            clean = power.sqrt() * x - (1 - power).sqrt() * v
            error = (1 - power).sqrt() * x + power.sqrt() * v
            x = after.sqrt() * clean + (1 - after).sqrt() * error
        extra = {
            "latents": torch.cat([state.extra["latents"], x], 1),
            "actions": torch.cat([state.extra["actions"], action], 1),
        }
        return self._filed(WorldState(x[:, 0], state.frame + 1, state.cache, extra))

    def _levels(self) -> list[int]:
        """Noise levels from pure noise down to -1, which is clean."""
        return torch.linspace(-1, LEVELS - 1, self.config.steps + 1).long().flip(0).tolist()

    def _answer(
        self, x: Float[Tensor, "b t h w c"], level: int, actions: Float[Tensor, "b t a"], state: WorldState
    ) -> tuple[Float[Tensor, "b t h w c"], tuple[Tensor, ...]]:
        """v, guided, and the keys and values [b g 2 t n m d] of the t frames after those in the cache.

        Both guidance passes are one batch. Positions count from the start of the rollout; attention sees only their
        differences, so that counting from the start of the window, as published, gives the same.
        """
        variants = [null_action(actions), actions] if self.config.guidance != 1 else [actions]
        g, t = len(variants), x.shape[1]
        v, fresh = self.transformer(
            x.repeat_interleave(g, 0),
            torch.full((len(x) * g, t), float(level), device=x.device),
            torch.stack(variants, 1).flatten(0, 1),
            cache=tuple(part.flatten(0, 1) for part in state.cache),
            first=state.frame + 1 - state.extra["latents"].shape[1] + self._known(state),
        )
        each = v.unflatten(0, (len(x), g))
        guided = each[:, 0]
        if g > 1:
            guided = (1 - self.config.guidance) * each[:, 0] + self.config.guidance * each[:, 1]
        return guided, tuple(part.unflatten(0, (len(x), g)) for part in fresh)

    def _filed(self, state: WorldState) -> WorldState:
        """The state with the frames that are in `extra` but not yet in the cache."""
        known = self._known(state)
        latents, actions = state.extra["latents"][:, known:], state.extra["actions"][:, known:]
        level = self.config.context_level
        _, fresh = self._answer(self.power[level].sqrt() * latents, level, actions, state)
        pairs = zip(state.cache, fresh, strict=True)
        cache = tuple(torch.cat(pair, 3) for pair in pairs) if state.cache else fresh
        return WorldState(state.latent, state.frame, cache, state.extra)

    @staticmethod
    def _known(state: WorldState) -> int:
        """Frames in the cache."""
        return state.cache[0].shape[3] if state.cache else 0

    def _slid(self, state: WorldState) -> WorldState:
        """The state with room for one more frame in its window."""
        room = self.config.transformer.window - 1
        if state.extra["latents"].shape[1] <= room:
            return state
        extra = {name: part[:, -room:] for name, part in state.extra.items()}
        if self.config.slide == "band":
            return WorldState(state.latent, state.frame, tuple(x[:, :, :, -room:] for x in state.cache), extra)
        return self._filed(WorldState(state.latent, state.frame, (), extra))

    # -- training ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Squared error of v, an independent noise level for every frame (diffusion forcing).

        Args:
            batch: "latents" float [b t+1 h w c], "actions" float [b t a], "mask" bool [b t], "generator".
        """
        latents, generator = batch["latents"], batch["generator"]
        b, t = latents.shape[:2]
        actions = F.pad(batch["actions"], (0, 0, 1, 0))
        dropped = torch.rand((b, 1, 1), generator=generator) < self.config.drop_action
        actions = torch.where(dropped.to(actions.device), null_action(actions), actions)
        level = torch.randint(LEVELS, (b, t), generator=generator).to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        power = self.power[level][:, :, None, None, None]
        signal, spread = power.sqrt(), (1 - power).sqrt()
        answer, _ = self.transformer(signal * latents + spread * noise, level.float(), actions)
        mask = F.pad(batch["mask"], (1, 0), value=True)
        loss = weighted_error(answer, signal * noise - spread * latents, torch.ones_like(latents[..., :1]), mask)
        return loss, {"loss": float(loss.detach())}
