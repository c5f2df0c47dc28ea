"""What the writers of published layouts share: a check of the base, its tensors with trained ones in their place."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldgymnast.configs import to_dict
from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.policies.lora import is_adapter, updates
from worldgymnast.policies.published import FILE, Base
from worldgymnast.weights import to_json, write_text

_WRONG = "so it is not what the policy began with. Give the policy's own base"


def check_base(policy: nn.Module, base: Mapping[str, Tensor], where: Path) -> None:
    """Raise InputError unless a policy began with these weights, as far as its own tell.

    Names and shapes must be the same, and the weights that training kept fixed must be equal in the policy's precision.

    Args:
        policy: the policy.
        base: weights of the base that have an effect, by their names in the policy.
        where: folder of the base, for messages.
    """
    own = {name: weight for name, weight in policy.named_parameters() if not is_adapter(name)}
    if extra := next((name for name in base if name not in own), None):
        raise InputError(f"{where}: has a tensor '{extra}', which the policy lacks, {_WRONG}")
    for name, weight in own.items():
        if (found := base.get(name)) is None:
            raise InputError(f"{where}: has no tensor '{name}', which the policy has, {_WRONG}")
        if found.shape != weight.shape:
            shapes = f"{list(found.shape)}, but {list(weight.shape)} in the policy"
            raise InputError(f"{where}: tensor '{name}' has shape {shapes}, {_WRONG}")
        if not weight.requires_grad and not torch.equal(found.to(weight.dtype), weight.cpu()):
            raise InputError(f"{where}: tensor '{name}' differs from the policy's, which training kept fixed, {_WRONG}")


def check_adapter(policy: Any, base: Base) -> None:
    """Raise InputError unless the adapters alone, on the base, give the policy."""
    if not policy.config.lora_rank:
        raise InputError(
            f"{type(policy).__name__} was trained without LoRA, so it has no adapters to write alone. Omit "
            "--adapter-only, or train it with lora_rank in its policy.json"
        )
    if base.description.get("adapter"):
        raise InputError(
            f"{base.folder}: its description merges the adapter {short(base.description['adapter'])} first, which an "
            "adapter alone would leave out. Omit --adapter-only"
        )


def trained_tensors(
    policy: nn.Module, base: Mapping[str, Tensor], published: Mapping[str, Tensor], names: Mapping[str, str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Published tensors with those of a policy in their place, adapters merged, in the published dtypes.

    Args:
        policy: the policy.
        base: see `check_base`.
        published: tensors of the base's files.
        names: name in the policy of each published tensor that has an effect.

    Returns:
        The tensors by their published names, and notes for the user.
    """
    parameters, added = dict(policy.named_parameters()), updates(policy)
    result, changed, kept = dict(published), 0, 0
    for name, own in names.items():
        before, weight = base[own], parameters[own]
        if own in added:
            value = before.float() + added[own]
        else:
            value = weight.detach().cpu() if weight.requires_grad else before
        result[name] = value.to(published[name].dtype)
        if own in added or weight.requires_grad:
            differs = value.float() != before.float()
            changed += int(differs.sum())
            kept += int((differs & (result[name].float() != before.float())).sum())
    notes = []
    if kept < changed:
        notes.append(
            f"{100 * (1 - kept / changed):.1f} % of the {changed:,} numbers that training changed are rounded back to "
            "those of the base, whose dtype is coarser"
        )
    return result, notes


def copy_files(folder: Path, out: Path, patterns: Iterable[str], skipped: Iterable[str] = ()) -> None:
    """Copy the files of a folder that match; those in subfolders with their path.

    Index files of shards and descriptions are left out.
    """
    for pattern in patterns:
        for file in folder.glob(pattern):
            name = file.relative_to(folder)
            if file.is_file() and not name.name.endswith(".index.json") and name.name not in (FILE, *skipped):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, out / name)


def write_description(out: Path, description: Any) -> None:
    """Write policy.json, without fields that have their default."""
    defaults = {one.name: one.default for one in fields(description)}
    values = to_dict(description).items()
    kept = {name: value for name, value in values if getattr(description, name) != defaults[name]}
    write_text(out / FILE, to_json({"kind": type(description).__name__, **kept}))
