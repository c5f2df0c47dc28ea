"""Any Gymnasium environment as the real environment.

An environment that keeps this contract needs no description:

- observations are a dictionary with "image" (uint8 [h w 3]) or "images" (pictures by camera), and optionally "state";
- `action_spec` (an `ActionSpec` or its JSON), `tasks`, and `instructions(task)`;
- `reset(seed=LAYOUT, options={"task": NAME})` gives the same picture for the same seed;
- `info["success"]` is True, False, or None where it is unknown; `info["progress"]` and `expert_action()` are optional.

A `GymnasiumConfig` describes any other environment. `envs.references` has the descriptions of other libraries.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, ClassVar

from gymnasium.vector import VectorEnv

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import to_dict
from worldgymnast.envs import making
from worldgymnast.envs.described import Facts, GymnasiumEnv, look_at, open_raw
from worldgymnast.envs.description import HORIZON, GymnasiumConfig, Make, check_raw
from worldgymnast.envs.layouts import PhotographsLayouts
from worldgymnast.envs.wrappers import vectorize
from worldgymnast.errors import InputError
from worldgymnast.protocols import ComponentInfo, RealEnvironment
from worldgymnast.tiling import Tiling
from worldgymnast.weights import fingerprint

_KNOWN: dict[str, Facts] = {}
"""Facts of environments that were looked at, by identity: commands ask for an environment several times."""


class Gymnasium(PhotographsLayouts):
    """Any Gymnasium environment as a `RealEnvironment`.

    The environment is opened once, at the first question about it.

    Args:
        config: the description.
        make: makes the environment, instead of the description; it must be importable, for rows in processes.

    >>> Gymnasium(GymnasiumConfig(id="CartPole-v1", instruction="keep the pole up")).config.name
    'gym:CartPole-v1'
    """

    config_type: ClassVar[type] = GymnasiumConfig

    def __init__(self, config: GymnasiumConfig | None = None, make: Make | None = None):
        self.config, self.make = config or GymnasiumConfig(), make
        self._facts: Facts | None = None if make else _KNOWN.get(self.identity)

    @classmethod
    def from_config(cls, config: GymnasiumConfig, info: ComponentInfo) -> Any:
        """Build the environment, and look at it once; a factory that returns a `RealEnvironment` is that one.

        Raises:
            InputError: the environment cannot be made, or something is missing.
        """
        del info
        env = cls.unopened(config)
        if isinstance(env, cls):
            _ = env.facts
        return env

    @classmethod
    def unopened(cls, config: GymnasiumConfig) -> Any:
        """The environment as in `from_config`, without a look at it."""
        if config.factory and not config.adapter:
            made = making.make_from_factory(config.factory, config.kwargs)
            if isinstance(made, RealEnvironment):
                return made
            check_raw(made, config.name)
            made.close()
        return cls(config)

    @property
    def identity(self) -> str:
        """Hash of the description."""
        make = self.make and f"{self.make.__module__}.{getattr(self.make, '__qualname__', type(self.make).__name__)}"
        return fingerprint(["Gymnasium", to_dict(self.config), make or ""])

    @property
    def facts(self) -> Facts:
        """What one look at the environment says.

        Raises:
            InputError: something is missing; the message says what.
        """
        if self._facts is None:
            raw = open_raw(self.config, self.make, next(iter(self.config.tasks), ""))
            try:
                self._facts = look_at(self.config, raw)
            finally:
                raw.close()
            if self.make is None:
                _KNOWN[self.identity] = self._facts
        return self._facts

    @property
    def action_spec(self) -> ActionSpec:
        """Action spec; its rate is the frames per second."""
        return self.facts.spec

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names."""
        return tuple(self.facts.sentences)

    @property
    def tiling(self) -> Tiling:
        """Cameras in the frame."""
        return self.facts.tiling

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Height and width of the frames per camera."""
        return {name: self.tiling[name].size for name in self.tiling.cameras}

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the numbers of proprioception."""
        size = self.facts.state_size
        return self.config.state_names or tuple(f"state{i}" for i in range(size))

    @property
    def horizon(self) -> int:
        """Actions in an episode."""
        return self.config.horizon or self.facts.limit or HORIZON

    @property
    def has_expert(self) -> bool:
        """Whether it has a scripted expert."""
        return self.facts.has_expert

    def instructions(self, task: str) -> tuple[str, ...]:
        """Sentences of a task, the instruction first."""
        if task not in self.facts.sentences:
            raise InputError(
                f"environment '{self.config.name}': task '{task}' is unknown, expected {', '.join(self.tasks)}"
            )
        return self.facts.sentences[task]

    def vector(self, rows: int, chunk: int, *, horizon: int, keyframes_only: bool = False) -> VectorEnv[Any, Any, Any]:
        """Vector environment with one process per row; see `envs.wrappers`."""
        config, every = replace(self.config, horizon=horizon), chunk if keyframes_only else 1
        return vectorize(functools.partial(GymnasiumEnv, config, self.facts, every, self.make), rows, chunk)

    def open(self) -> GymnasiumEnv:
        """Single environment, with the scripted expert if there is one."""
        return GymnasiumEnv(self.config, self.facts, make=self.make)
