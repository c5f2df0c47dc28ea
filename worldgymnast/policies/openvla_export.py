"""Writer of OpenVLA policies in the published layout, which the upstream projects load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object
from worldgymnast.policies.exports import check_adapter, check_base, copy_files, trained_tensors, write_description
from worldgymnast.policies.lora import merge_adapter, save_adapter
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint
from worldgymnast.policies.openvla_files import extra_tensors, read_tensors
from worldgymnast.policies.openvla_sizes import is_unused
from worldgymnast.policies.published import Base, adapter_folder, base_of
from worldgymnast.weights import save_weights

_COPIED = ("*.json", "*.model", "*.py")
_EXTRAS = ("action_head", "proprio_projector")
_ADAPTER = ("adapter_config.json",)


def export(policy: Any, name: str, out: Path, *, adapter_only: bool) -> list[str]:
    """Write an `OpenVLA` in the published layout; see `protocols.Exports`.

    Configs, statistics and tokenizer of the base are copied; `model.safetensors` is one file, in the dtypes of the base
    and with its tensors without effect. The regression head and the projector of the state are files of their own.

    Raises:
        InputError: the base is another policy's, or the policy has no adapter to write alone.
    """
    base = base_of(name)
    folder, config = base.folder, policy.config
    if adapter_only:
        check_adapter(policy, base)
    description = _describe(policy, base)
    published = read_tensors(folder)
    weights = {one: value for one, value in published.items() if not is_unused(one, config.dino, config.siglip)}
    before = dict(weights)
    adapter = adapter_folder(description.adapter, folder, base.place)
    if adapter is not None:
        merge_adapter(before, adapter)
    extras = _extras(adapter, folder)
    check_base(policy, before | extras, folder)
    _check_statistics(policy, description, folder)
    copy_files(folder, out, _COPIED, _ADAPTER)
    if adapter_only:
        save_adapter(policy, out, base.name)
        tensors, notes = trained_tensors(policy, extras, extras, {one: one for one in extras})
    else:
        names = {one: one for one in (*weights, *extras)}
        tensors, notes = trained_tensors(policy, before | extras, published | extras, names)
        inside = {one: value for one, value in tensors.items() if one in published}
        save_weights(out / "model.safetensors", inside, {"format": "pt"})
    for part in _EXTRAS:
        values = {one.removeprefix(f"{part}."): tensors[one] for one in extras if one.startswith(f"{part}.")}
        if values:
            torch.save({one: value.clone() for one, value in values.items()}, out / f"{part}--0_checkpoint.pt")
    place = (base.name, ".") if adapter_only else (".", "")
    write_description(out, replace(description, checkpoint=place[0], adapter=place[1]))
    return notes


def _extras(adapter: Path | None, folder: Path) -> dict[str, Tensor]:
    """Tensors of the parts that are files of their own, by their names in the policy."""
    found: dict[str, Tensor] = {}
    for part in _EXTRAS:
        values = (extra_tensors(adapter, part) if adapter else {}) or extra_tensors(folder, part)
        found |= {f"{part}.{name}": value for name, value in values.items()}
    return found


def _describe(policy: Any, base: Base) -> OpenVLACheckpoint:
    """Description of the base with the policy's settings."""
    config, known = policy.config, base.description
    return OpenVLACheckpoint(
        checkpoint=str(base.folder),
        decoding=config.decoding,
        attention=config.attention,
        stop_token=config.stop_token,
        support=config.support,
        crop=config.crop,
        chunk=config.chunk,
        bounds=config.statistics.bounds,
        epsilon=config.statistics.epsilon,
        key=config.statistics.key,
        head=config.head,
        noise=config.noise,
        cameras=config.cameras,
        weights=config.weights,
        adapter=str(known.get("adapter") or ""),
        checkpointing=config.checkpointing,
        self_test=bool(known.get("self_test", True)),
        tokenizer=str(known.get("tokenizer") or "tokenizer.json"),
        tower_heads=(config.dino.heads, config.siglip.heads),
        tower_blocks=(config.dino.blocks + 1, config.siglip.blocks + 1),
        action_spec=policy.action_spec.to_dict(),
    )


def _check_statistics(policy: Any, description: OpenVLACheckpoint, folder: Path) -> None:
    """Raise InputError unless the statistics of the base are those of the policy."""
    settings = read_json_object(folder / "config.json")
    found = description.statistics(folder, settings, has_state=policy.config.state_dim > 0)
    if found != policy.config.statistics:
        raise InputError(
            f"{folder}: its statistics '{found.key}' are not those of the policy, so its actions would be wrong. Give "
            "the policy's own base"
        )
