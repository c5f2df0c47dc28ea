"""Distractors pasted into frames: object pictures, occluded by the robot and other moving things.

Training on edited starts makes a policy robust to clutter (World-Gymnast, arXiv 2602.02454, which uses an image model).
This default needs no model: an object is drawn, or taken from a folder of cut-out pictures, pasted onto the free
surface of the plate, and occluded by the foreground. It keeps its position for a whole episode, so world models and
judges can be trained on edited episodes too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from worldgymnast.configs import Between, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import visible
from worldgymnast.pictures import open_picture
from worldgymnast.scenes.plate import Plate

_FINE = 8
"""Supersampling factor of drawn objects."""
_ATTEMPTS = 60
Cutout = np.ndarray
"""An object: color and opacity, float32 [h w 4] in [0, 1]."""


@checked
class CutoutsConfig:
    """Config of `Cutouts`.

    Attributes:
        objects: most objects in a frame; at least one if there is room.
        smallest: height of an object at the far edge of the surface, as a share of the frame height.
        largest: height of an object at the near edge of the surface, as a share of the frame height.
        folder: folder of cut-out pictures (PNG files with transparency); objects are drawn by default.
        plate: file of the empty scene; the starter's by default.
    """

    objects: Annotated[int, Between(1, 20)] = 3
    smallest: Annotated[float, Between(0.01, 0.5)] = 0.05
    largest: Annotated[float, Between(0.01, 0.5)] = 0.18
    folder: str = ""
    plate: str = ""

    def __post_init__(self) -> None:
        if self.smallest > self.largest:
            raise FieldError("smallest", f"found {self.smallest}, expected at most 'largest' ({self.largest})")


class Cutouts:
    """`Editor` that pastes objects into frames.

    Args:
        config: number and size of the objects.
        plate: the empty scene.
        pictures: cut-outs to paste; by default objects are drawn.
    """

    clips = True

    def __init__(self, config: CutoutsConfig, plate: Plate, pictures: tuple[Cutout, ...] = ()):
        self.config, self.plate, self.pictures = config, plate, pictures

    @property
    def name(self) -> str:
        """Kind of pasted objects."""
        return f"{len(self.pictures)} cut-outs" if self.pictures else "drawn objects"

    def edit(
        self, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Paste the same objects into every frame."""
        del instruction
        size = (frames.shape[1], frames.shape[2])
        plate = self.plate.resized(size)
        foreground = plate.foreground(frames)
        free = plate.surface & (foreground[0] < 0.5)
        layer, opacity = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
        rows = np.flatnonzero(plate.surface.any(1))
        for _ in range(int(rng.integers(1, self.config.objects + 1))):
            placement = self._place(free, (int(rows[0]), int(rows[-1])), rng)
            if placement is None:
                continue
            cutout, top, left = placement
            height, width = cutout.shape[:2]
            window = np.s_[top : top + height, left : left + width]
            alpha = cutout[..., 3]
            layer[window] = layer[window] * (1 - alpha[..., None]) + cutout[..., :3] * alpha[..., None]
            opacity[window] = opacity[window] * (1 - alpha) + alpha
            free[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1] = False
        visible_share = (opacity * (1 - foreground))[..., None]
        color = layer / np.maximum(opacity, 1e-6)[..., None] * 255
        return np.round(frames * (1 - visible_share) + color * visible_share).astype(np.uint8)

    def _place(
        self, free: np.ndarray, rows: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Cutout, int, int] | None:
        """Choose an object and the row and column of its upper left corner.

        None if there is no room.
        """
        spots = np.argwhere(free)
        for _ in range(_ATTEMPTS if len(spots) else 0):
            foot, middle = spots[int(rng.integers(len(spots)))]
            nearness = (foot - rows[0]) / max(rows[1] - rows[0], 1)
            share = self.config.smallest + nearness * (self.config.largest - self.config.smallest)
            height = max(3, round(share * len(free) * rng.uniform(0.7, 1.2)))
            cutout = self._cutout(height, rng)
            top, left = foot - cutout.shape[0] + 1, middle - cutout.shape[1] // 2
            if top < 0 or left < 0 or left + cutout.shape[1] > free.shape[1]:
                continue
            if free[top : foot + 1, left : left + cutout.shape[1]].all():
                return cutout, int(top), int(left)
        return None

    def _cutout(self, height: int, rng: np.random.Generator) -> Cutout:
        if not self.pictures:
            return draw_object(height, rng)
        chosen = self.pictures[int(rng.integers(len(self.pictures)))]
        width = max(1, round(height * chosen.shape[1] / chosen.shape[0]))
        return _downscale(chosen, height, width)


def draw_object(height: int, rng: np.random.Generator) -> Cutout:
    """Draw a box, can, ball or bottle of random color, lit from above, `height` pixels high.

    >>> draw_object(12, np.random.default_rng(0)).shape[0]
    12
    """
    width = max(3, round(height * rng.uniform(0.6, 1.3)))
    h, w = height * _FINE, width * _FINE
    color = rng.uniform(0.0, 1.0, 3)
    light, plain, dark = (tuple(int(255 * c) for c in np.clip(color * f, 0, 1)) for f in (1.2, 0.95, 0.65))
    image = Image.new("RGBA", (w, h))
    draw = ImageDraw.Draw(image)
    kind = int(rng.integers(4))
    if kind == 0:  # a box: top and two sides
        lid, edge = int(h * rng.uniform(0.2, 0.4)), int(w * rng.uniform(0.35, 0.65))
        draw.polygon([(0, lid // 2), (edge, lid), (edge, h), (0, h - lid // 2)], fill=plain)
        draw.polygon([(edge, lid), (w, lid // 2), (w, h - lid // 2), (edge, h)], fill=dark)
        draw.polygon([(0, lid // 2), (w - edge, 0), (w, lid // 2), (edge, lid)], fill=light)
    elif kind == 1:  # a can
        lid = max(2, int(h * rng.uniform(0.2, 0.35)))
        draw.ellipse([0, h - lid, w, h], fill=plain)
        draw.rectangle([0, lid // 2, w, h - lid // 2], fill=plain)
        draw.rectangle([w * 2 // 3, lid // 2, w, h - lid // 2], fill=dark)
        draw.ellipse([0, 0, w, lid], fill=light)
    elif kind == 2:  # a ball or an ellipsoid
        draw.ellipse([0, 0, w, h], fill=dark)
        draw.ellipse([w // 12, 0, w - w // 6, h - h // 5], fill=plain)
        draw.ellipse([w // 4, h // 8, w // 2, h * 3 // 8], fill=light)
    else:  # a bottle
        neck = int(w * rng.uniform(0.25, 0.4))
        draw.rectangle([neck, 0, w - neck, h // 2], fill=light)
        draw.rounded_rectangle([0, h // 3, w, h], radius=w // 5, fill=plain)
        draw.rectangle([w * 2 // 3, h // 2, w, h - h // 12], fill=dark)
    return _downscale(np.asarray(image, np.float32) / 255, height, width)


def _downscale(cutout: Cutout, height: int, width: int) -> Cutout:
    """Resize a cut-out, with colors weighted by opacity."""
    premultiplied = np.concatenate([cutout[..., :3] * cutout[..., 3:], cutout[..., 3:]], -1)
    planes = [
        np.asarray(Image.fromarray(premultiplied[..., i]).resize((width, height), Image.Resampling.BOX))
        for i in range(4)
    ]
    small = np.stack(planes, -1)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return np.clip(small, 0, 1)


def load_cutouts(folder: Path) -> tuple[Cutout, ...]:
    """Load the cut-outs of a folder, without empty margins.

    Raises:
        InputError: the folder is missing, has no PNG file, or has one without transparency.
    """
    files = visible(folder.glob("*.png")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: found no PNG file, expected cut-out objects with transparency. Check the path")
    cutouts = []
    for path in files:
        cutout = open_picture(path, path, alpha=True).astype(np.float32) / 255
        opaque = np.argwhere(cutout[..., 3] > 0.05)
        if not len(opaque) or (cutout[..., 3] > 0.95).all():
            fault = "opaque everywhere" if len(opaque) else "empty"
            raise InputError(
                f"{path}: found a picture that is {fault}, expected a cut-out object: a PNG file with transparency"
            )
        (top, left), (bottom, right) = opaque.min(0), opaque.max(0) + 1
        cutouts.append(cutout[top:bottom, left:right])
    return tuple(cutouts)
