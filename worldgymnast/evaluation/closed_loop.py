"""Correlation of imagined and real outcomes of the same episodes (phi coefficient).

Several policies are rolled out in closed loop from the same starts, imagined and real. Phi is Pearson's correlation of
two binary outcomes (Yule 1912): 1 if they always agree, 0 if the imagined outcome carries no information. Much of it
can come from tasks and policies that succeed often. So `within` is the correlation after the success rate of each
policy in each task is subtracted: what the world model predicts about the single episode.

Intervals are 95% percentile bootstraps over layouts, because all policies share these.
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
from worldgymnast.records import check_rows, is_count, is_outcome, is_verdict

_DRAWS = RESAMPLES // 10
_NAN = float("nan")


@dataclass(frozen=True)
class Episode:
    """A closed-loop episode: the same policy from the same start, imagined and real.

    Attributes:
        policy: name of the policy.
        task: name of the task.
        start: key of the start, equal for all policies that share it.
        imagined: outcome in the world model, None where the judge failed.
        real: real outcome, None where it is unknown.
    """

    policy: str
    task: str
    start: Hashable
    imagined: Outcome
    real: Outcome


@dataclass(frozen=True)
class ClosedLoop:
    """Agreement of imagined and real outcomes of n episodes.

    Attributes:
        both: imagined and real successes.
        only_imagined: imagined successes that failed for real.
        only_real: real successes that failed in imagination.
        neither: failures in both.
        unknown: episodes with an unknown outcome, excluded from everything else.
        phi: correlation of the outcomes; NaN if one never varies.
        within: correlation within the tasks of each policy.
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
        """Episodes with both outcomes known."""
        return self.both + self.only_imagined + self.only_real + self.neither


def closed_loop(episodes: Sequence[Episode], seed: int = 0) -> ClosedLoop:
    """Compute phi over all episodes, and within the tasks of each policy.

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
    """Return `closed_loop` for every policy, in order of appearance."""
    names = dict.fromkeys(e.policy for e in episodes)
    return {name: closed_loop([e for e in episodes if e.policy == name], seed) for name in names}


def correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    stratum: Int[np.ndarray, " n"],
    seed: int = 0,
) -> Estimate:
    """Return Pearson's correlation within strata, with a bootstrap over clusters.

    Args:
        x: n numbers.
        y: n numbers.
        cluster: 0, 1, ...; members of a cluster are resampled together.
        stratum: 0, 1, ...; the mean of each stratum is subtracted. All 0 gives the plain correlation.
        seed: of the bootstrap.

    Returns:
        NaN three times if x or y does not vary within the strata; such resamples are ignored.
    """
    if not len(x):
        return Estimate(_NAN, _NAN, _NAN)
    count = int(cluster.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_DRAWS)
    weight = np.vstack([np.ones(count, np.int64), drawn]).astype(np.float64)  # the first row is the estimate
    moments = np.zeros((3, len(weight)))
    for rows in (np.flatnonzero(stratum == s) for s in range(int(stratum.max()) + 1)):
        a, b = x[rows], y[rows]
        sums = [np.bincount(cluster[rows], v, count) for v in (np.ones_like(a), a, b, a * a, b * b, a * b)]
        n, sa, sb, saa, sbb, sab = (weight @ np.stack(sums, 1)).T
        n = np.maximum(n, 1)
        moments += np.stack([saa - sa * sa / n, sbb - sb * sb / n, sab - sa * sb / n])
    varies = (moments[0] > 1e-9) & (moments[1] > 1e-9)
    if not varies[0]:
        return Estimate(_NAN, _NAN, _NAN)
    values = moments[2, varies] / np.sqrt(moments[0, varies] * moments[1, varies])
    low, high = np.quantile(values[1:], [0.025, 0.975]) if len(values) > 1 else (_NAN, _NAN)
    return Estimate(float(values[0]), float(low), float(high))


def _numbered(names: Sequence[object]) -> np.ndarray:
    """Number names as 0, 1, ... in order of appearance, int64 [n]."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


# ---------------------------------------------------------------- files with both outcomes


def read_episodes(file: Path) -> dict[str, list[Episode]]:
    """Read the episodes of a file, by surrogate ("world" or "simulator", for example).

    The file is the outcomes.json of `agree` (the longest horizon is used), the evaluation.json of quickstart or
    reproduce, or the state.json of an RL checkpoint with evaluations.

    Raises:
        InputError: the file is none of these, or has no imagined outcomes.
    """
    content = read_json(file, "give a file that agree, quickstart, reproduce or rl wrote")
    scorings = content.get("state", content).get("scorings") if isinstance(content, dict) else None
    if isinstance(scorings, list):
        episodes = {"world": [one for scoring in scorings for one in _scoring_episodes(scoring, file)]}
    elif isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        episodes = agreement_episodes(_check_agreement(content, file))
    elif isinstance(content, dict) and all(isinstance(value, list) for value in content.values()):
        for name, rows in content.items():
            check_rows(rows, f"{file}: '{short(name)}'", is_outcome)
        episodes = {"world": evaluation_episodes(content)}
    else:
        episodes = {}
    if not any(episodes.values()):
        raise InputError(
            f"{file}: found no episodes with an imagined and a real outcome. Give outcomes.json of agree, "
            "evaluation.json of quickstart or reproduce, or state.json of an RL checkpoint"
        )
    return episodes


def evaluation_episodes(content: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Episode]:
    """Return the episodes of an evaluation.json that have an imagined outcome."""
    return [
        Episode(name, row["task"], (row["layout"], row["seed"]), row["imagined"], row.get("success"))
        for name, rows in content.items()
        for row in rows
        if "imagined" in row
    ]


def agreement_episodes(content: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> dict[str, list[Episode]]:
    """Return the episodes of an outcomes.json by surrogate, at the longest horizon."""
    episodes: dict[str, list[Episode]] = {}
    for name, places in content.items():
        for place, rows in places.items():
            if place != "real":
                episodes.setdefault(place, []).extend(
                    Episode(name, real["task"], real["layout"], imagined["success"][-1], real["success"][-1])
                    for real, imagined in zip(places["real"], rows, strict=True)
                )
    return episodes


def _check_agreement(content: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """Raise `InputError` unless the content is an outcomes.json of `agree`."""

    def is_row(row: Mapping[str, Any]) -> bool:
        success = row.get("success")
        known = isinstance(success, list) and success and all(map(is_verdict, success))
        return bool(known) and isinstance(row.get("task"), str) and is_count(row.get("layout"))

    for name, places in content.items():
        for place, rows in places.items():
            check_rows(rows, f"{file}: '{short(name)}' in {short(place)}", is_row)
        starts = [[(row["task"], row["layout"]) for row in rows] for rows in places.values()]
        if "real" not in places or any(other != starts[0] for other in starts):
            raise InputError(
                f"{file}: '{short(name)}': the places {short(sorted(places))} have different starts, or 'real' is "
                "missing. Run agree again in a new folder"
            )
    return content


def _scoring_episodes(scoring: Any, file: Path) -> list[Episode]:
    """Return the episodes of one evaluation during RL; each step counts as its own policy."""
    columns = [scoring.get(key) for key in ("tasks", "starts", "imagined", "real")] if isinstance(scoring, dict) else []
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) < 4 or len({len(column) for column in lists}) > 1 or not all(map(is_verdict, lists[2] + lists[3])):
        raise InputError(f"{file}: found {short(scoring)}, expected a scoring: lists of tasks, starts and outcomes")
    step = f"step {scoring.get('step')}"
    return [Episode(step, str(task), str(start), *outcomes) for task, start, *outcomes in zip(*lists, strict=True)]
