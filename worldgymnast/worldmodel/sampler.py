"""The world model: start, step, fork, and the loss it is trained with, from the embedded size to the published one.

A frame is imagined by walking `steps` levels from noise to the clean frame, given its action and the frames before it.
Those are never computed again: causal attention makes a frame's keys and values the same whatever comes after it, so
they are kept, and only the new frame walks, against this cache. How a frame enters it is told by the transformer:

- context 0, the published layout: the clean frame joins the cache in the first pass of the next frame, at the
  objective's context level.
- context 1 or 2: every frame enters with the clean frame before it beside it, whatever its own noise, so that the
  cached frames hold the whole past; the keys and values of the last step join the cache, and no pass is needed.

When the window slides, its oldest frames leave. With `slide` "band" the other frames' keys and values stay as they
are, which hold what deeper layers had read from those that left, as in banded attention over the whole rollout. With
"recompute" they are computed anew, in the first pass of the next frame, as if the oldest had never been: what
published samplers give, at one pass over the window a frame. With `hop` more than 1, so many frames leave at once and
the window is computed anew only once in `hop` frames; every frame is still exactly what the model gives for the frames
in its window, of which there are then `window - hop` to `window`.
With `cached=False` all of it is computed from the inputs, at every step of every frame: the reference that the cached
sampler must equal.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import MOST_WIDE, Between, ByKind, NonNegative, Positive, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.precision import Precision, autocast
from worldgymnast.protocols import Stored
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Metrics, WorldState
from worldgymnast.weights import module_identity
from worldgymnast.worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldgymnast.worldmodel.clips import Clip, Part, null_action, part_of
from worldgymnast.worldmodel.objective import (
    LEVELS,
    FlowConfig,
    ObjectiveConfig,
    motion_weights,
    objective,
    toward,
    weighted_error,
)
from worldgymnast.worldmodel.success_head import SuccessHead, success_loss
from worldgymnast.worldmodel.transformer import Cache, TransformerConfig, VideoTransformer
from worldgymnast.worldmodel.vae import ImageVAE, VAEConfig

Entry = dict[str, Tensor]
"""Frames as the transformer takes them: "noisy" [b t h w c], "level" [b t], "action" [b t a], "context" [b t h w x]."""

MOST_FPS = 10_000.0
"""Frames per second of the fastest world."""
_PIECE = 8
"""Frames of each clip that are encoded and decoded at a time."""
HIDDEN = "hidden"
"""The entry of `WorldState.extra` that the success head reads: the newest frame's tokens [b n d]."""
_ENTRY = ("noisy", "level", "action", "context")


@checked
class WorldModelConfig:
    """A `LatentWorldModel`.

    Attributes:
        autoencoder: of the frames; ours, trained with the world model, or an image VAE of diffusers.
        transformer: over its latents.
        objective: what it learned, and so how it is sampled.
        steps: levels it walks down for a frame.
        guidance: 1 for none; g gives (1 - g) answer(null action) + g answer(action) (Ho and Salimans 2022).
        slide: what becomes of the cache when the window slides.
        hop: frames that leave at once when the window slides; 1 as published samplers do it. With "band" always 1.
        cached: keep keys and values from frame to frame.
        detail: where the latents have changed by less than this (mean square), frames get back what the autoencoder
            lost of the start frame; 0 for not.
        precision: of the matrix products in imagination, "auto", "fp32" or "bf16".
        success_head: width of the success head; 0 for none.
    """

    autoencoder: Annotated[AutoencoderConfig | VAEConfig, ByKind()] = AutoencoderConfig()
    transformer: TransformerConfig = TransformerConfig()
    objective: ObjectiveConfig = FlowConfig()
    steps: Annotated[int, Between(1, LEVELS)] = 1
    guidance: Annotated[float, Between(-100, 100)] = 1.0
    slide: Literal["band", "recompute"] = "band"
    hop: Positive = 1
    cached: bool = True
    detail: NonNegative = 0.0
    precision: Precision = "auto"
    success_head: Annotated[int, Between(0, MOST_WIDE)] = 0

    def __post_init__(self) -> None:
        if self.hop > (most := max(1, self.transformer.window - 1)):
            raise FieldError("hop", f"found {self.hop}, expected 1 to {most}, less than the window")

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        h, w = self.transformer.grid
        return h * self.autoencoder.shrink, w * self.autoencoder.shrink


class LatentWorldModel(nn.Module):
    """A `WorldModel` over the latents of a frozen autoencoder."""

    config_type: ClassVar[type] = WorldModelConfig

    def __init__(self, config: WorldModelConfig, action_spec: ActionSpec, fps: float):
        super().__init__()
        if (config.guidance != 1 or config.objective.drop_action) and not action_spec.axes[-1].startswith("pad"):
            raise FieldError(
                "guidance",
                f"found {config.guidance:g} with 'drop_action' {config.objective.drop_action:g}, "
                f"expected 1 and 0: the last axis of {action_spec} is no padding that could mark the null action",
            )
        if not 0 < fps <= MOST_FPS:
            raise FieldError("fps", f"found {fps:g}, expected a number above 0, at most {MOST_FPS:g}")
        self.config, self.action_spec, self.fps = config, action_spec, fps
        a = config.autoencoder
        made = ImageVAE(a) if isinstance(a, VAEConfig) else Autoencoder(a)
        self.autoencoder: Autoencoder | ImageVAE = made.requires_grad_(False)
        self.transformer = VideoTransformer(config.transformer)
        self.objective = objective(config.objective)
        wide = config.success_head
        self.success_head = SuccessHead(config.transformer.width, wide) if wide else None
        self.text = SentenceEncoder()

    @classmethod
    def from_stored(cls, config: WorldModelConfig, stored: Stored) -> LatentWorldModel:
        """See `Storable`."""
        if stored.fps is None:
            raise InputError(f"{stored.path}: field 'fps': found nothing, expected a number")
        return cls(config, stored.spec, stored.fps)

    @property
    def identity(self) -> str:
        """See `Component`."""
        return module_identity(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.autoencoder.device

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of its frames."""
        return self.config.frame_size

    def reconstruct(self, frames: UInt8[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
        """See `Encodes`."""
        return self.autoencoder.decode(self.autoencoder.encode(frames))

    # -- imagination ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(self, frames: UInt8[Tensor, "b h w 3"]) -> WorldState:
        """See `WorldModel.start`."""
        with self._precisely():
            latent = self.autoencoder.encode(frames).float()
            state = self.start_latent(latent)
            if not self.config.detail:
                return state
            lost = frames.to(self.device).short() - self.autoencoder.decode(latent)
        return replace(state, extra={**state.extra, "detail": lost})

    @torch.no_grad()
    def start_latent(self, latent: Float[Tensor, "b h w c"]) -> WorldState:
        """The state in which `latent` is what is seen now; the action that led there is zeros."""
        state = WorldState(latent, -1, (), {"anchor": latent})
        if not self._beside:
            blank = torch.zeros(len(latent), self.config.transformer.action_dim, device=latent.device)
            state = self._filed(state, self._clean_entry(state, latent, blank), None)
        return replace(state, frame=0)

    @torch.no_grad()
    def step(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, UInt8[Tensor, "b n h w 3"]]:
        """See `WorldModel.step`."""
        state, latents = self.imagine(state, actions, generator=generator)
        return state, self._shown(state, latents[:, every - 1 :: every])

    @torch.no_grad()
    def round_trip(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """See `RoundTrip`: real clips through the autoencoder and back, shown as imagined ones are."""
        state, shown = self.start(frames[:, 0]), []
        for piece in frames.split(_PIECE, 1):
            with self._precisely():
                latents = self.autoencoder.encode(piece).float()
            shown.append(self._shown(state, latents))
        return torch.cat(shown, 1)

    @torch.no_grad()
    def foreseen(self, state: WorldState, instruction: Sequence[str]) -> Float[Tensor, " b"] | None:
        """See `Foreseeing`; None without a success head, or where nothing has been imagined yet."""
        if self.success_head is None or HIDDEN not in state.extra:
            return None
        hidden = state.extra[HIDDEN][:, None].float()
        return self.success_head(hidden, self.text(instruction, self.device)).sigmoid()[:, 0]

    def _shown(self, state: WorldState, latents: Float[Tensor, "b n h w c"]) -> UInt8[Tensor, "b n H W 3"]:
        """The frames, with what the autoencoder lost of the first one given back where the latents have not changed."""
        with self._precisely():
            frames = self.autoencoder.decode(latents)
        if "detail" not in state.extra:
            return frames
        changed = (latents - state.extra["anchor"][:, None]).square().mean(-1)
        same = F.interpolate((-changed / self.config.detail).exp(), self.frame_size, mode="bilinear")[..., None]
        return (frames + same * state.extra["detail"][:, None]).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def imagine(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator
    ) -> tuple[WorldState, Float[Tensor, "b k h w c"]]:
        """Like `step`, but the frames stay latents."""
        self.action_spec.check(actions, "world model step")
        made = []
        with self._precisely():
            for action in actions.to(self.device).unbind(1):
                noise = torch.randn(state.latent.shape, generator=generator).to(self.device)
                state = self._next(state, action, noise)
                made.append(state.latent)
        return state, torch.stack(made, 1)

    def _precisely(self) -> torch.autocast:
        return autocast(self.config.precision, self.device)

    @property
    def _beside(self) -> bool:
        """Whether the clean frame before it enters beside every frame; otherwise clean frames are filed."""
        return self.config.transformer.context > 0

    def _next(self, state: WorldState, action: Tensor, noise: Tensor) -> WorldState:
        """One frame: walks from noise to the clean frame, then joins the cache."""
        state = self._slid(state)
        x, previous = noise[:, None], self._base(state.latent[:, None])
        entry: Entry = {}
        fresh: Cache | None = None
        hidden: Tensor | None = None
        levels = [(level, self.objective.at(torch.tensor(level))) for level in self.objective.walk(self.config.steps)]
        for (level, now), (_, then) in itertools.pairwise(levels):
            entry = self._entry(state, self.objective.shown(x, now[0]), level, action)
            answer, fresh, hidden = self._answer(state, entry)
            if self.config.cached:
                state, fresh = self._caught_up(state, fresh)
            x = toward(self.objective.clean(answer, x, *now, previous), x, now, then)
        if not self._beside:
            entry, fresh = self._clean_entry(state, x[:, 0], action), None
        state = self._filed(state, entry, fresh)
        extra = state.extra if self.success_head is None or hidden is None else {**state.extra, HIDDEN: hidden}
        return replace(state, latent=x[:, 0], frame=state.frame + 1, extra=extra)

    def _entry(self, state: WorldState, shown: Float[Tensor, "b 1 h w c"], level: float, action: Tensor) -> Entry:
        """The frame after the state's newest one as the transformer takes it."""
        return {
            "noisy": shown,
            "level": torch.full((len(shown), 1), level, device=shown.device),
            "action": action[:, None],
            "context": self._context(state.latent[:, None], state.extra["anchor"][:, None]),
        }

    def _clean_entry(self, state: WorldState, clean: Float[Tensor, "b h w c"], action: Tensor) -> Entry:
        """The same for a clean frame, scaled to the objective's context level."""
        signal, _ = self.objective.at(torch.tensor(self.objective.context))
        return self._entry(state, signal * clean[:, None], self.objective.context, action)

    def _answer(self, state: WorldState, entry: Entry) -> tuple[Float[Tensor, "b 1 h w c"], Cache, Tensor]:
        """The guided answer to the frame `entry`, keys and values of the pending frames and of it, its hidden state.

        Both guidance passes are one batch: they lie side by side on an axis g behind b. Positions count from the start
        of the rollout; attention sees only their differences.
        """
        if pending := self._pending(state):
            entry = {k: torch.cat([state.extra[k][:, -pending:], v], 1) for k, v in entry.items()}
        g = 1 if self.config.guidance == 1 else 2
        action = torch.stack([null_action(entry["action"]), entry["action"]][-g:], 1)
        hidden, condition, fresh = self.transformer.hidden(
            entry["noisy"].repeat_interleave(g, 0),
            entry["level"].repeat_interleave(g, 0),
            action.flatten(0, 1),
            entry["context"].repeat_interleave(g, 0),
            tuple(part.flatten(0, 1) for part in state.cache),
            state.frame + 2 - entry["level"].shape[1],
        )
        answer = self.transformer.answer(hidden[:, -1:], condition[:, -1:])
        each = answer.float().unflatten(0, (-1, g))
        guided = each[:, -1]
        if g > 1:
            guided = (1 - self.config.guidance) * each[:, 0] + self.config.guidance * each[:, 1]
        seen = hidden[:, -1].unflatten(0, (-1, g))[:, -1]
        return guided, tuple(part.unflatten(0, (-1, g)) for part in fresh), seen

    def _filed(self, state: WorldState, entry: Entry, fresh: Cache | None) -> WorldState:
        """The state with one more frame: in its cache, or pending where its keys and values are not known yet."""
        extra = dict(state.extra)
        if fresh is None or self._keeps_inputs:
            extra |= {k: torch.cat([extra[k], v], 1) if k in extra else v for k, v in entry.items()}
        if fresh is None or not self.config.cached:
            return replace(state, extra=extra)
        return replace(state, cache=self.transformer.extend(state.cache, fresh), extra=extra)

    @property
    def _keeps_inputs(self) -> bool:
        """Whether the inputs of every frame in the window will be needed again, not only those of pending frames."""
        return not self.config.cached or self.config.slide == "recompute"

    def _pending(self, state: WorldState) -> int:
        """Frames in the state's inputs that are not in its cache: they join the next pass."""
        held = state.extra["level"].shape[1] if "level" in state.extra else 0
        cached = state.cache[0].shape[-2] if state.cache and self._keeps_inputs else 0
        return held - cached

    def _caught_up(self, state: WorldState, fresh: Cache) -> tuple[WorldState, Cache]:
        """The state with its pending frames in the cache, and the keys and values of the newest frame alone."""
        if not self._pending(state):
            return state, fresh
        extra = state.extra
        if not self._keeps_inputs:
            extra = {k: v for k, v in extra.items() if k not in _ENTRY}
        cache = self.transformer.extend(state.cache, tuple(x[..., :-1, :] for x in fresh))
        return replace(state, cache=cache, extra=extra), tuple(x[..., -1:, :] for x in fresh)

    def _slid(self, state: WorldState) -> WorldState:
        """The state with room for one more frame in its window; the frames that stay become pending."""
        window = self.config.transformer.window
        if self.config.slide == "band" or "level" not in state.extra or state.extra["level"].shape[1] < window:
            return state
        gone = state.extra["level"].shape[1] - (window - self.config.hop)
        return replace(state, cache=(), extra={**state.extra, **{k: state.extra[k][:, gone:] for k in _ENTRY}})

    def _base(self, previous: Tensor) -> Tensor:
        """What the answer of `Flow` is added to: the clean frame before, where the network is shown it."""
        return previous if self._beside else torch.zeros_like(previous)

    def _context(self, previous: Tensor, first: Tensor) -> Tensor:
        """The clean frames that enter beside the noisy one, [b t h w cc]; without any, an empty last axis."""
        return torch.cat([previous[..., :0], previous, first][: 1 + self.config.transformer.context], -1)

    # -- training ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """The objective on a batch of clips: some imagined from their first frame, the others frame by frame.

        Args:
            batch: "latents" float [b t+1 h w c], "actions" float [b t a], "mask" bool [b t], "generator", and
                "progress" in 0..1; for a success head also "success" bool [b t+1], "labelled" bool [b] and
                "instruction" (b sentences).

        Returns:
            The loss, and as metrics also its ratio to that of no change, and the success head's cross-entropy.
        """
        count, o = len(batch["latents"]), self.config.objective
        unrolled = 0
        if isinstance(o, FlowConfig) and self._beside and batch["progress"] >= o.unroll_from:
            unrolled = round(o.unroll * count)
        parts = [self._unrolled(part_of(batch, slice(unrolled)))] if unrolled else []
        parts += [self._forced(part_of(batch, slice(unrolled, None)))] if unrolled < count else []
        shares = torch.tensor([part.count / count for part in parts], device=self.device)
        error, nothing, success = (shares @ torch.stack(terms) for terms in zip(*(p.terms for p in parts), strict=True))
        loss = error + o.success * success if isinstance(o, FlowConfig) else error
        metrics = {"loss": float(error.detach()), "relative_error": float(error.detach() / nothing)}
        return loss, metrics | ({} if self.success_head is None else {"success_loss": float(success.detach())})

    def _unrolled(self, batch: Mapping[str, Any]) -> Part:
        """Clips imagined from their first frame as in use, with the gradient through all of it."""
        o = self.config.objective
        assert isinstance(o, FlowConfig)
        latents, actions, generator = batch["latents"], batch["actions"], batch["generator"]
        first = latents[:, 0].contiguous()
        noise = torch.stack([torch.randn(first.shape, generator=generator) for _ in range(actions.shape[1])])
        imagined, hidden = self._followed(first, actions.contiguous(), noise.to(self.device))
        weight = self.autoencoder.latent_weight * motion_weights(latents, self.config.transformer.patch, o.motion)
        error = weighted_error(imagined, latents[:, 1:], weight, batch["mask"])
        nothing = weighted_error(latents[:, :-1], latents[:, 1:], weight, batch["mask"])
        return Part(len(latents), (error, nothing, self._success(hidden, batch)))

    def _followed(
        self, first: Float[Tensor, "b h w c"], actions: Float[Tensor, "b t a"], noise: Float[Tensor, "t b h w c"]
    ) -> tuple[Float[Tensor, "b t h w c"], tuple[Tensor, ...]]:
        """The latents that are imagined along `actions`, and hidden states of each; none without a success head."""
        state, imagined, hidden = self.start_latent(first), [], []
        for action, drawn in zip(actions.unbind(1), noise.unbind(0), strict=True):
            state = self._next(state, action, drawn)
            imagined.append(state.latent)
            if HIDDEN in state.extra:
                hidden.append(state.extra[HIDDEN])
        return torch.stack(imagined, 1), tuple(hidden)

    def _forced(self, batch: Mapping[str, Any]) -> Part:
        """Every frame from the true ones before it (or as training shows them), at a level of its own."""
        generator = batch["generator"]
        clip = self.clip(batch, self.config.objective.drop_action)
        level = self.objective.draw((clip.clean.shape[0], clip.clean.shape[1]), generator).to(self.device)
        signal, spread = (x[:, :, None, None, None] for x in self.objective.at(level))
        noise = torch.randn(clip.clean.shape, generator=generator).to(self.device)
        shown = self.objective.shown(signal * clip.clean + spread * noise, signal)
        hidden, condition, _ = self.transformer.hidden(shown, level, clip.actions, clip.context)
        answer = self.transformer.answer(hidden, condition).float()
        target = self.objective.target(clip.clean, noise, signal, spread, clip.base)
        error = weighted_error(answer, target, clip.weight, clip.mask)
        nothing = weighted_error(torch.zeros_like(target), target, clip.weight, clip.mask)
        frames = hidden[:, -batch["actions"].shape[1] :]  # without the first frame, where that has tokens of its own
        return Part(len(batch["latents"]), (error, nothing, self._success(frames.unbind(1), batch)))

    def _success(self, hidden: Sequence[Tensor | None], batch: Mapping[str, Any]) -> Tensor:
        """The loss of the success head on the tokens [b n d] of each frame that an action led to; 0 without a head."""
        known = [tokens for tokens in hidden if tokens is not None]
        if self.success_head is None or not known:
            return torch.zeros((), device=self.device)
        sentence = self.text(batch["instruction"], self.device)
        counts = batch["mask"] & batch["labelled"][:, None]
        return success_loss(self.success_head(torch.stack(known, 1).float(), sentence), batch["success"][:, 1:], counts)

    def clip(self, batch: Mapping[str, Any], drop_action: float = 0.0) -> Clip:
        """A batch of `loss` as the network is trained on it, a share `drop_action` of it with the null action."""
        latents, actions, mask = batch["latents"], batch["actions"], batch["mask"]
        generator, o = batch["generator"], self.config.objective
        if not self._beside:  # the first frame is a token of its own, and no action led to it
            actions, mask = F.pad(actions, (0, 0, 1, 0)), F.pad(mask, (1, 0), value=True)
        if drop_action:
            dropped = torch.rand((len(actions), 1, 1), generator=generator) < drop_action
            actions = torch.where(dropped.to(actions.device), null_action(actions), actions)
        clean = latents[:, 1:] if self._beside else latents
        previous = self._imagined_previous(latents, actions, batch) if self._beside else torch.zeros_like(latents)
        weight = torch.ones((1, 1, 1, 1, 1), device=latents.device)
        if isinstance(o, FlowConfig):
            weight = weight * self.autoencoder.latent_weight
            if self._beside:
                weight = weight * motion_weights(latents, self.config.transformer.patch, o.motion)
        context = self._context(previous, latents[:, :1].expand_as(previous))
        return Clip(clean, actions, mask, context, previous, weight)

    def believed(
        self, clip: Clip, noisy: Float[Tensor, "b t h w c"], level: Float[Tensor, "b t"], guidance: float = 1.0
    ) -> Float[Tensor, "b t h w c"]:
        """The clean frames that follow from noisy ones, each seen with the true frames before it, as in sampling."""
        signal, spread = (x[:, :, None, None, None] for x in self.objective.at(level))
        shown, answers = self.objective.shown(noisy, signal), []
        for actions in (clip.actions, null_action(clip.actions))[: 1 if guidance == 1 else 2]:
            cache: Cache = ()
            if not self._beside:
                filed = torch.full_like(level, self.objective.context)
                scale, _ = self.objective.at(filed[:1, :1, None, None, None])
                _, cache = self.transformer(scale * clip.clean, filed, actions, clip.context)
            answer, _ = self.transformer(shown, level, actions, clip.context, cache, instead=not self._beside)
            answers.append(answer.float())
        guided = guidance * answers[0] + (1 - guidance) * answers[-1]
        return self.objective.clean(guided, noisy, signal, spread, clip.base)

    @torch.no_grad()
    def _imagined_previous(self, latents: Tensor, actions: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The previous frames [b t h w c] as training shows them: corrupted, or imagined by the model itself."""
        o, generator, previous = self.config.objective, batch["generator"], latents[:, :-1]
        if not isinstance(o, FlowConfig):
            return previous
        strength = torch.rand((len(latents), 1, 1, 1, 1), generator=generator).to(self.device) * o.corruption
        corrupted = previous + strength * torch.randn(previous.shape, generator=generator).to(self.device)
        rows = round(o.self_rollout * len(latents)) if batch["progress"] >= o.self_rollout_from else 0
        rows = rows if actions.shape[1] > 1 else 0
        if rows:
            state = self.start_latent(latents[:rows, 0])
            _, imagined = self.imagine(state, actions[:rows, :-1], generator=generator)
            corrupted = torch.cat([torch.cat([latents[:rows, :1], imagined], 1), corrupted[rows:]])
        return corrupted
