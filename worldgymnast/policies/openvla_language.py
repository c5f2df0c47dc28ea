"""Language model of OpenVLA: Llama 2 of transformers, with the attention written out.

The published parallel decoding attends in both directions, which only one attention kernel of its fork of transformers
implements; the others silently attend causally. Here the mask is explicit, so every kernel computes the same.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldgymnast.configs import Layers, NonNegative, Positive, Width, checked
from worldgymnast.errors import FieldError

Attention = Literal["bidirectional", "causal"]


@checked(kw_only=True)
class LanguageConfig:
    """Size of the language model; the defaults are those of Llama 2 7B as OpenVLA reads it.

    Attributes:
        hidden: width.
        layers: layers.
        heads: attention heads.
        key_heads: heads of keys and values.
        intermediate: hidden width of the feed-forward layers.
        vocabulary: ids, with `padding`.
        padding: last ids that stand for nothing.
        rope: base of the rotary positions.
        norm_epsilon: epsilon of the norms; published config files leave it out, so it is 1e-6, not Llama 2's 1e-5.
    """

    hidden: Width = 4096
    layers: Layers = 32
    heads: Width = 32
    key_heads: Width = 32
    intermediate: Width = 11008
    vocabulary: Positive = 32064
    padding: Positive = 64
    rope: NonNegative = 10000.0
    norm_epsilon: NonNegative = 1e-6

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.key_heads:
            found = f"found {self.hidden}, {self.heads} and {self.key_heads}"
            raise FieldError("hidden, heads, key_heads", f"{found}, expected each to be a multiple of the next")

    @property
    def words(self) -> int:
        """Ids without padding; those of the action bins are the last."""
        return self.vocabulary - self.padding


def build_llama(config: LanguageConfig, *, checkpointing: bool = False) -> Any:
    """Llama of transformers with fresh weights; `checkpointing` recomputes its layers in the backward pass."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: Any = LlamaConfig
    llama = LlamaForCausalLM(
        settings(
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_heads,
            intermediate_size=config.intermediate,
            vocab_size=config.vocabulary,
            pad_token_id=config.words,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope},
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )
    )
    if checkpointing:
        former: Any = llama.gradient_checkpointing_enable  # its name in earlier 5.x
        getattr(llama, "activation_checkpointing_enable", former)({"use_reentrant": False})
    return llama


def attention_mask(valid: Bool[Tensor, "b n"], attention: Attention, dtype: torch.dtype) -> Float[Tensor, "b 1 n n"]:
    """Additive mask: 0 where the token of a row sees that of a column, else a large negative number.

    Args:
        valid: tokens that are no padding; padding is seen by none.
        attention: "bidirectional", or "causal" for the columns up to the row's own.
        dtype: dtype of the mask.
    """
    n = valid.shape[1]
    seen = valid[:, None, None, :].expand(-1, 1, n, n)
    if attention == "causal":
        seen = seen & torch.ones(n, n, dtype=torch.bool, device=valid.device).tril()
    return _additive(seen, dtype)


def _additive(seen: Bool[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    hidden = torch.full((), torch.finfo(torch.bfloat16).min, dtype=dtype, device=seen.device)
    return torch.where(seen, torch.zeros((), dtype=dtype, device=seen.device), hidden)


def positions(valid: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Position of every token, counting only tokens that are no padding."""
    return (valid.long().cumsum(1) - 1).clamp(min=0)


def hidden_states(
    llama: Any, embeddings: Float[Tensor, "b n h"], valid: Bool[Tensor, "b n"], attention: Attention
) -> Float[Tensor, "b n h"]:
    """Hidden states after the final norm."""
    mask = attention_mask(valid, attention, embeddings.dtype)
    for layer in llama.model.layers:  # transformers recomputes only layers in training mode; there is no dropout
        layer.training = torch.is_grad_enabled()
    output = llama.model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions(valid), use_cache=False)
    return output.last_hidden_state


class CausalDecoder:
    """Decoding token by token with cached keys and values.

    Args:
        llama: the language model.
        embeddings: embedded prompt.
        valid: tokens of the prompt that are no padding.
    """

    def __init__(self, llama: Any, embeddings: Float[Tensor, "b n h"], valid: Bool[Tensor, "b n"]):
        from transformers import DynamicCache

        self.llama, self.valid, self.cache = llama, valid, DynamicCache(config=llama.config)
        mask = attention_mask(valid, "causal", embeddings.dtype)
        self.last = self._run(embeddings, mask, positions(valid))

    def _run(self, embeddings: Tensor, mask: Tensor, places: Tensor) -> Float[Tensor, "b h"]:
        output = self.llama.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def append(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b h"]:
        """Hidden state after one more token."""
        self.valid = torch.cat([self.valid, self.valid.new_ones(len(tokens), 1)], 1)
        embeddings = self.llama.model.embed_tokens(tokens)[:, None]
        mask = _additive(self.valid[:, None, None, :], embeddings.dtype)
        self.last = self._run(embeddings, mask, positions(self.valid)[:, -1:])
        return self.last


def restore_rotary(llama: Any) -> None:
    """Compute the rotary buffers of a model that was built on the "meta" device."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    with torch.device("cpu"):
        llama.model.rotary_emb = LlamaRotaryEmbedding(llama.config)
