"""A software simulator as a surrogate: the baseline for world models."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from worldgymnast.actions import ActionSpec
from worldgymnast.envs.simulator import SimulatorConfig, SimulatorEnv
from worldgymnast.envs.wrappers import vectorize
from worldgymnast.registry import to_dict
from worldgymnast.rl.judging import EnvironmentVerdicts
from worldgymnast.rl.rollout import densify_rewards
from worldgymnast.types import RolloutGroup


@dataclass(frozen=True)
class Simulation:
    """A software simulator, which reports success itself.

    Attributes:
        config: the simulator.
        chunk: actions per look.
        workers: processes that run it.
        dense: reward a group without a success by progress (dense reward).
        every: render only the last of each `every` frames.
    """

    config: SimulatorConfig
    chunk: int
    workers: int = 2
    dense: bool = True
    every: int = 1

    def __call__(self, rows: int, generator: torch.Generator) -> VectorEnv[Any, Any, Any]:
        """Return the vector environment; its rows are the worker processes, and nothing is drawn."""
        del rows, generator
        return self._env

    @functools.cached_property
    def _env(self) -> VectorEnv[Any, Any, Any]:
        return vectorize(functools.partial(SimulatorEnv, self.config, self.every), self.workers, self.chunk)

    @property
    def verdict_source(self) -> EnvironmentVerdicts:
        """Source of verdicts: the simulator."""
        return EnvironmentVerdicts()

    @property
    def action_spec(self) -> ActionSpec:
        """Meaning of the simulator's actions."""
        return self.config.env.action_spec

    def inputs(self) -> dict[str, Any]:
        """Return the simulator's config, and whether rewards are dense."""
        return {"simulator": to_dict(self.config) | {"dense": self.dense}}

    def keyframes_only(self) -> Simulation:
        """Return a copy, with its own processes, that renders one frame per action chunk."""
        return replace(self, every=self.chunk)

    def assign_rewards(self, group: RolloutGroup) -> RolloutGroup:
        """Reward a group without a success by progress, if `dense` is set."""
        return densify_rewards(group) if self.dense else group

    def cancel(self) -> None:
        """Do nothing; a simulator sends no requests."""

    def close(self) -> None:
        """Stop the worker processes; the next call starts new ones."""
        env = self.__dict__.pop("_env", None)
        if env is not None:
            env.close()
