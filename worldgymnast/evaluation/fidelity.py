"""What imagined frames are worth: beside the truth by horizon, and far beyond any truth by their statistics.

PSNR and SSIM of `agreement`, in pieces, so that long clips of large frames fit into memory. Where no real frames exist
(a rollout longer than any episode) four numbers show how an imagination ends: gradient energy falls as it blurs,
motion falls as it freezes, the mean colour walks off as it saturates, and the nearest real frame moves away as it
leaves what scenes look like.

Left out: the Frechet video distance. It is a distance of distributions that takes thousands of clips, and a
network (I3D, trained on Kinetics) for which no package is maintained: the one on PyPI, cd-fvd, is of 2024.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from worldgymnast.evaluation.agreement import PSNR_CEILING, psnr, ssim

SSIM_WINDOW = 11
"""Pixels; smaller frames have no SSIM."""
_PIECE = 2**21
"""Numbers of a frame stack that are compared at a time: 16 MB as float64, of which SSIM holds about ten."""
_RESAMPLES = 2000

Curve = dict[str, np.ndarray]
"""float64 [t] each: "mean", "low" and "high", over episodes with a 95 % interval."""


def frame_scores(truth: UInt8[np.ndarray, "e t h w 3"], shown: UInt8[np.ndarray, "e t h w 3"]) -> Curve:
    """Of each frame, float64 [e t]: "psnr" (dB, at most `PSNR_CEILING`) and, from 11 pixels a side on, "ssim"."""
    flat_truth, flat_shown = truth.reshape(-1, *truth.shape[2:]), shown.reshape(-1, *shown.shape[2:])
    step = max(1, _PIECE // int(np.prod(truth.shape[2:])))
    pieces = [slice(i, i + step) for i in range(0, len(flat_truth), step)]

    def whole(score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        return np.concatenate([score(flat_truth[p], flat_shown[p]) for p in pieces]).reshape(truth.shape[:2])

    found = {"psnr": np.minimum(whole(psnr), PSNR_CEILING)}
    if min(truth.shape[2:4]) >= SSIM_WINDOW:
        found["ssim"] = whole(ssim)
    return found


def by_horizon(scores: Float[np.ndarray, "e t"], seed: int = 0) -> Curve:
    """The mean over episodes at every horizon, with a bootstrap over episodes, the same for all; NaN bounds of one.

    An episode whose score is NaN at a horizon is left out there; where none is left the mean is NaN.
    """
    count = len(scores)
    if count == 1:
        return {"mean": scores[0], "low": np.full_like(scores[0], np.nan), "high": np.full_like(scores[0], np.nan)}
    known = np.isfinite(scores)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)  # [resamples e]
    totals, counts = drawn @ np.where(known, scores, 0.0), drawn @ known
    with np.errstate(invalid="ignore"):
        draws, mean = totals / counts, np.where(known, scores, 0.0).sum(0) / known.sum(0)
    quantile = np.quantile if known.all() else np.nanquantile
    low, high = quantile(draws, [0.025, 0.975], axis=0)
    return {"mean": mean, "low": low, "high": high}


# ---------------------------------------------------------------- without a truth


def appearance(frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, np.ndarray]:
    """What a clip looks like, frame by frame.

    Returns:
        "sharpness" [t]: gradient energy, the mean squared difference of neighbouring pixels;
        "contrast" [t]: standard deviation of the pixels, in levels;
        "colour" [t 3]: mean of each channel, in levels;
        "motion" [t]: mean absolute difference from the frame before, in levels; 0 at the first frame.
    """
    x = frames.astype(np.float32)
    down, right = np.square(np.diff(x, axis=1)).mean((1, 2, 3)), np.square(np.diff(x, axis=2)).mean((1, 2, 3))
    motion = np.abs(np.diff(x, axis=0)).mean((1, 2, 3))
    return {
        "sharpness": (down + right).astype(np.float64),
        "contrast": x.std((1, 2, 3), dtype=np.float64),
        "colour": x.mean((1, 2), dtype=np.float64),
        "motion": np.concatenate([[0.0], motion.astype(np.float64)]),
    }


def departure(shown: UInt8[np.ndarray, "t h w 3"], real: UInt8[np.ndarray, "s h w 3"]) -> dict[str, np.ndarray]:
    """How far a clip has gone from what real frames of the same scene look like, float64 [t] each.

    Args:
        shown: the clip, its first frame included.
        real: a real episode of the scene, its first frame included.

    Returns:
        "sharpness", "contrast" and "motion" over their mean in the real episode (1 is like the real one), and "colour",
        the root mean square over channels of the difference from its mean colour, in levels.
    """
    own, other = appearance(shown), appearance(real)
    still = {name: other[name].mean() for name in ("sharpness", "contrast")} | {"motion": other["motion"][1:].mean()}
    found = {name: own[name] / max(float(mean), 1e-9) for name, mean in still.items()}
    return found | {"colour": np.sqrt(np.square(own["colour"] - other["colour"].mean(0)).mean(-1))}


def nearest_psnr(frames: UInt8[np.ndarray, "n h w 3"], bank: UInt8[np.ndarray, "m h w 3"]) -> Float[np.ndarray, " n"]:
    """PSNR in dB of each frame against the frame of `bank` that is most like it; NaN where the bank is empty."""
    if not len(bank):
        return np.full(len(frames), np.nan)
    step = max(1, _PIECE // int(np.prod(bank.shape[1:])))
    parts = [bank[i : i + step] for i in range(0, len(bank), step)]
    found = [max(float(psnr(np.broadcast_to(f, part.shape), part).max()) for part in parts) for f in frames]
    return np.minimum(np.array(found), PSNR_CEILING)
