"""Imagine a policy's recorded episodes again, with the policy acting.

A replay repeats recorded actions, and these give the outcome away: after a missed grasp a policy tries again, after a
good one it lifts. Here the policy acts on imagined frames, as in reinforcement learning, from the first frame of each
episode. Its imagined success is compared with the recorded one, so no real environment is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import Outcome
from worldgymnast.measure.gate import truncate
from worldgymnast.progress import Progress
from worldgymnast.protocols import Actor, Judge, WorldModel
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.types import STATE

_BY_POLICY = re.compile(r"policy@(\d+(?:\.\d+)?)")
"""Source of an episode that `record-policy` wrote, with its temperature."""
_BY_OTHERS = ("expert", "noisy", "play", "replayed")
"""Sources of episodes in which no policy acted."""


@dataclass(frozen=True)
class Pair:
    """Outcomes of one episode, recorded and imagined.

    Attributes:
        episode: its index in the data.
        task: name of the task.
        real: recorded outcome.
        imagined: outcome in imagination; None if the judge failed.
        error: reason of that failure.
    """

    episode: int
    task: str
    real: bool
    imagined: Outcome
    error: str | None = None


def imagine_recorded(
    policy: Actor,
    world: WorldModel,
    judge: Judge,
    episodes: EpisodeSet,
    *,
    horizon: int | None = None,
    execute: int | None = None,
    temperature: float | None = None,
    rows: int = 32,
    seed: int = 0,
) -> list[Pair]:
    """Imagine every labelled episode from its first frame, with the policy acting.

    A failed episode gets as many actions as were recorded; a successful one, which may have ended early, as many as the
    longest of its task. Both are cut to whole looks.

    Args:
        policy: the policy that recorded the episodes.
        world: the world model.
        judge: the judge.
        episodes: real rollouts of the policy.
        horizon: most actions of an episode; success counts if it comes within them.
        execute: actions executed per look; by default the policy's chunk.
        temperature: of sampling; by default that in the source of each episode ("policy@0.5"), otherwise 0.
        rows: rollouts in parallel.
        seed: of every draw.

    Raises:
        InputError: no episode is labelled, some are not the policy's, or the policy reads a state that they lack.
    """
    usable = np.flatnonzero(episodes.labelled & (episodes.length > 0))
    if not len(usable):
        raise InputError("data: no episode has a success label, so there is nothing to compare with. Label them")
    real = episodes.select(usable)
    real = real if horizon is None else truncate(real, horizon)
    check_source(real.source)
    if STATE in policy.needs and real.state is None:
        raise InputError(
            "data: the policy reads the robot's state, but the episodes have none. Give data with the state"
        )
    limits = _limits(real, executed_per_look(policy, execute))
    truth = truncate(real, limits).succeeded
    temperatures = [temperature] * len(real) if temperature is not None else temperatures_of(real.source)
    firsts, pairs = truncate(real, 0), dict[int, Pair]()
    with Progress("imagining the recorded episodes", len(real)) as progress:
        for limit, degree in sorted(set(zip(limits.tolist(), temperatures, strict=True))):
            chosen = [e for e in range(len(real)) if (limits[e], temperatures[e]) == (limit, degree)]
            starts = [firsts.episode(e).start() for e in chosen]
            surrogate = Imagination.of(policy, world, judge, limit, execute).keyframes_only()
            rolled = score_in(surrogate, policy, starts, rows=rows, temperature=degree, seed=seed)
            for e, rollout in zip(chosen, rolled, strict=True):
                said = rollout.verdict
                pairs[e] = Pair(int(usable[e]), real.kinds[e], bool(truth[e]), said.succeeded, said.error)
            progress.advance(len(chosen))
    return [pairs[e] for e in range(len(real))]


def check_source(sources: Sequence[str]) -> None:
    """Raise InputError if some episodes were not recorded by a policy."""
    if others := sorted(set(sources) & set(_BY_OTHERS)):
        raise InputError(
            f"data: found episodes of {', '.join(others)}, expected rollouts of the policy. Their outcomes say nothing "
            "about it. Give the policy's rollouts alone (record-policy writes them), or omit the policy"
        )


def temperatures_of(sources: Sequence[str]) -> list[float]:
    """Return the temperature of each episode; 0 where the source names none.

    >>> temperatures_of(["policy@0.5", ""])
    [0.5, 0.0]
    """
    return [recorded_temperature(source) or 0.0 for source in sources]


def recorded_temperature(source: str) -> float | None:
    """Return the temperature in the source of an episode; None where it names none.

    >>> recorded_temperature("policy@0.5"), recorded_temperature("policy@act")
    (0.5, None)
    """
    match = _BY_POLICY.fullmatch(source)
    return float(match[1]) if match else None


def _limits(real: EpisodeSet, look: int) -> np.ndarray:
    """Return the actions that each episode gets in imagination, int [n]."""
    tasks = np.array(real.kinds, dtype=object)
    longest = {task: int(real.length[tasks == task].max()) for task in set(real.kinds)}
    limits = np.where(real.succeeded, [longest[task] for task in real.kinds], real.length)
    return np.maximum(limits // look, 1) * look
