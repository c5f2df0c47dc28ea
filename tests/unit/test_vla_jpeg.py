"""The JPEG round trip against Pillow's, which differs in the inverse transform alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from worldgymnast.policies import vla_jpeg


def float_inverse(coefficients: np.ndarray) -> np.ndarray:
    """Inverse cosine transform by its definition."""
    k = np.arange(8)
    basis = np.cos((2 * k[:, None] + 1) * k * np.pi / 16) * np.where(k, 0.5, 8**-0.5)
    return np.floor(np.einsum("xu,...uv,yv->...xy", basis, coefficients, basis) + 0.5).astype(np.int64)


@pytest.mark.parametrize("size", [(64, 64), (50, 48), (48, 50), (33, 47), (100, 75), (17, 120), (9, 10)])
def test_all_but_the_inverse_transform_is_pillow_s_at_any_size(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transform in floats rounds a luma or chroma pixel 1 level apart now and then, so a color at most 3."""
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    expected = torch.from_numpy(np.array(Image.open(buffer))).int()
    monkeypatch.setattr(vla_jpeg, "_fast_table", lambda table: table)
    monkeypatch.setattr(vla_jpeg, "_inverse", float_inverse)
    difference = (vla_jpeg.round_trip(torch.from_numpy(frame)[None])[0].int() - expected).abs()
    assert difference.max() <= 3
    assert difference.float().mean() < 0.1
