"""How a picture of another shape becomes a frame: squashed, cropped or padded.

One rule holds for the data, world model, judge and policy of a robot, and for the pictures that they start from. It is
stored with each component (`Manifest.origin`), so that a conflict is found before anything runs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from worldgymnast.errors import InputError

Resize = Literal["squash", "crop", "pad"]
"""Rule for a picture whose shape is not the frame's.

"squash" scales height and width separately; "crop" cuts the central part of the frame's shape; "pad" adds black bars.
"""
RULES: tuple[Resize, ...] = ("squash", "crop", "pad")
Size = int | tuple[int, int]
"""Pixels of a square, or height and width."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width of a size.

    >>> sides(64), sides((48, 64))
    ((64, 64), (48, 64))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def compact(size: tuple[int, int]) -> Size:
    """One number for a square, as it is usually written.

    >>> compact((64, 64)), compact((48, 64))
    (64, (48, 64))
    """
    return size[0] if size[0] == size[1] else size


def parse_size(text: str) -> Size:
    """Read "N", or "HxW" for height and width.

    Raises:
        ValueError: the text is neither.

    >>> parse_size("64"), parse_size("48x64"), parse_size("64x64")
    (64, (48, 64), 64)
    """
    height, separator, width = text.lower().partition("x")
    return compact((int(height), int(width))) if separator else int(height)


def size_text(size: Size) -> str:
    """Inverse of `parse_size`.

    >>> size_text(64), size_text((48, 64))
    ('64', '48x64')
    """
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def resize(frames: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 [... h w 3] with antialiasing, without cropping.

    Args:
        frames: the frames; returned as is if they already have the size.
        size: pixels of a square, or height and width; a different aspect ratio is not preserved.

    >>> resize(np.zeros((2, 64, 48, 3), np.uint8), 32).shape
    (2, 32, 32, 3)
    """
    from PIL import Image

    height, width = sides(size)
    if frames.shape[-3:-1] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    out = np.empty((len(flat), height, width, 3), np.uint8)
    for index, image in enumerate(flat):
        out[index] = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    return out.reshape(*frames.shape[:-3], height, width, 3)


def center_crop(frame: np.ndarray) -> np.ndarray:
    """The central square of uint8 [h w 3].

    >>> center_crop(np.zeros((48, 64, 3), np.uint8)).shape
    (48, 48, 3)
    """
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frame[top : top + side, left : left + side]


def check_rule(rule: str, name: str = "resize") -> None:
    """Raise InputError unless this is a rule."""
    if rule not in RULES:
        raise InputError(f"{name}: found '{rule}', expected {', '.join(RULES)}")


def fit(frames: np.ndarray, size: Size, rule: Resize = "squash") -> np.ndarray:
    """Make frames uint8 [... h w 3] of pictures of any shape.

    Args:
        frames: the pictures; returned as they are if they have the size.
        size: pixels of a square, or height and width.
        rule: what happens if the aspect ratio differs.

    Raises:
        InputError: the rule is unknown.

    >>> wide = np.full((2, 48, 64, 3), 9, np.uint8)
    >>> [fit(wide, 32, rule).shape for rule in RULES]
    [(2, 32, 32, 3), (2, 32, 32, 3), (2, 32, 32, 3)]
    >>> fit(wide, 32, "pad")[0, [0, 3, 4, 27, 28], 0, 0].tolist()
    [0, 0, 9, 9, 0]
    """
    check_rule(rule)
    height, width = sides(size)
    found_height, found_width = frames.shape[-3:-1]
    if rule == "squash" or found_height * width == found_width * height:
        return resize(frames, (height, width))
    if rule == "crop":
        kept_height = min(found_height, max(1, round(found_width * height / width)))
        kept_width = min(found_width, max(1, round(found_height * width / height)))
        top, left = (found_height - kept_height) // 2, (found_width - kept_width) // 2
        return resize(frames[..., top : top + kept_height, left : left + kept_width, :], (height, width))
    scale = min(height / found_height, width / found_width)
    inner = max(1, min(height, round(found_height * scale))), max(1, min(width, round(found_width * scale)))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    padded = np.zeros((*frames.shape[:-3], height, width, 3), np.uint8)
    padded[..., top : top + inner[0], left : left + inner[1], :] = resize(frames, inner)
    return padded
