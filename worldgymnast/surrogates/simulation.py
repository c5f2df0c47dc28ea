"""A software simulator as the place where a policy practises: the baseline of a world model."""

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
from worldgymnast.rl.judging import Reported
from worldgymnast.rl.rollout import densified
from worldgymnast.types import RolloutGroup


@dataclass(frozen=True)
class Simulation:
    """A software simulator, which knows by itself what succeeded.

    Attributes:
        config: which one.
        chunk: actions a look.
        workers: processes that run it.
        dense: whether a group whose binary rewards are all alike is rewarded by how far it came (dense reward).
        every: render only the last of each so many frames.
    """

    config: SimulatorConfig
    chunk: int
    workers: int = 2
    dense: bool = True
    every: int = 1

    def __call__(self, rows: int, generator: torch.Generator) -> VectorEnv[Any, Any, Any]:
        """See `Surrogate`; rows are processes, and nothing is drawn."""
        del rows, generator
        return self._env

    @functools.cached_property
    def _env(self) -> VectorEnv[Any, Any, Any]:
        return vectorize(functools.partial(SimulatorEnv, self.config, self.every), self.workers, self.chunk)

    @property
    def judging(self) -> Reported:
        """What the simulator says."""
        return Reported()

    @property
    def action_spec(self) -> ActionSpec:
        """See `Surrogate`."""
        return self.config.env.action_spec

    def inputs(self) -> dict[str, Any]:
        """See `Surrogate`."""
        return {"simulator": to_dict(self.config) | {"dense": self.dense}}

    def hasty(self) -> Simulation:
        """See `Surrogate`; has processes of its own."""
        return replace(self, every=self.chunk)

    def rewarded(self, group: RolloutGroup) -> RolloutGroup:
        """See `Surrogate`."""
        return densified(group) if self.dense else group

    def abandon(self) -> None:
        """See `Surrogate`; a simulator asks nobody."""

    def close(self) -> None:
        """See `Surrogate`; its processes end."""
        env = self.__dict__.pop("_env", None)
        if env is not None:
            env.close()
