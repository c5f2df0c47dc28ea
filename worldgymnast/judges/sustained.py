"""A belief that has to last: means over neighboring frames."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def sustained(probability: Float[np.ndarray, " t"], frames: int) -> Float[np.ndarray, " s"]:
    """Means over `frames` neighbours, one for every place where so many follow; shorter clips have one mean."""
    width = min(frames, len(probability))
    return np.convolve(probability, np.full(width, 1 / width), "valid")
