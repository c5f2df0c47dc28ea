"""Rollout groups as independent units of work.

A unit is one group with its own random stream, which depends on the unit's identity alone: the seed, the version of the
weights and the index of the group among those of the version. So a group has the same rollouts whichever process rolls
it out, in whatever order, and however often it is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from worldgymnast.protocols import Actor
from worldgymnast.rl.judging import EnvironmentVerdicts, JudgeVerdicts
from worldgymnast.rl.rollout import batches
from worldgymnast.types import Rollout, StartOrLayout

MakeEnv = Callable[[int, torch.Generator], VectorEnv[Any, Any, Any]]
"""Makes a vector environment of that many rows, which draws from that generator."""


@dataclass(frozen=True)
class Unit:
    """One group to roll out.

    Attributes:
        seed: of the run.
        version: of the acting weights; in RL, the step.
        index: of the group among all groups of this version, from 0.
        start: where its rollouts begin.
        size: number of rollouts.

    >>> from worldgymnast.types import Layout
    >>> a, b = (Unit(0, 3, index, Layout("door", 0, "open it"), 8).generator() for index in (0, 1))
    >>> a.initial_seed() == b.initial_seed()
    False
    """

    seed: int
    version: int
    index: int
    start: StartOrLayout
    size: int

    def generator(self) -> torch.Generator:
        """Make the random stream of this unit, at its beginning."""
        entropy = np.random.SeedSequence([self.seed, self.version, self.index]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(entropy[0] >> 1))


class UnitCounter:
    """Numbers the groups of each version of the weights.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._begun: dict[int, int] = {}

    def units(self, starts: Sequence[StartOrLayout], size: int, version: int) -> list[Unit]:
        """Make the next units of `version`, one per start, with consecutive indices."""
        first = self._begun.get(version, 0)
        self._begun[version] = first + len(starts)
        return [Unit(self.seed, version, first + i, start, size) for i, start in enumerate(starts)]


def roll_out_unit(unit: Unit, policy: Actor, make_env: MakeEnv, *, rows: int, temperature: float) -> list[Rollout]:
    """Roll out a unit, without the verdicts of a judge.

    Args:
        unit: the group.
        policy: acts, with the weights of the unit's version.
        make_env: makes the environment.
        rows: most parallel rollouts; a larger group is rolled out in parts.
        temperature: of sampling.
    """
    generator = unit.generator()
    env = make_env(min(rows, unit.size), generator)
    starts = [unit.start] * unit.size
    rolled = batches(env, policy, starts, temperature=temperature, generator=generator, version=unit.version)
    return [rollout for batch in rolled for rollout in batch]


def begin_unit(
    unit: Unit,
    policy: Actor,
    make_env: MakeEnv,
    verdict_source: JudgeVerdicts | EnvironmentVerdicts,
    *,
    rows: int,
    temperature: float,
) -> Callable[[], list[Rollout]]:
    """Roll out a unit and begin to judge it; the returned function waits for the verdicts."""
    return verdict_source.begin(roll_out_unit(unit, policy, make_env, rows=rows, temperature=temperature))
