"""Statistics in LeRobot's format: min, max, mean, std, count and five quantiles.

They are computed per episode and for the dataset. Statistics of images are per channel in [0, 1] with shape (3, 1, 1).
As in LeRobot, the quantiles of a dataset are the mean of the episodes' quantiles, weighted by rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Stats = dict[str, np.ndarray]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def compute_stats(values: np.ndarray) -> Stats:
    """Statistics over the rows of [n a] or [n], each [a]; zeros without rows.

    >>> compute_stats(np.array([1.0, 2.0, 3.0]))["mean"]
    array([2.])
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    if not len(rows):
        rows, count = np.zeros((1, rows.shape[1] or 1)), 0
    else:
        count = len(rows)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        "count": np.array([count], np.int64),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def compute_image_stats(frames: np.ndarray) -> Stats:
    """Statistics of uint8 [t h w 3] in [0, 1], each (3, 1, 1).

    The count is the number of frames.
    """
    counts = np.stack([np.bincount(frames[..., channel].ravel(), minlength=256) for channel in range(3)])
    level = np.arange(256) / 255.0
    total = counts.sum(1)
    mean = counts @ level / total
    std = np.sqrt(np.maximum(counts @ level**2 / total - mean**2, 0.0))
    low = np.array([level[np.flatnonzero(row)[0]] for row in counts])
    high = np.array([level[np.flatnonzero(row)[-1]] for row in counts])
    stats = {"min": low, "max": high, "mean": mean, "std": std}
    for name, quantile in QUANTILES.items():
        stats[name] = level[(counts.cumsum(1) >= quantile * total[:, None]).argmax(1)]
    return {name: value.reshape(3, 1, 1) for name, value in stats.items()} | {
        "count": np.array([len(frames)], np.int64)
    }


def aggregate(parts: Sequence[Stats]) -> Stats:
    """Statistics of the union of disjoint sets of rows.

    Uses the parallel variance formula. Empty parts are ignored, and quantiles that a part lacks are left out.
    """
    nonempty = [part for part in parts if part["count"][0] > 0] or list(parts[:1])
    count = np.array([part["count"][0] for part in nonempty], np.float64)
    weight = np.maximum(count, 1) / np.maximum(count, 1).sum()
    mean = sum(w * part["mean"] for w, part in zip(weight, nonempty, strict=True))
    variance = sum(w * (p["std"] ** 2 + (p["mean"] - mean) ** 2) for w, p in zip(weight, nonempty, strict=True))
    return {
        "min": np.min([part["min"] for part in nonempty], axis=0),
        "max": np.max([part["max"] for part in nonempty], axis=0),
        "mean": np.asarray(mean),
        "std": np.sqrt(np.asarray(variance)),
        "count": np.array([int(count.sum())], np.int64),
        **{
            name: np.asarray(sum(w * p[name] for w, p in zip(weight, nonempty, strict=True)))
            for name in QUANTILES
            if all(name in part for part in nonempty)
        },
    }
