"""Writer of SmolVLA, pi0 and pi0.5 policies in the layout of their base, lerobot's or openpi's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from worldgymnast.configs import to_dict
from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.policies.exports import check_adapter, check_base, copy_files, trained_tensors, write_description
from worldgymnast.policies.flow_checkpoint import Files, FlowCheckpoint, read_settings
from worldgymnast.policies.flow_layouts import effective_name
from worldgymnast.policies.flow_statistics import Affine, write_lerobot_statistics
from worldgymnast.policies.lora import is_adapter, save_adapter
from worldgymnast.policies.openvla_files import read_tensors
from worldgymnast.policies.published import Base, OpenField, adapter_folder, base_of
from worldgymnast.weights import save_weights, to_json, write_text

_COPIED = ("*.json", "*.safetensors", "assets/**/*")
_WEIGHTS = "model.safetensors"
_SKIPPED = ("train_config.json",)
"""Files of the base that the result does not keep: how it was trained."""
_FIXED = ("sizes", "horizon", "resize", "prompt", "prompt_length", "state_dim", "shortest", "longest")
"""Fields of the config that the files of the base say, and that its policy must have."""


def export(policy: Any, name: str, out: Path, *, adapter_only: bool) -> list[str]:
    """Write a `FlowExpert` in the layout of its base; see `protocols.Exports`.

    The files of the base are copied; `model.safetensors` is one file, in the dtypes of the base and with its tensors
    without effect. A base without statistics gets those of the policy.

    Raises:
        InputError: the base is another policy's, or the policy has no adapters to write alone.
    """
    base = base_of(name)
    if adapter_only:
        check_adapter(policy, base)
    description = _describe(policy, base)
    published = read_tensors(base.folder)
    adapter = adapter_folder(description.adapter, base.folder, base.place)
    files = Files.read(read_settings(base.folder), published, adapter)
    check_base(policy.model, files.tensors, base.folder)
    stored = _stored_scales(policy, files, description, base)
    _check_config(policy, files, description, base)
    weights = (f"{file.name}" for file in base.folder.glob("model*.safetensors"))
    copy_files(base.folder, out, _COPIED, (*_SKIPPED, *weights, "adapter_config.json", "adapter_model.safetensors"))
    if stored is None:
        _write_statistics(policy, files, base, out)
    notes = []
    if hasattr(policy, "noise_net"):
        notes.append("the learned deviation of flow_noise is left out: it acts in reinforcement learning alone")
    asset = "" if description.statistics else description.asset
    result = replace(description, statistics="", asset=asset, checkpoint=".", adapter="")
    if adapter_only:
        save_adapter(policy, out, base.name, _whole(policy))
        _mark_adapter(out, files)
        write_description(out, replace(result, checkpoint=base.name, adapter="."))
        return notes
    names = {one: effect for one in published if (effect := effective_name(one)) is not None}
    tensors, more = trained_tensors(policy.model, files.tensors, published, names)
    save_weights(out / _WEIGHTS, tensors, {"format": "pt"})
    write_description(out, result)
    return notes + more


def _describe(policy: Any, base: Base) -> FlowCheckpoint:
    """Description of the base with the policy's settings."""
    config, known = policy.config, base.description
    statistics = str(known.get("statistics") or "")
    is_short = config.prompt in ("pi0", "pi05") and hasattr(policy.model, "time_mlp_in")
    return FlowCheckpoint(
        checkpoint=str(base.folder),
        action_spec=policy.action_spec.to_dict(),
        tokenizer=config.tokenizer,
        cameras=config.cameras,
        chunk=config.chunk,
        reads_state=config.state_dim > 0,
        prompt=config.prompt if is_short else "",
        binned_state=config.binned_state,
        statistics=str((base.place / statistics).resolve()) if statistics else "",
        asset=str(known.get("asset") or ""),
        adapter=str(known.get("adapter") or ""),
        head=config.sizes.head,
        vision_heads=config.sizes.vision_heads,
        sampler=config.sampler,
        ratio=config.ratio,
        counted=config.counted,
        trained=config.trained,
        fixed=config.fixed,
        checkpointing=config.checkpointing,
        self_test=bool(known.get("self_test", True)),
        relative_axes=config.relative_axes,
    )


def _stored_scales(policy: Any, files: Files, description: FlowCheckpoint, base: Base) -> Mapping[str, Affine] | None:
    """Normalization by the statistics of the base's files; None if the policy's came from elsewhere."""
    try:
        stored = replace(description, statistics="").scales(files, policy.action_spec.dim, base.place)
    except OpenField as error:
        if error.field == "asset":
            raise
        return None
    own = {"action": Affine(policy.action_offset, policy.action_scale)}
    if policy.config.state_dim:
        own["state"] = Affine(policy.state_offset, policy.state_scale)
    for name, scale in own.items():
        found = stored.get(name)
        if found is None or not all(torch.equal(a, b.cpu()) for a, b in zip(found, scale, strict=True)):
            if description.statistics:
                return None
            raise InputError(
                f"{base.folder}: its statistics of {name}s are not those of the policy, so its actions would be wrong. "
                "Give the policy's own base, or the policy.json that names other statistics"
            )
    return stored


def _check_config(policy: Any, files: Files, description: FlowCheckpoint, base: Base) -> None:
    """Raise InputError if the files of the base say something else than the policy's config."""
    state = {"state": Affine(policy.state_offset, policy.state_scale)} if policy.config.state_dim else {}
    expected = to_dict(description.config(files, base.place, state))
    own = to_dict(policy.config)
    for name in _FIXED:
        if expected[name] != own[name]:
            raise InputError(
                f"{base.folder}: its files give {name} {short(expected[name])}, but the policy has {short(own[name])}, "
                "so it is not what the policy began with. Give the policy's own base"
            )


def _whole(policy: Any) -> list[str]:
    """Modules of the network that training changes as a whole, beside the adapters."""
    trained = [name for name, weight in policy.named_parameters() if weight.requires_grad and not is_adapter(name)]
    return sorted({name.rpartition(".")[0] for name in trained if name.startswith("model.")})


def _mark_adapter(out: Path, files: Files) -> None:
    """Say in lerobot's config.json that the folder has an adapter alone."""
    if files.settings.is_lerobot:
        write_text(out / "config.json", json.dumps(dict(files.settings.values) | {"use_peft": True}, indent=4) + "\n")


def _write_statistics(policy: Any, files: Files, base: Base, out: Path) -> None:
    """Write the policy's statistics where the layout has them."""
    if not files.settings.is_lerobot:
        file = base.place / str(base.description.get("statistics") or "")
        if not file.is_file():
            raise InputError(
                f"{base.folder}: has no statistics, and the base names none. Give the policy.json, which names them"
            )
        shutil.rmtree(out / "assets", ignore_errors=True)
        target = out / "assets" / "trained" / "norm_stats.json"
        target.parent.mkdir(parents=True)
        shutil.copy(file, target)
        return
    scales = {"ACTION": Affine(policy.action_offset.cpu(), policy.action_scale.cpu())}
    if policy.config.state_dim:
        scales["STATE"] = Affine(policy.state_offset.cpu(), policy.state_scale.cpu())
    features = write_lerobot_statistics(out, scales, files.settings.modes(files.kind))
    values = dict(files.settings.values)
    values["input_features"] = dict(values.get("input_features") or {})
    for name, feature in features.items():
        place = "output_features" if feature["type"] == "ACTION" else "input_features"
        values[place] = dict(values.get(place) or {}) | {name: feature}
    write_text(out / "config.json", to_json(values))
