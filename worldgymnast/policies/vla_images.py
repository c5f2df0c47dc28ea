"""Image preprocessing of published VLAs, on the CPU and bit for bit.

Frames are uint8 RGB [b h w 3] throughout. Sources: TensorFlow's kernels `crop_and_resize`, `ScaleAndTranslate` and
`convert_image_dtype`, which OpenVLA-OFT (Kim et al. 2025, arXiv 2502.19645) and SimpleVLA-RL (arXiv 2509.09674) call.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

_RADIUS = 3.0
"""Radius of the Lanczos kernel, in pixels."""


def center_crop(frames: UInt8[Tensor, "b h w 3"], area: float, size: int) -> UInt8[Tensor, "b s s 3"]:
    """Crop the central share `area` of each frame, resized to `size` pixels as TensorFlow does.

    `tf.image.crop_and_resize`: bilinear in float32, corners aligned, without antialiasing; then truncated to uint8.

    Args:
        frames: frames of any size.
        area: share of the area to keep, in 0..1; each side keeps its square root.
        size: height and width of the result.

    >>> center_crop(torch.full((1, 256, 256, 3), 7, dtype=torch.uint8), 0.9, 224).unique().tolist()
    [7]
    """
    pixels = frames.cpu().to(torch.float32) * (1 / 255)
    low = (np.float32(1) - np.sqrt(np.float32(area))) / np.float32(2)
    high = low + np.sqrt(np.float32(area))
    top, bottom, weight = _aligned(frames.shape[1], size, low, high)
    left, right, share = _aligned(frames.shape[2], size, low, high)

    def across(rows: Tensor) -> Tensor:
        first = rows[:, :, left]
        return first + (rows[:, :, right] - first) * share[:, None]

    upper = across(pixels[:, top])
    mixed = upper + (across(pixels[:, bottom]) - upper) * weight[:, None, None]
    return (mixed.clamp(0, 1) * 255.5).to(torch.uint8)


def _aligned(length: int, size: int, low: np.float32, high: np.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Both source pixels of every output pixel along one side, and the weight of the second."""
    step = (high - low) * np.float32(length - 1) / np.float32(size - 1)
    position = low * np.float32(length - 1) + np.arange(size, dtype=np.float32) * step
    first, second = np.floor(position), np.ceil(position)
    weight = (position - first).astype(np.float32)
    return torch.from_numpy(first.astype(np.int64)), torch.from_numpy(second.astype(np.int64)), torch.from_numpy(weight)


def lanczos(frames: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Resize as `tf.image.resize(method="lanczos3", antialias=True)`, rounded to uint8.

    >>> lanczos(torch.full((1, 256, 256, 3), 7, dtype=torch.uint8), 224).unique().tolist()
    [7]
    """
    pixels = frames.cpu().to(torch.float32)
    indices, weights = _lanczos_taps(frames.shape[1], size)
    rows = torch.zeros(len(pixels), size, *pixels.shape[2:])
    for tap in range(weights.shape[1]):
        rows += pixels[:, indices[:, tap]] * weights[:, tap, None, None]
    indices, weights = _lanczos_taps(frames.shape[2], size)
    resized = torch.zeros(len(pixels), size, size, 3)
    for tap in range(weights.shape[1]):
        resized += rows[:, :, indices[:, tap]] * weights[:, tap, None]
    return resized.round().clamp(0, 255).to(torch.uint8)


def _lanczos_taps(length: int, size: int) -> tuple[Int[Tensor, "s n"], Float[Tensor, "s n"]]:
    """Source pixels of every output pixel along one side, in order, and their weights."""
    inverse = np.float32(length) / np.float32(size)
    scale = max(inverse, np.float32(1))
    center = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * inverse
    first = np.ceil(center - np.float32(_RADIUS) * scale - np.float32(0.5)).astype(np.int64)
    indices = first[:, None] + np.arange(2 * int(np.ceil(_RADIUS * scale)) + 1)
    distance = (indices.astype(np.float32) + np.float32(0.5) - center[:, None]) / scale
    weights = _lanczos_kernel(np.abs(distance).astype(np.float32))
    weights[(indices < 0) | (indices >= length)] = 0
    total = np.zeros(size, np.float32)
    for tap in weights.T:  # one after the other, as TensorFlow adds
        total += tap
    weights *= (np.float32(1) / total)[:, None]
    return torch.from_numpy(indices.clip(0, length - 1)), torch.from_numpy(weights)


def _lanczos_kernel(distance: np.ndarray) -> np.ndarray:
    """Kernel at distances in pixels, float32, with TensorFlow's order of operations."""
    pi, radius, x = np.float32(np.pi), np.float32(_RADIUS), np.maximum(distance, np.float32(1e-3))

    def sine(angle: np.ndarray) -> np.ndarray:
        return np.sin(angle.astype(np.float64)).astype(np.float32)

    inside = radius * sine(pi * x) * sine(pi * x / radius) / (pi * pi * x * x)
    return np.where(distance > radius, 0, np.where(distance <= 1e-3, 1, inside)).astype(np.float32)


def bicubic(frames: UInt8[Tensor, "b h w 3"], size: int) -> UInt8[Tensor, "b s s 3"]:
    """Resize to a square with Pillow's antialiased bicubic filter, without keeping the aspect ratio.

    >>> bicubic(torch.full((1, 256, 256, 3), 7, dtype=torch.uint8), 224).shape
    torch.Size([1, 224, 224, 3])
    """
    from PIL import Image

    if frames.shape[1:3] == (size, size):
        return frames.cpu()
    resample = Image.Resampling.BICUBIC
    resized = [np.array(Image.fromarray(frame).resize((size, size), resample)) for frame in frames.cpu().numpy()]
    return torch.from_numpy(np.stack(resized))


def normalized(
    frames: UInt8[Tensor, "b h w 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 h w"]:
    """Scale to 0..1, subtract the mean and divide by the standard deviation of each channel.

    >>> normalized(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), (0.5,) * 3, (0.5,) * 3).unique().tolist()
    [1.0]
    """
    pixels = frames.permute(0, 3, 1, 2).to(torch.float32) / 255
    center, scale = (torch.tensor(values, device=frames.device)[:, None, None] for values in (mean, std))
    return (pixels - center) / scale
