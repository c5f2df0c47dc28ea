"""The world model: imagination by a video diffusion transformer with a key-value cache, and its training loss.

A frame is denoised in `steps` levels, given its action and the frames before it. Earlier frames are cached
(`worldmodel.window`); only the new frame is computed at each level. How a frame enters the cache depends on the
transformer's `context`:

- 0, the published layout: the clean frame enters in the next frame's first pass, at the objective's context level.
- 1 or 2: the clean previous frame is an input of every frame, at any noise level, so the cached frames contain the
  whole past. The keys and values of the last denoising step enter the cache, and no further pass is needed.

With `cached=False` everything is recomputed at every step of every frame: the reference for the cached sampler.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import LATER, MOST_WIDE, Between, ByKind, NonNegative, Positive, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.precision import Precision, autocast
from worldgymnast.protocols import ComponentInfo
from worldgymnast.text import SentenceEncoder
from worldgymnast.tiling import Tiling
from worldgymnast.types import Metrics, WorldState
from worldgymnast.weights import module_identity, registered
from worldgymnast.worldmodel.autoencoder import Autoencoder, AutoencoderConfig
from worldgymnast.worldmodel.clips import LossTerms, TrainingClips, null_action, select_rows
from worldgymnast.worldmodel.objective import (
    LEVELS,
    FlowConfig,
    ObjectiveConfig,
    ddim_step,
    motion_weights,
    objective,
    weighted_error,
)
from worldgymnast.worldmodel.state_head import RobotState
from worldgymnast.worldmodel.success_head import SuccessHead, success_loss
from worldgymnast.worldmodel.transformer import Cache, TransformerConfig, VideoTransformer
from worldgymnast.worldmodel.vae import ImageVAE, VAEConfig
from worldgymnast.worldmodel.window import FrameWindow, Inputs, Slide

MOST_FPS = 10_000.0
"""Largest frame rate of a world model."""
_FRAMES_PER_PASS = 8
"""Frames of each clip that are encoded and decoded at a time."""
HIDDEN = "hidden"
"""Entry of `WorldState.extra` for the heads: the newest frame's tokens [b n d]."""
ROBOT = "robot"
"""Entry of `WorldState.extra` for the state head: the robot's normalized state [b s], at the start of the rollout or,
with `state_input`, at the newest frame."""


@checked
class WorldModelConfig:
    """Config of a `LatentWorldModel`.

    Attributes:
        autoencoder: the frame autoencoder: ours, trained with the world model, or an image VAE from diffusers.
        transformer: the video transformer over its latents.
        objective: training objective, which also determines the sampler.
        steps: denoising steps per frame.
        guidance: classifier-free guidance scale g: (1 - g) prediction(null action) + g prediction(action) (Ho and
            Salimans 2022). 1 disables it.
        slide: what happens to the cache when the window slides (see `worldmodel.window`).
        hop: frames that leave at once when the window slides; published samplers use 1. "band" always uses 1.
        cached: keep keys and values from frame to frame.
        detail: where latents changed by less than this (mean square), restore what the autoencoder lost of the start
            frame. 0 disables it.
        precision: precision of matrix products in imagination: "auto", "fp32" or "bf16".
        success_head: width of the success head; 0 for none.
        state_dim: numbers of the robot's state that the state head predicts; 0 for none.
        state_weight: weight of the state head's loss.
        state_input: also feed the predicted state back, as an input of the next frame. It has contacts that are less
            than a pixel wide, such as whether closing fingers hold an object. Needs a state head.
    """

    autoencoder: Annotated[AutoencoderConfig | VAEConfig, ByKind()] = AutoencoderConfig()
    transformer: TransformerConfig = TransformerConfig()
    objective: ObjectiveConfig = FlowConfig()
    steps: Annotated[int, Between(1, LEVELS)] = 1
    guidance: Annotated[float, Between(-100, 100)] = 1.0
    slide: Slide = "band"
    hop: Positive = 1
    cached: bool = True
    detail: NonNegative = 0.0
    precision: Precision = "auto"
    success_head: Annotated[int, Between(0, MOST_WIDE)] = 0
    state_dim: Annotated[int, Between(0, MOST_WIDE)] = field(default=0, metadata=LATER)
    state_weight: NonNegative = field(default=0.3, metadata=LATER)
    state_input: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        if self.hop > (limit := max(1, self.transformer.window - 1)):
            raise FieldError("hop", f"found {self.hop}, expected 1 to {limit}, less than the window")

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        h, w = self.transformer.grid
        return h * self.autoencoder.shrink, w * self.autoencoder.shrink


class LatentWorldModel(nn.Module):
    """`WorldModel` in the latent space of a frozen autoencoder."""

    config_type: ClassVar[type] = WorldModelConfig
    autoencoder: Autoencoder | ImageVAE = registered()

    def __init__(self, config: WorldModelConfig, action_spec: ActionSpec, fps: float, tiling: Tiling | None = None):
        super().__init__()
        if (config.guidance != 1 or config.objective.drop_action) and not action_spec.axes[-1].startswith("pad"):
            raise FieldError(
                "guidance",
                f"found {config.guidance:g} with 'drop_action' {config.objective.drop_action:g}, "
                f"expected 1 and 0: the last axis of {action_spec} is not padding, so no null action exists",
            )
        if config.state_input and not config.state_dim:
            raise FieldError(
                "state_input", "found true, expected false: without a state head there is no state. --state adds one"
            )
        if config.state_input and (config.guidance != 1 or config.objective.drop_action):
            raise FieldError("state_input", "found true with guidance, expected false: no null state exists")
        if not 0 < fps <= MOST_FPS:
            raise FieldError("fps", f"found {fps:g}, expected a number above 0, at most {MOST_FPS:g}")
        self.config, self.action_spec, self.fps, self.tiling = config, action_spec, fps, tiling
        a = config.autoencoder
        autoencoder = ImageVAE(a) if isinstance(a, VAEConfig) else Autoencoder(a)
        self.autoencoder = autoencoder.requires_grad_(False)
        self.transformer = VideoTransformer(config.transformer, config.state_dim if config.state_input else 0)
        self.objective = objective(config.objective)
        width = config.success_head
        self.success_head = SuccessHead(config.transformer.width, width) if width else None
        self.text = SentenceEncoder()
        t, s = config.transformer, config.state_dim
        self.state_head = RobotState(s, t.width, t.tokens, t.channels, t.grid[0] * t.grid[1]) if s else None

    @property
    def state_dim(self) -> int:
        """Numbers in the predicted state; 0 without a state head."""
        return self.config.state_dim

    def measure_state(self, state: Float[np.ndarray, "n s"]) -> None:
        """Set the statistics that normalize the state; only with a state head."""
        assert self.state_head is not None
        self.state_head.measure(state)

    @classmethod
    def from_config(cls, config: WorldModelConfig, info: ComponentInfo) -> LatentWorldModel:
        """Build the world model with fresh weights.

        Raises:
            InputError: the file has no frame rate or no action spec.
        """
        if info.fps is None:
            raise InputError(f"{info.path}: field 'fps': found nothing, expected a number")
        return cls(config, info.spec, info.fps, info.tiling)

    @property
    def identity(self) -> str:
        """Hash of the weights."""
        return module_identity(self)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.autoencoder.device

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.config.frame_size

    def reconstruct(self, frames: UInt8[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
        """Encode and decode frames one by one."""
        return self.autoencoder.decode(self.autoencoder.encode(frames))

    # -- imagination ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(self, frames: UInt8[Tensor, "b h w 3"], state: Float[Tensor, "b s"] | None = None) -> WorldState:
        """Encode the start frames into a new state.

        Args:
            frames: the start frames.
            state: the robot's state in them, for a world model with a state head; NaN or None where it is unknown,
                which is estimated from the frame.
        """
        with self._autocast():
            latent = self.autoencoder.encode(frames).float()
            robot = None if self.state_head is None else self.state_head.start(latent, state)
            started = self.start_latent(latent, robot)
            if not self.config.detail:
                return started
            residual = frames.to(self.device).short() - self.autoencoder.decode(latent)
        return replace(started, extra={**started.extra, "detail": residual})

    @torch.no_grad()
    def predict_state(self, state: WorldState) -> Float[Tensor, "b s"] | None:
        """The robot's state at the newest frame; None without a state head."""
        if self.state_head is None or ROBOT not in state.extra:
            return None
        hidden = None if self.config.state_input else state.extra.get(HIDDEN)
        return self.state_head.predict(hidden, state.extra[ROBOT])

    @torch.no_grad()
    def start_latent(self, latent: Float[Tensor, "b h w c"], robot: Float[Tensor, "b s"] | None = None) -> WorldState:
        """State whose current frame is `latent`; the action that led to it is zeros.

        Args:
            latent: the start frames.
            robot: the robot's normalized state in them, for a world model with a state head.
        """
        state = WorldState(latent, -1, (), {"anchor": latent} | ({} if robot is None else {ROBOT: robot}))
        if not self._sees_previous:
            blank = torch.zeros(len(latent), self.config.transformer.action_dim, device=latent.device)
            state = self._window.append(state, self._clean_inputs(state, latent, self._command(state, blank)), None)
        return replace(state, frame=0)

    def _command(self, state: WorldState, action: Float[Tensor, "b a"]) -> Float[Tensor, "b as"]:
        """The action, followed by the robot's state if it is an input."""
        return torch.cat([action, state.extra[ROBOT]], -1) if self.config.state_input else action

    @torch.no_grad()
    def step(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, UInt8[Tensor, "b n h w 3"]]:
        """Imagine one frame per action and decode the last of each `every` frames."""
        state, latents = self.imagine(state, actions, generator=generator)
        return state, self._decode(state, latents[:, every - 1 :: every])

    @torch.no_grad()
    def round_trip(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Encode and decode real clips by the same path as imagined ones."""
        state, decoded = self.start(frames[:, 0]), []
        for part in frames.split(_FRAMES_PER_PASS, 1):
            with self._autocast():
                latents = self.autoencoder.encode(part).float()
            decoded.append(self._decode(state, latents))
        return torch.cat(decoded, 1)

    @torch.no_grad()
    def predict_success(self, state: WorldState, instruction: Sequence[str]) -> Float[Tensor, " b"] | None:
        """Success probability at the newest frame; None without a success head or before the first step."""
        if self.success_head is None or HIDDEN not in state.extra:
            return None
        hidden = state.extra[HIDDEN][:, None].float()
        return self.success_head(hidden, self.text(instruction, self.device)).sigmoid()[:, 0]

    def _decode(self, state: WorldState, latents: Float[Tensor, "b n h w c"]) -> UInt8[Tensor, "b n H W 3"]:
        """Decode latents; restore lost detail of the start frame where latents have not changed."""
        with self._autocast():
            frames = self.autoencoder.decode(latents)
        if "detail" not in state.extra:
            return frames
        changed = (latents - state.extra["anchor"][:, None]).square().mean(-1)
        unchanged = F.interpolate((-changed / self.config.detail).exp(), self.frame_size, mode="bilinear")[..., None]
        return (frames + unchanged * state.extra["detail"][:, None]).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def imagine(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator
    ) -> tuple[WorldState, Float[Tensor, "b k h w c"]]:
        """Imagine one frame per action, returned as latents."""
        self.action_spec.check(actions, "world model step")
        latents = []
        with self._autocast():
            for action in actions.to(self.device).unbind(1):
                noise = torch.randn(state.latent.shape, generator=generator).to(self.device)
                state = self._imagine_frame(state, action, noise)
                latents.append(state.latent)
        return state, torch.stack(latents, 1)

    def _autocast(self) -> torch.autocast:
        return autocast(self.config.precision, self.device)

    @property
    def _sees_previous(self) -> bool:
        """Whether the clean previous frame is an input; otherwise clean frames enter the cache."""
        return self.config.transformer.context > 0

    @property
    def _window(self) -> FrameWindow:
        c = self.config
        return FrameWindow(c.transformer.window, c.slide, c.hop, c.cached)

    def _make_room(self, state: WorldState) -> WorldState:
        return self._window.make_room(state)

    def _imagine_frame(self, state: WorldState, action: Tensor, noise: Tensor) -> WorldState:
        """Denoise one frame, then add it to the cache."""
        state = self._make_room(state)
        x, base = noise[:, None], self._base(state.latent[:, None])
        inputs: Inputs = {}
        fresh: Cache | None = None
        hidden: Tensor | None = None
        levels = self.objective.timesteps(self.config.steps)
        schedule = [(level, self.objective.coefficients(torch.tensor(level))) for level in levels]
        action = self._command(state, action)
        for (level, current), (_, following) in itertools.pairwise(schedule):
            inputs = self._inputs(state, self.objective.network_input(x, current[0]), level, action)
            prediction, fresh, hidden = self._predict(state, inputs)
            if self.config.cached:
                state, fresh = self._window.cache_pending(state, fresh)
            x = ddim_step(self.objective.clean(prediction, x, *current, base), x, current, following)
        if not self._sees_previous:
            inputs, fresh = self._clean_inputs(state, x[:, 0], action), None
        state = self._window.append(state, inputs, fresh)
        has_heads = self.success_head is not None or self.state_head is not None
        extra = {**state.extra, HIDDEN: hidden} if has_heads and hidden is not None else state.extra
        if self.config.state_input and self.state_head is not None and hidden is not None:
            robot = self.state_head.head(hidden[:, None].float(), state.extra[ROBOT])[:, 0].float()
            extra = {**extra, ROBOT: robot}
        return replace(state, latent=x[:, 0], frame=state.frame + 1, extra=extra)

    def _inputs(self, state: WorldState, noisy: Float[Tensor, "b 1 h w c"], level: float, action: Tensor) -> Inputs:
        """Transformer inputs of the frame after the newest one."""
        return {
            "noisy": noisy,
            "level": torch.full((len(noisy), 1), level, device=noisy.device),
            "action": action[:, None],
            "context": self._context(state.latent[:, None], state.extra["anchor"][:, None]),
        }

    def _clean_inputs(self, state: WorldState, clean: Float[Tensor, "b h w c"], action: Tensor) -> Inputs:
        """Transformer inputs of a clean frame, scaled to the objective's context level."""
        level = self.objective.context_level
        signal, _ = self.objective.coefficients(torch.tensor(level))
        return self._inputs(state, signal * clean[:, None], level, action)

    def _predict(self, state: WorldState, inputs: Inputs) -> tuple[Float[Tensor, "b 1 h w c"], Cache, Tensor]:
        """Guided prediction for a frame, keys and values of it and of the pending frames, and its hidden state.

        Both guidance passes run as one batch, on an axis g after b. Rotary positions count from the start of the
        rollout; attention depends only on their differences.
        """
        if pending := self._window.count_pending(state):
            inputs = {k: torch.cat([state.extra[k][:, -pending:], v], 1) for k, v in inputs.items()}
        g = 1 if self.config.guidance == 1 else 2
        action = torch.stack([null_action(inputs["action"]), inputs["action"]][-g:], 1)
        hidden, condition, fresh = self.transformer.hidden(
            inputs["noisy"].repeat_interleave(g, 0),
            inputs["level"].repeat_interleave(g, 0),
            action.flatten(0, 1),
            inputs["context"].repeat_interleave(g, 0),
            tuple(part.flatten(0, 1) for part in state.cache),
            state.frame + 2 - inputs["level"].shape[1],
        )
        prediction = self.transformer.predict(hidden[:, -1:], condition[:, -1:])
        passes = prediction.float().unflatten(0, (-1, g))
        guided = passes[:, -1]
        if g > 1:
            guided = (1 - self.config.guidance) * passes[:, 0] + self.config.guidance * passes[:, 1]
        newest = hidden[:, -1].unflatten(0, (-1, g))[:, -1]
        return guided, tuple(part.unflatten(0, (-1, g)) for part in fresh), newest

    def _base(self, previous: Tensor) -> Tensor:
        """Latents to which the prediction of `Flow` is added: the previous frame if it is an input, else zeros."""
        return previous if self._sees_previous else torch.zeros_like(previous)

    def _context(self, previous: Tensor, first: Tensor) -> Tensor:
        """Clean context frames [b t h w cc] for the noisy ones; the last axis is empty without context."""
        return torch.cat([previous[..., :0], previous, first][: 1 + self.config.transformer.context], -1)

    # -- training ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Training loss of a batch: some clips unrolled from their first frame, the others teacher-forced.

        Args:
            batch: "latents" float [b t+1 h w c], "actions" float [b t a], "mask" bool [b t], "generator", and
                "progress" in 0..1. A success head also needs "success" bool [b t+1], "labelled" bool [b] and
                "instruction" (b sentences), a state head "state" float [b t+1 s].

        Returns:
            The loss, and the metrics "loss", "relative_error" (ratio to predicting no change), "success_loss" and
            "state_loss".
        """
        count, o = len(batch["latents"]), self.config.objective
        unrolled = 0
        if isinstance(o, FlowConfig) and self._sees_previous and batch["progress"] >= o.unroll_from:
            unrolled = round(o.unroll * count)
        parts = [self._unrolled_loss(select_rows(batch, slice(unrolled)))] if unrolled else []
        if unrolled < count:
            parts.append(self._forced_loss(select_rows(batch, slice(unrolled, None))))
        shares = torch.tensor([part.count / count for part in parts], device=self.device)
        columns = zip(*(part.terms for part in parts), strict=True)
        error, no_change, success, robot = (shares @ torch.stack(terms) for terms in columns)
        loss = error + o.success * success if isinstance(o, FlowConfig) else error
        if self.state_head is not None:
            loss = loss + self.config.state_weight * robot
        metrics = {"loss": float(error.detach()), "relative_error": float(error.detach() / no_change)}
        if self.success_head is not None:
            metrics["success_loss"] = float(success.detach())
        if self.state_head is not None:
            metrics["state_loss"] = float(robot.detach())
        return loss, metrics

    def _unrolled_loss(self, batch: Mapping[str, Any]) -> LossTerms:
        """Loss of clips imagined from their first frame, with gradients through the whole rollout."""
        o = self.config.objective
        assert isinstance(o, FlowConfig)
        latents, actions, generator = batch["latents"], batch["actions"], batch["generator"]
        first = latents[:, 0].contiguous()
        noise = torch.stack([torch.randn(first.shape, generator=generator) for _ in range(actions.shape[1])])
        start = self._training_start(batch)
        fed = () if start is None or not self.config.state_input else (start,)
        imagined, hidden, robot = self._unroll(first, actions.contiguous(), noise.to(self.device), *fed)
        weight = self.autoencoder.latent_weight * motion_weights(latents, self.config.transformer.patch, o.motion)
        error = weighted_error(imagined, latents[:, 1:], weight, batch["mask"])
        no_change = weighted_error(latents[:, :-1], latents[:, 1:], weight, batch["mask"])
        states = torch.stack(robot, 1) if robot else self._predict_states(hidden, start)
        terms = (error, no_change, self._success_loss(hidden, batch), self._state_loss(states, batch))
        return LossTerms(len(latents), terms)

    def _unroll(
        self,
        first: Float[Tensor, "b h w c"],
        actions: Float[Tensor, "b t a"],
        noise: Float[Tensor, "t b h w c"],
        start: Float[Tensor, "b s"] | None = None,
    ) -> tuple[Float[Tensor, "b t h w c"], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Imagined latents, hidden states and fed-back robot states of each frame; empty without heads."""
        state, imagined, hidden, robot = self.start_latent(first, start), [], [], []
        for action, frame_noise in zip(actions.unbind(1), noise.unbind(0), strict=True):
            state = self._imagine_frame(state, action, frame_noise)
            imagined.append(state.latent)
            if HIDDEN in state.extra:
                hidden.append(state.extra[HIDDEN])
            if self.config.state_input:
                robot.append(state.extra[ROBOT])
        return torch.stack(imagined, 1), tuple(hidden), tuple(robot)

    def _forced_loss(self, batch: Mapping[str, Any]) -> LossTerms:
        """Teacher-forced loss: every frame from logged (or corrupted) earlier frames, at its own noise level."""
        generator, numbers = batch["generator"], self.config.transformer.action_dim
        clips = self.training_clips(batch, self.config.objective.drop_action)
        level = self.objective.sample_levels((clips.clean.shape[0], clips.clean.shape[1]), generator).to(self.device)
        signal, spread = (x[:, :, None, None, None] for x in self.objective.coefficients(level))
        noise = torch.randn(clips.clean.shape, generator=generator).to(self.device)
        noisy = self.objective.network_input(signal * clips.clean + spread * noise, signal)
        hidden, condition, _ = self.transformer.hidden(noisy, level, clips.actions, clips.context)
        prediction = self.transformer.predict(hidden, condition).float()
        target = self.objective.target(clips.clean, noise, signal, spread, clips.base)
        error = weighted_error(prediction, target, clips.weight, clips.mask)
        no_change = weighted_error(torch.zeros_like(target), target, clips.weight, clips.mask)
        frames = hidden[:, -batch["actions"].shape[1] :]  # the first frame, if it has tokens, follows no action
        tokens = frames.unbind(1)
        before = clips.actions[:, -frames.shape[1] :, numbers:]
        states = self._predict_states(tokens, before if self.config.state_input else self._training_start(batch))
        terms = (error, no_change, self._success_loss(tokens, batch), self._state_loss(states, batch))
        return LossTerms(len(batch["latents"]), terms)

    def _success_loss(self, hidden: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
        """Success head's loss on the tokens [b n d] of each frame after an action; 0 without a head."""
        if self.success_head is None or not hidden:
            return torch.zeros((), device=self.device)
        sentence = self.text(batch["instruction"], self.device)
        counts = batch["mask"] & batch["labelled"][:, None]
        logits = self.success_head(torch.stack(list(hidden), 1).float(), sentence)
        return success_loss(logits, batch["success"][:, 1:], counts)

    def _training_start(self, batch: Mapping[str, Any]) -> Tensor | None:
        """The robot's normalized state at the start of each clip [b s]; None without a state head."""
        if self.state_head is None:
            return None
        return self.state_head.training_start(batch["latents"], batch["state"], batch["generator"])

    def _predict_states(self, hidden: Sequence[Tensor], known: Tensor | None) -> Float[Tensor, "b t s"] | None:
        """The robot's normalized state from the tokens [b n d] after each action; None without a state head.

        Args:
            hidden: the tokens.
            known: the state at the start [b s], or before each action [b t s].
        """
        return None if self.state_head is None else self.state_head.head(torch.stack(list(hidden), 1).float(), known)

    def _state_loss(self, states: Float[Tensor, "b t s"] | None, batch: Mapping[str, Any]) -> Tensor:
        """Loss of both state heads, with the states predicted after each action; 0 without heads."""
        if self.state_head is None or states is None:
            return torch.zeros((), device=self.device)
        return self.state_head.loss(states, batch["latents"], batch["state"], batch["mask"])

    def training_clips(self, batch: Mapping[str, Any], drop_action: float = 0.0) -> TrainingClips:
        """Network inputs and targets of a batch of `loss`; a share `drop_action` gets the null action."""
        latents, actions, mask = batch["latents"], batch["actions"], batch["mask"]
        generator, o = batch["generator"], self.config.objective
        if self.config.state_input and self.state_head is not None:
            robot = self.state_head.noisy(batch["state"][:, :-1], generator)
            actions = torch.cat([actions, robot], -1)
        if not self._sees_previous:  # the first frame has its own tokens and follows no action
            actions, mask = F.pad(actions, (0, 0, 1, 0)), F.pad(mask, (1, 0), value=True)
        if drop_action:
            dropped = torch.rand((len(actions), 1, 1), generator=generator) < drop_action
            actions = torch.where(dropped.to(actions.device), null_action(actions), actions)
        clean, previous = latents, torch.zeros_like(latents)
        if self._sees_previous:
            clean, previous = latents[:, 1:], self._previous_frames(latents, actions, batch)
        weight = torch.ones((1, 1, 1, 1, 1), device=latents.device)
        if isinstance(o, FlowConfig):
            weight = weight * self.autoencoder.latent_weight
            if self._sees_previous:
                weight = weight * motion_weights(latents, self.config.transformer.patch, o.motion)
        context = self._context(previous, latents[:, :1].expand_as(previous))
        return TrainingClips(clean, actions, mask, context, previous, weight)

    def predict_clean(
        self,
        clips: TrainingClips,
        noisy: Float[Tensor, "b t h w c"],
        level: Float[Tensor, "b t"],
        guidance: float = 1.0,
    ) -> Float[Tensor, "b t h w c"]:
        """Estimate the clean frame of each noisy one, given the true earlier frames as in sampling."""
        signal, spread = (x[:, :, None, None, None] for x in self.objective.coefficients(level))
        inputs, predictions = self.objective.network_input(noisy, signal), []
        is_cached = not self._sees_previous
        for actions in (clips.actions, null_action(clips.actions))[: 1 if guidance == 1 else 2]:
            cache: Cache = ()
            if is_cached:
                clean_level = torch.full_like(level, self.objective.context_level)
                scale, _ = self.objective.coefficients(clean_level[:1, :1, None, None, None])
                _, cache = self.transformer(scale * clips.clean, clean_level, actions, clips.context)
            prediction, _ = self.transformer(inputs, level, actions, clips.context, cache, replaces_cached=is_cached)
            predictions.append(prediction.float())
        guided = guidance * predictions[0] + (1 - guidance) * predictions[-1]
        return self.objective.clean(guided, noisy, signal, spread, clips.base)

    @torch.no_grad()
    def _previous_frames(self, latents: Tensor, actions: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Previous frames [b t h w c] for training: corrupted by noise, or imagined by the model itself."""
        o, generator, previous = self.config.objective, batch["generator"], latents[:, :-1]
        if not isinstance(o, FlowConfig):
            return previous
        strength = torch.rand((len(latents), 1, 1, 1, 1), generator=generator).to(self.device) * o.corruption
        corrupted = previous + strength * torch.randn(previous.shape, generator=generator).to(self.device)
        rows = round(o.self_rollout * len(latents)) if batch["progress"] >= o.self_rollout_from else 0
        rows = rows if actions.shape[1] > 1 else 0
        if rows:
            numbers = self.config.transformer.action_dim
            robot = actions[:rows, 0, numbers:] if self.config.state_input else None
            state = self.start_latent(latents[:rows, 0], robot)
            _, imagined = self.imagine(state, actions[:rows, :-1, :numbers], generator=generator)
            corrupted = torch.cat([torch.cat([latents[:rows, :1], imagined], 1), corrupted[rows:]])
        return corrupted
