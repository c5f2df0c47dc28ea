"""Distractors pasted into frames: pictures of objects, behind the robot and whatever else moves.

Edited starts are the published way to a policy that does not mind what else lies on the table (World-Gymnast,
arXiv 2602.02454, which asks an image model for them). This is the default that needs no model: an object is drawn (or
taken from a folder of cut-out pictures), put where the plate is bare, and hidden where something stands before the
plate. Over an episode it stays where it is, so that world and judge can learn from edited episodes too.
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
"""How much larger an object is drawn than it is shown."""
_TRIES = 60
Cutout = np.ndarray
"""An object: colour and opacity, float32 [h w 4], each in [0, 1]."""


@checked
class CutoutsConfig:
    """What is pasted.

    Attributes:
        objects: most of them in a frame; at least one, where there is room.
        smallest: height of an object at the far end of the surface, as a share of the frame's.
        largest: the same at the near end.
        folder: cut-out pictures to take (PNG files with transparency); objects are drawn if left out.
        plate: the empty scene's file; the starter's if left out.
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
    """An `Editor` that pastes.

    Args:
        config: what.
        plate: the empty scene.
        pictures: cut-outs to take instead of drawn ones.
    """

    clips = True

    def __init__(self, config: CutoutsConfig, plate: Plate, pictures: tuple[Cutout, ...] = ()):
        self.config, self.plate, self.pictures = config, plate, pictures

    @property
    def name(self) -> str:
        """What is pasted."""
        return f"{len(self.pictures)} cut-outs" if self.pictures else "drawn objects"

    def edit(
        self, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """See `Editor.edit`."""
        del instruction
        size = (frames.shape[1], frames.shape[2])
        plate = self.plate.at(size)
        before = plate.foreground(frames)
        free = plate.surface & (before[0] < 0.5)
        layer, opacity = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
        rows = np.flatnonzero(plate.surface.any(1))
        for _ in range(int(rng.integers(1, self.config.objects + 1))):
            place = self._place(free, (int(rows[0]), int(rows[-1])), rng)
            if place is None:
                continue
            cutout, top, left = place
            height, width = cutout.shape[:2]
            window = np.s_[top : top + height, left : left + width]
            alpha = cutout[..., 3]
            layer[window] = layer[window] * (1 - alpha[..., None]) + cutout[..., :3] * alpha[..., None]
            opacity[window] = opacity[window] * (1 - alpha) + alpha
            free[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1] = False
        shown = (opacity * (1 - before))[..., None]
        colour = layer / np.maximum(opacity, 1e-6)[..., None] * 255
        return np.round(frames * (1 - shown) + colour * shown).astype(np.uint8)

    def _place(
        self, free: np.ndarray, rows: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Cutout, int, int] | None:
        """An object with the row and column of its upper left corner, standing on free surface; None for no room."""
        spots = np.argwhere(free)
        for _ in range(_TRIES if len(spots) else 0):
            foot, middle = spots[int(rng.integers(len(spots)))]
            near = (foot - rows[0]) / max(rows[1] - rows[0], 1)
            share = self.config.smallest + near * (self.config.largest - self.config.smallest)
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
            return drawn(height, rng)
        chosen = self.pictures[int(rng.integers(len(self.pictures)))]
        width = max(1, round(height * chosen.shape[1] / chosen.shape[0]))
        return _shrunk(chosen, height, width)


def drawn(height: int, rng: np.random.Generator) -> Cutout:
    """A box, can, ball or bottle of a random colour, lit from above, that many pixels high."""
    width = max(3, round(height * rng.uniform(0.6, 1.3)))
    h, w = height * _FINE, width * _FINE
    colour = rng.uniform(0.0, 1.0, 3)
    light, plain, dark = (tuple(int(255 * c) for c in np.clip(colour * f, 0, 1)) for f in (1.2, 0.95, 0.65))
    image = Image.new("RGBA", (w, h))
    draw = ImageDraw.Draw(image)
    kind = int(rng.integers(4))
    if kind == 0:  # a box: top, and two sides
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
    elif kind == 2:  # a ball, or something flatter
        draw.ellipse([0, 0, w, h], fill=dark)
        draw.ellipse([w // 12, 0, w - w // 6, h - h // 5], fill=plain)
        draw.ellipse([w // 4, h // 8, w // 2, h * 3 // 8], fill=light)
    else:  # a bottle
        neck = int(w * rng.uniform(0.25, 0.4))
        draw.rectangle([neck, 0, w - neck, h // 2], fill=light)
        draw.rounded_rectangle([0, h // 3, w, h], radius=w // 5, fill=plain)
        draw.rectangle([w * 2 // 3, h // 2, w, h - h // 12], fill=dark)
    return _shrunk(np.asarray(image, np.float32) / 255, height, width)


def _shrunk(cutout: Cutout, height: int, width: int) -> Cutout:
    """The cut-out in that many pixels, its colours weighed by their opacity."""
    solid = np.concatenate([cutout[..., :3] * cutout[..., 3:], cutout[..., 3:]], -1)
    planes = [
        np.asarray(Image.fromarray(solid[..., i]).resize((width, height), Image.Resampling.BOX)) for i in range(4)
    ]
    small = np.stack(planes, -1)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return np.clip(small, 0, 1)


def cutouts_in(folder: Path) -> tuple[Cutout, ...]:
    """The cut-outs in a folder, without the empty margin around them.

    Raises:
        InputError: there is no folder, no PNG file in it, or one without transparency.
    """
    files = visible(folder.glob("*.png")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: found no PNG file, expected cut-out objects with transparency; check the path")
    found = []
    for path in files:
        cutout = open_picture(path, path, alpha=True).astype(np.float32) / 255
        opaque = np.argwhere(cutout[..., 3] > 0.05)
        if not len(opaque) or (cutout[..., 3] > 0.95).all():
            raise InputError(f"{path}: found a picture that is {'empty' if not len(opaque) else 'opaque everywhere'}, "
                             "expected an object cut out of it: a PNG file with transparency")  # fmt: skip
        (top, left), (bottom, right) = opaque.min(0), opaque.max(0) + 1
        found.append(cutout[top:bottom, left:right])
    return tuple(found)
