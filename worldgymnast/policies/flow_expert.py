"""Common part of SmolVLA, pi0 and pi0.5: policies with an action expert that is trained by RL through its sampler.

The sample is the chain from noise to actions, with the index of its stochastic step. `logprobs` scores the chain by the
functions that drew it, so the ratio is 1 before the first update. Greedy actions follow the flow from noise that is the
same at every look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import Protocol, runtime_checkable

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import to_dict
from worldgymnast.errors import FieldError
from worldgymnast.policies.experts import Context, Inputs
from worldgymnast.policies.flow_chain import (
    ALL_STEPS,
    Gaussian,
    NoiseNet,
    Transition,
    chain_logprobs,
    flow_step,
    one_step_logprobs,
    sample_chain,
    sde_step,
    times,
)
from worldgymnast.policies.flow_expert_config import FlowExpertConfig
from worldgymnast.policies.letterbox import letterbox
from worldgymnast.policies.lora import add_adapters
from worldgymnast.policies.prompts import load_tokenizer, prompt_tokens
from worldgymnast.policies.state import checked_state
from worldgymnast.types import STATE, ActionChunk, Metrics, Observation
from worldgymnast.weights import fingerprint, mean_and_deviation, weights_hash

_GREEDY_SEED = 0
_ADAPTED = re.compile(r"(?<!encoder)\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj$")
"""Linear layers of language model and expert, not those of the vision tower's encoder."""
_SMALLEST = 1e-6
"""Smallest scale of a number that is normalized."""


@runtime_checkable
class Network(Protocol):
    """Network of a policy with an action expert; `SmolVLANetwork` documents the members."""

    def context(self, inputs: Inputs) -> Context: ...  # noqa: D102
    def hidden(self, context: Context, x: Tensor, time: Tensor) -> Tensor: ...  # noqa: D102
    def velocity(self, hidden: Tensor) -> Tensor: ...  # noqa: D102


class FlowExpert(nn.Module):
    """`Policy` with an action expert; `SmolVLA`, `Pi0` and `Pi05` derive from it.

    Args:
        config: the config.
        action_spec: meaning of the action numbers.
        network: the network.
        width: channels of its hidden state.
        action: its width of actions, with padding.
        state: its width of the state, with padding.
        image: side of its images, in pixels.

    Raises:
        FieldError: the actions or the state are wider than the network's.
    """

    backbone: ClassVar[str]
    """Prefix of the names of the weights that stay fixed if only the expert is trained."""
    state_offset: Tensor
    state_scale: Tensor
    action_offset: Tensor
    action_scale: Tensor

    def __init__(
        self,
        config: FlowExpertConfig,
        action_spec: ActionSpec,
        network: nn.Module,
        *,
        width: int,
        action: int,
        state: int,
        image: int,
    ):
        super().__init__()
        self.config, self.action_spec = config, action_spec
        self._width, self._action, self._state, self._image = width, action, state, image
        if action_spec.dim > action:
            raise FieldError("sizes.action", f"found {action}, expected at least the {action_spec.dim} action axes")
        if (last := max(config.relative_axes, default=-1)) >= action_spec.dim:
            raise FieldError("relative_axes", f"found {last}, expected indices of the {action_spec.dim} action axes")
        if config.state_dim > state:
            raise FieldError("state_dim", f"found {config.state_dim}, expected at most sizes.state, {state}")
        self.model = network
        if config.sampler.method == "flow_noise":
            self.noise_net = NoiseNet(width, action)
        low, high = (torch.tensor(ends, device="cpu") for ends in (action_spec.low, action_spec.high))
        self.register_buffer("action_offset", (high + low) / 2)
        self.register_buffer("action_scale", ((high - low) / 2).clamp(min=_SMALLEST))
        self.register_buffer("state_offset", torch.zeros(config.state_dim))
        self.register_buffer("state_scale", torch.ones(config.state_dim))
        if config.trained == "expert":
            for name, weight in self.named_parameters():
                if name.startswith(self.backbone):
                    weight.requires_grad_(False)
                    weight.data = weight.data.to(getattr(torch, config.fixed))
        self.adapt(config.lora_rank, config.lora_alpha)
        self._frozen_hash = ""
        self.register_load_state_dict_post_hook(_forget_hash)

    @property
    def network(self) -> Network:
        """The network."""
        network: Any = self.model
        return network

    @property
    def chunk(self) -> int:
        """Actions per look, k."""
        return self.config.chunk

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras."""
        return self.config.cameras

    @property
    def needs(self) -> frozenset[str]:
        """Parts of an observation that the policy reads."""
        return frozenset({*self.cameras, *((STATE,) if self.config.state_dim else ())})

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.action_scale.device

    # ------------------------------------------------------------ weights

    @property
    def identity(self) -> str:
        """Hash of config and weights; that of the fixed weights is computed once.

        The place of the tokenizer does not count if the hash of its file is known.
        """
        if not self._frozen_hash:
            fixed = {name: weight for name, weight in self.named_parameters() if not weight.requires_grad}
            self._frozen_hash = weights_hash(fixed)
        changing = weights_hash(self.trainable_state() | dict(self.named_buffers()))
        config = replace(self.config, tokenizer="") if self.config.tokenizer_hash else self.config
        return fingerprint([to_dict(config), self._frozen_hash, changing])

    def adapt(self, rank: int, alpha: float) -> None:
        """Add LoRA adapters that change nothing yet, see `FlowExpertConfig`; none if the rank is 0."""
        if not rank:
            return
        names = [name for name, part in self.named_modules() if type(part) is nn.Linear and _ADAPTED.search(name)]
        free = [name for name, weight in self.named_parameters() if weight.requires_grad and ".layers." not in name]
        add_adapters(self, names, rank, alpha)
        for name in free:
            self.get_parameter(name).requires_grad_(True)
        self.config = replace(self.config, lora_rank=rank, lora_alpha=alpha)
        self._frozen_hash = ""

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Use tensors of any precision as the weights of a policy that was built on the "meta" device."""
        dtypes = {name: tensor.dtype for name, tensor in self.state_dict().items()}
        self.load_state_dict({name: tensor.to(dtypes[name]) for name, tensor in tensors.items()}, assign=True)

    def trainable_state(self) -> dict[str, Tensor]:
        """Weights that require a gradient."""
        return {name: weight.data for name, weight in self.named_parameters() if weight.requires_grad}

    @torch.no_grad()
    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a `trainable_state` into the policy."""
        for name, weight in self.trainable_state().items():
            weight.copy_(state[name])

    def export(self, base: str, out: Path, *, adapter_only: bool = False) -> list[str]:
        """Write the policy in the layout of its base, lerobot's or openpi's; see `protocols.Exports`."""
        from worldgymnast.policies.flow_export import export  # it imports this module

        return export(self, base, out, adapter_only=adapter_only)

    @torch.no_grad()
    def measure_state(self, state: Float[np.ndarray, "n s"]) -> None:
        """Set the statistics that normalize the state, to mean 0 and standard deviation 1."""
        mean, deviation = mean_and_deviation(state)
        self.state_offset.copy_(mean)
        self.state_scale.copy_(deviation)

    # ------------------------------------------------------------ inputs

    def preprocess(self, obs: Observation) -> Inputs:
        """Images, prompt and state as the network expects them.

        Raises:
            InputError: the state has another width, or a prompt is too long.
        """
        b, config = len(obs), self.config
        images = [self._letterbox(obs.images[name]) for name in self.cameras]
        state = self._normalized(obs.state)
        in_prompt = None
        if state is not None and config.prompt == "pi05":
            in_prompt = F.pad(state, (0, max(0, config.binned_state - config.state_dim)))
        tokenizer = load_tokenizer(config.tokenizer, config.tokenizer_hash)
        tokens, mask = prompt_tokens(tokenizer, config.prompt, obs.instruction, config.prompt_length, in_prompt)
        width = self._state if state is None else self._state - state.shape[1]
        padding = torch.zeros(b, width, device=self.device)
        padded = padding if state is None else torch.cat([state, padding], 1)
        shown = torch.ones(b, len(images), dtype=torch.bool, device=self.device)
        return Inputs(images, shown, tokens.to(self.device), mask.to(self.device), padded)

    def _letterbox(self, frames: Tensor) -> Tensor:
        image = frames.to(self.device).permute(0, 3, 1, 2).float() / 255
        return letterbox(image, self._image, self.config.resize)

    def _normalized(self, state: Tensor | None) -> Tensor | None:
        if not (width := self.config.state_dim):
            return None
        return (checked_state(state, width).to(self.device).float() - self.state_offset) / self.state_scale

    def _origin(self, obs: Observation) -> Float[Tensor, "b 1 a"]:
        """Numbers to which predictions are relative: those of the state on `relative_axes`, elsewhere 0."""
        origin, axes = torch.zeros(len(obs), 1, self.action_spec.dim, device=self.device), self.config.relative_axes
        if axes and obs.state is not None:
            origin[:, 0, list(axes)] = obs.state.to(self.device).float()[:, list(axes)]
        return origin

    # ------------------------------------------------------------ acting and scoring

    def _transition(self, context: Context) -> Transition:
        """The policy's step, see `flow_chain`."""
        sampler = self.config.sampler

        def step(x: Tensor, index: Tensor, level: Tensor) -> Gaussian:
            hidden = self.network.hidden(context, x, times(index, sampler.steps))
            velocity = self.network.velocity(hidden)
            if sampler.method == "flow_noise":
                deviation = self.noise_net(hidden, sampler.low, sampler.high) * level[:, None, None]
                return Gaussian(flow_step(x, velocity, index, sampler.steps), deviation)
            return sde_step(x, velocity, index, sampler.steps, sampler.noise * level)

        def recomputed(x: Tensor, index: Tensor, level: Tensor) -> Gaussian:
            result: Any = checkpoint(step, x, index, level, use_reentrant=False)
            return result

        return recomputed if self.config.checkpointing and torch.is_grad_enabled() else step

    def _counted(self, logprobs: Float[Tensor, "b s h w"]) -> Float[Tensor, "b ..."]:
        """Log-probabilities of the numbers that count, per look or per number."""
        is_whole = self.config.counted == "all"
        counted = logprobs if is_whole else logprobs[:, :, : self.chunk, : self.action_spec.dim]
        return counted if self.config.ratio == "number" else counted.sum((1, 2, 3))

    def _scored(self, context: Context, sample: Mapping[str, Tensor], temperature: float) -> Float[Tensor, "b ..."]:
        score = one_step_logprobs if self.config.sampler.method == "one_step" else chain_logprobs
        chain, step = sample["chain"].to(self.device), sample["step"].to(self.device)
        return self._counted(score(self._transition(context), chain, step, temperature or 1.0))

    def _draw(self, rows: int, generator: torch.Generator | None, *, is_greedy: bool) -> tuple[Tensor, Tensor]:
        """Noise [s1 b h w] of a chain, and the stochastic step [b] of each row."""
        steps, size = self.config.sampler.steps, (self.config.horizon, self._action)
        if is_greedy:
            fixed = torch.Generator().manual_seed(_GREEDY_SEED)
            noise = torch.zeros(steps + 1, rows, *size)
            noise[0] = torch.randn(size, generator=fixed)
        else:
            noise = torch.randn(rows, steps + 1, *size, generator=generator).transpose(0, 1)
        step = torch.full((rows,), ALL_STEPS)
        if self.config.sampler.method == "one_step":
            step = torch.full((rows,), steps - 1)
            step = step if is_greedy else torch.randint(steps, (rows,), generator=generator)
        return noise.to(self.device), step.to(self.device)

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Sample a chunk per row; the temperature scales the noise of the chain.

        At temperature 0 the chain follows the flow from fixed noise.
        """
        context = self.network.context(self.preprocess(obs))
        noise, step = self._draw(len(obs), generator, is_greedy=temperature == 0)
        chain, logprobs = sample_chain(self._transition(context), noise, step, temperature)
        sample = {"chain": chain, "step": step}
        is_scored = temperature > 0 and self.config.sampler.method != "one_step"
        counted = self._counted(logprobs) if is_scored else self._scored(context, sample, temperature)
        actions = chain[:, -1, : self.chunk, : self.action_spec.dim] * self.action_scale + self.action_offset
        return ActionChunk(actions + self._origin(obs), sample, counted, temperature)

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Float[Tensor, "b ..."]:
        """Log-densities of the chain in `chunk.sample`, differentiable: [b], or per number [b s k a], see `counted`."""
        assert isinstance(chunk.sample, Mapping)
        return self._scored(self.network.context(self.preprocess(obs)), chunk.sample, chunk.temperature)

    # ------------------------------------------------------------ imitation

    def training_inputs(self, batch: Mapping[str, Any]) -> Inputs:
        """Inputs of imitation; a subclass can augment them, with the generator of the batch."""
        return self.preprocess(batch["obs"])

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Imitation loss: squared error of the velocity (conditional flow matching).

        The time is 0.999 Beta(1.5, 1) + 0.001, so noisy actions are shown more often (pi0, appendix B). Padding axes
        count, since the flow carries them too.

        Args:
            batch: "obs" (`Observation`), "actions" float32 [b k a], "mask" bool [b k] and "generator". Actions beyond
                k are shown as the mean action, and do not count: train with chunk = horizon.
        """
        actions, generator = batch["actions"].to(self.device), batch["generator"]
        b, missing = len(actions), self.config.horizon - actions.shape[1]
        normalized = (actions - self._origin(batch["obs"]) - self.action_offset) / self.action_scale
        target = F.pad(normalized, (0, self._action - self.action_spec.dim, 0, missing))
        mask = F.pad(batch["mask"].to(self.device), (0, missing))
        noise = torch.randn(target.shape, generator=generator).to(self.device)
        time = training_times(b, generator).to(self.device)
        mixed = torch.lerp(target, noise, time[:, None, None])
        context = self.network.context(self.training_inputs(batch))
        velocity = self.network.velocity(self.network.hidden(context, mixed, time))
        error = ((velocity - (noise - target)) ** 2).mean(-1)
        loss = (error * mask).sum() / mask.sum()
        return loss, {"loss": float(loss.detach())}


def training_times(count: int, generator: torch.Generator) -> Float[Tensor, " b"]:
    """Times of imitation, 0.999 Beta(1.5, 1) + 0.001, by inversion of the distribution function t^1.5."""
    return 0.999 * torch.rand(count, generator=generator) ** (2 / 3) + 0.001


def _forget_hash(policy: FlowExpert, _: Any) -> None:
    policy._frozen_hash = ""
