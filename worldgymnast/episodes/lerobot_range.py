"""Correct the action range of datasets with wrong statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worldgymnast.actions import UNKNOWN, foreign_spec
from worldgymnast.episodes.findings import Finding
from worldgymnast.episodes.lerobot_layout import Layout
from worldgymnast.episodes.lerobot_rows import Rows
from worldgymnast.episodes.lerobot_spec import stats_file

RANGE = "action's min and max"
"""Field of the warning, which readers print as well since every action is scaled by this range."""

_MAX_SHARE = 0.01
"""Largest share of actions outside the range that is tolerated."""
_TOLERANCE = 0.01
"""Excess over the bounds that is tolerated, as a share of the range."""


def fit_range(layout: Layout, episodes: Sequence[Rows]) -> tuple[Layout, Finding | None]:
    """Extend the action range to the rows if the statistics are wrong.

    Args:
        layout: the metadata; a spec with bounds written by this project is not changed.
        episodes: the rows of each episode.

    Returns:
        The layout, and a warning if its range was changed.
    """
    spec = layout.spec
    if (layout.is_own and spec.unit != UNKNOWN) or not episodes:
        return layout, None
    values = np.concatenate([rows.actions for rows in episodes]).astype(np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    low, high = np.array(spec.low), np.array(spec.high)
    slack = _TOLERANCE * (high - low) + 1e-6 * (1 + np.abs(high))
    share = ((values < low - slack) | (values > high + slack)).mean(axis=0) if len(values) else np.zeros(len(low))
    is_wrong = share > _MAX_SHARE
    if not is_wrong.any():
        return layout, None
    low, high = np.where(is_wrong, values.min(axis=0), low), np.where(is_wrong, values.max(axis=0), high)
    corrected = replace(spec, low=tuple(low.tolist()), high=tuple(high.tolist()))
    if not layout.is_own:
        corrected = foreign_spec(spec.axes, low.tolist(), high.tolist(), layout.fps)
    worst = int(np.argmax(share))
    warning = Finding(
        "warning",
        str(stats_file(layout.root, layout.version)),
        RANGE,
        f"{share[worst]:.0%} of the actions outside {spec.low[worst]:.4g} to {spec.high[worst]:.4g} on axis "
        f"'{spec.axes[worst]}' (affects {int(is_wrong.sum())} of {len(is_wrong)} axes)",
        "none",
        "the range of these axes is taken from the rows; recompute the statistics",
    )
    return replace(layout, spec=corrected), warning
