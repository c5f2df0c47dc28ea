"""Moving average of success probabilities, for success that lasts several frames."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def sustained(probability: Float[np.ndarray, " t"], frames: int) -> Float[np.ndarray, " s"]:
    """Moving average over `frames` frames; a shorter clip has one mean.

    >>> sustained(np.array([0.0, 1.0, 1.0]), 2).tolist()
    [0.5, 1.0]
    """
    width = min(frames, len(probability))
    return np.convolve(probability, np.full(width, 1 / width), "valid")
