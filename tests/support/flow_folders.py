"""Tiny SmolVLA, pi0 and pi0.5 checkpoints as folders in the layouts of lerobot and openpi."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_vla import DATA, write_tokenizer
from torch import Tensor

from worldgymnast.actions import libero_spec

Files = dict[str, Any]
HEADS = {"smolvla": {"head": 8, "vision_heads": 2}, "pi0": {"head": 4, "vision_heads": 2}}
HEADS["pi05"] = HEADS["pi0"]
STATE, ACTION = 3, 7


def weights(kind: str) -> dict[str, Tensor]:
    return load_file(DATA / kind / "share_model.safetensors")


def statistics(count: int) -> dict[str, Tensor]:
    low = torch.linspace(-2, -1, count)
    high = torch.linspace(1, 4, count)
    return {"mean": low, "std": high, "q01": low.clone(), "q99": high.clone()}


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            path.write_text(json.dumps(content))
        else:
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
    return folder


def description(kind: str, folder: Path, **fields: Any) -> Files:
    return {
        "kind": "FlowCheckpoint",
        "checkpoint": ".",
        "action_spec": libero_spec(1).to_dict(),
        "tokenizer": write_tokenizer(folder),
        **HEADS[kind],
        **fields,
    }


def lerobot(kind: str, folder: Path, **fields: Any) -> Files:
    """Files of a checkpoint as lerobot writes it."""
    side, steps = (64, "num_steps") if kind == "smolvla" else (56, "num_inference_steps")
    mode = "QUANTILES" if kind == "pi05" else "MEAN_STD"
    config: Files = {
        "type": kind,
        "n_obs_steps": 1,
        "chunk_size": 4,
        "n_action_steps": 3,
        "max_action_dim": 32,
        steps: 4,
        "input_features": {
            "observation.state": {"type": "STATE", "shape": [STATE]},
            "observation.images.front": {"type": "VISUAL", "shape": [3, 48, 64]},
            "observation.images.wrist": {"type": "VISUAL", "shape": [3, 48, 64]},
            "observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 48, 64]},
        },
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode},
        "resize_imgs_with_padding" if kind == "smolvla" else "image_resolution": [side, side],
    }
    if kind == "smolvla":
        config |= {"num_vlm_layers": 4, "self_attn_every_n_layers": 2, "vlm_model_name": "none", "num_expert_layers": 0}
    stored = {f"observation.state.{name}": tensor for name, tensor in statistics(STATE).items()}
    stored |= {f"action.{name}": tensor for name, tensor in statistics(ACTION).items()}
    images = {f"observation.images.{name}.count": torch.tensor([9.0]) for name in ("front", "wrist")}
    reshaped = {name: tensor[:, None, None] for name, tensor in images.items()}  # as lerobot 0.6.1 writes them
    pre, post = "policy_preprocessor_step_5_normalizer_processor", "policy_postprocessor_step_0_unnormalizer_processor"
    off = {"registry_name": "relative_actions_processor", "config": {"enabled": False}}
    first = {"registry_name": "normalizer_processor", "config": {}, "state_file": f"{pre}.safetensors"}
    last = {"registry_name": "unnormalizer_processor", "config": {}, "state_file": f"{post}.safetensors"}
    return {
        "config.json": config,
        "policy.json": description(kind, folder, **fields),
        "model.safetensors": weights(kind),
        "policy_preprocessor.json": {"name": "policy_preprocessor", "steps": [off, first]},
        "policy_postprocessor.json": {"name": "policy_postprocessor", "steps": [last]},
        f"{pre}.safetensors": stored | reshaped,
        f"{post}.safetensors": stored | images,
    }


def openpi(kind: str, folder: Path, **fields: Any) -> Files:
    """Files of a checkpoint as openpi converts it, with the names of older versions of transformers."""
    tensors = {}
    for name, tensor in weights(kind).items():
        plain = name.removeprefix("model.").replace(
            "paligemma.model.language_model.", "paligemma.language_model.model."
        )
        tensors[plain.replace("paligemma.model.", "paligemma.")] = tensor
    del tensors["paligemma_with_expert.paligemma.language_model.model.embed_tokens.weight"]
    entries = {"state": statistics(STATE), "actions": statistics(32)}
    numbers = {key: {name: tensor.tolist() for name, tensor in entry.items()} for key, entry in entries.items()}
    return {
        "config.json": {"action_dim": 32, "action_horizon": 4, "paligemma_variant": "gemma_2b", "precision": "float32"},
        "policy.json": description(kind, folder, cameras=["front", "wrist"], relative_axes=[], **fields),
        "model.safetensors": tensors,
        "assets/physical-intelligence/libero/norm_stats.json": {"norm_stats": numbers},
    }
