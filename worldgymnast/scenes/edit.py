"""Editing starts, and what an edit must be: of the same size, something new, and not another scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from worldgymnast.errors import InputError
from worldgymnast.protocols import Editor
from worldgymnast.types import Start

_CHANGED = 20
"""Difference of a colour, of 255, from which on a pixel counts as changed."""
LEAST, MOST = 0.001, 0.4
"""Share of the pixels that an edit changes."""
_TRIES = 3


def changed(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> float:
    """Share of the pixels that differ visibly."""
    return float((np.abs(before.astype(np.int16) - after.astype(np.int16)).max(-1) > _CHANGED).mean())


def distracted(editor: Editor, start: Start, rng: np.random.Generator) -> Start | None:
    """The start with distractors in its frame; None where the editor adds nothing, or makes another scene of it.

    Raises:
        InputError: the editor gives frames of another size.
    """
    for _ in range(_TRIES):
        after = edited(editor, start.frame[None], start.instruction, rng)[0]
        if LEAST <= changed(start.frame, after) <= MOST:
            return replace(start, frame=after, layout=None)
    return None


def edited(
    editor: Editor, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
    """What the editor makes of frames; raises `InputError` where it is of another size."""
    after = editor.edit(frames, instruction, rng)
    if after.shape != frames.shape or after.dtype != np.uint8:
        raise InputError(
            f"editor '{editor.name}': found {after.dtype} frames {list(after.shape)}, expected uint8 "
            f"{list(frames.shape)} as were given"
        )
    return after
