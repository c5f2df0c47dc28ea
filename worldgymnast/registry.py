"""Components to one file each and back.

Only this module turns configs into components. A component file is a safetensors file whose metadata holds its kind,
its config, its action spec and a manifest, so that one path is enough to rebuild it anywhere.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import nn

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import ByKind, Config, from_dict, to_dict
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, parse_json, short
from worldgymnast.judges.classifier import ClassifierConfig
from worldgymnast.judges.combined import (
    Calibrated,
    CalibratedConfig,
    Cascade,
    CascadeConfig,
    Ensemble,
    EnsembleConfig,
)
from worldgymnast.judges.foreseen import ForeseenConfig, ForeseenJudge
from worldgymnast.judges.local import LocalVLM, LocalVLMConfig
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.ledger import Ledger
from worldgymnast.policies.flow_vla import FlowVLAConfig
from worldgymnast.policies.small_vla import SmallVLAConfig
from worldgymnast.processes import by_first
from worldgymnast.protocols import (
    Editor,
    Judge,
    Policy,
    RealEnvironment,
    Stored,
    TrainableJudge,
    TrainableWorld,
    WorldModel,
)
from worldgymnast.scenes.cutouts import Cutouts, CutoutsConfig, cutouts_in
from worldgymnast.scenes.inpainting import Inpainting, InpaintingConfig
from worldgymnast.scenes.plate import Plate, load_plate
from worldgymnast.scenes.proposals import Proposer, ProposerConfig
from worldgymnast.scenes.remote import RemoteEditor, RemoteEditorConfig
from worldgymnast.weights import (
    Header,
    as_floats,
    check_shapes,
    load_weights,
    read_header,
    save_weights,
    shapes_of,
    to_json,
    write_text,
)
from worldgymnast.worldmodel.sampler import WorldModelConfig

Described = TypeVar("Described", LocalVLMConfig, InpaintingConfig)
Asks = TypeVar("Asks", VLMJudge, RemoteEditor, Proposer)
Group = Literal["policies", "worlds", "judges", "environments"]


_KIND = "kind"
"""The key that tells which component or judge a file describes."""
_LONGEST = 200
"""Characters of a name in a message."""


@dataclass(frozen=True)
class Manifest:
    """Where a component's weights come from.

    Attributes:
        recipe: the command that made it.
        seed: its seed.
        data: hash of the data it was trained on, or of the component it started from.
        metrics: what was measured on it.
        origin: what its data are: "action_spec", "frame_size", "fps", "image_key", "instructions"; where known.
    """

    recipe: str = ""
    seed: int = 0
    data: str = ""
    metrics: Mapping[str, float] | None = None
    origin: Mapping[str, Any] | None = None


PolicyConfig = Annotated[SmallVLAConfig | FlowVLAConfig, ByKind()]
"""Configs of the policies that `training.policy` makes."""
DEFAULT_POLICY = SmallVLAConfig()
"""The one that `sft` makes unless it is told another."""
WorldConfig = WorldModelConfig
"""Configs of the world models that `train-world` makes."""
JudgeConfig = ClassifierConfig
"""Configs of the judges that `train-judge` makes."""
EnvironmentConfig = MetaWorldConfig
"""Configs of the real environments that a recipe can name."""
GROUPS = ("policies", "worlds", "judges", "environments")
"""Groups of kinds; a package adds kinds of its own by an entry point in `worldgymnast.GROUP`."""
_BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "policies": {
        "SmallVLA": "worldgymnast.policies.small_vla:SmallVLA",
        "FlowVLA": "worldgymnast.policies.flow_vla:FlowVLA",
    },
    "worlds": {"LatentWorldModel": "worldgymnast.worldmodel.sampler:LatentWorldModel"},
    "judges": {"SuccessClassifier": "worldgymnast.judges.classifier:SuccessClassifier"},
    "environments": {"MetaWorld": "worldgymnast.envs.metaworld:MetaWorld"},
}
_ONE = {"policies": "a policy", "worlds": "a world model", "judges": "a judge", "environments": "an environment"}
_REGISTERED: dict[str, dict[str, type[Any]]] = {group: {} for group in GROUPS}


def register(group: Group, component: type[Any]) -> type[Any]:
    """Make a class of one's own known in this process, by its name; returns the class.

    A package does the same for every process by an entry point, whose name is the class's:
    `[project.entry-points."worldgymnast.policies"]`, `MyPolicy = "my_package:MyPolicy"`.
    """
    _REGISTERED[group][component.__name__] = component
    return component


def kinds(group: Group) -> list[str]:
    """Names of the kinds of a group: own ones, those of installed packages, and those registered here."""
    return sorted({*_BUILT_IN[group], *_entry_points(group), *_REGISTERED[group]})


def class_of(group: Group, kind: str) -> type[Any] | None:
    """The class of that name, which is imported now; None where there is none.

    Raises:
        InputError: a package names a class that cannot be imported.
    """
    if kind in _REGISTERED[group]:
        return _REGISTERED[group][kind]
    if (entry := _entry_points(group).get(kind)) is not None:
        try:
            return entry.load()
        except Exception as error:  # whatever a package's import raises
            raise InputError(
                f"{_ONE[group]} '{kind}': cannot import {entry.value} ({error}). Install it again"
            ) from error
    if (place := _BUILT_IN[group].get(kind)) is None:
        return None
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def _entry_points(group: Group) -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=f"worldgymnast.{group}")}


def make(group: Group, config: Any, stored: Stored | None = None) -> Any:
    """A new component of the kind whose config that is, with fresh weights.

    Raises:
        InputError: no kind of that group has such a config.
    """
    for kind in kinds(group):
        found = class_of(group, kind)
        if found is not None and type(config) is found.config_type:
            return found.from_stored(config, stored or Stored())
    known = ", ".join(kinds(group))
    raise InputError(
        f"no kind of {group} has the config {type(config).__name__} (there are: {known}). Register its class with "
        "worldgymnast.registry.register"
    )


@by_first
def save_component(path: Path, component: Any, manifest: Manifest, *, half: bool = False) -> None:
    """Write a policy, world model or judge as one safetensors file; `half` stores floats in 16 bits."""
    tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in component.state_dict().items()}
    config = getattr(component, "config", None)
    meta = {
        "kind": type(component).__name__,
        "config": json.dumps(to_dict(config) if config is not None else {}),
        "manifest": json.dumps(to_dict(manifest)),
    }
    if isinstance(spec := getattr(component, "action_spec", None), ActionSpec):
        meta["action_spec"] = json.dumps(spec.to_dict())
    if isinstance(fps := getattr(component, "fps", None), float | int):
        meta["fps"] = repr(fps)
    save_weights(path, tensors, meta)


def _load(path: Path, group: Group) -> Any:
    """The component of that group in a file.

    Its names and shapes are compared with those of the same kind on "meta", where nothing is allocated, before it is
    made for real and the file's tensors are read.
    """
    header = read_header(path)
    kind = header.metadata.get("kind", "")
    if (found := class_of(group, kind)) is None:
        raise InputError(f"{path}: field 'kind': {_other_kind(group, kind)}")
    config = _config(found.config_type, path, header)
    spec = _spec(path, header) if "action_spec" in header.metadata else None
    stored = Stored(str(path), spec, _fps(path, header) if "fps" in header.metadata else None, header.metadata)
    with torch.device("meta"):
        check_shapes(shapes_of(found.from_stored(config, stored).state_dict()), header.shapes, kind, path)
    component = found.from_stored(config, stored)
    component.load_state_dict(as_floats(path, load_weights(path)[0]))
    return component


def _other_kind(group: Group, kind: str) -> str:
    """What is wrong with a file whose kind is not of that group."""
    wanted = f"expected {_ONE[group]} ({', '.join(kinds(group))})"
    for other in GROUPS:
        if kind in kinds(other):
            return f"found {_ONE[other]} ({kind}), {wanted}; give its file"
    return f"found {short(kind) if kind else 'nothing'}, {wanted}; give its file, or install or register its class"


def weights_into(component: Any, path: Path) -> None:
    """Copy the weights in a file into a component of the same kind, registered or not."""
    header, kind = read_header(path), type(component).__name__
    check_shapes(shapes_of(component.state_dict()), header.shapes, kind, path)
    component.load_state_dict(as_floats(path, load_weights(path)[0]))


def _spec(path: Path, header: Header) -> ActionSpec:
    where = f"{path}: field 'action_spec'"
    data = json_object(parse_json(header.metadata.get("action_spec", "null"), where, unique=True), path, "action_spec")
    try:
        spec = ActionSpec.from_dict(data)
    except (TypeError, ValueError) as error:  # an unknown field, or one of another type
        raise InputError(f"{where}: cannot be read ({str(error)[:_LONGEST]}). Copy or train it again") from error
    numbers = [*spec.low, *spec.high, 1.0 if spec.rate is None else spec.rate]
    words = [*spec.axes, spec.unit, spec.frame, spec.rotation, spec.gripper]
    if not all(_is_number(number) for number in numbers) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{where}: found {short(data)}, expected words and finite numbers. Copy or train it again")
    if not spec.axes or not all(low <= high for low, high in zip(spec.low, spec.high, strict=True)):
        raise InputError(f"{where}: found {short(data)}, expected axes with low <= high. Copy or train it again")
    if spec.rate is not None and spec.rate <= 0:
        raise InputError(f"{where}: field 'rate': found {spec.rate}, expected a number above 0 or null")
    return spec


def _is_number(value: object) -> bool:
    """Whether it is a finite real number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _config(kind: type[Config], path: Path, header: Header) -> Config:
    """The config in a component's file, which asks for no more layers than the file has tensors."""
    data = parse_json(header.metadata.get("config", "null"), f"{path}: field 'config'", unique=True)
    config = from_dict(kind, json_object(data, path, "config"), str(path))
    _check_size(path, data, header)
    return config


_COUNTS = ("layers", "blocks")
"""Fields of configs that say how many modules there are."""


def _check_size(path: Path, data: Mapping[str, Any], header: Header) -> None:
    """Raises where a config asks for more modules than the file has tensors: making them would take minutes."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            _check_size(path, value, header)
        numbers: Any = value if isinstance(value, list) else [value]
        if name in _COUNTS and sum(numbers) > len(header.shapes):
            raise InputError(
                f"{path}: field 'config.{name}': found {short(value)} in a file of {len(header.shapes)} tensors; the "
                "config is not that of these weights. Copy or train it again"
            )


def _fps(path: Path, header: Header) -> float:
    """The frames per second in a world model's file."""
    found = header.metadata.get("fps", "nothing")
    try:
        return float(found)
    except ValueError as error:
        raise InputError(f"{path}: field 'fps': found {short(found)}, expected a number") from error


def environment(config: EnvironmentConfig) -> RealEnvironment:
    """The real environment of that config."""
    return make("environments", config)


def load_policy(path: Path, device: str = "cpu") -> Policy:
    """A policy of any kind from its file."""
    return _placed(_load(path, "policies"), device)


def load_world(path: Path, device: str = "cpu") -> WorldModel:
    """A world model of any kind from its file, its autoencoder included."""
    return _placed(_load(path, "worlds"), device)


def load_trainable_world(path: Path, device: str = "cpu") -> TrainableWorld:
    """A world model from its file, of a kind that is trained here.

    Raises:
        InputError: it is of another kind.
    """
    world = load_world(path, device)
    if not isinstance(world, TrainableWorld):
        raise InputError(f"{path}: {type(world).__name__} is not trained here. Train it by its own program")
    return world


def load_learned_judge(path: Path, device: str = "cpu") -> TrainableJudge:
    """A learned judge from its file; raises `InputError` for the description of another, which cannot be trained on."""
    if path.suffix == ".json":
        raise InputError(f"{path}: found the description of a judge, expected a learned one (judge.safetensors)")
    return _placed(_load(path, "judges"), device)


def _placed(component: Any, device: str) -> Any:
    """A component that is a module on its device, and not in training."""
    return component.to(device).eval() if isinstance(component, nn.Module) else component


# ---------------------------------------------------------------- judges of several kinds

_JUDGES = (VLMConfig, LocalVLMConfig, CalibratedConfig, CascadeConfig, EnsembleConfig, ForeseenConfig)
_MOST_LEVELS = 8
"""Of judges within judges."""
_MOST_MEMBERS = 64
"""Judges that a judge is made of, all levels together; every one sees every clip."""
_LARGEST = 2**20
"""Bytes of a description."""


def save_judge(path: Path, config: Any) -> None:
    """Writes the description of a judge that is no file of weights, as `load_judge` reads it."""
    write_text(path, to_json({_KIND: type(config).__name__} | to_dict(config)))


def load_judge(path: Path, device: str = "cpu", ledger: Ledger | None = None) -> Judge:
    """A judge from its file: weights of a learned one, or the description of another (.json).

    Args:
        path: the file; the files that a description names are looked for from its folder.
        device: where judges that compute do so.
        ledger: keeps what judges that are asked elsewhere answer and cost; in memory if left out.

    Raises:
        InputError: there is no such file, or it is not a judge's.
    """
    if path.suffix != ".json":
        return load_learned_judge(path, device)
    return _described(path, device, ledger or Ledger(), (), [])


def _described(path: Path, device: str, ledger: Ledger, above: tuple[Path, ...], files: list[Path]) -> Judge:
    """The judge in a file that a judge in one of the files `above` is made of; notes every file in `files`."""
    config, own = _description(path, _JUDGES, "a judge's"), path.resolve()
    if own in above:
        raise InputError(f"{path}: found a judge that is made of itself, expected other judges' files in it")
    if len(above) == _MOST_LEVELS:
        raise InputError(f"{path}: found judges within judges, expected at most {_MOST_LEVELS} levels; name the inner "
                         "ones directly")  # fmt: skip

    def member(name: str) -> Judge:
        file = path.parent / name
        files.append(file)
        if len(files) > _MOST_MEMBERS:
            raise InputError(f"{(*above, path)[0]}: found more than {_MOST_MEMBERS} judges within it, the last {file}; "
                             "each would judge every clip; name fewer")  # fmt: skip
        if not name or not _is_file(file):
            raise InputError(f"{path}: found no file {str(file)[:_LONGEST]!r}, expected a judge's; a path in it is "
                             "seen from its folder")  # fmt: skip
        if file.suffix != ".json":
            return load_learned_judge(file, device)
        return _described(file, device, ledger, (*above, own), files)

    if isinstance(config, CalibratedConfig):
        return Calibrated(member(config.judge), config)
    if isinstance(config, CascadeConfig):
        return Cascade(member(config.first), member(config.then), config)
    if isinstance(config, EnsembleConfig):
        return Ensemble([member(name) for name in config.judges], config)
    if isinstance(config, ForeseenConfig):
        return ForeseenJudge(config)
    if isinstance(config, LocalVLMConfig):
        return LocalVLM(_found_beside(path.parent, config), device)
    return _behind_server(path, lambda: VLMJudge(config, ledger))


def _behind_server(path: Path, make: Callable[[], Asks]) -> Asks:
    """What the description in `path` says is asked; the file is named where its key may not go where it would."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, a null byte
        return False


def _found_beside(folder: Path, config: Described) -> Described:
    """The config with its `model` as a path where that is a folder in the description's; otherwise it is a hub name."""
    inside = folder / config.model
    return replace(config, model=str(inside)) if inside.is_dir() else config


def _description(path: Path, kinds: Sequence[type[Any]], whose: str) -> Any:
    """The config in a .json file, of one of `kinds`."""
    if not _is_file(path):
        raise InputError(f"{path}: found no file, expected {whose} description; check the path")
    if (size := path.stat().st_size) > _LARGEST:
        raise InputError(f"{path}: found {size:,} bytes, expected {whose} description, at most {_LARGEST:,}")
    data = parse_json(path.read_bytes(), path, f"found no JSON, expected {whose} description", unique=True)
    known = {kind.__name__: kind for kind in kinds}
    found = data.get(_KIND) if isinstance(data, Mapping) else None
    if not isinstance(found, str) or found not in known:
        near = difflib.get_close_matches(str(found)[:_LONGEST], known, n=1) if isinstance(data, Mapping) else []
        meant = f"; did you mean {near[0]}?" if near else ""
        shown = found if isinstance(found, str) and len(found) < _LONGEST else short(found)
        raise InputError(f"{path}: field '{_KIND}': found {'none' if found is None else shown}, expected one of "
                         f"{', '.join(known)}{meant}")  # fmt: skip
    return from_dict(known[found], {k: v for k, v in data.items() if k != _KIND}, str(path))


# ---------------------------------------------------------------- editors and proposers

_EDITORS = (CutoutsConfig, InpaintingConfig, RemoteEditorConfig)


def load_editor(path: Path | None, plate: Plate, device: str = "cpu", ledger: Ledger | None = None) -> Editor:
    """An editor from its description (.json); the one that pastes where there is none.

    Args:
        path: the file; the plate and the cut-outs that it names are looked for from its folder.
        plate: the empty scene, where the description names none.
        device: where an editor that computes does so.
        ledger: keeps what one behind a server costs.
    """
    config = _description(path, _EDITORS, "an editor's") if path else CutoutsConfig()
    beside = path.parent if path else Path()
    if isinstance(config, RemoteEditorConfig):
        return _behind_server(path or beside, lambda: RemoteEditor(config, ledger))
    empty = load_plate(beside / config.plate) if config.plate else plate
    if isinstance(config, InpaintingConfig):
        return Inpainting(_found_beside(beside, config), empty, device)
    return Cutouts(config, empty, cutouts_in(beside / config.folder) if config.folder else ())


def load_proposer(path: Path, ledger: Ledger | None = None) -> Proposer:
    """A proposer of instructions from its description (.json)."""
    config = _description(path, (ProposerConfig,), "a proposer's")
    return _behind_server(path, lambda: Proposer(config, ledger))


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest in a component's file."""
    data = parse_json(read_header(path).metadata.get("manifest", "{}"), f"{path}: field 'manifest'", unique=True)
    return json_object(data, path, "manifest")
