"""Training clips of a world model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TrainingClips:
    """Inputs and targets of the network for a batch of clips of t frames.

    Attributes:
        clean: target latents [b t h w c].
        actions: the action that led to each frame, [b t a].
        mask: bool [b t], False for padding.
        context: latents of the context frames, [b t h w cc].
        base: latents to which the prediction of `Flow` is added, [b t h w c].
        weight: weight of the squared error, broadcast to [b t h w c].
    """

    clean: Tensor
    actions: Tensor
    mask: Tensor
    context: Tensor
    base: Tensor
    weight: Tensor


@dataclass(frozen=True)
class LossTerms:
    """Losses of some clips of a batch.

    Attributes:
        count: number of clips.
        terms: means over the clips: the error, the error of predicting no change, and the losses of the success head
            and of the state head.
    """

    count: int
    terms: tuple[Tensor, Tensor, Tensor, Tensor]


def select_rows(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Rows of every tensor and tuple in a batch."""
    return {name: value[rows] if isinstance(value, Tensor | tuple) else value for name, value in batch.items()}


def null_action(actions: Float[Tensor, "*n a"]) -> Float[Tensor, "*n a"]:
    """Null action for classifier-free guidance: zeros, with 1 in the last entry."""
    blank = actions.new_zeros(actions.shape)
    blank[..., -1] = 1.0
    return blank
