"""Resizing of camera frames to the square images of SmolVLA, pi0 and pi0.5."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Resize = Literal["corner", "center", "antialiased"]
"""Padding left and top (SmolVLA); on both sides (pi0 in lerobot); the same with antialiasing on uint8 (openpi)."""


def letterbox(image: Float[Tensor, "b 3 h w"], size: int, resize: Resize) -> Float[Tensor, "b 3 s s"]:
    """Resize images in 0..1 to a square, keeping their aspect, pad with black, and scale to -1..1.

    >>> import torch
    >>> letterbox(torch.ones(1, 3, 2, 4), 4, "corner")[0, 0, :, 0].tolist()
    [-1.0, -1.0, 1.0, 1.0]
    >>> letterbox(torch.ones(1, 3, 2, 4), 4, "center")[0, 0, :, 0].tolist()
    [-1.0, 1.0, 1.0, -1.0]
    """
    ratio = max(image.shape[2] / size, image.shape[3] / size)
    height, width = int(image.shape[2] / ratio), int(image.shape[3] / ratio)
    is_antialiased = resize == "antialiased"
    small = F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=is_antialiased).clamp(
        0, 1
    )
    if is_antialiased:
        small = (small * 255).round() / 255
    rows, columns = size - height, size - width
    top, left = (rows, columns) if resize == "corner" else (rows // 2, columns // 2)
    return F.pad(small, (left, columns - left, top, rows - top)) * 2 - 1
