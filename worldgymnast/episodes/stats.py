"""Statistics as LeRobot keeps them: min, max, mean, std, count and five quantiles, per episode and for the data set.

Images are described per channel in [0, 1] with shape (3, 1, 1). As in LeRobot the quantiles of a data set are the mean
of the episodes' ones, weighted by their rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Stats = dict[str, np.ndarray]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def describe(values: np.ndarray) -> Stats:
    """Statistics over the rows of [n a] (or [n], taken as one axis), each [a]; zeros where there are no rows."""
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


def describe_images(frames: np.ndarray) -> Stats:
    """Statistics of uint8 [t h w 3] in [0, 1], each (3, 1, 1); the count is the number of frames."""
    counts = np.stack([np.bincount(frames[..., channel].ravel(), minlength=256) for channel in range(3)])
    level = np.arange(256) / 255.0
    total = counts.sum(1)
    mean = counts @ level / total
    spread = np.sqrt(np.maximum(counts @ level**2 / total - mean**2, 0.0))
    lowest = np.array([level[np.flatnonzero(row)[0]] for row in counts])
    highest = np.array([level[np.flatnonzero(row)[-1]] for row in counts])
    shaped = {"min": lowest, "max": highest, "mean": mean, "std": spread}
    for name, share in QUANTILES.items():
        shaped[name] = level[(counts.cumsum(1) >= share * total[:, None]).argmax(1)]
    return {name: value.reshape(3, 1, 1) for name, value in shaped.items()} | {
        "count": np.array([len(frames)], np.int64)
    }


def aggregate(parts: Sequence[Stats]) -> Stats:
    """Statistics of the union of disjoint sets of rows, by the parallel variance formula; empty parts do not count."""
    kept = [part for part in parts if part["count"][0] > 0] or list(parts[:1])
    count = np.array([part["count"][0] for part in kept], np.float64)
    share = np.maximum(count, 1) / np.maximum(count, 1).sum()
    mean = sum(weight * part["mean"] for weight, part in zip(share, kept, strict=True))
    variance = sum(w * (p["std"] ** 2 + (p["mean"] - mean) ** 2) for w, p in zip(share, kept, strict=True))
    return {
        "min": np.min([part["min"] for part in kept], axis=0),
        "max": np.max([part["max"] for part in kept], axis=0),
        "mean": np.asarray(mean),
        "std": np.sqrt(np.asarray(variance)),
        "count": np.array([int(count.sum())], np.int64),
        **{name: np.asarray(sum(w * p[name] for w, p in zip(share, kept, strict=True))) for name in QUANTILES},
    }
