"""JPEG round trip of TensorFlow, bit for bit: encoding at quality 95, decoding with the fast integer transform.

OpenVLA-OFT evaluates on frames that were a JPEG once, like its training data. TensorFlow decodes with libjpeg-turbo's
`JDCT_IFAST`, which Pillow does not offer and whose pixels differ by a few levels. Entropy coding loses nothing, so only
the arithmetic around it is repeated: jccolor, jcsample, jfdctint, jcdctmgr, jidctfst, jdsample and jdcolor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

_QUALITY_SCALE = 10
"""Percentage of the standard tables at quality 95."""
_LUMA = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
_CHROMA = """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
"""
"""Standard tables, row by row; what is missing of the second is 99."""
_AAN = np.array([math.cos(k * math.pi / 16) * math.sqrt(2) if k else 1.0 for k in range(8)])
"""Factors of the fast transform (Arai, Agui and Nakajima)."""
_Rows = Sequence[np.ndarray]


def round_trip(frames: UInt8[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
    """Encode and decode frames as TensorFlow does.

    >>> round_trip(torch.full((1, 20, 30, 3), 7, dtype=torch.uint8)).unique().tolist()
    [7]
    """
    pixels = frames.cpu().numpy().astype(np.int64)
    height, width = pixels.shape[1:3]
    luma, blue, red = _to_ycc(pixels)
    luma, chroma_table = _coded(luma, _table(_LUMA)), _table(_CHROMA)
    half = -(-width // 2)
    blue, red = (_upsampled(_coded(_downsampled(part), chroma_table)[..., :half]) for part in (blue, red))
    rgb = _to_rgb(luma, blue[:, :height, :width], red[:, :height, :width])
    return torch.from_numpy(rgb.astype(np.uint8))


def _table(text: str) -> np.ndarray:
    """Quantization table [8 8] at quality 95."""
    standard = np.full(64, 99)
    numbers = [int(word) for word in text.split()]
    standard[: len(numbers)] = numbers
    return ((standard * _QUALITY_SCALE + 50) // 100).clip(1, 255).reshape(8, 8)


# ---------------------------------------------------------------- colors and chroma


def _fix(value: float, bits: int = 16) -> int:
    """Fixed-point number, as libjpeg rounds it."""
    return int(value * (1 << bits) + 0.5)


def _to_ycc(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    half, offset = 1 << 15, (128 << 16) + (1 << 15) - 1
    luma = (_fix(0.299) * r + _fix(0.587) * g + _fix(0.114) * b + half) >> 16
    blue = (_fix(0.5) * b - _fix(0.168735892) * r - _fix(0.331264108) * g + offset) >> 16
    red = (_fix(0.5) * r - _fix(0.418687589) * g - _fix(0.081312411) * b + offset) >> 16
    return luma, blue, red


def _to_rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    half, b, r = 1 << 15, blue - 128, red - 128
    green = luma + ((-_fix(0.34414) * b + half - _fix(0.71414) * r) >> 16)
    parts = luma + ((_fix(1.402) * r + half) >> 16), green, luma + ((_fix(1.772) * b + half) >> 16)
    return np.stack(parts, -1).clip(0, 255)


def _downsampled(part: np.ndarray) -> np.ndarray:
    """Mean of 2x2 pixels, rounded down and up in turn; rows are as long as whole blocks."""
    part = _padded(part, -part.shape[1] % 2, -part.shape[2] % 16)
    total = part[:, ::2, ::2] + part[:, ::2, 1::2] + part[:, 1::2, ::2] + part[:, 1::2, 1::2]
    return (total + 1 + np.arange(total.shape[2]) % 2) >> 2


def _padded(part: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Part [b h w] with its last rows and columns repeated."""
    return np.pad(part, ((0, 0), (0, rows), (0, columns)), mode="edge")


def _upsampled(part: np.ndarray) -> np.ndarray:
    """Twice the height and width by triangle filters ("fancy upsampling")."""
    padded = np.pad(part, ((0, 0), (1, 1), (0, 0)), mode="edge")
    above, below = 3 * part + padded[:, :-2], 3 * part + padded[:, 2:]
    rows = np.stack([above, below], 2).reshape(len(part), -1, part.shape[2])
    sides = np.pad(rows, ((0, 0), (0, 0), (1, 1)), mode="edge")
    left, right = (3 * rows + sides[..., :-2] + 8) >> 4, (3 * rows + sides[..., 2:] + 7) >> 4
    return np.stack([left, right], -1).reshape(*rows.shape[:2], -1)


# ---------------------------------------------------------------- transforms


def _coded(part: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One color part [b h w] after transform, quantization and the inverse of both."""
    height, width = part.shape[1:]
    part = _padded(part, -height % 8, -width % 8)
    b, h, w = part.shape
    blocks = part.reshape(b, h // 8, 8, w // 8, 8).swapaxes(2, 3) - 128
    coefficients = _forward(blocks)
    divisor = table * 8
    quantized = np.sign(coefficients) * ((np.abs(coefficients) + divisor // 2) // divisor)
    pixels = (_inverse(quantized * _fast_table(table)) + 128).clip(0, 255)
    return pixels.swapaxes(2, 3).reshape(b, h, w)[:, :height, :width]


def _fast_table(table: np.ndarray) -> np.ndarray:
    """Quantization table with the factors of the fast transform, in 2 bits."""
    factors = np.round(np.outer(_AAN, _AAN) * (1 << 14)).astype(np.int64)
    return (table * factors + (1 << 11)) >> 12


def _along(function: Callable[[_Rows], _Rows], blocks: np.ndarray, axis: int) -> np.ndarray:
    """Transform of 8 numbers along an axis."""
    return np.stack(function([np.take(blocks, i, axis) for i in range(8)]), axis)


def _forward(blocks: np.ndarray) -> np.ndarray:
    """Accurate integer transform (jfdctint), times 8."""
    rows = _along(lambda d: _forward_8(d, lambda x: x << 2, 11), blocks, -1)
    return _along(lambda d: _forward_8(d, lambda x: (x + 2) >> 2, 15), rows, -2)


def _forward_8(d: _Rows, even: Callable[[np.ndarray], np.ndarray], shift: int) -> _Rows:
    """Transform of 8 numbers; `even` scales outputs 0 and 4, `shift` the others."""

    def down(x: np.ndarray) -> np.ndarray:
        return (x + (1 << (shift - 1))) >> shift

    s = [d[i] + d[7 - i] for i in range(4)]
    t7, t6, t5, t4 = (d[i] - d[7 - i] for i in range(4))
    t10, t13, t11, t12 = s[0] + s[3], s[0] - s[3], s[1] + s[2], s[1] - s[2]
    z = (t12 + t13) * 4433
    z1, z2, z5 = (t4 + t7) * -7373, (t5 + t6) * -20995, (t4 + t6 + t5 + t7) * 9633
    z3, z4 = (t4 + t6) * -16069 + z5, (t5 + t7) * -3196 + z5
    return [
        even(t10 + t11),
        down(t7 * 12299 + z1 + z4),
        down(z + t13 * 6270),
        down(t6 * 25172 + z2 + z3),
        even(t10 - t11),
        down(t5 * 16819 + z2 + z4),
        down(z - t12 * 15137),
        down(t4 * 2446 + z1 + z3),
    ]


def _inverse(blocks: np.ndarray) -> np.ndarray:
    """Fast integer transform (jidctfst), which truncates every product."""
    return _along(_inverse_8, _along(_inverse_8, blocks, -2), -1) >> 5


def _inverse_8(d: _Rows) -> _Rows:
    t10, t11, t13 = d[0] + d[4], d[0] - d[4], d[2] + d[6]
    t12 = ((d[2] - d[6]) * 362 >> 8) - t13
    e0, e3, e1, e2 = t10 + t13, t10 - t13, t11 + t12, t11 - t12
    z13, z10, z11, z12 = d[5] + d[3], d[5] - d[3], d[1] + d[7], d[1] - d[7]
    o7, z5 = z11 + z13, (z10 + z12) * 473 >> 8
    o6 = (z10 * -669 >> 8) + z5 - o7
    o5 = ((z11 - z13) * 362 >> 8) - o6
    o4 = (z12 * 277 >> 8) - z5 + o5
    return [e0 + o7, e1 + o6, e2 + o5, e3 - o4, e3 + o4, e2 - o5, e1 - o6, e0 - o7]
