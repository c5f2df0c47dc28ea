"""Real evaluation of several policies on the same layouts, saved to one file after every policy."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from worldgymnast.actions import require_same
from worldgymnast.measure.real import ScoreConfig, first_of, result_row, run_trials
from worldgymnast.measure.unplayed import FIRST, imagine_unplayed
from worldgymnast.protocols import Actor, Judge, KeepsLayouts, Policy, RealEnvironment, WorldModel
from worldgymnast.records import COPIED, UNPLAYED, read_outcomes
from worldgymnast.registry import load_policy
from worldgymnast.rl.rollout import executed_per_look, open_vector
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.types import Layout, Rollout, Start
from worldgymnast.weights import identity, write_text

_ROWS = 96
"""Most rollouts imagined in parallel."""


@dataclass(frozen=True)
class Contender:
    """A policy to evaluate.

    Attributes:
        policy: the policy, or its file.
        seeds: select the layouts; two policies are paired on their common seeds.
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
    """Evaluate every policy on the same real layouts.

    Args:
        file: outcomes are saved here after every policy; saved policies are not evaluated again.
        contenders: by name; equal policies with the same seeds are evaluated once.
        env: the real environment.
        config: number of layouts per task and seed, and the first layout.
        device: of policies that are loaded from files.
        world: if given with `judge`, the same layouts are also imagined.
        judge: judges the imagined rollouts.
        imagined: additional layouts per task and seed that are only imagined, see `measure.unplayed`.

    Returns:
        By policy, a row per episode: task, layout, seed, success, and "imagined" if a world model was given.

    Raises:
        InputError: a policy and the environment have different actions.
    """
    config = config.resolved(env)
    outcomes: dict[str, Any] = read_outcomes(file)
    missing = {name: contender for name, contender in contenders.items() if name not in outcomes}
    if not missing and not imagined:
        return outcomes
    loaded: dict[str, Policy] = {}
    for name, contender in (contenders if imagined else missing).items():
        policy = contender.policy
        loaded[name] = load_policy(policy, device) if isinstance(policy, Path) else policy
    for name, policy in loaded.items():
        require_same(policy.action_spec, env.action_spec, f"policy '{name}' and real environment")
    imagine = None
    if world is not None and judge is not None:
        imagine = Imagination.of(next(iter(loaded.values())), world, judge, env.horizon, config.execute)
    if missing:
        _evaluate_missing(file, outcomes, contenders, {name: loaded[name] for name in missing}, env, config, imagine)
    if imagined and imagine is not None:
        _imagine_additional(file.with_name(UNPLAYED), contenders, loaded, env, config, imagine, imagined)
    return outcomes


def _evaluate_missing(
    file: Path,
    outcomes: dict[str, Any],
    contenders: Mapping[str, Contender],
    policies: Mapping[str, Policy],
    env: RealEnvironment,
    config: ScoreConfig,
    imagine: Imagination | None,
) -> None:
    """Add the rows of `policies` to `outcomes` and to `file`."""
    chunk = executed_per_look(next(iter(policies.values())), config.execute)
    identity_of = functools.cache(lambda name: identity(policies[name]))  # a hash of all weights
    real = open_vector(env, config.workers, chunk, horizon=env.horizon, keyframes_only=True)
    try:
        for name, policy in policies.items():
            seeds = contenders[name].seeds
            same = [other for other in outcomes if _is_same(name, other, contenders, policies, identity_of)]
            if same:
                print(f"{name}: is the same policy as '{same[0]}', and is not evaluated again", flush=True)
                outcomes[name] = [row | {COPIED: True} for row in outcomes[same[0]]]
            else:
                rows = [_seed_rows(policy, real, env, config, imagine, name, seed) for seed in seeds]
                outcomes[name] = [row for each in rows for row in each]
            write_text(file, json.dumps(outcomes) + "\n")
    finally:
        real.close()


def _is_same(
    name: str,
    other: str,
    contenders: Mapping[str, Contender],
    policies: Mapping[str, Policy],
    identity_of: Callable[[str], str],
) -> bool:
    """Whether two contenders have the same seeds, and the same policy or files of equal ones.

    RL that keeps its start policy writes such a file. Policies that an earlier run has evaluated are not loaded, so one
    that equals them is evaluated again.
    """
    one, two = contenders[name], contenders.get(other)
    if two is None or one.seeds != two.seeds:
        return False
    if one.policy == two.policy:
        return True
    first, second = policies[name], policies.get(other)
    if second is None or not (isinstance(one.policy, Path) and isinstance(two.policy, Path)):
        return False
    is_alike = type(first) is type(second) and getattr(first, "config", None) == getattr(second, "config", None)
    return is_alike and identity_of(name) == identity_of(other)


def _seed_rows(
    policy: Actor,
    real: VectorEnv[Any, Any, Any],
    env: RealEnvironment,
    config: ScoreConfig,
    imagine: Imagination | None,
    name: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Return a row per episode on the layouts of a seed."""
    label = f"evaluating {name} on the layouts of seed {seed}"
    layouts = seed_layouts(env, config, seed)
    real_rollouts = run_trials(policy, real, layouts, temperature=config.temperature, seed=seed, label=label)
    rows = [result_row(rollout, seed) for rollout in real_rollouts]
    if imagine is None:
        return rows
    imagined = score_in(
        imagine,
        policy,
        [rollout.start for rollout in real_rollouts],
        rows=_ROWS,
        temperature=config.temperature,
        seed=seed,
        label=f"imagining {name} on the same layouts",
    )
    return [row | {"imagined": r.verdict.succeeded} for row, r in zip(rows, imagined, strict=True)]


def seed_layouts(env: RealEnvironment, config: ScoreConfig, seed: int) -> list[Layout]:
    """Return the layouts of a seed; those of a benchmark are the same for every seed."""
    resolved = config.resolved(env)
    step = 0 if isinstance(env, KeepsLayouts) and resolved.first_layout in env.evaluation_layouts else 1000
    return env.layouts(resolved.per_task, first_of(resolved) + seed * step)


def _imagine_additional(
    file: Path,
    contenders: Mapping[str, Contender],
    policies: Mapping[str, Policy],
    env: RealEnvironment,
    config: ScoreConfig,
    surrogate: Imagination,
    count: int,
) -> None:
    """Imagine `count` additional layouts per task and seed."""

    def starts(seed: int) -> list[Start]:
        return env.photograph(env.layouts(count, first_of(config) + seed * 1000 + FIRST))

    def imagine(policy: Actor, chosen: Sequence[Start], seed: int, label: str) -> list[Rollout]:
        return score_in(surrogate, policy, chosen, rows=_ROWS, temperature=config.temperature, seed=seed, label=label)

    imagine_unplayed(
        file, {name: (policy, contenders[name].seeds) for name, policy in policies.items()}, starts, imagine
    )
