"""Draft of the description of an OpenVLA or OpenVLA-OFT checkpoint: what its files say, and what they leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from worldgymnast.errors import FieldError
from worldgymnast.files import json_object, read_json_object, short
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint
from worldgymnast.policies.openvla_files import extra_tensors
from worldgymnast.policies.openvla_sizes import check_settings, read_processor
from worldgymnast.policies.published import Draft, OpenField

_PARALLEL = {
    "decoding": "parallel",
    "attention": "bidirectional",
    "stop_token": True,
    "support": "actions",
    "epsilon": 1e-8,
}
TRAINERS: Mapping[str, Mapping[str, Any]] = {
    "openvla": {
        "decoding": "autoregressive",
        "attention": "causal",
        "stop_token": False,
        "support": "vocabulary",
        "epsilon": 0.0,
        "chunk": 1,
        "bounds": "q99",
    },
    "openvla-oft": {**_PARALLEL, "crop": "jpeg_lanczos_center"},
    "simplevla-rl": {**_PARALLEL, "crop": "center"},
}
"""Fields that follow from the code that trained a checkpoint, which its files do not name."""
_ROBOTS: Mapping[str, Mapping[str, Any]] = {
    "libero": {"chunk": 8, "bounds": "q99"},
    "bridge": {"chunk": 5, "bounds": "q99"},
    "aloha": {"chunk": 25, "bounds": "minmax"},
}
"""Constants of OpenVLA-OFT's code for each robot, by the beginning of the key of the statistics."""
_DECODING = ("decoding", "attention", "stop_token", "support", "epsilon")
_QUESTIONS = {
    "decoding": "autoregressive or parallel",
    "attention": "causal or bidirectional",
    "stop_token": "true or false",
    "support": "actions or vocabulary",
    "epsilon": "0 or 1e-8",
    "crop": "what happens to a frame: none, center or jpeg_lanczos_center",
    "chunk": "actions per look",
    "bounds": "what normalized the actions: q99 or minmax",
}


def draft(folder: Path, given: dict[str, Any]) -> Draft:
    """Draft an `OpenVLACheckpoint`; see `published.describe_policy`.

    The given "trained_by", which is no field, is the code that trained the checkpoint, one of `TRAINERS`.

    Raises:
        InputError: the files are damaged, or a given field is unknown.
    """
    settings = read_json_object(folder / "config.json")
    check_settings(settings, folder / "config.json")
    read_processor(folder)
    trainer = given.pop("trained_by", "")
    if trainer and trainer not in TRAINERS:
        raise FieldError("trained_by", f"found {short(trainer)}, expected one of {', '.join(TRAINERS)}")
    order = [one.name for one in fields(OpenVLACheckpoint)]
    if unknown := next((name for name in given if name not in order), None):
        raise FieldError(unknown, f"is no field of OpenVLACheckpoint (fields: {', '.join(order)})")
    known = _known_statistics(folder, settings)
    key = str(given.get("key") or (known[0] if len(known) == 1 else ""))
    found = {"key": key} if key else {}
    found["head"] = "l1" if extra_tensors(folder, "action_head") else "tokens"
    robot = next((one for one in _ROBOTS if key.startswith(one)), "")
    if trainer in ("openvla-oft", "simplevla-rl"):
        found |= _ROBOTS.get(robot, {})
    found |= TRAINERS.get(trainer, {})
    values = found | given
    questions = [_question(name, folder) for name in order if name in _QUESTIONS and name not in values]
    if not trainer and any(name not in values for name in _DECODING):
        questions = [one for one in questions if one.field not in _DECODING]
        text = f"the code that trained it, which decides how actions are decoded: {', '.join(TRAINERS)}"
        questions.insert(0, OpenField("trained_by", text, f"{folder}: {text}"))
    if not key:
        text = f"which statistics: one of {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}"
        questions.append(OpenField("key", text, f"{folder}: {text}"))
    elif robot not in ("libero", "bridge") and "action_spec" not in values:
        text = "what its action numbers mean"
        questions.append(OpenField("action_spec", text, f"{folder}: {text}"))
    read = tuple(name for name in order if name in found and name not in given)
    return Draft({name: values[name] for name in order if name in values}, read, tuple(questions))


def _question(name: str, folder: Path) -> OpenField:
    return OpenField(name, _QUESTIONS[name], f"{folder}: its files do not say '{name}', {_QUESTIONS[name]}")


def _known_statistics(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Keys of the statistics."""
    path = folder / "dataset_statistics.json"
    where = path if path.is_file() else folder / "config.json"
    return list(read_json_object(path) if path.is_file() else json_object(settings.get("norm_stats"), where))
