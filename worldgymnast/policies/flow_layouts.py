"""Tensors and sizes of published SmolVLA, pi0 and pi0.5 checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.policies.pi0_network import Pi0Sizes
from worldgymnast.policies.published import OpenField
from worldgymnast.policies.smolvla_network import SmolVLASizes

Kind = Literal["smolvla", "pi0", "pi05"]

_PALIGEMMA = "paligemma_with_expert.paligemma."
_RENAMED = (
    (f"{_PALIGEMMA}language_model.model.", f"{_PALIGEMMA}model.language_model."),
    (f"{_PALIGEMMA}language_model.lm_head.", f"{_PALIGEMMA}lm_head."),
    (f"{_PALIGEMMA}vision_tower.", f"{_PALIGEMMA}model.vision_tower."),
    (f"{_PALIGEMMA}multi_modal_projector.", f"{_PALIGEMMA}model.multi_modal_projector."),
)
"""Prefixes that older versions of transformers wrote, and those of newer ones."""
_UNUSED = re.compile(r"lm_head\.weight$|\.rotary_emb\.inv_freq$|\.position_ids$|gemma_expert\.model\.embed_tokens\.")
"""Published tensors without effect on actions."""
_STATISTICS = re.compile(r"^(?:un)?normalize_(?:inputs|outputs|targets)\.buffer_(.+)\.(\w+)$")
"""Statistics that older versions of lerobot kept among the weights."""
_TEXT = {"smolvla": "vlm_with_expert.vlm.model.text_model.", "pi0": f"{_PALIGEMMA}model.language_model."}
_TIED = f"{_PALIGEMMA}lm_head.weight"
_EMBEDDING = f"{_TEXT['pi0']}embed_tokens.weight"
"""Output layer of PaliGemma, and the embedding to which it is tied."""
_VISION = {"smolvla": "vlm_with_expert.vlm.model.vision_model.", "pi0": f"{_PALIGEMMA}model.vision_tower.vision_model."}
_EXPERT = {"smolvla": "vlm_with_expert.lm_expert.", "pi0": "paligemma_with_expert.gemma_expert.model."}
_HEAD = {"smolvla": 64, "pi0": 256}
_VISION_HEADS = {"smolvla": 12, "pi0": 16}


def is_statistic(name: str) -> bool:
    """Whether a published tensor is a statistic, by its name."""
    return _STATISTICS.match(name) is not None


def split_statistics(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Separate weights from statistics, which are by feature ("action", "observation_state") and name ("mean")."""
    weights, statistics = {}, dict[str, dict[str, Tensor]]()
    for name, tensor in tensors.items():
        if (match := _STATISTICS.match(name)) is None:
            weights[name] = tensor
        elif bool(torch.isfinite(tensor).all()):  # infinite ones were never measured
            statistics.setdefault(match[1], {})[match[2]] = tensor
    return weights, statistics


def network_name(name: str) -> str:
    """Name in the network of a published tensor, or of a module.

    >>> network_name("model.paligemma_with_expert.paligemma.vision_tower.x")
    'paligemma_with_expert.paligemma.model.vision_tower.x'
    """
    plain = name.removeprefix("model.").removeprefix("_orig_mod.")
    for old, new in _RENAMED:
        if plain.startswith(old):
            plain = new + plain.removeprefix(old)
    return plain


def effective_name(name: str) -> str | None:
    """Name in the network of a published tensor: an output layer has that of the embedding to which it is tied.

    None for a tensor without effect on actions, and for statistics.
    """
    plain = network_name(name)
    if plain == _TIED:
        return _EMBEDDING
    return None if _UNUSED.search(plain) or _STATISTICS.match(name) else plain


def network_tensors(tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Tensors by their names in the network.

    Prefixes of lerobot ("model.") and of compiled models ("_orig_mod.") are removed, names of older versions of
    transformers are replaced, and tensors without effect are left out. A token embedding that was saved as the output
    layer alone, to which it is tied, is restored.

    Raises:
        InputError: the embedding and the output layer of pi0 differ.
    """
    renamed = {network_name(name): tensor for name, tensor in tensors.items()}
    if (head := renamed.get(_TIED)) is not None:
        embedding = renamed.setdefault(_EMBEDDING, head)
        if not head.is_meta and not torch.equal(embedding, head):
            raise InputError(
                f"{where}: '{_EMBEDDING}' and its output layer differ, but PaliGemma ties them. One of them is not of "
                "this model. Copy or convert the checkpoint again"
            )
    return {name: tensor for name, tensor in renamed.items() if not _UNUSED.search(name)}


def kind_of(tensors: Mapping[str, Tensor], where: Path) -> Kind:
    """Kind of network to which tensors belong.

    Raises:
        InputError: to none.
    """
    if "action_in_proj.weight" in tensors:
        if any(name.startswith("vlm_with_expert.") for name in tensors):
            return "smolvla"
        if any(name.startswith(_PALIGEMMA) for name in tensors):
            return "pi05" if "time_mlp_in.weight" in tensors else "pi0"
    raise InputError(f"{where}: found no weights of SmolVLA, pi0 or pi0.5. Use the PyTorch checkpoint of one of them")


class _Shapes:
    """Shapes of tensors, with one message for a missing one."""

    def __init__(self, tensors: Mapping[str, Tensor], where: Path):
        self.tensors, self.where = tensors, where

    def __call__(self, name: str) -> tuple[int, ...]:
        if (tensor := self.tensors.get(name)) is None:
            raise InputError(f"{self.where}: found no tensor '{name}'. The checkpoint is incomplete. Copy it again")
        return tuple(tensor.shape)

    def count(self, prefix: str) -> int:
        """Number of layers whose names begin with a prefix."""
        indices = {name.removeprefix(prefix).split(".")[0] for name in self.tensors if name.startswith(prefix)}
        return len(indices)


def sizes_of(
    kind: Kind, tensors: Mapping[str, Tensor], where: Path, head: int = 0, vision_heads: int = 0, every: int = 2
) -> SmolVLASizes | Pi0Sizes:
    """Sizes of a network from its tensors.

    Args:
        kind: its kind.
        tensors: its tensors.
        where: the folder, for messages.
        head: width of a head, which tensors do not say; 0 for that of the published model.
        vision_heads: heads of the vision tower; 0 for those of the published model.
        every: see `SmolVLASizes.self_attention_every`.

    Raises:
        InputError: a tensor is missing, or widths are no multiples of the heads.
    """
    family = "smolvla" if kind == "smolvla" else "pi0"
    shape, head, vision_heads = _Shapes(tensors, where), head or _HEAD[family], vision_heads or _VISION_HEADS[family]
    text, vision, expert = _TEXT[family], _VISION[family], _EXPERT[family]
    queries, width = shape(f"{text}layers.0.self_attn.q_proj.weight")
    keys = shape(f"{text}layers.0.self_attn.k_proj.weight")[0]
    vision_width, _, patch, _ = shape(f"{vision}embeddings.patch_embedding.weight")
    if queries % head or keys % head or vision_width % vision_heads:
        raise OpenField(
            "head",
            "width of a head, and vision_heads, in a model of unpublished size",
            f"{where}: widths {queries}, {keys} and {vision_width} are no multiples of heads {head} wide and of "
            f"{vision_heads} heads. Set 'head' and 'vision_heads' to those of the checkpoint",
        )
    side = math.isqrt(shape(f"{vision}embeddings.position_embedding.weight")[0])
    expert_width = shape("action_in_proj.weight")[0]
    action = shape("action_in_proj.weight")[1]
    sizes: dict[str, Any] = {
        "vocabulary": shape(f"{text}embed_tokens.weight")[0],
        "width": width,
        "hidden": shape(f"{text}layers.0.mlp.gate_proj.weight")[0],
        "layers": shape.count(f"{text}layers."),
        "heads": queries // head,
        "kv_heads": keys // head,
        "head": head,
        "expert_width": expert_width,
        "expert_hidden": shape(f"{expert}layers.0.mlp.gate_proj.weight")[0],
        "vision_width": vision_width,
        "vision_hidden": shape(f"{vision}encoder.layers.0.mlp.fc1.weight")[0],
        "vision_layers": shape.count(f"{vision}encoder.layers."),
        "vision_heads": vision_heads,
        "image": side * patch,
        "patch": patch,
        "action": action,
        "state": action if kind == "pi05" else shape("state_proj.weight")[1],
    }
    if kind != "smolvla":
        return Pi0Sizes(**sizes)
    merged = shape("vlm_with_expert.vlm.model.connector.modality_projection.proj.weight")[1]
    return SmolVLASizes(**sizes, shuffle=math.isqrt(merged // vision_width), self_attention_every=every)
