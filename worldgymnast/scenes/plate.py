"""What a scene looks like without whatever moves in it, learned from logged frames alone.

A fixed camera sees the same table in every episode; robot and objects come and go. The median of many frames is the
empty scene (the *clean plate* of film compositing, Wright 2017, ch. 7), and what differs from it in a frame stands
before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from worldgymnast.errors import InputError
from worldgymnast.video import picture, png, resize
from worldgymnast.weights import write_bytes

_NEAR, _FAR = 14.0, 34.0
"""Difference of colour, of 255, below which a pixel is the plate's, and above which it is not."""
_KNOWN = 0.6
"""Share of the frames in which a pixel must look as in the plate to be believed."""
_SURFACE = 40.0
"""Difference of colour within the surface on which things stand."""


@dataclass(frozen=True)
class Plate:
    """An empty scene.

    Attributes:
        frame: uint8 [h w 3].
        surface: bool [h w], where something can stand.
    """

    frame: UInt8[np.ndarray, "h w 3"]
    surface: Bool[np.ndarray, "h w"]

    def foreground(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w"]:
        """How much each pixel belongs to robot or objects rather than to the plate, in [0, 1]."""
        away = np.abs(frames.astype(np.float32) - self.frame.astype(np.float32)).max(-1)
        return np.clip((away - _NEAR) / (_FAR - _NEAR), 0, 1)

    def at(self, size: tuple[int, int]) -> Plate:
        """The same in another size."""
        if self.frame.shape[:2] == size:
            return self
        return Plate(resize(self.frame, size), resize(self._mask, size)[..., 0] > 127)

    def save(self, path: Path) -> None:
        """Writes a PNG file: the frame above, where something can stand (white) below."""
        write_bytes(path, png(np.concatenate([self.frame, self._mask])))

    @property
    def _mask(self) -> UInt8[np.ndarray, "h w 3"]:
        """The surface as a picture, white."""
        return np.repeat(self.surface[..., None], 3, -1).astype(np.uint8) * 255


def load_plate(path: Path) -> Plate:
    """The plate in a file that `Plate.save` wrote."""
    shown = picture(path)
    if len(shown) % 2:
        raise InputError(f"{path}: found {len(shown)} rows of pixels, expected a plate: a frame and its mask below it")
    frame, mask = np.split(shown, 2)
    if not np.isin(mask, (0, 255)).all() or not mask.any():
        raise InputError(
            f"{path}: found no mask of black and white below the frame, expected a plate; make one with worldgymnast "
            "scenes plate"
        )
    return Plate(frame, mask[..., 0] > 127)


def plate_of(frames: UInt8[np.ndarray, "n h w 3"]) -> Plate:
    """The plate of frames of one camera; some hundreds, of many episodes, robot and objects at many places.

    The surface is where the plate is sure and of the colour that its lowest middle has, in one piece: a table that the
    camera looks down on.

    Raises:
        InputError: no surface is found: the camera moves, or shows another picture.
    """
    from scipy import ndimage

    mark: Any = ndimage.label
    fill: Any = ndimage.binary_fill_holes
    middle = np.median(frames, axis=0).astype(np.uint8)
    away = np.abs(frames.astype(np.int16) - middle.astype(np.int16)).max(-1)
    sure = (away < _FAR).mean(0) >= _KNOWN
    height, width = middle.shape[:2]
    foot = middle[-height // 4 :, width // 4 : -width // 4].reshape(-1, 3)
    alike = np.abs(middle.astype(np.float32) - np.median(foot, axis=0)).max(-1) < _SURFACE
    pieces, count = mark(sure & alike)
    if not count:
        raise InputError(
            f"plate: found no surface that stays the same in {len(frames)} frames, expected a table under a camera "
            "that does not move; give frames of one camera, or use another editor"
        )
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return Plate(middle, fill(pieces == largest))
