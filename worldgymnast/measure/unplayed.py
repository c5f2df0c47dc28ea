"""Imagines outcomes of layouts without real episodes, for prediction-powered evaluation.

A real episode costs robot time, an imagined one a fraction of a second and one picture of the layout. The outcomes are
saved next to those of the evaluation, in a separate file. More can be added to a finished evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.protocols import Actor
from worldgymnast.records import read_outcomes
from worldgymnast.types import Rollout, Start
from worldgymnast.weights import write_text

FIRST = 500
"""Offset of the layouts that are only imagined from the first real layout of a seed."""
MOST = 400
"""Most layouts per task that are only imagined; layouts of the next seed start at offset 1000."""


def imagine_unplayed(
    file: Path,
    policies: Mapping[str, tuple[Actor, Sequence[int]]],
    starts: Callable[[int], Sequence[Start]],
    imagine: Callable[[Actor, Sequence[Start], int, str], Sequence[Rollout]],
) -> dict[str, list[dict[str, Any]]]:
    """Imagine and judge rollouts, and save their outcomes after every policy.

    Args:
        file: rows by policy, as in the file of an evaluation, with "success" null. Saved rows are not imagined again.
        policies: by name, with the seeds of their layouts.
        starts: returns the first frames of the layouts of a seed, drawn like the real layouts.
        imagine: rolls out a policy from starts, given a seed and the label of a progress bar.
    """
    outcomes: dict[str, list[dict[str, Any]]] = read_outcomes(file)
    photos: dict[int, Sequence[Start]] = {}
    for name, (policy, seeds) in policies.items():
        for seed in seeds:
            if seed not in photos:
                photos[seed] = starts(seed)
            rows = outcomes.setdefault(name, [])
            saved = {(row["task"], row["layout"], row["seed"]) for row in rows}
            missing = [s for s in photos[seed] if (s.task, s.layout, seed) not in saved]
            if not missing:
                continue
            rollouts = imagine(policy, missing, seed, f"imagining {name} on additional layouts")
            rows += [
                {"task": s.task, "layout": s.layout, "seed": seed, "success": None, "imagined": r.verdict.succeeded}
                for s, r in zip(missing, rollouts, strict=True)
            ]
            write_text(file, json.dumps(outcomes) + "\n")
    return outcomes
