"""Imagined outcomes of layouts that are not played for real: what makes an evaluation prediction-powered.

A real episode costs a robot's time, an imagined one a fraction of a second and one picture of the layout. The outcomes
lie beside those of the evaluation, in a file of their own, and more of them can be added to a finished evaluation.
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
"""Layouts between the first one that is played with a seed and the first one that is imagined alone."""
MOST = 400
"""Most layouts a task that are imagined alone; those of the next seed follow after 1000."""


def imagine_unplayed(
    file: Path,
    policies: Mapping[str, tuple[Actor, Sequence[int]]],
    starts: Callable[[int], Sequence[Start]],
    imagine: Callable[[Actor, Sequence[Start], int, str], Sequence[Rollout]],
) -> dict[str, list[dict[str, Any]]]:
    """Judged outcomes of imagined rollouts; kept in `file` policy by policy, what is there is not imagined again.

    Args:
        file: rows by policy, as in an evaluation's file, with "success" null.
        policies: by name, and the seeds on whose layouts each is evaluated.
        starts: the first frames of a seed's layouts; drawn like the layouts that are played.
        imagine: rolls a policy out from starts, with a seed, and says what is done.
    """
    found: dict[str, list[dict[str, Any]]] = read_outcomes(file)
    photos: dict[int, Sequence[Start]] = {}
    for name, (policy, seeds) in policies.items():
        for seed in seeds:
            if seed not in photos:
                photos[seed] = starts(seed)
            rows = found.setdefault(name, [])
            there = {(row["task"], row["layout"], row["seed"]) for row in rows}
            missing = [s for s in photos[seed] if (s.task, s.layout, seed) not in there]
            if not missing:
                continue
            rollouts = imagine(policy, missing, seed, f"imagining {name} on layouts that are not played")
            rows += [
                {"task": s.task, "layout": s.layout, "seed": seed, "success": None, "imagined": r.verdict.succeeded}
                for s, r in zip(missing, rollouts, strict=True)
            ]
            write_text(file, json.dumps(found) + "\n")
    return found
