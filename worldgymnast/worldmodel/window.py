"""Key-value cache of the sampler: how frames enter and leave the attention window.

Causal attention makes a frame's keys and values independent of later frames, so they are computed once. A frame whose
keys and values are not cached yet is *pending*: it is part of the next forward pass.

A full window slides in one of two ways. "band" drops the oldest keys and values and keeps the others, which still
contain what deeper layers read from dropped frames (banded attention over the whole rollout). "recompute" drops the
inputs of the oldest frames and makes the others pending, so they are recomputed as if the oldest had never existed.
Published samplers do this, at one pass over the window per frame. With `hop` above 1 several frames leave at once and
the window is recomputed only once in `hop` frames; it then holds `window - hop` to `window` frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from worldgymnast.types import WorldState
from worldgymnast.worldmodel.transformer import Cache

Inputs = Mapping[str, Tensor]
"""Frames as the transformer takes them: "noisy" [b t h w c], "level" [b t], "action" [b t a], "context" [b t h w x]."""
_INPUTS = ("noisy", "level", "action", "context")

Slide = Literal["band", "recompute"]


@dataclass(frozen=True)
class FrameWindow:
    """Rules of the cache of a `WorldState`. Every method returns a new state.

    Attributes:
        size: frames in the window.
        slide: what happens to the cache when the window slides.
        hop: frames that leave at once under "recompute".
        is_cached: False recomputes everything from the inputs at every step.
    """

    size: int
    slide: Slide
    hop: int
    is_cached: bool

    @property
    def keeps_inputs(self) -> bool:
        """Whether the inputs of cached frames are needed again."""
        return not self.is_cached or self.slide == "recompute"

    def count_pending(self, state: WorldState) -> int:
        """Number of frames that are stored as inputs but not cached."""
        stored = state.extra["level"].shape[1] if "level" in state.extra else 0
        cached = state.cache[0].shape[-2] if state.cache and self.keeps_inputs else 0
        return stored - cached

    def append(self, state: WorldState, inputs: Inputs, fresh: Cache | None) -> WorldState:
        """Add one frame: to the cache, or to the pending frames if its keys and values (`fresh`) are None."""
        extra = dict(state.extra)
        if fresh is None or self.keeps_inputs:
            extra |= {k: torch.cat([extra[k], v], 1) if k in extra else v for k, v in inputs.items()}
        if fresh is None or not self.is_cached:
            return replace(state, extra=extra)
        return replace(state, cache=extend(state.cache, fresh, self.size), extra=extra)

    def cache_pending(self, state: WorldState, fresh: Cache) -> tuple[WorldState, Cache]:
        """Move the pending frames to the cache.

        Also returns the keys and values of the newest frame alone.
        """
        if not self.count_pending(state):
            return state, fresh
        extra = state.extra
        if not self.keeps_inputs:
            extra = {k: v for k, v in extra.items() if k not in _INPUTS}
        cache = extend(state.cache, tuple(x[..., :-1, :] for x in fresh), self.size)
        return replace(state, cache=cache, extra=extra), tuple(x[..., -1:, :] for x in fresh)

    def make_room(self, state: WorldState) -> WorldState:
        """Drop the oldest frames of a full "recompute" window.

        The remaining frames become pending.
        """
        if self.slide == "band" or "level" not in state.extra or state.extra["level"].shape[1] < self.size:
            return state
        dropped = state.extra["level"].shape[1] - (self.size - self.hop)
        return replace(state, cache=(), extra={**state.extra, **{k: state.extra[k][:, dropped:] for k in _INPUTS}})


def extend(cache: Cache, fresh: Cache, window: int) -> Cache:
    """Append keys and values of new frames, cut to the `window` - 1 frames that the next frame can attend to."""
    keep = window - 1
    new = [x[..., max(0, x.shape[-2] - keep) :, :] for x in fresh]
    if not cache:
        return tuple(x.contiguous() for x in new)
    old = [x[..., max(0, x.shape[-2] + y.shape[-2] - keep) :, :] for x, y in zip(cache, new, strict=True)]
    return tuple(torch.cat(both, -2) for both in zip(old, new, strict=True))
