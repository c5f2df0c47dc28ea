"""Quality of imagined frames: against real frames by horizon, and by statistics where no real frames exist.

PSNR and SSIM of `agreement` are computed in parts, so that long clips of large frames fit into memory. For rollouts
longer than any episode, four statistics show how imagination degrades. Gradient energy falls with blur, and motion
falls when frames freeze. The mean color drifts with saturation, and the nearest real frame moves away.

Not included: the Frechet video distance. It compares distributions, needs thousands of clips and a network (I3D,
trained on Kinetics) without a maintained package; the one on PyPI, cd-fvd, dates from 2024.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from worldgymnast.evaluation.agreement import PSNR_CEILING, psnr, ssim

SSIM_WINDOW = 11
"""Window of SSIM in pixels; smaller frames have no SSIM."""
_PART_SIZE = 2**21
"""Numbers compared at a time: 16 MB as float64; SSIM holds about ten such arrays."""
_RESAMPLES = 2000

Curve = dict[str, np.ndarray]
"""Mean over episodes with its 95% interval: "mean", "low" and "high", float64 [t] each."""


def frame_scores(truth: UInt8[np.ndarray, "e t h w 3"], imagined: UInt8[np.ndarray, "e t h w 3"]) -> Curve:
    """Return "psnr" (dB, at most `PSNR_CEILING`) and "ssim" (frames of 11 pixels or more), float64 [e t]."""
    flat_truth, flat_imagined = (x.reshape(-1, *truth.shape[2:]) for x in (truth, imagined))
    step = max(1, _PART_SIZE // int(np.prod(truth.shape[2:])))
    parts = [slice(i, i + step) for i in range(0, len(flat_truth), step)]

    def all_frames(score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        return np.concatenate([score(flat_truth[p], flat_imagined[p]) for p in parts]).reshape(truth.shape[:2])

    scores = {"psnr": np.minimum(all_frames(psnr), PSNR_CEILING)}
    if min(truth.shape[2:4]) >= SSIM_WINDOW:
        scores["ssim"] = all_frames(ssim)
    return scores


def by_horizon(scores: Float[np.ndarray, "e t"], seed: int = 0) -> Curve:
    """Average over episodes at every horizon, with a bootstrap over episodes shared by all horizons.

    NaN scores are ignored; the mean is NaN without any score. A single episode has NaN bounds.
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


# ---------------------------------------------------------------- without ground truth


def appearance(frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, np.ndarray]:
    """Return statistics of each frame of a clip.

    Returns:
        "sharpness" [t]: gradient energy, the mean squared difference of neighboring pixels;
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


def drift_statistics(
    imagined: UInt8[np.ndarray, "t h w 3"], real: UInt8[np.ndarray, "s h w 3"]
) -> dict[str, np.ndarray]:
    """Compare the statistics of a clip with those of real frames of the same scene, float64 [t] each.

    Args:
        imagined: the clip, including its first frame.
        real: a real episode of the scene, including its first frame.

    Returns:
        "sharpness", "contrast" and "motion" relative to their mean in the real episode (1 is equal), and "colour": the
        root mean square over channels of the difference from its mean color, in levels.
    """
    clip, reference = appearance(imagined), appearance(real)
    means = {name: reference[name].mean() for name in ("sharpness", "contrast")}
    means["motion"] = reference["motion"][1:].mean()
    ratios = {name: clip[name] / max(float(mean), 1e-9) for name, mean in means.items()}
    return ratios | {"colour": np.sqrt(np.square(clip["colour"] - reference["colour"].mean(0)).mean(-1))}


def nearest_psnr(frames: UInt8[np.ndarray, "n h w 3"], bank: UInt8[np.ndarray, "m h w 3"]) -> Float[np.ndarray, " n"]:
    """Return the PSNR in dB of each frame against the most similar frame of `bank`.

    NaN if the bank is empty.
    """
    if not len(bank):
        return np.full(len(frames), np.nan)
    step = max(1, _PART_SIZE // int(np.prod(bank.shape[1:])))
    parts = [bank[i : i + step] for i in range(0, len(bank), step)]
    best = [max(float(psnr(np.broadcast_to(f, part.shape), part).max()) for part in parts) for f in frames]
    return np.minimum(np.array(best), PSNR_CEILING)
