"""Measures whether surrogates rank policies as reality does.

Many policies are rolled out from the same starts in reality and in several surrogates, such as a world model with its
judge and an inaccurate simulator. Success at shorter horizons needs no extra rollouts: in reality it is known at every
frame, and the judge is shown the beginning of each imagined clip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from worldgymnast.configs import Count, Executed, NonEmpty, NonNegative, Positive, Seed, checked
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.agreement import Agreement, agreement, reliability
from worldgymnast.evaluation.prediction_powered import PoweredEstimate, powered_rate
from worldgymnast.files import json_object
from worldgymnast.measure.real import score_real
from worldgymnast.measure.unplayed import FIRST, imagine_unplayed
from worldgymnast.progress import Progress
from worldgymnast.protocols import Actor, Policy, RealEnvironment
from worldgymnast.records import UNPLAYED, check_rows, is_count, is_verdict, read_object
from worldgymnast.rl.judging import judge_clip
from worldgymnast.rl.rollout import executed_per_look, open_vector
from worldgymnast.surrogates.imagination import ImaginedSurrogate, Surrogate, score_in
from worldgymnast.types import Rollout, Start
from worldgymnast.weights import identity, write_text

REAL = "real"
Outcomes = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""By policy and place ("real" or a surrogate), a row per episode: task, layout, success at each length."""


@checked
class AgreeConfig:
    """Size of the comparison.

    Attributes:
        per_task: starts per task.
        first_layout: seed of the first layout; the others follow.
        lengths: horizons in actions at which success is measured; the longest is rolled out.
        temperature: sampling temperature; 0 is greedy.
        rows: most rollouts imagined in parallel.
        workers: processes of the real environment.
        seed: random seed.
        execute: actions to execute of each predicted chunk; all by default.
    """

    per_task: Positive = 10
    first_layout: Count = 4_000_000
    lengths: Annotated[tuple[Positive, ...], NonEmpty] = (8, 16, 24)
    temperature: NonNegative = 0.0
    rows: Positive = 96
    workers: Positive = 2
    seed: Seed = 0
    execute: Executed = None


def roll_out_policies(
    policies: Mapping[str, Policy],
    surrogates: Mapping[str, Surrogate],
    env: RealEnvironment,
    file: Path,
    config: AgreeConfig,
) -> Outcomes:
    """Roll out policies in reality and in surrogates.

    Args:
        policies: by name; all with the same chunk.
        surrogates: by place.
        env: the real environment.
        file: outcomes are saved here after every policy; saved policies are not rolled out again.
        config: size of the comparison.

    Raises:
        InputError: a length is not a multiple of the policies' chunk.
    """
    chunk = executed_per_look(next(iter(policies.values())), config.execute)
    if invalid := [length for length in config.lengths if length % chunk]:
        raise FieldError("lengths", f"found {invalid[0]}, expected multiples of the policies' chunk ({chunk})")
    outcomes = _read_saved(file, (REAL, *surrogates), len(config.lengths))
    todo = {name: policy for name, policy in policies.items() if name not in outcomes}
    if not todo:
        return {name: outcomes[name] for name in policies}
    surrogates = {place: each.keyframes_only() for place, each in surrogates.items()}
    starts = env.layouts(config.per_task, config.first_layout)
    real = open_vector(env, config.workers, chunk, horizon=max(config.lengths), keyframes_only=True)
    try:
        with Progress("rolling policies out", len(policies), done=len(policies) - len(todo)) as progress:
            for name, policy in todo.items():
                real_rollouts = score_real(policy, real, starts, temperature=config.temperature, seed=config.seed)
                rows = {REAL: [_reported_row(rollout, config.lengths, chunk) for rollout in real_rollouts]}
                for place, surrogate in surrogates.items():
                    rollouts = score_in(
                        surrogate,
                        policy,
                        [rollout.start for rollout in real_rollouts],
                        rows=config.rows,
                        temperature=config.temperature,
                        seed=config.seed,
                    )
                    if isinstance(surrogate, ImaginedSurrogate):
                        rows[place] = _judged_rows(surrogate, rollouts, config.lengths)
                    else:
                        rows[place] = [_reported_row(rollout, config.lengths, chunk) for rollout in rollouts]
                outcomes[name] = rows
                write_text(file, json.dumps(outcomes) + "\n")
                progress.advance()
    finally:
        real.close()
        for surrogate in surrogates.values():
            surrogate.close()
    return {name: outcomes[name] for name in policies}


def imagine_more(
    policies: Mapping[str, Policy],
    surrogate: ImaginedSurrogate,
    env: RealEnvironment,
    file: Path,
    config: AgreeConfig,
    count: int,
) -> dict[str, list[dict[str, Any]]]:
    """Imagine `count` more layouts per task for every policy, without real episodes; see `measure.unplayed`.

    Args:
        policies: by name.
        surrogate: imagines and judges.
        env: photographs the layouts.
        file: the file of `roll_out_policies`; these rows are saved beside it.
        config: settings of the rollouts.
        count: layouts per task.
    """
    imagined = surrogate.keyframes_only()
    assert isinstance(imagined, ImaginedSurrogate)

    def starts(seed: int) -> list[Start]:
        del seed  # all policies have the layouts of one seed
        return env.photograph(env.layouts(count, config.first_layout + FIRST))

    def imagine(policy: Actor, chosen: Sequence[Start], seed: int, label: str) -> list[Rollout]:
        return score_in(
            imagined, policy, chosen, rows=config.rows, temperature=config.temperature, seed=seed, label=label
        )

    by_policy = {name: (policy, (config.seed,)) for name, policy in policies.items()}
    return imagine_unplayed(file.with_name(UNPLAYED), by_policy, starts, imagine)


def powered_by_policy(
    outcomes: Outcomes, unplayed: Mapping[str, Sequence[Mapping[str, Any]]], place: str
) -> dict[str, PoweredEstimate]:
    """Return the real success of every policy at the longest horizon, narrowed by the outcomes in a surrogate.

    Args:
        outcomes: see `Outcomes`.
        unplayed: rows by policy of `imagine_more`; may be empty.
        place: the surrogate.
    """
    return {
        name: powered_rate(
            [row["success"][-1] for row in places[REAL]],
            [row["success"][-1] for row in places[place]],
            [row["imagined"] for row in unplayed.get(name, ())],
            [row["task"] for row in places[REAL]],
            [row["task"] for row in unplayed.get(name, ())],
        )
        for name, places in outcomes.items()
    }


def _read_saved(file: Path, places: Sequence[str], lengths: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read saved outcomes; raise `InputError` for rows that `roll_out_policies` does not write."""

    def is_row(row: dict[str, Any]) -> bool:
        success = row.get("success")
        has_outcomes = isinstance(success, list) and len(success) == lengths and all(map(is_verdict, success))
        return has_outcomes and isinstance(row.get("task"), str) and is_count(row.get("layout"))

    outcomes = read_object(file)
    for name, by_place in outcomes.items():
        for place in places:
            check_rows(json_object(by_place, file, name).get(place), f"{file}: '{name}' in {place}", is_row)
    return outcomes


def find_duplicates(policies: Mapping[str, Policy]) -> dict[str, str]:
    """Return policies with the weights of an earlier one, and the name of that one.

    Counted twice, they would make intervals too narrow.
    """
    first: dict[str, str] = {}
    weights = {name: identity(policy) for name, policy in policies.items()}
    for name, hashed in weights.items():
        first.setdefault(hashed, name)
    return {name: first[hashed] for name, hashed in weights.items() if first[hashed] != name}


def _row(rollout: Rollout, success: Sequence[bool | None]) -> dict[str, Any]:
    return {"task": rollout.start.task, "layout": rollout.start.layout, "success": list(success)}


def _reported_row(rollout: Rollout, lengths: Sequence[int], chunk: int) -> dict[str, Any]:
    """Return the row of an environment that reports success since the previous look."""
    if rollout.success is None:
        return _row(rollout, [None] * len(lengths))
    return _row(rollout, [bool(rollout.success[: length // chunk + 1].any()) for length in lengths])


def _judged_rows(
    surrogate: ImaginedSurrogate, rollouts: Sequence[Rollout], lengths: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the rows of a judge that sees the frames up to each length."""
    outcomes: list[list[bool | None]] = [[] for _ in rollouts]
    for length in lengths:
        looks = length // surrogate.chunk + 1
        clips = [judge_clip(rollout) for rollout in rollouts]
        verdicts = surrogate.judge.score([clip.until(looks) for clip in clips])
        for row, verdict in zip(outcomes, verdicts, strict=True):
            row.append(verdict.succeeded)
    return [_row(rollout, row) for rollout, row in zip(rollouts, outcomes, strict=True)]


def success_rates(
    outcomes: Outcomes, place: str, length: int, trainings: Mapping[str, str] | None = None
) -> np.ndarray:
    """Return the success rate of every policy in every task, float [p t], ignoring judge failures.

    Args:
        outcomes: see `Outcomes`.
        place: "real", or a surrogate.
        length: index of the length.
        trainings: training of each policy; policies of one training are averaged to one row.
    """
    rates: dict[str, list[list[float]]] = {}
    for name, table in _success_tables(outcomes, place, length).items():
        row = [float(np.mean(known if len(known := one[np.isfinite(one)]) else [np.nan])) for one in table]
        rates.setdefault((trainings or {}).get(name, name), []).append(row)
    return np.array([np.mean(rows, axis=0) for rows in rates.values()])


def _success_tables(outcomes: Outcomes, place: str, length: int) -> dict[str, np.ndarray]:
    """Return the success of every policy by task and start, float [t n]; NaN where unknown, or a task has fewer."""
    tasks = list(dict.fromkeys(row["task"] for row in next(iter(outcomes.values()))[place]))
    tables = {}
    for name, places in outcomes.items():
        rows = [[row["success"][length] for row in places[place] if row["task"] == task] for task in tasks]
        table = np.full((len(tasks), max(map(len, rows))), np.nan)
        for known, row in zip(table, rows, strict=True):
            known[: len(row)] = [np.nan if one is None else one for one in row]
        tables[name] = table
    return tables


def _real_reliability(outcomes: Outcomes, length: int, trainings: Mapping[str, str] | None, seed: int) -> float:
    """Return `reliability` of the real success, each training represented by its first policy."""
    tables = _success_tables(outcomes, REAL, length)
    firsts: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        firsts.setdefault((trainings or {}).get(name, name), table)
    starts = min(table.shape[1] for table in firsts.values())
    return reliability(np.stack([table[:, :starts] for table in firsts.values()]), seed)


def agreement_by_length(
    outcomes: Outcomes, config: AgreeConfig, trainings: Mapping[str, str] | None = None
) -> dict[str, dict[int, Agreement]]:
    """Return the agreement with reality, by surrogate and length; see `success_rates` for `trainings`."""
    places = [place for place in next(iter(outcomes.values())) if place != REAL]
    result: dict[str, dict[int, Agreement]] = {place: {} for place in places}
    for i, length in enumerate(config.lengths):
        real = success_rates(outcomes, REAL, i, trainings)
        again = _real_reliability(outcomes, i, trainings, config.seed)
        for place in places:
            found = agreement(success_rates(outcomes, place, i, trainings), real, config.seed)
            result[place][length] = replace(found, reliability=again)
    return result
