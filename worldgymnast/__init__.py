"""Finetune a vision-language-action policy by reinforcement learning inside a learned world model.

`import worldgymnast as wg` loads nothing heavy: every name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "worldgymnast.api": (
        "Evaluation", "Result", "evaluate", "finetune", "imagine", "load_judge", "load_policy", "load_world",
        "metaworld", "read", "register", "save", "scorer", "starter", "starts", "train_judge", "train_policy",
        "train_world",
    ),
    "worldgymnast.types": ("Episode", "Layout", "Rollout", "Start", "Verdict"),
    "worldgymnast.actions": ("ActionSpec",),
    "worldgymnast.errors": ("InputError", "Paused"),
    "worldgymnast.episodes.windows": ("EpisodeSet",),
    "worldgymnast.protocols": ("Judge", "Policy", "RealEnvironment", "WorldModel"),
    "worldgymnast.rl.reinforce": ("ReinforceConfig",),
}  # fmt: skip
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", "testing", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module("worldgymnast.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'worldgymnast' has no attribute '{name}'")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
