"""Sizes and preprocessing in the files of published OpenVLA checkpoints, read or checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import json_object, read_json_object, short
from worldgymnast.policies.openvla_language import LanguageConfig
from worldgymnast.policies.openvla_tokens import BINS
from worldgymnast.policies.openvla_vision import SIDE, TowerConfig

_EXPECTED: Mapping[str, Any] = {
    "model_type": "openvla",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "use_fused_vision_backbone": True,
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_override_act_layers": [None, None],
    "image_sizes": [SIDE, SIDE],
    "image_resize_strategy": "resize-naive",
    "n_action_bins": BINS,
    "quantization_config": None,
}
"""Fields of config.json that this reader supports with one value only."""
_PROCESSOR: Mapping[str, Any] = {
    "image_resize_strategy": "resize-naive",
    "input_sizes": [[3, SIDE, SIDE]] * 2,
    "interpolations": ["bicubic", "bicubic"],
}
"""The same of preprocessor_config.json."""
TOWERS = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
_DINO_REGISTERS = 5
"""Class token and registers of the first tower."""


def check_settings(settings: Mapping[str, Any], where: Path) -> None:
    """Raise InputError unless config.json describes a supported variant.

    Args:
        settings: its content.
        where: the file, for messages.
    """
    _check_fields(settings, _EXPECTED, where)
    if "model_type" not in settings:
        raise InputError(f"{where}: found no field 'model_type', expected \"openvla\". Use a checkpoint of OpenVLA")


def read_processor(folder: Path) -> dict[str, Any]:
    """Mean and standard deviation of the images, from preprocessor_config.json.

    Raises:
        InputError: the file is missing, or describes other preprocessing.
    """
    path = folder / "preprocessor_config.json"
    found = read_json_object(path, "copy it from the checkpoint")
    _check_fields(found, _PROCESSOR, path)
    try:
        return {name: tuple(tuple(map(float, row)) for row in found[name]) for name in ("means", "stds")}
    except (KeyError, TypeError, ValueError) as error:
        shown = short([found.get("means"), found.get("stds")])
        raise InputError(f"{path}: fields 'means', 'stds': found {shown}, expected 2 x 3 numbers each") from error


def tower_config(tensors: Mapping[str, Tensor], prefix: str, heads: int, blocks: int, where: Path) -> TowerConfig:
    """Size of the vision tower whose tensors begin with `prefix`.

    Raises:
        InputError: a tensor is missing, or the number of blocks differs.
    """

    def shape(name: str) -> tuple[int, ...]:
        if (tensor := tensors.get(prefix + name)) is None:
            raise InputError(f"{where}: found no tensor '{prefix}{name}', expected the weights of OpenVLA")
        return tuple(tensor.shape)

    start = f"{prefix}blocks."
    found = {name.removeprefix(start).split(".")[0] for name in tensors if name.startswith(start)}
    if found != {str(i) for i in range(blocks)}:
        raise InputError(
            f"{where}: found {len(found)} blocks '{start}*', expected {blocks}, 0 to {blocks - 1}. OpenVLA reads the "
            "last but one, which could be another. Copy the whole checkpoint, or set 'tower_blocks' and 'tower_heads'"
        )
    is_dino = prefix == TOWERS[0]
    return TowerConfig(
        width=shape("pos_embed")[-1],
        blocks=max(1, blocks - 1),
        heads=heads,
        hidden=shape("blocks.0.mlp.fc1.weight")[0],
        registers=_DINO_REGISTERS if is_dino else 0,
        has_scales=is_dino,
    )


def is_unused(name: str, dino: TowerConfig, siglip: TowerConfig) -> bool:
    """Whether a published tensor has no effect: last block, norm and pooling of a tower, stored rotary frequencies."""
    for prefix, tower in zip(TOWERS, (dino, siglip), strict=True):
        unused = (f"{prefix}blocks.{tower.blocks}.", f"{prefix}norm.", f"{prefix}attn_pool.")
        if name.startswith(unused):
            return True
    return name.endswith(".rotary_emb.inv_freq")


_TEXT: Mapping[str, str] = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "rope": "rope_theta",
    "norm_epsilon": "rms_norm_eps",
}


_TEXT_EXPECTED: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "sliding_window": None,
}
"""Fields of text_config that this reader supports with one value only."""


def language_config(settings: Mapping[str, Any], where: Path) -> LanguageConfig:
    """Size of the language model in config.json, where fields that are absent have Llama's defaults."""
    text = json_object(settings.get("text_config", {}), where, "text_config")
    _check_fields(text, _TEXT_EXPECTED, where, "text_config.")
    values: dict[str, Any] = {name: text[key] for name, key in _TEXT.items() if key in text}
    values |= _rope(text, where)
    values |= {name: float(x) for name in ("rope", "norm_epsilon") if type(x := values.get(name)) is int}
    heads = values.get("heads", LanguageConfig().heads)
    padding = settings.get("pad_to_multiple_of", LanguageConfig().padding)
    try:
        config = LanguageConfig(**values, key_heads=text.get("num_key_value_heads") or heads, padding=padding)
    except FieldError as error:
        raise InputError(f"{where}: {error.within('text_config')}") from error
    for place, name, expected in (
        (text, "text_config.head_dim", config.hidden // config.heads),
        (settings, "pad_token_id", config.words),
    ):
        if (found := place.get(name.removeprefix("text_config."), expected)) not in (None, expected):
            raise InputError(
                f"{where}: field '{name}': found {short(found)}, but the other fields give {expected}. The model "
                "would be misread. Copy the checkpoint again"
            )
    return config


def _rope(text: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Base of the rotary positions as transformers 5 writes it; empty without it."""
    rope = text.get("rope_parameters")
    if rope is None:
        return {}
    known = json_object(rope, where, "text_config.rope_parameters")
    base = known.get("rope_theta", LanguageConfig().rope)
    if known.get("rope_type", "default") != "default" or text.get("rope_theta", base) != base:
        raise InputError(
            f"{where}: field 'text_config.rope_parameters': found {short(known)}, expected the default rotary "
            "positions, with one base. Other variants of OpenVLA are not supported"
        )
    return {"rope": base}


def _check_fields(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path, parent: str = "") -> None:
    """Raise InputError unless every field that the file has is supported.

    Args:
        found: the fields.
        expected: the supported values.
        where: the file, for messages.
        parent: field that they belong to, with a full stop, or "".
    """
    for name, value in expected.items():
        if name in found and found[name] != value:
            raise InputError(
                f"{where}: field '{parent}{name}': found {short(found[name])}, expected {short(value)}. Other variants "
                "of OpenVLA are not supported"
            )
