"""Published policies by description: a JSON file that names a checkpoint and says what its own files leave open.

`{"kind": "OpenVLACheckpoint", "checkpoint": "openvla/openvla-7b", ...}`; the file may lie in the checkpoint's folder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgymnast.configs import from_dict, to_dict
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object, short
from worldgymnast.policies.openvla_files import checkpoint_folder
from worldgymnast.sight import check_sight

FILE = "policy.json"
"""Name of a description in the folder of its checkpoint."""
_KINDS: Mapping[str, str] = {
    "OpenVLACheckpoint": "worldgymnast.policies.openvla_checkpoint",
    "FlowCheckpoint": "worldgymnast.policies.flow_checkpoint",
}
"""Module of each kind of description, whose `load(base)` returns the policy."""
_DRAFTS: Mapping[str, str] = {
    "OpenVLACheckpoint": "worldgymnast.policies.openvla_draft",
    "FlowCheckpoint": "worldgymnast.policies.flow_draft",
}
"""Module of each kind of description, whose `draft(folder, given)` returns a `Draft`."""
_TYPES: Mapping[str, str] = {
    "openvla": "OpenVLACheckpoint",
    "smolvla": "FlowCheckpoint",
    "pi0": "FlowCheckpoint",
    "pi05": "FlowCheckpoint",
}
"""Kind of description of each type of model in a `config.json`."""
_PAGES: Mapping[str, str] = {
    "OpenVLACheckpoint": "docs/how-to/openvla.md",
    "FlowCheckpoint": "docs/how-to/flow-experts.md",
}
"""Page about each kind of description."""
_HUB_NAME = re.compile(r"(?!\.+/)[\w.-]+/[\w.-]+(?<!\.safetensors)(?<!\.json)")


class OpenField(InputError):
    """Field of a description that the files of a checkpoint leave open.

    Args:
        field: its name.
        question: what it says, with its values, in a few words.
        message: the error of a checkpoint that is loaded without it.
    """

    def __init__(self, field: str, question: str, message: str) -> None:
        super().__init__(message)
        self.field, self.question = field, question


@dataclass(frozen=True)
class Draft:
    """Description as far as it is known.

    Attributes:
        fields: its fields: those that the user gave and those that the files say.
        is_read: names of those that the files say.
        open: the others that are needed.
    """

    fields: dict[str, Any]
    is_read: tuple[str, ...]
    open: tuple[OpenField, ...]


def ask(probes: Iterable[Callable[[], object]]) -> tuple[OpenField, ...]:
    """Call functions; return the open fields that they raise, each once."""
    found: dict[str, OpenField] = {}
    for probe in probes:
        try:
            probe()
        except OpenField as error:
            found.setdefault(error.field, error)
    return tuple(found.values())


@dataclass(frozen=True)
class Base:
    """Checkpoint that a policy began with.

    Attributes:
        name: hub name, or absolute folder.
        folder: folder of its files.
        description: fields of its description; empty without one.
        place: folder that paths of the description are relative to.
    """

    name: str
    folder: Path
    description: Mapping[str, Any]
    place: Path


def adapter_folder(adapter: str, folder: Path, place: Path) -> Path | None:
    """Folder of an adapter, relative to the description at `place` or to the checkpoint; None for no adapter."""
    if not adapter:
        return None
    return place / adapter if (place / adapter).is_dir() else folder / adapter


def is_published(path: Path) -> bool:
    """Whether a path is a description, or a folder, which may contain one, or perhaps a name on the hub."""
    try:
        return path.suffix == ".json" or path.is_dir() or _is_hub_name(path)
    except OSError:  # the name is too long
        return False


def _is_hub_name(path: Path) -> bool:
    return _HUB_NAME.fullmatch(str(path)) is not None and not path.exists() and not path.parent.exists()


def load_published(path: Path) -> Any:
    """Load the policy of a description on the CPU, without testing it.

    Args:
        path: the description, or the folder that contains it as policy.json.

    Raises:
        InputError: there is no description, or it does not fit the checkpoint.
    """
    description, file = _description(path)
    return description.load(file.parent)


def self_test(policy: Any, path: Path) -> None:
    """Refuse a policy that does not see, unless its description has `self_test` false.

    Args:
        policy: the policy of a description, on its device.
        path: the description, or the folder that contains it.

    Raises:
        InputError: its output does not change when the image does.
    """
    description, file = _description(path)
    if description.self_test:
        check_sight(
            policy, str(file), "Copy the checkpoint again and check 'cameras', or set 'self_test' to false to load it"
        )


def _description(path: Path) -> tuple[Any, Path]:
    """Description of a published policy, and its file."""
    file = path / FILE if path.is_dir() else path
    if not path.suffix == ".json" and not file.is_file():
        raise InputError(_explain(path))
    data = read_json_object(file)
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise InputError(f"{file}: field 'kind': found {short(kind)}, expected one of {known}")
    description: Any = getattr(importlib.import_module(_KINDS[kind]), kind)
    return from_dict(description, data, str(file)), file


def base_of(name: str) -> Base:
    """Checkpoint by its folder, hub name, or description.

    Raises:
        InputError: there is none, or the description is damaged.
    """
    path = Path(name)
    if path.suffix != ".json" and not (path / FILE).is_file():
        folder = checkpoint_folder(name)
        return Base(str(path.resolve()) if path.is_dir() else name, folder, {}, Path())
    description, file = _description(path)
    folder = checkpoint_folder(description.checkpoint, file.parent)
    is_local = (file.parent / description.checkpoint).is_dir()
    place = str(folder.resolve()) if is_local else description.checkpoint
    return Base(place, folder, to_dict(description), file.parent)


def describe_policy(checkpoint: str, given: Mapping[str, Any]) -> Draft:
    """Draft the description of a checkpoint: what was given, and what its files say.

    Args:
        checkpoint: folder or hub name.
        given: fields that the user gives, as in the description, with paths relative to the working folder.

    Raises:
        InputError: it is no checkpoint of a supported kind, or a given field is unknown or wrong.
    """
    folder = checkpoint_folder(checkpoint)
    kind = _kind_of(folder)
    if kind is None:
        raise InputError(_unsupported(folder))
    draft: Draft = importlib.import_module(_DRAFTS[kind]).draft(folder, dict(given))
    place = str(folder.resolve()) if Path(checkpoint).is_dir() else checkpoint
    fields = {"kind": kind, "checkpoint": place, **draft.fields}
    if not draft.open:
        description = getattr(importlib.import_module(_KINDS[kind]), kind)
        from_dict(description, {name: value for name, value in fields.items() if name != "kind"}, str(folder))
    return Draft(fields, draft.is_read, draft.open)


def _kind_of(folder: Path) -> str | None:
    """Kind of description of a checkpoint, by its config.json."""
    if not (folder / "config.json").is_file() and (folder / "params").is_dir():
        return "FlowCheckpoint"  # of JAX, which its reader refuses
    found = read_json_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    model = found.get("model_type") or found.get("type") or ("pi0" if "action_horizon" in found else None)
    return _TYPES.get(str(model))


def _unsupported(folder: Path) -> str:
    """Message about a folder that is no checkpoint of a supported policy."""
    known = "a supported policy (OpenVLA, SmolVLA, pi0, pi0.5)"
    give = "Give the folder or hub name of a PyTorch checkpoint of one of them"
    if not any(folder.iterdir()):
        return f"{folder}: is an empty folder, expected a checkpoint of {known}. {give}"
    if not (folder / "config.json").is_file():
        return f"{folder}: found no config.json of {known}. {give}"
    found = read_json_object(folder / "config.json")
    model = short(found.get("model_type") or found.get("type"))
    return f"{folder}: its config.json is of type {model}, expected one of {', '.join(_TYPES)}. {give}"


def _explain(path: Path) -> str:
    """Message about a folder, or a name that may be on the hub, without a description."""
    command = f"worldgymnast import-policy {path} --out {FILE}"
    if not path.is_dir():
        return (
            f"{path}: found no file or folder. If it is a checkpoint on the hub, its files do not say how actions are "
            f"decoded, so a description must. Write it with `{command}`, and give {FILE}"
        )
    if (kind := _kind_of(path)) is None:
        return f"{path}: found no file but a folder, expected a policy, or a checkpoint with {FILE}"
    return (
        f"{path}: its files do not say how actions are decoded, and a guess could be wrong unnoticed. Write {FILE} "
        f'into it, {{"kind": "{kind}", "checkpoint": ".", ...}}, with `{command}`, which asks for what is missing, or '
        f"by hand as {_PAGES[kind]} shows"
    )
