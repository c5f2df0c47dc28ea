"""Published policies by description: a JSON file that names a checkpoint and says what its own files leave open.

`{"kind": "OpenVLACheckpoint", "checkpoint": "openvla/openvla-7b", ...}`; the file may lie in the checkpoint's folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldgymnast.configs import from_dict
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object, short
from worldgymnast.sight import check_sight

FILE = "policy.json"
"""Name of a description in the folder of its checkpoint."""
_KINDS: Mapping[str, str] = {
    "OpenVLACheckpoint": "worldgymnast.policies.openvla_checkpoint",
    "FlowCheckpoint": "worldgymnast.policies.flow_checkpoint",
}
"""Module of each kind of description, whose `load(base)` returns the policy."""
_TYPES: Mapping[str, str] = {
    "openvla": "OpenVLACheckpoint",
    "smolvla": "FlowCheckpoint",
    "pi0": "FlowCheckpoint",
    "pi05": "FlowCheckpoint",
}
"""Kind of description of each type of model in a `config.json`."""


def is_published(path: Path) -> bool:
    """Whether a path is a description, or a folder, which may contain one."""
    try:
        return path.suffix == ".json" or path.is_dir()
    except OSError:  # the name is too long
        return False


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
    if path.is_dir() and not file.is_file():
        raise InputError(_explain(path))
    data = read_json_object(file)
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise InputError(f"{file}: field 'kind': found {short(kind)}, expected one of {known}")
    description: Any = getattr(importlib.import_module(_KINDS[kind]), kind)
    return from_dict(description, data, str(file)), file


_PAGES: Mapping[str, str] = {"OpenVLACheckpoint": "docs/openvla.md", "FlowCheckpoint": "docs/flow-experts.md"}
"""Page about each kind of description."""


def _explain(folder: Path) -> str:
    """Message about a folder without a description."""
    found = read_json_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    model = found.get("model_type") or found.get("type") or ("pi0" if "action_horizon" in found else None)
    if (kind := _TYPES.get(str(model))) is None:
        return f"{folder}: found no file but a folder, expected a policy, or a checkpoint with {FILE}"
    return (
        f"{folder}: its files do not say how actions are decoded, and a guess could be wrong unnoticed. Write {FILE} "
        f'into it, {{"kind": "{kind}", "checkpoint": ".", ...}}, as {_PAGES[kind]} shows'
    )
