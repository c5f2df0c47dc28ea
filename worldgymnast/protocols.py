"""What a policy, a world model, a judge, an editor and a rollout pool must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from worldgymnast.actions import ActionSpec
from worldgymnast.errors import InputError
from worldgymnast.types import (
    ActionChunk,
    Begin,
    Clip,
    Layout,
    Metrics,
    Observation,
    RolloutGroup,
    Start,
    Verdict,
    WorldState,
)


@runtime_checkable
class Component(Protocol):
    """What every policy, world model, judge and environment has."""

    @property
    def identity(self) -> str:
        """A short text that differs where the component would behave differently.

        It goes into a run's config, so a resumed run notices an exchanged component. `weights.identity` makes one of a
        module's weights.
        """
        ...


@dataclass(frozen=True)
class Stored:
    """What a component's file says beside its config and weights.

    Attributes:
        path: the file, for messages; "" where a component is made anew.
        action_spec: what the numbers of its actions mean, where it has any.
        fps: frames per second, of a world model.
        metadata: every other word in the file's header.
    """

    path: str = ""
    action_spec: ActionSpec | None = None
    fps: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> ActionSpec:
        """The action spec.

        Raises:
            InputError: the file has none.
        """
        if self.action_spec is None:
            raise InputError(
                f"{self.path or 'component'}: it has no action spec, which this kind needs; train it again"
            )
        return self.action_spec


@runtime_checkable
class Storable(Component, Protocol):
    """A component that can be saved as one file and rebuilt from it.

    Attributes:
        config_type: the dataclass of its config; the file holds it as JSON.
        config: its config.
    """

    config_type: ClassVar[type]
    config: Any

    @classmethod
    def from_stored(cls, config: Any, stored: Stored) -> Any:
        """The component with fresh weights; the file's are loaded into it afterwards."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Copy weights into it."""
        ...


@runtime_checkable
class Actor(Protocol):
    """Observations in, chunks of actions out: all that a rollout needs.

    Attributes:
        action_spec: what its actions mean.
        chunk: actions a look, k.
        needs: parts of an observation beside the instruction that it reads: "image", or its cameras, and "state".
        cameras: names of the images it reads.
    """

    action_spec: ActionSpec
    needs: frozenset[str]

    @property
    def chunk(self) -> int:
        """Actions a look, k."""
        ...

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the images that it reads."""
        ...

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Sample a chunk for every row of `obs`; temperature 0 is greedy. Log-probabilities are detached."""
        ...


@runtime_checkable
class Policy(Actor, Component, Protocol):
    """An actor that reinforcement learning can train."""

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Float[Tensor, "b ..."]:
        """Log-probabilities of `chunk.sample` at `chunk.temperature`, by the same path as `act`, differentiable.

        With the weights that acted they equal `chunk.logprobs`: the ratio is 1 before the first update.
        """
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """What an optimizer changes: those that require a gradient."""
        ...

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors that training changes, not copied: all weights, or adapters alone."""
        ...

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a `trainable_state` into this policy."""
        ...


@runtime_checkable
class ImitablePolicy(Policy, Protocol):
    """A policy that can be trained by imitation."""

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """The imitation loss of a batch."""
        ...


@runtime_checkable
class TrainablePolicy(ImitablePolicy, Storable, Protocol):
    """A policy that `training.policy` makes and saves."""


@runtime_checkable
class WorldModel(Component, Protocol):
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
class TrainableWorld(WorldModel, Storable, Protocol):
    """A world model over the latents of an autoencoder, which `training.world` makes and saves.

    Attributes:
        autoencoder: codes frames; a module.
    """

    autoencoder: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """The loss of a batch of clips."""
        ...


@runtime_checkable
class RoundTrip(Protocol):
    """What a world model may also be able to do: show real frames as it would if its dynamics were perfect."""

    def round_trip(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Encodes and decodes real clips, whose first frame is the start."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A world model that sees frames through an encoding of its own."""

    def reconstruct(self, frames: UInt8[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
        """What the encoding keeps of frames: encoded and decoded one by one."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """What a world model may know beside the next frames."""

    def foreseen(self, state: WorldState, instruction: Sequence[str]) -> Float[Tensor, " b"] | None:
        """How likely it is that what `instruction` asks for is done at the newest frame; None if it cannot say."""
        ...


@runtime_checkable
class Judge(Component, Protocol):
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
class Cancelable(Protocol):
    """A judge whose questions under way can be given up."""

    def cancel(self) -> None:
        """Ask nothing more; questions under way are not waited for."""
        ...


@runtime_checkable
class TrainableJudge(Judge, Storable, Protocol):
    """A judge that `training.judge` makes, calibrates and saves.

    Attributes:
        threshold: of its belief in success, a tensor without dimensions.
    """

    threshold: Tensor

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """The loss of a batch of labeled pairs of frames."""
        ...


@runtime_checkable
class ChecksTasks(Protocol):
    """A judge that can say beforehand what it cannot judge."""

    def check(self, asked: Iterable[tuple[str, str]]) -> None:
        """Raise InputError where it cannot judge one of these tasks and instructions."""
        ...


@runtime_checkable
class RealEnvironment(Component, Protocol):
    """The robot and its scenes, or what stands in for them."""

    @property
    def action_spec(self) -> ActionSpec:
        """What the numbers of its actions mean; its `rate` is the frames per second."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """Names of its tasks."""
        ...

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Height and width of the frames of each camera."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in an episode."""
        ...

    def instructions(self, task: str) -> Sequence[str]:
        """The sentences of a task; the first is its instruction, the others are paraphrases."""
        ...

    def layouts(self, per_task: int, first: int) -> list[Layout]:
        """Consecutive layouts of every task, the first with seed `first`, with the task's instruction."""
        ...

    def photograph(self, layouts: Sequence[Layout]) -> list[Start]:
        """What is seen in each layout before any action."""
        ...

    def vector(self, rows: int, chunk: int, *, horizon: int, keyframes_only: bool = False) -> VectorEnv[Any, Any, Any]:
        """That many rows of it side by side, as `envs.wrappers` describes them.

        Args:
            rows: how many.
            chunk: actions a look.
            horizon: actions in an episode.
            keyframes_only: render the frames at looks alone.
        """
        ...


@runtime_checkable
class Demonstrates(RealEnvironment, Protocol):
    """A real environment with scripted experts."""

    def open(self) -> ScriptedEnv:
        """One row of it, action by action."""
        ...


@runtime_checkable
class ScriptedEnv(Protocol):
    """One row of a real environment, and what an expert would do in it.

    `reset(seed=LAYOUT, options={"task": NAME})` and `step(action)` are Gymnasium's, with `observation["image"]` and
    `info["success"]`.
    """

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Build the scene."""
        ...

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Execute one action."""
        ...

    def expert_action(self) -> np.ndarray:
        """What an expert would do now, float [a]."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@runtime_checkable
class StartSampler(Protocol):
    """Draws what a step of reinforcement learning starts from."""

    @property
    def identity(self) -> str:
        """A short text that differs where other starts would be drawn."""
        ...

    def __call__(self, rng: np.random.Generator, count: int) -> Sequence[Begin]:
        """Draw that many starts."""
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

    def begin(self, starts: Sequence[Begin], group_size: int) -> Callable[[], list[RolloutGroup]]:
        """Rolls every start out `group_size` times with the newest synced weights.

        What it returns gives the groups, and waits for verdicts where it must; until then others can be begun.
        """
        ...

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Makes `weights` the policy that acts from now on."""
        ...
