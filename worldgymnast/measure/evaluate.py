"""The real evaluation: several policies on the same layouts, kept policy by policy in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from worldgymnast.actions import require_same
from worldgymnast.measure.real import ScoreConfig, row, trials
from worldgymnast.measure.unplayed import FIRST, imagine_unplayed
from worldgymnast.protocols import Actor, Judge, Policy, RealEnvironment, WorldModel
from worldgymnast.records import UNPLAYED, read_outcomes
from worldgymnast.registry import load_policy
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.types import Layout, Rollout, Start
from worldgymnast.weights import write_text

_ROWS = 96
"""Rollouts imagined side by side."""


@dataclass(frozen=True)
class Contender:
    """A policy to evaluate.

    Attributes:
        policy: the policy, or its file.
        seeds: whose layouts it is evaluated on; two policies are paired on the seeds that they share.
    """

    policy: Policy | Path
    seeds: Sequence[int] = (0,)


def evaluate(
    file: Path,
    contenders: Mapping[str, Contender],
    env: RealEnvironment,
    config: ScoreConfig,
    device: str = "cpu",
    world: WorldModel | None = None,
    judge: Judge | None = None,
    imagined: int = 0,
) -> dict[str, Any]:
    """Real outcomes of every policy on the same layouts, kept in `file` policy by policy.

    Args:
        file: where they are kept; what is there is not played again.
        contenders: by name; a policy that comes again with the same seeds is evaluated once.
        env: the real environment.
        config: how many layouts a task and seed, and which.
        device: where policies and world compute.
        world: with `judge`, the same layouts are imagined, too.
        judge: says how they ended.
        imagined: layouts a task and seed that are imagined and not played, see `measure.unplayed`.

    Returns:
        By policy, a row an episode: task, layout, seed, success, and "imagined" where a world was given.
    """
    found: dict[str, Any] = read_outcomes(file)
    missing = {name: one for name, one in contenders.items() if name not in found}
    if not missing and not imagined:
        return found
    loaded = {
        name: load_policy(one.policy, device) if isinstance(one.policy, Path) else one.policy
        for name, one in (contenders if imagined else missing).items()
    }
    for name, policy in loaded.items():
        require_same(policy.action_spec, env.action_spec, f"policy '{name}' and real environment")
    imagine = None
    if world is not None and judge is not None:
        imagine = Imagination.of(next(iter(loaded.values())), world, judge, env.horizon)
    if missing:
        _play(file, found, contenders, {name: loaded[name] for name in missing}, env, config, imagine)
    if imagined and imagine is not None:
        _imagine_more(file.with_name(UNPLAYED), contenders, loaded, env, config, imagine, imagined)
    return found


def _play(
    file: Path,
    found: dict[str, Any],
    contenders: Mapping[str, Contender],
    policies: Mapping[str, Policy],
    env: RealEnvironment,
    config: ScoreConfig,
    imagine: Imagination | None,
) -> None:
    """Adds the rows of `policies` to `found` and to `file`."""
    chunk = next(iter(policies.values())).chunk
    real = env.vector(config.workers, chunk, horizon=env.horizon, keyframes_only=True)
    try:
        for name, policy in policies.items():
            own = contenders[name]
            same = [other for other in found if contenders.get(other) == own]
            if same:
                found[name] = found[same[0]]
            else:
                found[name] = [
                    one for seed in own.seeds for one in _outcomes(policy, real, env, config, imagine, name, seed)
                ]
            write_text(file, json.dumps(found) + "\n")
    finally:
        real.close()


def _outcomes(
    policy: Actor,
    real: VectorEnv[Any, Any, Any],
    env: RealEnvironment,
    config: ScoreConfig,
    imagine: Imagination | None,
    name: str,
    seed: int,
) -> list[dict[str, Any]]:
    """One row per episode on the layouts of a seed."""
    what = f"evaluating {name} on the layouts of seed {seed}"
    layouts = layouts_of(env, config, seed)
    played = trials(policy, real, layouts, temperature=config.temperature, seed=seed, what=what)
    rows = [row(rollout, seed) for rollout in played]
    if imagine is None:
        return rows
    dreamt = score_in(
        imagine,
        policy,
        [rollout.start for rollout in played],
        rows=_ROWS,
        temperature=config.temperature,
        seed=seed,
        label=f"imagining {name} on the same layouts",
    )
    return [own | {"imagined": r.verdict.succeeded} for own, r in zip(rows, dreamt, strict=True)]


def layouts_of(env: RealEnvironment, config: ScoreConfig, seed: int) -> list[Layout]:
    """The layouts of a seed."""
    return env.layouts(config.per_task, config.first_layout + seed * 1000)


def _imagine_more(
    file: Path,
    contenders: Mapping[str, Contender],
    policies: Mapping[str, Policy],
    env: RealEnvironment,
    config: ScoreConfig,
    surrogate: Imagination,
    count: int,
) -> None:
    """Imagined outcomes of `count` further layouts a task and seed."""

    def starts(seed: int) -> list[Start]:
        return env.photograph(env.layouts(count, config.first_layout + seed * 1000 + FIRST))

    def imagine(policy: Actor, chosen: Sequence[Start], seed: int, said: str) -> list[Rollout]:
        return score_in(surrogate, policy, chosen, rows=_ROWS, temperature=config.temperature, seed=seed, label=said)

    imagine_unplayed(file, {name: (one, contenders[name].seeds) for name, one in policies.items()}, starts, imagine)
