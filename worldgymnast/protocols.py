"""What a policy, a world model, a judge, an editor and a rollout pool must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.types import ActionChunk, Clip, Metrics, Observation, RolloutGroup, Start, Verdict, WorldState


@runtime_checkable
class Policy(Protocol):
    """Image and instruction in, a chunk of action tokens out."""

    action_spec: ActionSpec
    needs: frozenset[str]

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Samples a chunk for every row of `obs`; temperature 0 is greedy."""
        ...

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Float[Tensor, "b k a"]:
        """Log-probabilities of `chunk.tokens` at `chunk.temperature`, by the same path as `act`, differentiable."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """The imitation loss of a batch."""
        ...


@runtime_checkable
class WorldModel(Protocol):
    """Frames and actions in, the next frames out."""

    action_spec: ActionSpec
    fps: float

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of its frames."""
        ...

    def start(self, frames: UInt8[Tensor, "b h w 3"]) -> WorldState:
        """The state in which `frames` are what is seen now."""
        ...

    def step(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, UInt8[Tensor, "b n h w 3"]]:
        """Imagines one frame per action; n = k / `every` of them are shown, the last of each `every`."""
        ...


@runtime_checkable
class RoundTrip(Protocol):
    """What a world model may also be able to do: show real frames as it would if its dynamics were perfect."""

    def round_trip(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Encodes and decodes real clips, whose first frame is the start."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """What a world model may know beside the next frames."""

    def foreseen(self, state: WorldState, instruction: Sequence[str]) -> Float[Tensor, " b"] | None:
        """How likely it is that what `instruction` asks for is done at the newest frame; None if it cannot say."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Clips in, verdicts out."""

    @property
    def name(self) -> str:
        """The judge's model and the version of its prompt or input."""
        ...

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer from elsewhere; then it is asked while the next rollouts are imagined."""
        ...

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip; `score` is None where the judge itself failed."""
        ...


@runtime_checkable
class Editor(Protocol):
    """Frames in, the same frames with distractors in them out: objects that have nothing to do with the task."""

    @property
    def name(self) -> str:
        """What edits."""
        ...

    @property
    def clips(self) -> bool:
        """Whether it can edit several frames of one episode alike; otherwise t is 1."""
        ...

    def edit(
        self, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """The same frames of one scene, of the same size, with the same new objects in each."""
        ...


@runtime_checkable
class RolloutPool(Protocol):
    """Whoever collects groups of rollouts, here or on other machines."""

    def begin(self, starts: Sequence[Start], group_size: int) -> Callable[[], list[RolloutGroup]]:
        """Rolls every start out `group_size` times with the newest synced weights.

        What it returns gives the groups, and waits for verdicts where it must; until then others can be begun.
        """
        ...

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Makes `weights` the policy that acts from now on."""
        ...
