"""OpenVLA and OpenVLA-OFT as policies: image and sentence in, a chunk of action tokens out.

OpenVLA (Kim et al. 2024, arXiv 2406.09246) writes one action token after the other. OpenVLA-OFT (Kim et al. 2025, arXiv
2502.19645) fills all `k a` slots of a chunk in one pass with attention in both directions; its other head regresses
the actions. Reinforcement learning scores tokens as SimpleVLA-RL (arXiv 2509.09674) does. What checkpoint files leave
open is a field of `OpenVLAConfig`. `openvla_checkpoint` reads published folders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import to_dict
from worldgymnast.errors import InputError
from worldgymnast.policies import vla_images, vla_jpeg
from worldgymnast.policies.lora import add_adapters
from worldgymnast.policies.openvla_config import OpenVLAConfig
from worldgymnast.policies.openvla_heads import RegressionHead, StateProjector
from worldgymnast.policies.openvla_language import (
    CausalDecoder,
    build_llama,
    hidden_states,
    restore_rotary,
)
from worldgymnast.policies.openvla_prompt import BOS, STOP, PromptTokenizer, left_padded
from worldgymnast.policies.openvla_tokens import BINS, decode, draw, encode
from worldgymnast.policies.openvla_vision import SIDE, Projector, VisionBackbone
from worldgymnast.policies.state import checked_state
from worldgymnast.protocols import ComponentInfo
from worldgymnast.types import STATE, ActionChunk, Metrics, Observation
from worldgymnast.weights import content_hash

_CROP_AREA = 0.9
"""Share of a frame that policies trained with random crops see."""

_CONTINUOUS = ("action_head.", "proprio_projector.")


class OpenVLA(nn.Module):
    """OpenVLA or OpenVLA-OFT as a `Policy`.

    Its sample is the vocabulary ids int64 [b k a], or normalized actions float32 [b k a] with the regression head.

    Args:
        config: the config.
        action_spec: meaning of the actions after unnormalization.
        tokenizer: the tokenizer; by default that of the config, read at the first sentence.

    Raises:
        InputError: the axes of the statistics are not those of the action spec.
    """

    config_type: ClassVar[type] = OpenVLAConfig

    def __init__(self, config: OpenVLAConfig, action_spec: ActionSpec, tokenizer: PromptTokenizer | None = None):
        super().__init__()
        axes = len(config.statistics.low)
        if axes != action_spec.dim:
            raise InputError(
                f"statistics '{config.statistics.key}' have {axes} axes, but the action spec has {action_spec.dim} "
                f"({action_spec}). Actions would be misread. Give the spec of the robot that the policy was trained on"
            )
        self.config, self.action_spec, self._tokenizer = config, action_spec, tokenizer
        c = config
        self.vision_backbone = VisionBackbone(c.dino, c.siglip, checkpointing=c.checkpointing)
        self.projector = Projector(c.dino.width + c.siglip.width, c.language.hidden)
        self.language_model = build_llama(c.language, checkpointing=c.checkpointing)
        if c.head == "l1":
            self.action_head = RegressionHead(c.language.hidden, axes)
        if c.state_dim:
            self.proprio_projector = StateProjector(c.state_dim, c.language.hidden)
        for parameter in self.parameters():  # not .to(): the rotary buffers stay float32
            parameter.data = parameter.data.to(getattr(torch, c.weights))
        self.adapt(c.lora_rank, c.lora_alpha)

    @classmethod
    def from_config(cls, config: OpenVLAConfig, info: ComponentInfo) -> OpenVLA:
        """Build the policy with fresh weights."""
        return cls(config, info.spec)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Use the given tensors as weights, in the policy's dtypes; for a policy built on the "meta" device.

        No weights are initialized first, and none are copied that have the right dtype.
        """
        dtypes = {name: value.dtype for name, value in self.state_dict().items()}
        self.load_state_dict({name: value.to(dtypes[name]) for name, value in tensors.items()}, assign=True)
        restore_rotary(self.language_model)

    def adapt(self, rank: int, alpha: float) -> None:
        """Freeze all weights but those of the continuous heads, and add a LoRA adapter; rank 0 changes nothing."""
        self.config = replace(self.config, lora_rank=rank, lora_alpha=alpha)
        if rank:
            add_adapters(self, adapted_layers(self), rank, alpha)
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(parameter.requires_grad or name.startswith(_CONTINUOUS))

    # ------------------------------------------------------------ members of a policy

    @property
    def chunk(self) -> int:
        """Actions per look, k."""
        return self.config.chunk

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the cameras that the policy reads."""
        return self.config.cameras

    @property
    def needs(self) -> frozenset[str]:
        """Parts of an observation that the policy reads."""
        return frozenset({*self.config.cameras, *((STATE,) if self.config.state_dim else ())})

    @property
    def identity(self) -> str:
        """Hash of the weights and of the config, except for the place of the tokenizer."""
        return content_hash(self.state_dict(), to_dict(replace(self.config, tokenizer="")))[:16]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.language_model.lm_head.weight.device

    @property
    def tokenizer(self) -> PromptTokenizer:
        """Tokenizer of the prompt.

        Raises:
            InputError: the config names none, or another file than when the policy was saved.
        """
        if self._tokenizer is None:
            if not self.config.tokenizer:
                raise InputError("policy has no tokenizer, so it cannot read sentences. Name its tokenizer.json")
            self._tokenizer = PromptTokenizer(self.config.tokenizer)
            expected = self.config.tokenizer_hash
            if expected and self._tokenizer.hash != expected:
                raise InputError(
                    f"{self._tokenizer.path}: has SHA-256 {self._tokenizer.hash}..., but the policy was saved with "
                    f"{expected}... It would read other sentences. Restore the file of the checkpoint"
                )
        return self._tokenizer

    def trainable_state(self) -> dict[str, Tensor]:
        """Weights that require a gradient."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def export(self, base: str, out: Path, *, adapter_only: bool = False) -> list[str]:
        """Write the policy in the published layout; see `protocols.Exports`."""
        from worldgymnast.policies.openvla_export import export  # it imports this module

        return export(self, base, out, adapter_only=adapter_only)

    @torch.no_grad()
    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a `trainable_state` into the policy."""
        own = dict(self.named_parameters())
        for name, value in state.items():
            own[name].copy_(value)

    # ------------------------------------------------------------ inputs

    def pixels(self, obs: Observation) -> Float[Tensor, "b c 224 224"]:
        """Normalized images, 6 channels per camera: DINOv2's 3, then SigLIP's 3."""
        images = []
        for name in self.config.cameras:
            frames = self._resized(obs.images[name]).to(self.device)
            colors = zip(self.config.means, self.config.stds, strict=True)
            images += [vla_images.normalized(frames, mean, std) for mean, std in colors]
        return torch.cat(images, 1)

    def _resized(self, frames: UInt8[Tensor, "b h w 3"]) -> UInt8[Tensor, "b 224 224 3"]:
        if self.config.crop == "none":
            return vla_images.bicubic(frames, SIDE)
        if self.config.crop == "jpeg_lanczos_center":
            frames = vla_images.lanczos(vla_jpeg.round_trip(frames), SIDE)
        return vla_images.center_crop(frames, _CROP_AREA, SIDE)

    def _state(self, obs: Observation) -> Float[Tensor, "b p"]:
        state = checked_state(obs.state, self.config.state_dim)
        return self.config.statistics.normalize_state(state.to(self.device))

    def prefix(self, obs: Observation) -> tuple[Float[Tensor, "b n h"], Bool[Tensor, "b n"]]:
        """Embeddings before the action tokens, and which of them are no padding.

        The beginning of the text, the patches of each camera, the state, then the rest of the prompt, padded in front.
        """
        rest, is_word = left_padded([self.tokenizer.ids(text)[1:] for text in obs.instruction])
        embed = self.language_model.model.embed_tokens
        ids = torch.cat([torch.full((len(rest), 1), BOS), rest], 1).to(self.device)
        words = embed(ids)
        parts = [words[:, :1], self.projector(self.vision_backbone(self.pixels(obs))).to(words.dtype)]
        if self.config.state_dim:
            parts.append(self.proprio_projector(self._state(obs))[:, None].to(words.dtype))
        before = sum(part.shape[1] for part in parts)
        valid = torch.cat([torch.ones(len(rest), before, dtype=torch.bool), is_word], 1)
        return torch.cat([*parts, words[:, 1:]], 1), valid.to(self.device)

    # ------------------------------------------------------------ outputs

    @property
    def _slots(self) -> int:
        return self.config.chunk * self.action_spec.dim

    def slots(
        self, embeddings: Float[Tensor, "b n h"], valid: Bool[Tensor, "b n"], tokens: Int[Tensor, "b s"] | None
    ) -> Float[Tensor, "b s1 h"]:
        """Hidden states that predict the s = k a action tokens, and one more for the token after them.

        Args:
            embeddings: of `prefix`.
            valid: of `prefix`.
            tokens: the action tokens, which autoregressive decoding reads; parallel decoding reads none.
        """
        if self.config.decoding == "parallel":
            after = embeddings.new_zeros(len(embeddings), self._slots, embeddings.shape[-1])
            if self.config.stop_token:
                stop = self.language_model.model.embed_tokens.weight[STOP].to(embeddings.dtype)
                after = torch.cat([after, stop.expand(len(after), 1, -1)], 1)
        else:
            assert tokens is not None
            after = self.language_model.model.embed_tokens(tokens).to(embeddings.dtype)
        is_valid = torch.cat([valid, valid.new_ones(after.shape[:2])], 1)
        hidden = hidden_states(self.language_model, torch.cat([embeddings, after], 1), is_valid, self.config.attention)
        first = embeddings.shape[1] - 1
        return hidden[:, first : first + self._slots + 1]

    @property
    def _first_id(self) -> int:
        """First id of the support."""
        return self.config.language.words - BINS if self.config.support == "actions" else 0

    def _scores(self, hidden: Float[Tensor, "*s h"], *, whole: bool = False) -> Float[Tensor, "*s v"]:
        """Logits of the support or of the whole vocabulary, float32."""
        weight = self.language_model.lm_head.weight
        if self.config.support == "actions" and not whole:
            weight = weight[self._first_id : self.config.language.words]
        return F.linear(hidden, weight).float()

    def logits(self, obs: Observation, tokens: Int[Tensor, "b k a"] | None = None) -> Float[Tensor, "b s v"]:
        """Logits of the k a action tokens over the support; `tokens` are read by autoregressive decoding."""
        read = None if tokens is None else tokens.flatten(1).to(self.device)
        return self._scores(self.slots(*self.prefix(obs), read)[:, : self._slots])

    def regress(self, obs: Observation) -> Float[Tensor, "b k a"]:
        """Normalized actions of the regression head."""
        return self.action_head(self.slots(*self.prefix(obs), None)[:, : self._slots]).float()

    # ------------------------------------------------------------ acting

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Sample a chunk per row; temperature 0 is greedy.

        Raises:
            InputError: the regression head is deterministic, and the temperature is above 0.
        """
        if self.config.head == "l1":
            return self._regressed(obs, temperature, generator)
        embeddings, valid = self.prefix(obs)

        def choose(scores: Tensor) -> Tensor:
            logprobs = F.log_softmax(scores / (temperature or 1.0), -1)
            return self._first_id + (draw(logprobs, generator) if temperature else scores.argmax(-1))

        tokens: Tensor | None = None
        if self.config.decoding == "autoregressive":
            tokens = self._written(embeddings, valid, choose)
        hidden = self.slots(embeddings, valid, tokens)[:, : self._slots]
        scores = self._scores(hidden)
        tokens = choose(scores) if tokens is None else tokens
        logprobs = self._chosen(scores, tokens, temperature)
        return self._chunk(tokens.unflatten(1, (self.chunk, -1)), logprobs, temperature)

    def _written(self, embeddings: Tensor, valid: Tensor, choose: Any) -> Int[Tensor, "b s"]:
        """Tokens chosen one after the other."""
        decoder = CausalDecoder(self.language_model, embeddings, valid)
        tokens = [choose(self._scores(decoder.last))]
        for _ in range(self._slots - 1):
            tokens.append(choose(self._scores(decoder.append(tokens[-1]))))
        return torch.stack(tokens, 1)

    def _chosen(self, scores: Tensor, tokens: Int[Tensor, "b s"], temperature: float) -> Float[Tensor, "b k a"]:
        logprobs = F.log_softmax(scores / (temperature or 1.0), -1)
        chosen = logprobs.gather(-1, (tokens - self._first_id)[..., None])[..., 0]
        return chosen.unflatten(1, (self.chunk, -1))

    def _chunk(self, tokens: Int[Tensor, "b k a"], logprobs: Tensor, temperature: float) -> ActionChunk:
        actions = self.config.statistics.unnormalize(decode(tokens, self.config.language.words))
        return ActionChunk(actions.float(), tokens, logprobs, temperature)

    def _regressed(self, obs: Observation, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        mean = self.regress(obs)
        if temperature:
            self._require_noise()
            noise = torch.randn(mean.shape, generator=generator).to(self.device)
            sample = mean + self.config.noise * temperature * noise
        else:
            sample = mean
        actions = self.config.statistics.unnormalize(sample).float()
        logprobs = self._density(mean, sample, temperature) if self.config.noise else torch.zeros_like(mean)
        return ActionChunk(actions, sample, logprobs, temperature)

    def _density(self, mean: Tensor, sample: Tensor, temperature: float) -> Float[Tensor, "b k a"]:
        deviation = self.config.noise * (temperature or 1.0)
        return -0.5 * ((sample - mean) / deviation) ** 2 - math.log(deviation * math.sqrt(2 * math.pi))

    def _require_noise(self) -> None:
        if not self.config.noise:
            raise InputError(
                "policy with the regression head is deterministic: it has no probabilities, so it cannot be sampled or "
                "trained by reinforcement learning. Set its noise above 0, or evaluate it at temperature 0"
            )

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Float[Tensor, "b k a"]:
        """Log-probabilities of the tokens, or log-densities of the regressed actions, differentiable."""
        assert isinstance(chunk.sample, Tensor)
        sample = chunk.sample.to(self.device)
        if self.config.head == "l1":
            self._require_noise()
            return self._density(self.regress(obs), sample, chunk.temperature)
        return self._chosen(self.logits(obs, sample), sample.flatten(1), chunk.temperature)

    # ------------------------------------------------------------ imitation

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Metrics]:
        """Imitation loss: cross-entropy over the whole vocabulary, or L1 error with the regression head.

        As published, the token after the actions is the stop token, and counts as one more label.

        Args:
            batch: "obs" (`Observation`), "actions" float32 [b k a] and "mask" bool [b k].
        """
        obs, mask = batch["obs"], batch["mask"].to(self.device)
        target = self.config.statistics.normalize(batch["actions"].to(self.device))
        weight = mask[..., None].expand(target.shape).float()
        if self.config.head == "l1":
            error = ((self.regress(obs) - target.float()).abs() * weight).sum() / weight.sum()
            return error, {"loss": float(error.detach())}
        tokens = encode(target, self.config.language.words).flatten(1)
        scores = self._scores(self.slots(*self.prefix(obs), tokens), whole=True)
        labels = torch.cat([tokens, torch.full_like(tokens[:, :1], STOP)], 1)
        weight = torch.cat([weight.flatten(1), mask.all(1, keepdim=True).float()], 1)
        loss = (F.cross_entropy(scores.transpose(1, 2), labels, reduction="none") * weight).sum() / weight.sum()
        words = self.config.language.words
        is_right = (scores[:, :-1, words - BINS : words].argmax(-1) + words - BINS == tokens).float()
        accuracy = (is_right * weight[:, :-1]).sum() / weight[:, :-1].sum()
        return loss, {"loss": float(loss.detach()), "token_accuracy": float(accuracy)}


def adapted_layers(policy: nn.Module) -> list[str]:
    """Names of the linear layers that LoRA adapts: all but the output layer and the continuous heads."""
    skipped = ("language_model.lm_head", *_CONTINUOUS)
    layers = [name for name, layer in policy.named_modules() if isinstance(layer, nn.Linear)]
    return [name for name in layers if not name.startswith(skipped)]
