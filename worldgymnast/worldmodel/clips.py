"""Clips as a world model is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """Clips as the network is trained on them, t frames each.

    Attributes:
        clean: latents [b t h w c] to be found.
        actions: that led to each, [b t a].
        mask: bool [b t], what is logged.
        context: latents beside each, [b t h w cc].
        base: what the answer of `Flow` is added to, [b t h w c].
        weight: of the squared error, broadcast to [b t h w c].
    """

    clean: Tensor
    actions: Tensor
    mask: Tensor
    context: Tensor
    base: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Part:
    """Some clips of a batch, and the means over them: error, that of no change, and the success head's."""

    count: int
    terms: tuple[Tensor, Tensor, Tensor]


def part_of(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Some clips of a batch."""
    return {name: value[rows] if isinstance(value, Tensor | tuple) else value for name, value in batch.items()}


def null_action(actions: Float[Tensor, "*n a"]) -> Float[Tensor, "*n a"]:
    """The action that stands for none: zeros, the last entry 1."""
    blank = actions.new_zeros(actions.shape)
    blank[..., -1] = 1.0
    return blank
