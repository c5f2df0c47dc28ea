"""LPIPS, a learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924); needs its package.

The network is AlexNet, as in the paper's comparison; torchvision downloads its weights once. Heavy packages are
imported inside the function.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import torch

from worldgymnast.errors import InputError

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Distance of two stacks of frames: uint8 [n h w 3] twice -> float64 [n]; 0 for equal frames."""


def lpips_distance(device: str = "cpu", batch: int = 16) -> Distance:
    """Load the network; return a function that computes the distance, `batch` pairs at a time.

    Raises:
        InputError: lpips or torchvision is not installed.
    """
    try:
        lpips = importlib.import_module("lpips")
    except ImportError as error:
        raise InputError(
            f"--perceptual needs the package '{error.name}', which is not installed. Run: pip install "
            "'worldgymnast[perceptual]', or omit the flag"
        ) from error
    network = lpips.LPIPS(net="alex", verbose=False).to(device).eval()

    def tensor(frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        parts = [slice(i, i + batch) for i in range(0, len(a), batch)]
        return np.concatenate([network(tensor(a[p]), tensor(b[p])).flatten().double().cpu().numpy() for p in parts])

    return distance
