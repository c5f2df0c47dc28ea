"""Does the world order policies as reality does? Many policies, rolled out in both from the same starts.

Several stand-ins are compared in one go, such as a world model with its judge and a simulator that is wrong. Success by
a shorter horizon needs no other rollouts: in reality it is known at every frame, and the judge is shown the beginning
of what was imagined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from worldgymnast.configs import Count, NonEmpty, NonNegative, Positive, Seed, checked
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.agreement import Agreement, agreement
from worldgymnast.files import json_object
from worldgymnast.measure.real import score_real
from worldgymnast.progress import Progress
from worldgymnast.protocols import Policy, RealEnvironment
from worldgymnast.records import check_rows, is_verdict, is_whole, read_object
from worldgymnast.rl.judging import judge_clip
from worldgymnast.surrogates.imagination import ImaginedSurrogate, Surrogate, score_in
from worldgymnast.types import Rollout
from worldgymnast.weights import identity, write_text

REAL = "real"
Outcomes = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""By policy and place ("real" and those of the stand-ins), a row an episode: task, layout, success by each length."""


@checked
class AgreeConfig:
    """What is compared, and on how much.

    Attributes:
        per_task: starts a task.
        first_layout: layouts count up from here.
        lengths: horizons, in actions, by which success is asked for; the longest is what is rolled out.
        temperature: of sampling; 0 is greedy.
        rows: most rollouts imagined side by side.
        workers: processes of the real environment.
        seed: of every random draw.
    """

    per_task: Positive = 10
    first_layout: Count = 4_000_000
    lengths: Annotated[tuple[Positive, ...], NonEmpty] = (8, 16, 24)
    temperature: NonNegative = 0.0
    rows: Positive = 96
    workers: Positive = 2
    seed: Seed = 0


def outcomes(
    policies: Mapping[str, Policy],
    surrogates: Mapping[str, Surrogate],
    env: RealEnvironment,
    file: Path,
    config: AgreeConfig,
) -> Outcomes:
    """What policies do in reality and in surrogates, which are the stand-ins.

    Kept in `file` policy by policy; what is there is not rolled out again.

    Raises:
        InputError: a length is no multiple of the policies' chunk.
    """
    chunk = next(iter(policies.values())).chunk
    if odd := [length for length in config.lengths if length % chunk]:
        raise FieldError("lengths", f"found {odd[0]}, expected multiples of the policies' chunk ({chunk})")
    found = _kept(file, (REAL, *surrogates), len(config.lengths))
    todo = {name: policy for name, policy in policies.items() if name not in found}
    if not todo:
        return {name: found[name] for name in policies}
    surrogates = {place: each.keyframes_only() for place, each in surrogates.items()}
    starts = env.layouts(config.per_task, config.first_layout)
    real = env.vector(config.workers, chunk, horizon=max(config.lengths), keyframes_only=True)
    try:
        with Progress("rolling policies out", len(policies), done=len(policies) - len(todo)) as progress:
            for name, policy in todo.items():
                truly = score_real(policy, real, starts, temperature=config.temperature, seed=config.seed)
                rows = {REAL: [_reported(rollout, config.lengths, chunk) for rollout in truly]}
                for place, surrogate in surrogates.items():
                    rollouts = score_in(
                        surrogate, policy, [r.start for r in truly], rows=config.rows,
                        temperature=config.temperature, seed=config.seed,
                    )  # fmt: skip
                    rows[place] = (
                        _judged(surrogate, rollouts, config.lengths)
                        if isinstance(surrogate, ImaginedSurrogate)
                        else [_reported(rollout, config.lengths, chunk) for rollout in rollouts]
                    )
                found[name] = rows
                write_text(file, json.dumps(found) + "\n")
                progress.advance()
    finally:
        real.close()
        for surrogate in surrogates.values():
            surrogate.close()
    return {name: found[name] for name in policies}


def _kept(file: Path, places: Sequence[str], lengths: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What was rolled out before; raises `InputError` where a row is not what `outcomes` writes."""

    def is_row(row: dict[str, Any]) -> bool:
        success = row.get("success")
        known = isinstance(success, list) and len(success) == lengths and all(map(is_verdict, success))
        return known and isinstance(row.get("task"), str) and is_whole(row.get("layout"))

    found = read_object(file)
    for name, own in found.items():
        for place in places:
            check_rows(json_object(own, file, name).get(place), f"{file}: '{name}' in {place}", is_row)
    return found


def twins(policies: Mapping[str, Policy]) -> dict[str, str]:
    """The policies that have the weights of an earlier one, and which: counted twice they would narrow the interval."""
    first: dict[str, str] = {}
    weights = {name: identity(policy) for name, policy in policies.items()}
    for name, hashed in weights.items():
        first.setdefault(hashed, name)
    return {name: first[hashed] for name, hashed in weights.items() if first[hashed] != name}


def _row(rollout: Rollout, by: Sequence[bool | None]) -> dict[str, Any]:
    return {"task": rollout.start.task, "layout": rollout.start.layout, "success": list(by)}


def _reported(rollout: Rollout, lengths: Sequence[int], chunk: int) -> dict[str, Any]:
    """Of an environment that says at every look whether the task was accomplished since the one before."""
    assert rollout.success is not None
    return _row(rollout, [bool(rollout.success[: length // chunk + 1].any()) for length in lengths])


def _judged(surrogate: ImaginedSurrogate, rollouts: Sequence[Rollout], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Of a judge that is shown the frames up to each length."""
    by: list[list[bool | None]] = [[] for _ in rollouts]
    for length in lengths:
        looks = length // surrogate.chunk + 1
        clips = [judge_clip(rollout) for rollout in rollouts]
        verdicts = surrogate.judge.score([clip.until(looks) for clip in clips])
        for row, verdict in zip(by, verdicts, strict=True):
            row.append(verdict.succeeded)
    return [_row(rollout, row) for rollout, row in zip(rollouts, by, strict=True)]


def rates(found: Outcomes, place: str, length: int, trainings: Mapping[str, str] | None = None) -> np.ndarray:
    """Success rates, float [p t], of every policy in every task, by the length of that index; failures to judge are
    left out.

    Args:
        found: the outcomes.
        place: "real", or a surrogate.
        length: index of the length.
        trainings: the training of each policy; policies of one training are averaged to one row.
    """
    tasks = list(dict.fromkeys(row["task"] for row in next(iter(found.values()))[place]))
    table: dict[str, list[list[float]]] = {}
    for name, places in found.items():
        known = [(row["task"], row["success"][length]) for row in places[place]]
        own = [float(np.mean([s for t, s in known if t == task and s is not None] or [np.nan])) for task in tasks]
        table.setdefault((trainings or {}).get(name, name), []).append(own)
    return np.array([np.mean(rows, axis=0) for rows in table.values()])


def agreements(
    found: Outcomes, config: AgreeConfig, trainings: Mapping[str, str] | None = None
) -> dict[str, dict[int, Agreement]]:
    """By surrogate and length, how well it agrees with reality; policies of one training count once, see `rates`."""
    places = [place for place in next(iter(found.values())) if place != REAL]
    return {
        place: {
            length: agreement(rates(found, place, i, trainings), rates(found, REAL, i, trainings), config.seed)
            for i, length in enumerate(config.lengths)
        }
        for place in places
    }
