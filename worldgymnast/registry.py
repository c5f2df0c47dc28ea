"""Component files: components of every kind to files and back.

Only this module builds components from configs. A component file is a safetensors file whose metadata contains kind,
config, action spec and manifest, so its path suffices to rebuild the component.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError
from torch import nn

from worldgymnast.actions import ActionSpec, ActionSpecMismatch
from worldgymnast.arguments import check_device, implements
from worldgymnast.configs import ByKind, Config, from_dict, to_dict
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, parse_json, short
from worldgymnast.hub import fetch
from worldgymnast.judges.classifier import ClassifierConfig
from worldgymnast.judges.descriptions import JudgeReader, build_client, read_description, resolve_model
from worldgymnast.judges.descriptions import save_judge as save_judge
from worldgymnast.kinds import GROUPS, NOUNS, Group, class_of, kinds
from worldgymnast.kinds import register as register
from worldgymnast.ledger import Ledger
from worldgymnast.policies import published
from worldgymnast.policies.flow_vla import FlowVLAConfig
from worldgymnast.policies.published import describe_policy as describe_policy
from worldgymnast.policies.published import is_published as is_published
from worldgymnast.policies.published import load_published
from worldgymnast.policies.small_vla import SmallVLAConfig
from worldgymnast.policies.tiny_smolvla import TinySmolVLAConfig
from worldgymnast.processes import rank_zero_only
from worldgymnast.protocols import (
    ComponentInfo,
    Editor,
    Exports,
    Fillable,
    Judge,
    Policy,
    TrainableJudge,
    TrainableWorld,
    WorldModel,
)
from worldgymnast.scenes.cutouts import Cutouts, CutoutsConfig, load_cutouts
from worldgymnast.scenes.inpainting import Inpainting, InpaintingConfig
from worldgymnast.scenes.plate import Plate, load_plate
from worldgymnast.scenes.proposals import Proposer, ProposerConfig
from worldgymnast.scenes.remote import RemoteEditor, RemoteEditorConfig
from worldgymnast.staging import StagedFolder, reason
from worldgymnast.tiling import Tiling
from worldgymnast.weights import (
    Header,
    as_floats,
    check_finite,
    check_shapes,
    load_weights,
    read_header,
    save_weights,
    shapes_of,
)
from worldgymnast.worldmodel.sampler import WorldModelConfig


@dataclass(frozen=True)
class Manifest:
    """Origin of a component's weights.

    Attributes:
        recipe: command that created it.
        seed: random seed.
        data: hash of its training data, or of its initial component.
        metrics: measurements of the component.
        origin: properties of its training data, if known: "action_spec", "frame_size", "fps", "image_key",
            "instructions".
    """

    recipe: str = ""
    seed: int = 0
    data: str = ""
    metrics: Mapping[str, float] | None = None
    origin: Mapping[str, Any] | None = None


class _Policies(ByKind):
    """The configs of policies to train from scratch, and of all others, which training continues from."""

    def more(self) -> dict[str, type[Any]]:
        """See `ByKind.more`."""
        classes = [class_of("policies", kind) for kind in kinds("policies")]
        configs: list[Any] = [getattr(one, "config_type", None) for one in classes]
        return {config.__name__: config for config in configs if config}


PolicyConfig = Annotated[SmallVLAConfig | FlowVLAConfig | TinySmolVLAConfig, _Policies()]
"""Configs of policies for `training.policy`."""
DEFAULT_POLICY = SmallVLAConfig()
"""Default policy of `sft`."""
WorldConfig = WorldModelConfig
"""Configs of world models for `train-world`."""
JudgeConfig = ClassifierConfig
"""Configs of judges for `train-judge`."""


def make(group: Group, config: Any, info: ComponentInfo | None = None) -> Any:
    """Build a component with fresh weights from its config.

    Raises:
        InputError: no kind of the group has this class of config.
    """
    for kind in kinds(group):
        component = class_of(group, kind)
        if component is not None and type(config) is component.config_type:
            return component.from_config(config, info or ComponentInfo())
    known = ", ".join(kinds(group))
    raise InputError(
        f"no kind of {group} has the config {type(config).__name__} (known kinds: {known}). Register its class with "
        "worldgymnast.registry.register"
    )


@rank_zero_only
def save_component(path: Path, component: Any, manifest: Manifest, *, half: bool = False) -> None:
    """Write a policy, world model or judge as one safetensors file.

    Args:
        path: the file.
        component: the component.
        manifest: origin of its weights; without `Manifest.origin`, that of the file which the component comes from.
        half: store floats as float16.

    Raises:
        InputError: the component has no weights, or the file cannot be written.
    """
    if not hasattr(component, "state_dict"):
        raise InputError(f"{path}: {type(component).__name__} has no state_dict, so it has no weights to save")
    tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in component.state_dict().items()}
    config = getattr(component, "config", None)
    if manifest.origin is None:
        manifest = replace(manifest, origin=origin_of(component))
    meta = {
        "kind": type(component).__name__,
        "config": json.dumps(to_dict(config) if config is not None else {}),
        "manifest": json.dumps(to_dict(manifest)),
    }
    if isinstance(spec := getattr(component, "action_spec", None), ActionSpec):
        meta["action_spec"] = json.dumps(spec.to_dict())
    if isinstance(fps := getattr(component, "fps", None), float | int):
        meta["fps"] = repr(fps)
    if isinstance(tiling := getattr(component, "tiling", None), Tiling) and tiling.names_cameras:
        meta["tiling"] = tiling.to_json()
    try:
        save_weights(path, tensors, meta)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be written ({reason(error)}). Check the path and its permissions") from error


def _load(path: Path, group: Group) -> Any:
    """Load a component of a group from its file.

    Names and shapes are compared with a component on the "meta" device, which allocates nothing, before tensors are
    read.
    """
    header = read_header(path)
    kind = header.metadata.get("kind", "")
    if (component_class := class_of(group, kind)) is None:
        raise InputError(f"{path}: field 'kind': {_other_kind(group, kind)}")
    config = _config(component_class.config_type, path, header)
    spec = _spec(path, header) if "action_spec" in header.metadata else None
    fps = _fps(path, header) if "fps" in header.metadata else None
    tiling = None
    if "tiling" in header.metadata:
        tiling = Tiling.from_json(header.metadata["tiling"], f"{path}: field 'tiling'")
    stored = ComponentInfo(str(path), spec, fps, header.metadata, tiling)
    with torch.device("meta"):
        empty = component_class.from_config(config, stored)
    check_shapes(shapes_of(empty.state_dict()), header.shapes, kind, path)
    if implements(empty, Fillable):
        tensors = load_weights(path)[0]
        check_finite(path, tensors)
        component = empty
        component.fill(tensors)
    else:
        component = component_class.from_config(config, stored)
        component.load_state_dict(as_floats(path, load_weights(path)[0]))
    origin = manifest_of(path).get("origin")
    if isinstance(component, nn.Module) and isinstance(origin, Mapping):
        object.__setattr__(component, _ORIGIN, origin)
    return component


_ORIGIN = "_worldgymnast_origin"
"""Attribute of a loaded component."""


def origin_of(component: object) -> Mapping[str, Any] | None:
    """`Manifest.origin` in the file that a component comes from, also of a trained copy; None if unknown."""
    return getattr(component, _ORIGIN, None)


def _other_kind(group: Group, kind: str) -> str:
    """Explain a file whose kind is not in the group."""
    expected = f"expected {NOUNS[group]} ({', '.join(kinds(group))})"
    for other in GROUPS:
        if kind in kinds(other):
            return f"found {NOUNS[other]} ({kind}), {expected}. Use another file"
    found = short(kind) if kind else "nothing"
    return f"found {found}, {expected}. Use another file, or install or register its class"


def weights_into(component: Any, path: Path) -> None:
    """Copy the weights of a file into a component of the same kind, registered or not."""
    header, kind = read_header(path), type(component).__name__
    check_shapes(shapes_of(component.state_dict()), header.shapes, kind, path)
    component.load_state_dict(as_floats(path, load_weights(path)[0]))


def _spec(path: Path, header: Header) -> ActionSpec:
    where = f"{path}: field 'action_spec'"
    data = json_object(parse_json(header.metadata.get("action_spec", "null"), where, unique=True), path, "action_spec")
    try:
        spec = ActionSpec.from_dict(data)
    except ActionSpecMismatch as error:
        raise InputError(f"{where}: cannot be read ({str(error)[:200]}). Copy or train it again") from error
    if not spec.axes or not all(low <= high for low, high in zip(spec.low, spec.high, strict=True)):
        raise InputError(f"{where}: found {short(data)}, expected axes with low <= high. Copy or train it again")
    return spec


def _config(kind: type[Config], path: Path, header: Header) -> Config:
    """Config in a component's file, with at most as many layers as the file has tensors."""
    data = parse_json(header.metadata.get("config", "null"), f"{path}: field 'config'", unique=True)
    config = from_dict(kind, json_object(data, path, "config"), str(path))
    _check_size(path, data, header)
    return config


_COUNTS = ("layers", "blocks")
"""Config fields that are numbers of modules."""


def _check_size(path: Path, data: Mapping[str, Any], header: Header) -> None:
    """Raise InputError if a config has more modules than the file has tensors, which would take minutes to build."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            _check_size(path, value, header)
        numbers: Any = value if isinstance(value, list) else [value]
        if name in _COUNTS and sum(numbers) > len(header.shapes):
            raise InputError(
                f"{path}: field 'config.{name}': found {short(value)} in a file of {len(header.shapes)} tensors. The "
                "config does not belong to these weights. Copy or train it again"
            )


def _fps(path: Path, header: Header) -> float:
    """Frames per second in a world model's file."""
    found = header.metadata.get("fps", "nothing")
    try:
        return float(found)
    except ValueError as error:
        raise InputError(f"{path}: field 'fps': found {short(found)}, expected a number") from error


def load_policy(path: Path, device: str = "cpu", *, is_tested: bool = True) -> Policy:
    """Load a policy of any kind from its file, or a published one from its description or folder.

    Args:
        path: the file or folder, or hf:OWNER/NAME.
        device: device of the weights.
        is_tested: refuse a published policy that does not see; with False, call `self_test` before it is used.

    Raises:
        InputError: the file is missing or damaged, or the output of a published policy does not change with the image.
    """
    check_device(device)
    path = fetch(path)
    loaded = _prepare(load_published(path) if is_published(path) else _load(path, "policies"), device)
    if is_tested:
        self_test(loaded, path)
    return loaded


def self_test(policy: Policy, path: Path) -> None:
    """Refuse a policy of a published checkpoint whose output does not change when the image does.

    Does nothing for other policies, and where the description has `self_test` false.
    """
    if is_published(path):
        published.self_test(policy, path)


def load_world(path: Path, device: str = "cpu") -> WorldModel:
    """Load a world model of any kind from its file."""
    check_device(device)
    return _prepare(_load(fetch(path), "worlds"), device)


def load_trainable_world(path: Path, device: str = "cpu") -> TrainableWorld:
    """Load a world model of a kind that `training.world` can train.

    Raises:
        InputError: the world model is of another kind.
    """
    world = load_world(path, device)
    if not implements(world, TrainableWorld):
        raise InputError(f"{path}: {type(world).__name__} cannot be trained here. Train it with its own program")
    return world


def load_learned_judge(path: Path, device: str = "cpu") -> TrainableJudge:
    """Load a learned judge from its file.

    Raises:
        InputError: the file is the description of another judge, which cannot be trained.
    """
    if path.suffix == ".json":
        raise InputError(f"{path}: found the description of a judge, expected a learned one (judge.safetensors)")
    check_device(device)
    return _prepare(_load(fetch(path), "judges"), device)


def _prepare(component: Any, device: str) -> Any:
    """Move a module to a device, in evaluation mode."""
    check_device(device)
    return component.to(device).eval() if isinstance(component, nn.Module) else component


def load_judge(path: Path, device: str = "cpu", ledger: Ledger | None = None) -> Judge:
    """Load a judge from its weights, or from a description (.json).

    Args:
        path: the file; a description names other files relative to its folder.
        device: device of local models.
        ledger: records answers and costs of remote judges; in memory by default.

    Raises:
        InputError: the file is missing, or is not a judge's.
    """
    if path.suffix != ".json":
        return load_learned_judge(path, device)
    check_device(device)
    return JudgeReader(lambda file: load_learned_judge(file, device), device, ledger or Ledger()).read(path)


# ---------------------------------------------------------------- editors and proposers

_EDITORS = (CutoutsConfig, InpaintingConfig, RemoteEditorConfig)


def load_editor(path: Path | None, plate: Plate, device: str = "cpu", ledger: Ledger | None = None) -> Editor:
    """Load an editor from its description (.json).

    Args:
        path: the description, which names plate and cut-outs relative to its folder; None for the default `Cutouts`.
        plate: the empty scene, if the description names none.
        device: device of local models.
        ledger: records costs of remote editors.
    """
    config = read_description(path, _EDITORS, "an editor's") if path else CutoutsConfig()
    folder = path.parent if path else Path()
    if isinstance(config, RemoteEditorConfig):
        return build_client(path or folder, lambda: RemoteEditor(config, ledger))
    empty = load_plate(folder / config.plate) if config.plate else plate
    if isinstance(config, InpaintingConfig):
        return Inpainting(resolve_model(folder, config), empty, device)
    return Cutouts(config, empty, load_cutouts(folder / config.folder) if config.folder else ())


def load_proposer(path: Path, ledger: Ledger | None = None) -> Proposer:
    """Load a proposer of instructions from its description (.json)."""
    config = read_description(path, (ProposerConfig,), "a proposer's")
    return build_client(path, lambda: Proposer(config, ledger))


def export_policy(policy: Policy, base: str, out: Path, *, adapter_only: bool = False) -> Sequence[str]:
    """Write a policy in the layout in which its base was published, as one atomic step.

    Args:
        policy: the policy.
        base: folder, hub name or description (policy.json) of the checkpoint that the policy began with.
        out: a new folder.
        adapter_only: write LoRA adapters alone, in PEFT's layout, instead of merging them.

    Returns:
        Notes, one line each.

    Raises:
        InputError: the policy's kind has no published layout, the base is not its own, or the folder exists.
    """
    if not implements(policy, Exports):
        raise InputError(
            f"{type(policy).__name__} has no published layout, so there is nothing to export it to. Its own file is "
            "all that is needed to load it here. Export a policy that began with a published checkpoint"
        )
    with StagedFolder(out) as staged:
        return policy.export(base, staged.path, adapter_only=adapter_only)


def manifest_of(path: Path) -> dict[str, Any]:
    """Manifest of a component's file; empty for a published policy."""
    if is_published(path):
        return {}
    data = parse_json(read_header(path).metadata.get("manifest", "{}"), f"{path}: field 'manifest'", unique=True)
    return json_object(data, path, "manifest")
