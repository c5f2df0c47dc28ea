"""Variants of the embedded world model, each a few changed fields relative to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.world import WorldTraining
from worldgymnast.worldmodel.autoencoder import AutoencoderConfig
from worldgymnast.worldmodel.objective import FlowConfig


@dataclass(frozen=True)
class Variant:
    """Training of a world model.

    Attributes:
        words: description of the changes.
        base: the variant to change; "" for the defaults of `WorldTraining`.
        changes: new values by field; dots separate nested fields.
    """

    words: str
    base: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


_TODAY = {
    "world.objective": FlowConfig(self_rollout=0.5, pure_noise=0.7),
    "world.detail": 0.0,
    "world.success_head": 0,
    "clips": 10,
    "length": 12,
    "fit": FitConfig(steps=4500, lr=2e-3, ema=0.995),
    "balanced": False,
}
_UNROLLED = {"world.objective.unroll": 0.67, "world.objective.self_rollout": 0.0}
_WIDE = {"world.transformer.width": 256, "world.transformer.layers": 6}
_FINE = {
    "world.autoencoder": AutoencoderConfig(channels=16, widths=(32, 64, 128), blocks=(1, 1, 2)),
    "world.transformer.channels": 16,
    "world.transformer.grid": (8, 8),
    "world.transformer.patch": 2,
}

VARIANTS: dict[str, Variant] = {
    "default": Variant("the defaults of WorldTraining"),
    "today": Variant(
        "the recipe before: clips of 12 actions, self_rollout 0.5, pure_noise 0.7, no success_head", "default", _TODAY
    ),
    "pure": Variant("every frame learned from pure noise (pure_noise 1)", "today", {"world.objective.pure_noise": 1.0}),
    "long-clips": Variant("clips of 24 actions, as long as an episode is judged", "today", {"length": 24}),
    "head": Variant("a success head of width 64 (success_head)", "today", {"world.success_head": 64}),
    "unrolled": Variant(
        "67 % of the clips imagined while training, gradient through it (unroll), no self_rollout", "pure", _UNROLLED
    ),
    "balanced": Variant("half of a task's clips succeed, half fail (balanced)", "today", {"balanced": True}),
    "all": Variant(
        "unrolled with a success_head, balanced clips of length 24, 24 clips a step",
        "unrolled",
        {"world.success_head": 64, "world.detail": 0.3, "balanced": True, "length": 24, "clips": 24},
    ),
    "wide": Variant("width 256 rather than 192, 6 layers rather than 5", "today", _WIDE),
    "fine": Variant("another autoencoder: 16 channels on a grid of 8x8, patch 2", "today", _FINE),
    "all-wide": Variant("all, with width 256 and 6 layers", "all", _WIDE),
    "all-fine": Variant("all, with the other autoencoder: 16 channels, grid of 8x8, patch 2", "all", _FINE),
    "all-fine-wide": Variant(
        "all-fine, with width 256 and 6 layers, its autoencoder trained for longer, unrolled from 30 % of the way",
        "all-fine",
        _WIDE
        | {
            "world.objective.unroll_from": 0.3,
            "frames": 64,
            "autoencoder": FitConfig(steps=5000, lr=2e-3, weight_decay=0.0, ema=0.99),
        },
    ),
}


def training(name: str) -> WorldTraining:
    """Return the training of a variant.

    Raises:
        InputError: the name is unknown.
    """
    if name not in VARIANTS:
        raise InputError(f"variant: found '{name}', expected one of {', '.join(VARIANTS)}. Correct the name")
    variant = VARIANTS[name]
    config = training(variant.base) if variant.base else WorldTraining()
    for path, value in variant.changes.items():
        config = with_field(config, path, value)
    return config


def with_field(config: Any, path: str, value: Any) -> Any:
    """Return `config` with another value of the field at `path`."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: with_field(getattr(config, name), rest, value) if rest else value})
