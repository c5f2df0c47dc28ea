"""The nouns of the method and the three Protocols everything else is written against.

Axis letters, used in every shape string of the project:
`b` batch, `t` time, `k` chunk (actions emitted per look), `h` height, `w` width, `c` channels, `a` action axes.
`T` actions always come with `T + 1` frames. Frames are uint8 RGB at every boundary; floats live inside models only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.streams import visibly

Metrics = dict[str, float]


MOST_WIDE = 2**16
"""Largest width of a layer: the sizes of a model are checked before it is made."""
MOST_LAYERS = 1024
"""Most layers of a model."""
LARGEST_SEED = 2**32 - 1
"""Seeds are multiplied and added to; from here the result still fits a generator's 64 bits."""
_LARGEST = 2**63 - 1


def in_range(config: object, low: float, *names: str, high: float = math.inf) -> None:
    """Raises `InputError` where a named field of `config` (or an entry of it) lies outside low..high, or is no number.

    For the `__post_init__` of a config, so that a wrong number is refused before anything is written. A number is
    finite, an integer fits 64 bits, and a seed is at most `LARGEST_SEED`.
    """
    for name in names:
        value = getattr(config, name)
        most = min(high, LARGEST_SEED) if name in ("seed", "seeds") else high
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= min(most, _LARGEST):
                expected = f"at least {low:g}" if math.isinf(most) else f"{low:g} to {most:.10g}"
                expected += " and finite" if number == math.inf else ""
                found = number if isinstance(number, float) or abs(number) <= _LARGEST else "a number beyond 64 bits"
                raise InputError(f"field '{name}' of {type(config).__name__}: found {found}, expected {expected}")


def each_once(config: object, *names: str) -> None:
    """Raises `InputError` where a named field of `config` has an entry twice."""
    for name in names:
        value = getattr(config, name)
        if twice := [entry for i, entry in enumerate(value) if entry in value[:i]]:
            raise InputError(f"field '{name}' of {type(config).__name__}: found {twice[0]} twice, expected each once")


class InputError(ValueError):
    """The user's input is wrong. The message is one line: where, which field, found, expected, what to do.

    The command line prints it without a traceback and exits with code 2. What is quoted in it from a file or a server
    is shown with control characters escaped.
    """

    def __str__(self) -> str:
        return visibly(super().__str__())


class Paused(InputError):
    """A run cannot go on now, and can later: what it has is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one look.

    Attributes:
        image: uint8 [b h w 3], the newest frame.
        instruction: b sentences.
        state: float32 [b s], proprioception, or None where the policy does not need it.
        first: uint8 [b h w 3], the first frame of the episode, for whoever plans; or None.
    """

    image: UInt8[Tensor, "b h w 3"]
    instruction: Sequence[str]
    state: Float[Tensor, "b s"] | None = None
    first: UInt8[Tensor, "b h w 3"] | None = None


@dataclass(frozen=True)
class ActionChunk:
    """What a policy answers to one look.

    Attributes:
        actions: float32 [b k a] in the units of the policy's `ActionSpec`.
        tokens: int64 [b k a], the sampled vocabulary entries.
        logprobs: float32 [b k a], log-probability of each token at the temperature it was sampled with.
        temperature: that temperature; 0 means greedy, and then `logprobs` are those at temperature 1.
    """

    actions: Float[Tensor, "b k a"]
    tokens: Int[Tensor, "b k a"]
    logprobs: Float[Tensor, "b k a"]
    temperature: float


@dataclass(frozen=True)
class Start:
    """One frame and one sentence: all that is needed to train on a scene.

    Attributes:
        frame: uint8 [h w 3].
        instruction: the sentence.
        task: name used to group results; free text.
        layout: what recreates the same scene in the real environment (there: its seed), or None where only the
            picture exists (a photograph, or a frame from the middle of an episode).
    """

    frame: UInt8[np.ndarray, "h w 3"]
    instruction: str
    task: str = ""
    layout: int | None = None


@dataclass(frozen=True)
class Episode:
    """A logged rollout on the real robot.

    Attributes:
        frames: uint8 [T+1 h w 3].
        actions: float32 [T a] in the units of `spec`.
        instruction: the sentence.
        task: name of the task, or "".
        fps: frames per second of robot time.
        spec: what the action numbers mean.
        success: bool [T+1], whether the task was accomplished at that frame; None where nobody labelled it.
        source: how it came about: "expert", "noisy", "play", "policy@TEMPERATURE", or a data set's name.
        layout: the seed of its scene in the real environment, or None.
        camera: name of the camera that took `frames`, such as "observation.images.top", or "".
        cameras: frames uint8 [T+1 h w 3] of the other cameras by name; sizes may differ between cameras.
        state: float32 [T+1 s], proprioception at each frame, or None.
        state_names: one name for each of the s numbers, or empty.
        last_action: float32 [a], the action recorded at the last frame, whose outcome no frame shows; or None.
        robot: the robot's type, such as "so101_follower", or "".
    """

    frames: UInt8[np.ndarray, "t1 h w 3"]
    actions: Float[np.ndarray, "t a"]
    instruction: str
    task: str
    fps: float
    spec: ActionSpec
    success: np.ndarray | None = None
    source: str = ""
    layout: int | None = None
    camera: str = ""
    cameras: Mapping[str, np.ndarray] = field(default_factory=dict)
    state: np.ndarray | None = None
    state_names: tuple[str, ...] = ()
    last_action: np.ndarray | None = None
    robot: str = ""

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.actions) + 1:
            raise InputError(
                f"episode of task '{self.task}': {len(self.frames)} frames and {len(self.actions)} actions; "
                "expected one frame more than actions"
            )
        if self.success is not None and len(self.success) != len(self.frames):
            raise InputError(
                f"episode of task '{self.task}': field 'success' has {len(self.success)} labels, expected "
                f"{len(self.frames)}, one a frame"
            )
        if self.actions.shape[-1] != self.spec.dim:
            raise InputError(
                f"episode of task '{self.task}': field 'actions' is {self.actions.shape[-1]} wide, "
                f"expected {self.spec.dim} ({self.spec})"
            )
        self._check_extras()

    def _check_extras(self) -> None:
        """Raise InputError where a camera, the state or the last action does not fit the frames and actions."""
        rows = {f"cameras['{name}']": len(frames) for name, frames in self.cameras.items()}
        if self.state is not None:
            rows["state"] = len(self.state)
        for name, found in rows.items():
            if found != len(self.frames):
                raise InputError(
                    f"episode of task '{self.task}': field '{name}' has {found} rows, expected {len(self.frames)}, "
                    "one a frame"
                )
        if self.last_action is not None and self.last_action.shape != (self.spec.dim,):
            raise InputError(
                f"episode of task '{self.task}': field 'last_action' has shape {list(self.last_action.shape)}, "
                f"expected [{self.spec.dim}]"
            )

    @property
    def succeeded(self) -> bool | None:
        """Whether the task was accomplished at any frame; None where unlabelled."""
        return None if self.success is None else bool(np.any(self.success))

    def start(self, index: int = 0) -> Start:
        """The start at frame `index`; only the first frame keeps its layout."""
        return Start(self.frames[index], self.instruction, self.task, self.layout if index == 0 else None)


@dataclass(frozen=True)
class Verdict:
    """A judge's answer about one clip.

    Attributes:
        score: in [0, 1] after the judge's own threshold, 1 for success, less for a part of it; None where the judge
            itself failed.
        probability: the judge's belief in success in [0, 1], or None where it gives none.
        success_frame: index of the first frame it holds for a success, or None.
        error: why `score` is None.
        cost: what was paid for it, in the currency of the judge's prices; 0 where nothing is.
    """

    score: float | None
    probability: float | None = None
    success_frame: int | None = None
    error: str | None = None
    cost: float = 0.0

    @property
    def succeeded(self) -> bool | None:
        """Whether the score is a success; None where the judge failed, which is no failure of the policy."""
        return None if self.score is None else self.score >= 1


@dataclass(frozen=True)
class Clip:
    """What a judge looks at.

    Attributes:
        frames: uint8 [t h w 3].
        instruction: the sentence.
        task: name of the task, or ""; for thresholds and criteria of its own.
        imagined: whether a world model made the frames, which a judge may be less sure of.
        foreseen: float [t], how likely the world model itself holds success at each of them; None where it is silent.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    instruction: str
    task: str = ""
    imagined: bool = False
    foreseen: Float[np.ndarray, " t"] | None = None

    def until(self, frames: int) -> Clip:
        """Its first `frames` frames."""
        foreseen = None if self.foreseen is None else self.foreseen[:frames]
        return replace(self, frames=self.frames[:frames], foreseen=foreseen)


@dataclass(frozen=True)
class Rollout:
    """One closed-loop run of a policy in an environment, real or imagined, of n looks.

    Attributes:
        start: where it began.
        images: uint8 [n h w 3], the frame at each look.
        chunks: tokens, actions and log-probabilities [n k a] of each look, as sampled.
        frames: uint8 [t h w 3], every frame that was decoded, the first one included; in reinforcement learning those
            at the looks, otherwise one an action.
        verdict: the judge's (imagined) or the environment's (real) answer.
        looks_until_success: number of looks whose actions came before the judged success; n if there was none.
        policy_version: version of the weights that acted.
        success: bool [t], success at every frame as the real environment reports it; None in imagination.
        foreseen: float [n+1], how likely the world model holds success at the start and after each look, or None.
    """

    start: Start
    images: UInt8[np.ndarray, "n h w 3"]
    chunks: ActionChunk
    frames: UInt8[np.ndarray, "t h w 3"]
    verdict: Verdict
    looks_until_success: int
    policy_version: int = 0
    success: np.ndarray | None = None
    foreseen: Float[np.ndarray, " n1"] | None = None

    def judged(self, verdict: Verdict, looks: int) -> Rollout:
        """The same rollout with another verdict."""
        return replace(self, verdict=verdict, looks_until_success=looks)


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of one start."""

    start: Start
    rollouts: Sequence[Rollout]

    @property
    def scores(self) -> np.ndarray:
        """Scores of the rollouts whose judge answered; failed judgements are left out."""
        return np.array([r.verdict.score for r in self.rollouts if r.verdict.score is not None], dtype=np.float64)

    @property
    def judge_errors(self) -> int:
        """How many rollouts the judge failed on."""
        return sum(r.verdict.score is None for r in self.rollouts)


@dataclass(frozen=True)
class WorldState:
    """Where an imagination stands: a value, passed in and returned, never kept on a module.

    Attributes:
        latent: float [b h w c], the newest frame's latents.
        frame: number of frames so far minus one (the start is frame 0).
        cache: whatever the world model carries from frame to frame; every tensor in it has batch first.
        extra: anything else, batch first.
    """

    latent: Tensor
    frame: int
    cache: tuple[Tensor, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def fork(self, index: Tensor) -> WorldState:
        """The states of rows `index` [n], repeats allowed: one state continued in several ways."""
        return WorldState(
            self.latent[index],
            self.frame,
            tuple(x[index] for x in self.cache),
            {k: v[index] for k, v in self.extra.items()},
        )


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
