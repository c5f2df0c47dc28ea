"""Does the imagined outcome of an episode tell its real one? The phi coefficient over paired episodes.

Several policies are rolled out in closed loop from the same starts, imagined and real. Phi is Pearson's correlation of
two binary outcomes (Yule 1912): 1 where they always agree, 0 where the imagined outcome says nothing. Much of it can
come from knowing which tasks and policies succeed often, so `within` is the same after the success rate of each policy
in each task is taken away: what the world knows about the single episode.

Intervals are 95 % percentile bootstraps over layouts, since all policies share these.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import RESAMPLES, Estimate, Outcome
from worldgymnast.files import read_json, short
from worldgymnast.records import check_rows, is_outcome, is_verdict, is_whole

_DRAWS = RESAMPLES // 10
_NAN = float("nan")


@dataclass(frozen=True)
class Episode:
    """A closed-loop episode: the same policy from the same start, imagined and real.

    Attributes:
        policy: who acted.
        task: its name.
        start: names the start; equal for the policies that share it.
        imagined: the outcome in the world model, None where the judge failed.
        real: the real outcome, None where it is unknown.
    """

    policy: str
    task: str
    start: Hashable
    imagined: Outcome
    real: Outcome


@dataclass(frozen=True)
class ClosedLoop:
    """How imagined and real outcome of n episodes go together.

    Attributes:
        both: successes in both.
        only_imagined: imagined successes that are none.
        only_real: real successes that were not imagined.
        neither: failures in both.
        unknown: episodes of which one outcome is unknown, left out of everything else.
        phi: their correlation; NaN where one outcome never varies.
        within: the correlation within the policies' tasks.
    """

    both: int
    only_imagined: int
    only_real: int
    neither: int
    unknown: int
    phi: Estimate
    within: Estimate

    @property
    def count(self) -> int:
        """Episodes of which both outcomes are known."""
        return self.both + self.only_imagined + self.only_real + self.neither


def closed_loop(episodes: Sequence[Episode], seed: int = 0) -> ClosedLoop:
    """Phi of some episodes, over all and within the tasks of each policy.

    >>> rows = [Episode("a", "open", i, i < 6, i < 5) for i in range(12)]
    >>> round(closed_loop(rows).phi.value, 2), closed_loop(rows).only_imagined
    (0.85, 1)
    """
    known = [e for e in episodes if e.imagined is not None and e.real is not None]
    x, y = (np.array([bool(getattr(e, name)) for e in known], float) for name in ("imagined", "real"))
    layouts = _numbered([(e.task, e.start) for e in known])
    cells = _numbered([(e.policy, e.task) for e in known])
    return ClosedLoop(
        int((x * y).sum()),
        int((x * (1 - y)).sum()),
        int(((1 - x) * y).sum()),
        int(((1 - x) * (1 - y)).sum()),
        len(episodes) - len(known),
        correlation(x, y, layouts, np.zeros_like(layouts), seed),
        correlation(x, y, layouts, cells, seed),
    )


def by_policy(episodes: Sequence[Episode], seed: int = 0) -> dict[str, ClosedLoop]:
    """`closed_loop` of every policy, in order of appearance."""
    names = dict.fromkeys(e.policy for e in episodes)
    return {name: closed_loop([e for e in episodes if e.policy == name], seed) for name in names}


def correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    stratum: Int[np.ndarray, " n"],
    seed: int = 0,
) -> Estimate:
    """Pearson's correlation after the mean of each stratum is taken away, with a bootstrap over clusters.

    Args:
        x: n numbers.
        y: n more.
        cluster: 0, 1, ...; members of one are drawn together.
        stratum: 0, 1, ...; all 0 for the plain correlation.
        seed: of the bootstrap.

    Returns:
        NaN three times where x or y does not vary within the strata; resamples of that kind are left out.
    """
    if not len(x):
        return Estimate(_NAN, _NAN, _NAN)
    count = int(cluster.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_DRAWS)
    weight = np.vstack([np.ones(count, np.int64), drawn]).astype(np.float64)  # the first row is the estimate
    moments = np.zeros((3, len(weight)))
    for own in (np.flatnonzero(stratum == s) for s in range(int(stratum.max()) + 1)):
        a, b = x[own], y[own]
        sums = [np.bincount(cluster[own], v, count) for v in (np.ones_like(a), a, b, a * a, b * b, a * b)]
        n, sa, sb, saa, sbb, sab = (weight @ np.stack(sums, 1)).T
        n = np.maximum(n, 1)
        moments += np.stack([saa - sa * sa / n, sbb - sb * sb / n, sab - sa * sb / n])
    varies = (moments[0] > 1e-9) & (moments[1] > 1e-9)
    if not varies[0]:
        return Estimate(_NAN, _NAN, _NAN)
    found = moments[2, varies] / np.sqrt(moments[0, varies] * moments[1, varies])
    low, high = np.quantile(found[1:], [0.025, 0.975]) if len(found) > 1 else (_NAN, _NAN)
    return Estimate(float(found[0]), float(low), float(high))


def _numbered(names: Sequence[object]) -> np.ndarray:
    """Names as 0, 1, ... in order of appearance, int64 [n]."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


# ---------------------------------------------------------------- files that hold both outcomes


def read_episodes(file: Path) -> dict[str, list[Episode]]:
    """The episodes in a file by where they were imagined, such as "world" or "simulator".

    It may be the outcomes.json of `agree` (the longest horizon counts), the evaluation.json of quickstart and
    reproduce, or the state.json of an RL checkpoint with its scorings.

    Raises:
        InputError: it is none of these, or holds no imagined outcome.
    """
    found = read_json(file, "give a file that agree, quickstart, reproduce or rl wrote")
    scorings = found.get("state", found).get("scorings") if isinstance(found, dict) else None
    if isinstance(scorings, list):
        made = {"world": [one for scoring in scorings for one in _of_scoring(scoring, file)]}
    elif isinstance(found, dict) and found and all(isinstance(own, dict) for own in found.values()):
        made = of_agreement(_checked_agreement(found, file))
    elif isinstance(found, dict) and all(isinstance(own, list) for own in found.values()):
        for name, rows in found.items():
            check_rows(rows, f"{file}: '{short(name)}'", is_outcome)
        made = {"world": of_evaluation(found)}
    else:
        made = {}
    if not any(made.values()):
        raise InputError(
            f"{file}: found no episodes with an imagined and a real outcome, expected outcomes.json of agree, "
            "evaluation.json of quickstart or reproduce, or state.json of an RL checkpoint; give one of these"
        )
    return made


def of_evaluation(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Episode]:
    """The episodes of an evaluation.json that were imagined too."""
    return [
        Episode(name, row["task"], (row["layout"], row["seed"]), row["imagined"], row.get("success"))
        for name, rows in found.items()
        for row in rows
        if "imagined" in row
    ]


def of_agreement(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> dict[str, list[Episode]]:
    """The episodes of an outcomes.json by stand-in, by the longest horizon; "real" holds the real outcomes."""
    made: dict[str, list[Episode]] = {}
    for name, places in found.items():
        for place, rows in places.items():
            if place != "real":
                made.setdefault(place, []).extend(
                    Episode(name, truly["task"], truly["layout"], dreamt["success"][-1], truly["success"][-1])
                    for truly, dreamt in zip(places["real"], rows, strict=True)
                )
    return made


def _checked_agreement(found: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """Raises `InputError` where an outcomes.json is not what `agree` writes."""

    def is_row(row: Mapping[str, Any]) -> bool:
        success = row.get("success")
        known = isinstance(success, list) and success and all(map(is_verdict, success))
        return bool(known) and isinstance(row.get("task"), str) and is_whole(row.get("layout"))

    for name, places in found.items():
        for place, rows in places.items():
            check_rows(rows, f"{file}: '{short(name)}' in {short(place)}", is_row)
        starts = [[(row["task"], row["layout"]) for row in rows] for rows in places.values()]
        if "real" not in places or any(own != starts[0] for own in starts):
            raise InputError(
                f"{file}: '{short(name)}': found places {short(sorted(places))} with other starts, or none called "
                "'real', expected the same starts in all; run agree again in a new folder"
            )
    return found


def _of_scoring(scoring: Any, file: Path) -> list[Episode]:
    """The episodes of one scoring during RL; each step is a policy of its own."""
    columns = [scoring.get(key) for key in ("tasks", "starts", "imagined", "real")] if isinstance(scoring, dict) else []
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) < 4 or len({len(column) for column in lists}) > 1 or not all(map(is_verdict, lists[2] + lists[3])):
        raise InputError(f"{file}: found {short(scoring)}, expected a scoring: lists of tasks, starts and outcomes")
    step = f"step {scoring.get('step')}"
    return [Episode(step, str(task), str(start), *outcomes) for task, start, *outcomes in zip(*lists, strict=True)]
