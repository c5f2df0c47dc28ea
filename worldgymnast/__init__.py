"""Finetune vision-language-action policies by reinforcement learning inside a learned world model.

`import worldgymnast as wg` imports nothing heavy: every name below is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "worldgymnast.api": (
        "Evaluation",
        "Result",
        "environment",
        "evaluate",
        "finetune",
        "imagine",
        "load_judge",
        "load_policy",
        "load_world",
        "metaworld",
        "push_to_hub",
        "read",
        "register",
        "save",
        "scorer",
        "starter",
        "starts",
        "train_judge",
        "train_policy",
        "train_world",
    ),
    "worldgymnast.types": ("Episode", "Layout", "Rollout", "Start", "Verdict"),
    "worldgymnast.actions": ("ActionSpec",),
    "worldgymnast.errors": ("InputError", "Paused"),
    "worldgymnast.episodes.windows": ("EpisodeSet",),
    "worldgymnast.protocols": ("Judge", "Policy", "RealEnvironment", "WorldModel"),
    "worldgymnast.rl.reinforce": ("ReinforceConfig",),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", "testing", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module("worldgymnast.testing")
    if name not in _MODULES:
        raise AttributeError(f"module 'worldgymnast' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
