"""Components on the Hugging Face Hub: upload with a card that is written from the component's file."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.files import parse_json
from worldgymnast.hub import PREFIX, upload
from worldgymnast.metrics import find
from worldgymnast.registry import Manifest, kinds, manifest_of, save_component
from worldgymnast.weights import Header, read_header

_NOUNS: Mapping[str, tuple[str, str]] = {
    "policies": ("policy", "policy"),
    "worlds": ("world", "world model"),
    "judges": ("judge", "success judge"),
}
"""Stem of the file and noun, by group of kinds."""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*|")


def push_to_hub(component: Any, name: str, *, private: bool = False, license: str = "") -> str:
    """Upload a policy, world model or judge, with its card; returns the address of the repository.

    The component can then be loaded as `hf:OWNER/NAME`, also by every command.

    Args:
        component: the component, or the path of its file, whose manifest the card shows.
        name: repository, OWNER/NAME; it is created if needed.
        private: create a private repository.
        license: the weights' license, as the hub names it, such as "apache-2.0".

    Raises:
        InputError: the file is no component's, the name has no owner, there is no valid token, or the hub refuses or
            cannot be reached.

    >>> import worldgymnast as wg
    >>> wg.push_to_hub(wg.starter("policy"), "no-owner")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    worldgymnast.errors.InputError: no-owner: expected OWNER/NAME on the hub, such as me/drawer-policy. Give both
    """
    if not isinstance(component, str | Path):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "component.safetensors"
            save_component(file, component, Manifest())
            return push_to_hub(file, name, private=private, license=license)
    file = Path(component)
    stem, noun = _NOUNS[_group(file, read_header(file))]
    card = model_card(file, name, license)
    files = {f"{stem}.safetensors": file, "README.md": card.encode()}
    return upload(name, files, f"Upload a {noun}", private=private)


def model_card(path: Path, name: str, license: str = "") -> str:
    """Write the card of a component: what it is, its training, its numbers, and how to load it.

    Args:
        path: component file.
        name: repository, OWNER/NAME.
        license: as the hub names it; "" for none.

    Raises:
        InputError: the file is no component's, or the license is no identifier.

    >>> import worldgymnast as wg
    >>> print(model_card(wg.starter("policy"), "me/drawer-policy").split("---")[1])
    <BLANKLINE>
    library_name: worldgymnast
    pipeline_tag: robotics
    tags: ["worldgymnast", "robotics", "policy", "SmallVLA"]
    <BLANKLINE>
    """
    if _LICENSE.fullmatch(license) is None:
        raise InputError(f"license: found {license!r}, expected an identifier of the hub, such as apache-2.0")
    header = read_header(path)
    stem, noun = _NOUNS[_group(path, header)]
    kind, manifest = header.metadata["kind"], manifest_of(path)
    tags = json.dumps(["worldgymnast", "robotics", stem, kind])
    front = ["---", "library_name: worldgymnast", "pipeline_tag: robotics", f"tags: {tags}"]
    front += [f"license: {license}"] if license else []
    count = sum(math.prod(shape) for shape in header.shapes.values())
    parts = [
        "\n".join([*front, "---"]),
        f"# {name.rpartition('/')[2]}",
        f"A {noun} of kind `{kind}` with {count:,} parameters, for worldgymnast: reinforcement learning of robot "
        "policies inside a learned world model.",
        "## How to load it",
        f'```python\nimport worldgymnast as wg\n\n{stem} = wg.load_{stem}("{PREFIX}{name}")\n```',
        f"In commands: `--{stem} {PREFIX}{name}`.",
        "## Training",
        _table(("", ""), _training(manifest)),
        *_numbers(manifest.get("metrics")),
        *_actions(path, header),
        f"SHA-256 of the weights and metadata: `{header.hash}`",
    ]
    return "\n\n".join(parts) + "\n"


def _group(path: Path, header: Header) -> str:
    """Group of a component's kind."""
    kind = header.metadata.get("kind", "")
    for group in _NOUNS:
        if kind in kinds(group):  # type: ignore[arg-type]
            return group
    raise InputError(f"{path}: found no policy, world model or judge of a known kind, so it cannot be pushed")


def _training(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    origin = manifest.get("origin") or {}
    rows = {
        "recipe": manifest.get("recipe"),
        "seed": manifest.get("seed"),
        "data": manifest.get("data"),
        "frame size": " x ".join(map(str, origin.get("frame_size") or ())),
        "frames per second": origin.get("fps"),
        "cameras": origin.get("image_key"),
        "instructions": ", ".join(map(str, origin.get("instructions") or ())),
    }
    return [(title, f"`{value}`") for title, value in rows.items() if value not in (None, "")] or [("", "unknown")]


def _numbers(metrics: Mapping[str, float] | None) -> list[str]:
    """Table of the measurements, with their intervals."""
    known = {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}
    ends = {name for name in known if name.rpartition("_")[2] in ("low", "high")}
    rows = []
    for name, value in known.items():
        base = name.rpartition("_")[0]
        if name in ends and base in known:
            continue
        low, high = known.get(f"{name}_low"), known.get(f"{name}_high")
        interval = f"[{_number(low)}, {_number(high)}]" if low is not None and high is not None else ""
        metric = find(name)
        rows.append((f"`{name}`", _number(value), interval, metric.meaning if metric else ""))
    if not rows:
        return []
    return [
        "## Numbers",
        "Measured at the end of training.",
        _table(("name", "value", "95 % interval", "meaning"), rows),
    ]


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4g}"


def _actions(path: Path, header: Header) -> list[str]:
    if "action_spec" not in header.metadata:
        return []
    spec = parse_json(header.metadata["action_spec"], f"{path}: field 'action_spec'")
    return ["## Actions", f"```json\n{json.dumps(spec, indent=2)}\n```"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )
