"""Writer of OpenVLA policies in the published layout, which the upstream projects load."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.policies.lora import merged
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.policies.openvla_files import checkpoint_folder, extra_tensors, read_tensors
from worldgymnast.weights import save_weights

_COPIED = ("*.json", "*.model", "*.py")
_EXTRAS = ("action_head", "proprio_projector")


def export(policy: OpenVLA, base: str | Path, out: Path) -> None:
    """Write a folder in the published layout, with adapters merged into the weights.

    Args:
        policy: the policy.
        base: folder or hub name of the checkpoint that it began with. Its configs, statistics, tokenizer and the
            tensors without effect are copied.
        out: the folder, which must be new or empty. `model.safetensors` is one file, in the dtype of the base.

    Raises:
        InputError: the folder has content, or the base is of another size.
    """
    folder = checkpoint_folder(str(base))
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: has content, so a mixture of two checkpoints could result. Use a new folder")
    tensors, own = read_tensors(folder), merged(policy)
    inside = {name: value for name, value in own.items() if not name.startswith(_EXTRAS) or name in tensors}
    for name, value in inside.items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise InputError(f"{folder}: tensor '{name}' is missing or has another shape. Use the policy's own base")
        tensors[name] = value.to(tensors[name].dtype)
    out.mkdir(parents=True, exist_ok=True)
    for pattern in _COPIED:
        for file in folder.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, out / file.name)
    save_weights(out / "model.safetensors", tensors, {"format": "pt"})
    for part in _EXTRAS:
        _export_part(
            part, {name: own[name] for name in own if name.startswith(f"{part}.") and name not in tensors}, folder, out
        )


def _export_part(part: str, own: dict[str, Tensor], folder: Path, out: Path) -> None:
    """Write a part that is published as a file of its own, in the dtype of the base."""
    if own:
        before = extra_tensors(folder, part)
        values = {name.removeprefix(f"{part}."): value.detach().cpu() for name, value in own.items()}
        kept = {
            name: value.to(before[name].dtype).clone() if name in before else value for name, value in values.items()
        }
        torch.save(kept, out / f"{part}--0_checkpoint.pt")
