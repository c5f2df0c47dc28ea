"""Edited starts, and checks of an edit: same frame size, a visible change, and still the same scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from worldgymnast.errors import InputError
from worldgymnast.protocols import Editor
from worldgymnast.types import Start

_VISIBLE = 20
"""Smallest difference of a channel, of 255, that counts as a change."""
MIN_CHANGE, MAX_CHANGE = 0.001, 0.4
"""Limits of the share of pixels that an edit changes."""
_ATTEMPTS = 3


def changed_share(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> float:
    """Share of pixels that differ visibly."""
    return float((np.abs(before.astype(np.int16) - after.astype(np.int16)).max(-1) > _VISIBLE).mean())


def add_distractors(editor: Editor, start: Start, rng: np.random.Generator) -> Start | None:
    """Add distractors to a start.

    None if the editor adds nothing or changes the scene too much.

    Raises:
        InputError: the editor returns frames of another size.
    """
    for _ in range(_ATTEMPTS):
        after = edit_frames(editor, start.frame[None], start.instruction, rng)[0]
        if MIN_CHANGE <= changed_share(start.frame, after) <= MAX_CHANGE:
            return replace(start, frame=after, layout=None)
    return None


def edit_frames(
    editor: Editor, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
    """Apply an editor to frames.

    Raises:
        InputError: the editor returns frames of another size or type.
    """
    after = editor.edit(frames, instruction, rng)
    if after.shape != frames.shape or after.dtype != np.uint8:
        raise InputError(
            f"editor '{editor.name}': found {after.dtype} frames {list(after.shape)}, expected uint8 "
            f"{list(frames.shape)} like its input"
        )
    return after
