"""The range of a foreign LeRobotDataset's actions, where the rows contradict the statistics it was read off."""

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
"""The field of the warning that readers print, too: every action is scaled by this range."""

_SHARE = 0.01
_FAR = 0.01


def fit_range(found: Layout, rows: Sequence[Rows]) -> tuple[Layout, Finding | None]:
    """The layout with a range that holds the rows, and a warning where the statistics' did not.

    Args:
        found: the metadata; a spec that this project wrote with its bounds is left as it is.
        rows: the rows of the episodes.
    """
    spec = found.spec
    if (found.own and spec.unit != UNKNOWN) or not rows:
        return found, None
    values = np.concatenate([one.actions for one in rows]).astype(np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    low, high = np.array(spec.low), np.array(spec.high)
    slack = _FAR * (high - low) + 1e-6 * (1 + np.abs(high))
    share = ((values < low - slack) | (values > high + slack)).mean(axis=0) if len(values) else np.zeros(len(low))
    wrong = share > _SHARE
    if not wrong.any():
        return found, None
    low, high = np.where(wrong, values.min(axis=0), low), np.where(wrong, values.max(axis=0), high)
    made = replace(spec, low=tuple(low.tolist()), high=tuple(high.tolist()))
    if not found.own:
        made = foreign_spec(spec.axes, low.tolist(), high.tolist(), found.fps)
    worst = int(np.argmax(share))
    said = Finding(
        "warning",
        str(stats_file(found.root, found.version)),
        RANGE,
        f"{share[worst]:.0%} of the actions outside {spec.low[worst]:.4g} to {spec.high[worst]:.4g} on axis "
        f"'{spec.axes[worst]}' ({int(wrong.sum())} of {len(wrong)} axes are like this)",
        "none",
        "these axes' range is taken from the rows; recompute the statistics",
    )
    return replace(found, spec=made), said
