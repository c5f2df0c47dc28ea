"""Interfaces of policies, world models, judges, environments, editors and rollout pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from typing_extensions import Protocol, runtime_checkable

from worldgymnast.actions import ActionSpec
from worldgymnast.errors import InputError
from worldgymnast.tiling import Tiling
from worldgymnast.types import (
    ActionChunk,
    Clip,
    Layout,
    Metrics,
    Observation,
    RolloutGroup,
    Start,
    StartOrLayout,
    Verdict,
    WorldState,
)


@runtime_checkable
class Component(Protocol):
    """Common member of every policy, world model, judge and environment."""

    @property
    def identity(self) -> str:
        """Short text that differs between components with different behavior.

        It is part of a run's config, so a resumed run detects an exchanged component. `weights.module_identity` is the
        identity of a module's weights.
        """
        ...


@dataclass(frozen=True)
class ComponentInfo:
    """Content of a component's file apart from config and weights.

    Attributes:
        path: the file, for messages; "" for a new component.
        action_spec: meaning of the action numbers; None if the component has no actions.
        fps: frames per second of a world model.
        metadata: all entries of the file's header.
        tiling: where each camera lies in the component's frames; None if unknown.
    """

    path: str = ""
    action_spec: ActionSpec | None = None
    fps: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tiling: Tiling | None = None

    @property
    def spec(self) -> ActionSpec:
        """Action spec.

        Raises:
            InputError: the file has none.
        """
        if self.action_spec is None:
            raise InputError(
                f"{self.path or 'component'}: found no action spec, which this kind needs. Train the component again"
            )
        return self.action_spec


@runtime_checkable
class Storable(Component, Protocol):
    """Component that can be saved as one file and rebuilt from it.

    Attributes:
        config_type: dataclass of the config, which the file stores as JSON.
        config: the config.
    """

    config_type: ClassVar[type]
    config: Any

    @classmethod
    def from_config(cls, config: Any, info: ComponentInfo) -> Any:
        """Build the component with fresh weights.

        Those of the file are loaded afterwards.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All weights by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Copy weights into the component."""
        ...


@runtime_checkable
class Fillable(Protocol):
    """Storable component so large that its weights are not initialized before they are loaded."""

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Use `tensors` as the weights of a component that was built on the "meta" device.

        Afterwards no tensor is on that device.
        """
        ...


@runtime_checkable
class Exports(Protocol):
    """Policy that can be written in the layout in which its base was published, for the project that it came from."""

    def export(self, base: str, out: Path, *, adapter_only: bool = False) -> Sequence[str]:
        """Write the files of a checkpoint.

        Args:
            base: folder, hub name or description (policy.json) of the checkpoint that the policy began with.
            out: an empty folder. It is renamed afterwards, so no file may contain its path.
            adapter_only: write only what was trained beside the base's weights, which stay where they are.

        Returns:
            Notes for the user, one line each.

        Raises:
            InputError: the base is another policy's, or there is no adapter to write alone.
        """
        ...


@runtime_checkable
class Actor(Protocol):
    """Observations in, chunks of actions out: the interface that a rollout needs.

    Attributes:
        action_spec: meaning of the action numbers.
        chunk: actions per look, k.
        needs: parts of an observation that it reads apart from the instruction: "image" or its cameras, and "state".
        cameras: names of the images that it reads.
    """

    action_spec: ActionSpec
    needs: frozenset[str]

    @property
    def chunk(self) -> int:
        """Actions per look, k."""
        ...

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the images that the actor reads."""
        ...

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        """Sample a chunk per row of `obs`.

        Temperature 0 is greedy. All tensors are detached.
        """
        ...


@runtime_checkable
class Policy(Actor, Component, Protocol):
    """Actor that reinforcement learning can train."""

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Float[Tensor, "b ..."]:
        """Differentiable log-probabilities of `chunk.sample` at `chunk.temperature`.

        With the weights that sampled the chunk they equal `chunk.logprobs`: the ratio is 1 before the first update.
        Shapes [b k] and [b ... k a] are per action; where only a part of a chunk is executed, the rest of them gets no
        gradient. `chunk.actions` may then be shorter than the sample.
        """
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """All parameters; the optimizer updates those that require a gradient."""
        ...

    def trainable_state(self) -> dict[str, Tensor]:
        """Tensors that training changes, without copying: all weights, or only adapters."""
        ...

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a `trainable_state` into the policy."""
        ...


@runtime_checkable
class ImitablePolicy(Policy, Protocol):
    """Policy that can be trained by imitation."""

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """Imitation loss and metrics of a batch."""
        ...


class TrainablePolicy(ImitablePolicy, Storable, Protocol):
    """Policy that `training.policy` builds and saves."""


@runtime_checkable
class WorldModel(Component, Protocol):
    """Frames and actions in, the next frames out."""

    action_spec: ActionSpec
    fps: float

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        ...

    def start(self, frames: UInt8[Tensor, "b h w 3"]) -> WorldState:
        """State whose current frames are `frames`."""
        ...

    def step(
        self, state: WorldState, actions: Float[Tensor, "b k a"], *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, UInt8[Tensor, "b n h w 3"]]:
        """Imagine one frame per action.

        Returns n = k / `every` of them, the last of each `every`.
        """
        ...


class TrainableWorld(WorldModel, Storable, Protocol):
    """World model in the latent space of an autoencoder, built and saved by `training.world`.

    Attributes:
        autoencoder: module that encodes and decodes frames.
    """

    autoencoder: Any

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """Loss and metrics of a batch of clips."""
        ...


@runtime_checkable
class RoundTrip(Protocol):
    """World model that can render real frames as with perfect dynamics."""

    def round_trip(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Encode and decode real clips whose first frame is the start."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """World model with a frame encoder and decoder."""

    def reconstruct(self, frames: UInt8[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
        """Encode and decode frames one by one."""
        ...


@runtime_checkable
class PredictsSuccess(Protocol):
    """World model that also predicts success."""

    def predict_success(self, state: WorldState, instruction: Sequence[str]) -> Float[Tensor, " b"] | None:
        """Probability that the task of `instruction` is done at the newest frame.

        None if unavailable.
        """
        ...


@runtime_checkable
class PredictsState(Protocol):
    """World model that also predicts the robot's state, for policies that read it."""

    @property
    def state_dim(self) -> int:
        """Numbers in a state; 0 if this model predicts none."""
        ...

    def start(self, frames: UInt8[Tensor, "b h w 3"], state: Float[Tensor, "b s"] | None = None) -> WorldState:
        """State whose current frames are `frames`.

        `state` is the robot's state in them, NaN where it is unknown; None if all are.
        """
        ...

    def predict_state(self, state: WorldState) -> Float[Tensor, "b s"] | None:
        """The robot's state at the newest frame, in the units of the data.

        At the start it is the given one. None if unavailable.
        """
        ...


@runtime_checkable
class AddsState(Protocol):
    """Policy to which the robot's state can be added as an input after its training."""

    def with_state(self, state: Float[np.ndarray, "n s"]) -> Policy:
        """Copy that also reads the state, and acts as before until it is trained.

        Args:
            state: recorded states, whose mean and deviation normalize the input.
        """
        ...


def predicts_state(world: object) -> bool:
    """Whether a world model predicts the robot's state."""
    return isinstance(world, PredictsState) and world.state_dim > 0


def start_at(
    world: WorldModel, frames: UInt8[Tensor, "b h w 3"], state: Float[Tensor, "b s"] | None = None
) -> WorldState:
    """State of a world model at these frames, with the robot's state in them if the world model predicts it.

    Args:
        world: the world model; one that does not predict the state does without it.
        frames: the start frames.
        state: the robot's state in them, NaN where it is unknown; None if all are. The world model estimates it there.

    Raises:
        InputError: the state has another width than the world model predicts.
    """
    if state is None or not isinstance(world, PredictsState) or not predicts_state(world):
        return world.start(frames)
    require_state_dim(world, state.shape[1], "robot's state")
    robot: Any = world  # pyright takes `start` of WorldModel, the first of its two Protocols
    return robot.start(frames, state)


def require_state_dim(world: PredictsState, found: int, name: str) -> None:
    """Raise InputError unless a state has the world model's width."""
    if found != world.state_dim:
        raise InputError(
            f"{name}: state has {found} numbers, but the world model predicts {world.state_dim}. Give data and starts "
            "of the robot that it was trained on"
        )


@runtime_checkable
class Judge(Component, Protocol):
    """Clips in, verdicts out."""

    @property
    def name(self) -> str:
        """Name of the model and version of its prompt or input."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether scoring waits for a server.

        Then it overlaps with the next rollouts.
        """
        ...

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip, in order.

        `score` is None if the judge failed.
        """
        ...


@runtime_checkable
class Cancelable(Protocol):
    """Judge whose pending requests can be canceled."""

    def cancel(self) -> None:
        """Cancel pending requests without waiting for those in flight."""
        ...


class TrainableJudge(Judge, Storable, Protocol):
    """Judge that `training.judge` builds, calibrates and saves.

    Attributes:
        threshold: threshold of the success probability, a scalar tensor.
    """

    threshold: Tensor

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """Loss and metrics of a batch of labeled frame pairs."""
        ...


@runtime_checkable
class ChecksTasks(Protocol):
    """Judge with a preflight check."""

    def check(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Raise InputError if one of these (task, instruction) pairs cannot be judged."""
        ...


@runtime_checkable
class RealEnvironment(Component, Protocol):
    """The robot and its scenes, or a replacement of them."""

    @property
    def action_spec(self) -> ActionSpec:
        """Meaning of the action numbers; its `rate` is the frames per second."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the tasks."""
        ...

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """Height and width of the frames per camera."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in an episode."""
        ...

    def instructions(self, task: str) -> Sequence[str]:
        """Sentences of a task: its instruction, then paraphrases."""
        ...

    def layouts(self, per_task: int, first: int) -> list[Layout]:
        """`per_task` layouts of every task, with consecutive seeds from `first`."""
        ...

    def photograph(self, layouts: Sequence[Layout]) -> list[Start]:
        """Starts with the frame of each layout before any action."""
        ...

    def vector(self, rows: int, chunk: int, *, horizon: int, keyframes_only: bool = False) -> VectorEnv[Any, Any, Any]:
        """Vector environment with the interface of `envs.wrappers`.

        Args:
            rows: number of parallel episodes.
            chunk: actions executed per look.
            horizon: actions in an episode.
            keyframes_only: render only the frames at looks.
        """
        ...


@runtime_checkable
class HasTiling(Protocol):
    """Environment, vector environment or world model whose frame has several named cameras.

    Without this member the frame is one camera named "image".
    """

    @property
    def tiling(self) -> Tiling | None:
        """Where each camera lies in the frame; None for a frame of one camera."""
        ...


def tiling_of(component: object) -> Tiling | None:
    """Tiling of a component's frames; None if it names no cameras."""
    return component.tiling if isinstance(component, HasTiling) else None


@runtime_checkable
class Demonstrates(RealEnvironment, Protocol):
    """Real environment with scripted experts."""

    def open(self) -> ScriptedEnv:
        """Single environment that executes actions one by one."""
        ...


@runtime_checkable
class KeepsLayouts(Protocol):
    """Real environment of a benchmark with standard layouts, which recordings leave out."""

    @property
    def scoring_layouts(self) -> range:
        """Layouts of each task for scores during training."""
        ...

    @property
    def evaluation_layouts(self) -> range:
        """Layouts of each task for the final evaluation alone."""
        ...


@runtime_checkable
class ScriptedEnv(Protocol):
    """Single environment with a scripted expert.

    `reset(seed=LAYOUT, options={"task": NAME})` and `step(action)` are Gymnasium's, with `observation["image"]` and
    `info["success"]`.
    """

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset the scene to a layout."""
        ...

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Execute one action."""
        ...

    def expert_action(self) -> np.ndarray:
        """Action of the expert, float [a]."""
        ...

    def close(self) -> None:
        """Free all resources."""
        ...


@runtime_checkable
class StartSampler(Protocol):
    """Source of the starts of each step of reinforcement learning."""

    @property
    def identity(self) -> str:
        """Short text that differs between samplers with different starts."""
        ...

    def __call__(self, rng: np.random.Generator, count: int) -> Sequence[StartOrLayout]:
        """Sample `count` starts."""
        ...


@runtime_checkable
class Editor(Protocol):
    """Frames in, the same frames with distractors out: objects unrelated to the task."""

    @property
    def name(self) -> str:
        """Name of the editor, for messages."""
        ...

    @property
    def clips(self) -> bool:
        """Whether it edits all frames of an episode consistently.

        Otherwise t must be 1.
        """
        ...

    def edit(
        self, frames: UInt8[np.ndarray, "t h w 3"], instruction: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Add the same objects to every frame of one scene; sizes stay."""
        ...


@runtime_checkable
class RolloutPool(Protocol):
    """Collector of rollout groups, in this process or on other machines."""

    def begin(self, starts: Sequence[StartOrLayout], group_size: int) -> Callable[[], list[RolloutGroup]]:
        """Roll out every start `group_size` times with the newest synced weights.

        Returns a function that waits for the verdicts and returns the groups. Other rollouts can begin before it is
        called.
        """
        ...

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Set the weights and version of the acting policy."""
        ...


@runtime_checkable
class FillingPool(RolloutPool, Protocol):
    """Pool that replaces groups while others are still rolled out."""

    def begin_filled(
        self,
        starts: Sequence[StartOrLayout],
        group_size: int,
        replace: Callable[[RolloutGroup], Sequence[StartOrLayout]],
    ) -> Callable[[], list[RolloutGroup]]:
        """Begin like `begin`, and ask `replace` about every group as it is judged.

        The starts that it returns are rolled out as well, with the same weights, and its answers on them likewise. The
        returned function calls it, and returns all groups in the order in which their starts were drawn. So the result
        does not depend on the order in which groups arrive, if the starts do not depend on the group.
        """
        ...


@runtime_checkable
class MeasuredPool(RolloutPool, Protocol):
    """Pool with counts for the log."""

    def metrics(self) -> Metrics:
        """Counts by name, such as "pool/restarts"."""
        ...


@runtime_checkable
class StatusPool(RolloutPool, Protocol):
    """Pool that can say what it waits for."""

    def status(self) -> str:
        """What is under way, such as "2 groups in rollout, 14 queued"; "" if nothing is."""
        ...


def frame_size(env: RealEnvironment) -> tuple[int, int]:
    """Height and width of an environment's frames, in which all its cameras lie."""
    tiling = env.tiling if isinstance(env, HasTiling) else None
    return next(iter(env.cameras.values())) if tiling is None else tiling.size
