"""Surrogates of the real robot: a world model with a judge, or a simulator.

Both are rolled out in the same way, from the same starts, and the same loop trains in them. So a comparison of the two
differs in nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import UInt8
from typing_extensions import Protocol, runtime_checkable

from worldgymnast.actions import ActionSpec
from worldgymnast.arguments import require_members, require_type
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.progress import Progress
from worldgymnast.protocols import Actor, Judge, WorldModel
from worldgymnast.rl.judging import EnvironmentVerdicts, JudgeVerdicts
from worldgymnast.rl.rollout import batches, executed_per_look
from worldgymnast.types import Rollout, RolloutGroup, Start, StartOrLayout, Verdict
from worldgymnast.weights import identity


@runtime_checkable
class Surrogate(Protocol):
    """Stands in for the real robot."""

    @property
    def action_spec(self) -> ActionSpec:
        """Meaning of its actions."""
        ...

    @property
    def verdict_source(self) -> JudgeVerdicts | EnvironmentVerdicts:
        """Source of the verdicts on its rollouts."""
        ...

    def inputs(self) -> dict[str, Any]:
        """Return what identifies it in a run's config.json."""
        ...

    def __call__(self, rows: int, generator: torch.Generator) -> VectorEnv[Any, Any, Any]:
        """Make an environment of at most `rows` rows, drawing from `generator`, without verdicts of its own."""
        ...

    def keyframes_only(self) -> Surrogate:
        """Return a copy that renders only the frames that the policy and the judge see, one per action chunk."""
        ...

    def assign_rewards(self, group: RolloutGroup) -> RolloutGroup:
        """Return the group with the rewards to learn from, where these are not the verdicts."""
        ...

    def cancel(self) -> None:
        """Cancel pending judge requests after a failure."""
        ...

    def close(self) -> None:
        """Free resources; a later call acquires them again."""
        ...


@runtime_checkable
class ImaginedSurrogate(Surrogate, Protocol):
    """A surrogate that consists of a world model and a judge."""

    @property
    def world(self) -> WorldModel:
        """The world model."""
        ...

    @property
    def judge(self) -> Judge:
        """The judge of its rollouts."""
        ...

    @property
    def chunk(self) -> int:
        """Actions per look."""
        ...


@dataclass(frozen=True)
class Imagination:
    """Imagined environments of one world model, with the judge of their rollouts.

    Attributes:
        world: the world model.
        judge: the judge.
        chunk: actions executed per look.
        horizon: actions per rollout.
        every: decode only the last of each `every` frames, see `ImaginedVectorEnv`.
    """

    world: WorldModel
    judge: Judge
    chunk: int
    horizon: int
    every: int = 1

    def __post_init__(self) -> None:
        require_members(self.world, WorldModel, "world")
        require_members(self.judge, Judge, "judge")

    @classmethod
    def of(
        cls, policy: Actor, world: WorldModel, judge: Judge, horizon: int, execute: int | None = None
    ) -> Imagination:
        """Make an imagination for `policy`, which executes its whole chunks, or their first `execute` actions."""
        return cls(world, judge, executed_per_look(policy, execute), horizon)

    def __call__(self, rows: int, generator: torch.Generator) -> VectorEnv[Any, Any, Any]:
        """Make an imagined environment of `rows` rows."""
        return ImaginedVectorEnv(
            self.world,
            None,
            rows=rows,
            chunk=self.chunk,
            horizon=self.horizon,
            generator=generator,
            every=self.every,
        )

    @property
    def verdict_source(self) -> JudgeVerdicts:
        """Source of verdicts: the judge."""
        return self._verdict_source

    @functools.cached_property
    def _verdict_source(self) -> JudgeVerdicts:
        return JudgeVerdicts(self.judge, self.chunk)

    @property
    def action_spec(self) -> ActionSpec:
        """Meaning of the world model's actions."""
        return self.world.action_spec

    def inputs(self) -> dict[str, Any]:
        """Return the identities of the world model and the judge."""
        return {"world": identity(self.world), "judge": identity(self.judge)}

    def keyframes_only(self) -> Imagination:
        """Return a copy that decodes one frame per action chunk."""
        return replace(self, every=self.chunk)

    def assign_rewards(self, group: RolloutGroup) -> RolloutGroup:
        """Return the group unchanged; verdicts are the rewards."""
        return group

    def cancel(self) -> None:
        """Cancel pending judge requests."""
        self.verdict_source.cancel()

    def close(self) -> None:
        """Do nothing; there is nothing to free."""


def score_in(
    surrogate: Surrogate,
    policy: Actor,
    starts: Sequence[StartOrLayout],
    *,
    rows: int,
    temperature: float,
    seed: int,
    label: str = "",
) -> list[Rollout]:
    """Roll out `policy` in a surrogate, and judge the rollouts.

    Args:
        surrogate: where to roll out.
        policy: acts.
        starts: where the rollouts begin.
        rows: most parallel rollouts.
        temperature: of sampling; 0 is greedy.
        seed: of every draw.
        label: text of a progress bar; "" shows none.
    """
    generator = torch.Generator().manual_seed(seed)
    env = surrogate(min(len(starts), rows), generator)
    pending: list[Callable[[], list[Rollout]]] = []
    with Progress(label, len(starts)) if label else nullcontext() as progress:
        for batch in batches(env, policy, starts, temperature=temperature, generator=generator):
            pending.append(surrogate.verdict_source.begin(batch))
            if progress is not None:
                progress.advance(len(batch))
        return [rollout for batch in pending for rollout in batch()]


def imagine(
    policy: Actor, world: WorldModel, start: Start, horizon: int = 24, seed: int = 0
) -> UInt8[np.ndarray, "t h w 3"]:
    """Imagine one rollout; returns frames uint8 [horizon + 1, h, w, 3], the start's frame first.

    Args:
        policy: the policy, at temperature 0.
        world: the world model.
        start: the start.
        horizon: actions in the rollout.
        seed: random seed of the world model.

    >>> import numpy as np, worldgymnast as wg
    >>> scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door")
    >>> wg.imagine(wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world")), scene, 4).shape
    (5, 64, 64, 3)
    """
    require_members(policy, Actor, "policy")
    require_type(start, Start, "start", "Give its frame and instruction")
    unjudged = Imagination(world, _Silent(), policy.chunk, horizon)
    return score_in(unjudged, policy, [start], rows=1, temperature=0.0, seed=seed)[0].frames


class _Silent:
    """Judge without verdicts."""

    name = identity = "silent"
    is_remote = False

    def score(self, clips: Sequence[Any]) -> list[Any]:
        """One verdict without a score per clip."""
        return [Verdict(None, error="not judged") for _ in clips]
