"""Draft of the description of a SmolVLA, pi0 or pi0.5 checkpoint: what its files say, and what they leave open."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from worldgymnast.configs import from_dict
from worldgymnast.policies.flow_checkpoint import Files, FlowCheckpoint, read_settings
from worldgymnast.policies.flow_layouts import is_statistic
from worldgymnast.policies.openvla_files import meta_tensors, read_tensors
from worldgymnast.policies.published import Draft, OpenField, ask

_NO_SPEC: dict[str, Any] = {}


def draft(folder: Path, given: dict[str, Any]) -> Draft:
    """Draft a `FlowCheckpoint`; see `published.describe_policy`.

    Weights are not read, unless statistics are among them.

    Raises:
        InputError: the files contradict one another or a given field, or a field is unknown or wrong.
    """
    known = {"checkpoint": str(folder), "action_spec": _NO_SPEC, **given}
    checkpoint = from_dict(FlowCheckpoint, known, f"{folder}: description")
    settings, shapes = read_settings(folder), meta_tensors(folder)
    tensors = read_tensors(folder) if any(map(is_statistic, shapes)) else shapes
    files = Files.read(settings, tensors)
    kind, here = files.kind, Path()
    scales: dict[str, Any] = {}
    width = len(given["action_spec"].get("axes") or ()) if "action_spec" in given else 0
    found: dict[str, Any] = {}

    def keep(name: str, value: Any) -> None:
        if name not in given:
            found[name] = list(value) if isinstance(value, tuple) else value

    is_prompted = kind == "pi05"
    questions = ask(
        [
            lambda: keep("cameras", checkpoint.cameras or settings.cameras()),
            lambda: keep("tokenizer", checkpoint.language(settings, here)),
            lambda: keep("prompt", checkpoint.template(settings)) if is_prompted else None,
            lambda: scales.update(checkpoint.scales(files, width, here)),
            lambda: keep("relative_axes", checkpoint.relative(settings)),
            lambda: checkpoint.check_sizes(files),
        ]
    )
    if "action_spec" not in given:
        questions = (_spec_question(len(scales["action"].offset) if scales else 0, folder), *questions)
    if scales:
        keep("reads_state", "state" in scales)
    keep("chunk", settings.chunk)
    order = [one.name for one in fields(FlowCheckpoint)]
    values = {name: (given | found)[name] for name in order if name in given or name in found}
    return Draft(values, tuple(found), questions)


def _spec_question(axes: int, folder: Path) -> OpenField:
    what = f"its {axes} action numbers" if axes else "its action numbers"
    return OpenField(
        "action_spec",
        f"what {what} mean",
        f"{folder}: its files do not say what {what} mean. Set 'action_spec'",
    )
