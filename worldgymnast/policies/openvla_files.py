"""Files of published OpenVLA checkpoints: shards, extra parts, LoRA adapters."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.files import json_object, read_json_object, short
from worldgymnast.hub import first_line, hub_reason
from worldgymnast.weights import load_weights

_INDEX = "model.safetensors.index.json"
_DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*_checkpoint.pt")


def checkpoint_folder(name: str, base: Path = Path()) -> Path:
    """Folder of a checkpoint: one relative to `base`, or a download from the hub.

    Raises:
        InputError: there is no such folder and no such model on the hub.
    """
    if (folder := base / name).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_DOWNLOADED)))
    except Exception as error:  # the library raises errors of several other libraries
        raise InputError(f"{name}: found no such folder, and the hub gave none ({hub_reason(error, name)})") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards in its index.

    Raises:
        InputError: a file is missing or damaged, or a shard and the index differ.
    """
    if not (folder / _INDEX).is_file():
        return load_weights(folder / "model.safetensors")[0]
    index = read_json_object(folder / _INDEX)
    places = json_object(index.get("weight_map"), folder / _INDEX, "weight_map")
    tensors: dict[str, Tensor] = {}
    for file in sorted({str(place) for place in places.values()}):
        if Path(file).name != file:
            raise InputError(
                f"{folder / _INDEX}: names {short(file)}, expected a file in the same folder. Copy it again"
            )
        shard, _ = load_weights(folder / file)
        listed = {name for name, place in places.items() if place == file}
        if different := sorted(listed ^ set(shard)):
            raise InputError(
                f"{folder / file}: has other tensors than {_INDEX} lists, first {different[0]}. The checkpoint is "
                "incomplete or mixed with another. Copy the whole folder again"
            )
        tensors |= shard
    return tensors


def extra_tensors(folder: Path, part: str) -> dict[str, Tensor]:
    """Tensors of `PART--STEP_checkpoint.pt`; empty without such a file.

    Raises:
        InputError: there are several, or the file contains code or anything but tensors.
    """
    files = sorted(folder.glob(f"{part}--*checkpoint.pt"))
    if not files:
        return {}
    if len(files) > 1:
        raise InputError(f"{folder}: found {len(files)} files {part}--*_checkpoint.pt, expected one. Remove the others")
    try:
        content = torch.load(files[0], map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{files[0]}: cannot be read as tensors alone ({first_line(error)}). Files with code are refused. Copy it "
            "again"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{files[0]}: found no dict of tensors. Copy it again")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def merge_adapter(tensors: dict[str, Tensor], folder: Path) -> None:
    """Add a LoRA adapter in PEFT's layout to the weights, in place: W + scale B A in float32.

    Raises:
        InputError: the adapter is of another kind, incomplete, or names weights that the model lacks.
    """
    path = folder / "adapter_config.json"
    settings = read_json_object(path)
    for name, value in {"peft_type": "LORA", "use_dora": False, "bias": "none", "fan_in_fan_out": False}.items():
        if (found := settings.get(name, value)) != value:
            raise InputError(f"{path}: field '{name}': found {short(found)}, expected {short(value)}")
    for name in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if settings.get(name):
            raise InputError(f"{path}: field '{name}': found {short(settings[name])}, expected none")
    scale = _scale(settings, path)
    file = folder / "adapter_model.safetensors"
    parts, _ = load_weights(file)
    ends = ("lora_A.weight", "lora_B.weight")
    if odd := next((name for name in parts if not name.endswith(ends)), None):
        raise InputError(f"{file}: found tensor '{odd}', expected names that end with {' or '.join(ends)}")
    if not parts:
        raise InputError(f"{file}: found no tensors, expected those of a LoRA adapter. Copy it again")
    for name in sorted({name.rsplit(".", 2)[0] for name in parts}):
        target = f"{name.removeprefix('base_model.model.')}.weight"
        try:
            down, up, weight = parts[f"{name}.{ends[0]}"], parts[f"{name}.{ends[1]}"], tensors[target]
        except KeyError as error:
            raise InputError(
                f"{file}: '{name}' needs {error}, which is missing. Use the adapter's own base model"
            ) from error
        if (len(up), down.shape[1]) != tuple(weight.shape) or len(down) != up.shape[1]:
            shapes = f"{list(up.shape)} and {list(down.shape)}"
            raise InputError(f"{file}: '{name}' has shapes {shapes}, which do not give {list(weight.shape)}")
        tensors[target] = weight.float() + scale * (up.float() @ down.float())


def _scale(settings: Mapping[str, Any], path: Path) -> float:
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise InputError(f"{path}: fields 'r', 'lora_alpha': found {short([rank, alpha])}, expected two numbers")
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)
