"""Clean plate of a scene: the background without moving objects, estimated from logged frames.

A fixed camera sees the same table in every episode, while robot and objects move. The median of many frames is the
empty scene (the *clean plate* of film compositing, Wright 2017, ch. 7). Pixels that differ from it are foreground.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from worldgymnast.errors import InputError
from worldgymnast.video import png, read_picture, resize
from worldgymnast.weights import write_bytes

_NEAR, _FAR = 14.0, 34.0
"""Color difference, of 255, up to which a pixel is background, and from which it is foreground."""
_MIN_SHARE = 0.6
"""Share of frames in which a reliable pixel matches the plate."""
_SURFACE = 40.0
"""Largest color difference within the surface."""


@dataclass(frozen=True)
class Plate:
    """Clean plate.

    Attributes:
        frame: uint8 [h w 3], the empty scene.
        surface: bool [h w], True where objects can stand.
    """

    frame: UInt8[np.ndarray, "h w 3"]
    surface: Bool[np.ndarray, "h w"]

    def foreground(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t h w"]:
        """Foreground opacity of each pixel, in [0, 1].

        1 for robot and objects.
        """
        difference = np.abs(frames.astype(np.float32) - self.frame.astype(np.float32)).max(-1)
        return np.clip((difference - _NEAR) / (_FAR - _NEAR), 0, 1)

    def resized(self, size: tuple[int, int]) -> Plate:
        """Resize to height and width `size`."""
        if self.frame.shape[:2] == size:
            return self
        return Plate(resize(self.frame, size), resize(self._mask, size)[..., 0] > 127)

    def save(self, path: Path) -> None:
        """Write a PNG file: the frame above, the mask of the surface (white) below."""
        write_bytes(path, png(np.concatenate([self.frame, self._mask])))

    @property
    def _mask(self) -> UInt8[np.ndarray, "h w 3"]:
        """Surface as a black and white picture."""
        return np.repeat(self.surface[..., None], 3, -1).astype(np.uint8) * 255


def load_plate(path: Path) -> Plate:
    """Load a plate written by `Plate.save`.

    Raises:
        InputError: the picture is not a frame with a mask below.
    """
    content = read_picture(path)
    if len(content) % 2:
        raise InputError(f"{path}: found {len(content)} rows of pixels, expected a plate: a frame with its mask below")
    frame, mask = np.split(content, 2)
    if not np.isin(mask, (0, 255)).all() or not mask.any():
        raise InputError(
            f"{path}: found no black and white mask below the frame, expected a plate. Create one with: worldgymnast "
            "scenes plate"
        )
    return Plate(frame, mask[..., 0] > 127)


def estimate_plate(frames: UInt8[np.ndarray, "n h w 3"]) -> Plate:
    """Estimate the plate from frames of one camera.

    The surface is the largest connected region of reliable pixels with the color of the lower middle of the plate: a
    table that the camera looks down on.

    Args:
        frames: some hundred frames of many episodes, with robot and objects at many positions.

    Raises:
        InputError: there is no such surface, for example because the camera moves.
    """
    from scipy import ndimage

    label: Any = ndimage.label
    fill_holes: Any = ndimage.binary_fill_holes
    median = np.median(frames, axis=0).astype(np.uint8)
    difference = np.abs(frames.astype(np.int16) - median.astype(np.int16)).max(-1)
    is_reliable = (difference < _FAR).mean(0) >= _MIN_SHARE
    height, width = median.shape[:2]
    lower_middle = median[-height // 4 :, width // 4 : -width // 4].reshape(-1, 3)
    has_color = np.abs(median.astype(np.float32) - np.median(lower_middle, axis=0)).max(-1) < _SURFACE
    regions, count = label(is_reliable & has_color)
    if not count:
        raise InputError(
            f"plate: found no constant surface in {len(frames)} frames, expected a table under a fixed camera. Use "
            "frames of one camera, or another editor"
        )
    largest = 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    return Plate(median, fill_holes(regions == largest))
