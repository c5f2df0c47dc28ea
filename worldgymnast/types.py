"""Data types of the method: observations, action chunks, starts, episodes, rollouts, clips and verdicts.

Axis letters in all shape strings of the project:
`b` batch, `t` time, `k` chunk (actions per look), `h` height, `w` width, `c` channels, `a` action axes.
`T` actions always have `T + 1` frames. Frames are uint8 RGB at every interface; floats are internal to models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.errors import InputError

Metrics = dict[str, float]


IMAGE = "image"
"""Name of the only camera, or of the frame into which several cameras are tiled."""

STATE = "state"
"""Key of proprioception in an observation of an environment, and in a policy's `needs`."""


@dataclass(frozen=True)
class Observation:
    """Input of a policy at one look.

    Attributes:
        images: uint8 [b h w 3] by camera name, the newest frames; sizes may differ between cameras.
        instruction: b sentences.
        state: float32 [b s], proprioception; None if the policy does not need it.
        first: uint8 [b h w 3] by camera name, initial frames of the episode, for planning policies; None otherwise.

    >>> import torch
    >>> Observation.of(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), ["open the drawer"] * 2).image.shape
    torch.Size([2, 64, 64, 3])
    """

    images: Mapping[str, UInt8[Tensor, "b _ _ 3"]]
    instruction: Sequence[str]
    state: Float[Tensor, "b s"] | None = None
    first: Mapping[str, UInt8[Tensor, "b _ _ 3"]] | None = None

    @classmethod
    def of(cls, image: UInt8[Tensor, "b h w 3"], instruction: Sequence[str]) -> Observation:
        """Build the observation of a single camera."""
        return cls({IMAGE: image}, instruction)

    @property
    def image(self) -> UInt8[Tensor, "b h w 3"]:
        """Frames of the only camera.

        Raises:
            ValueError: there are several cameras.
        """
        if len(self.images) != 1:
            names = ", ".join(self.images)
            raise ValueError(f"The observation has {len(self.images)} cameras ({names}), expected 1. Use images[NAME]")
        return next(iter(self.images.values()))

    def __len__(self) -> int:
        return len(self.instruction)

    def rows(self, index: Tensor) -> Observation:
        """Select rows `index` [n]."""
        return Observation(
            {name: frames[index] for name, frames in self.images.items()},
            [self.instruction[int(i)] for i in index],
            None if self.state is None else self.state[index],
            None if self.first is None else {name: frames[index] for name, frames in self.first.items()},
        )


Sample = Tensor | Mapping[str, Tensor]
"""Sample of a policy, opaque to everything else; the batch is the first axis of every tensor."""


def map_sample(function: Callable[..., Tensor], *samples: Sample) -> Sample:
    """Apply a function to the corresponding tensors of one or several samples."""
    first = samples[0]
    if isinstance(first, Tensor):
        return function(*samples)
    return {name: function(*(one[name] for one in samples if not isinstance(one, Tensor))) for name in first}


@dataclass(frozen=True)
class ActionChunk:
    """Output of a policy at one look.

    Attributes:
        actions: float32 [b k a] in the units of the policy's `ActionSpec`; in a rollout, the executed ones alone.
        sample: the policy's sample, which `Policy.logprobs` evaluates: action tokens, or the noise path of a flow
            policy. Opaque to everything else.
        logprobs: float32 [b ...], detached log-probabilities of the sample at `temperature`, per token or per chunk.
        temperature: sampling temperature; 0 means greedy, and then `logprobs` are those at temperature 1.
    """

    actions: Float[Tensor, "b k a"]
    sample: Sample
    logprobs: Float[Tensor, "b ..."]
    temperature: float

    def map(self, function: Callable[[Tensor], Tensor]) -> ActionChunk:
        """Apply a function to every tensor."""
        return ActionChunk(
            function(self.actions), map_sample(function, self.sample), function(self.logprobs), self.temperature
        )

    def execute(self, count: int) -> ActionChunk:
        """Keep the first `count` actions of each look; the sample and its log-probabilities stay whole."""
        return replace(self, actions=self.actions[:, :count])

    def rows(self, index: Tensor) -> ActionChunk:
        """Select rows `index` [n]."""
        return self.map(lambda tensor: tensor[index.to(tensor.device)])

    def cpu(self) -> ActionChunk:
        """Copy all tensors to the CPU."""
        return self.map(lambda tensor: tensor.cpu())

    @staticmethod
    def join(chunks: Sequence[ActionChunk], join: Callable[[list[Tensor]], Tensor]) -> ActionChunk:
        """Join chunks of one temperature with `torch.cat` or `torch.stack`."""
        return ActionChunk(
            join([chunk.actions for chunk in chunks]),
            map_sample(lambda *tensors: join(list(tensors)), *(chunk.sample for chunk in chunks)),
            join([chunk.logprobs for chunk in chunks]),
            chunks[0].temperature,
        )


@dataclass(frozen=True)
class Layout:
    """A scene that the real environment can rebuild.

    Attributes:
        task: name of the task.
        seed: determines all positions.
        instruction: the sentence.

    >>> Layout("drawer-open", 7, "open the drawer").start(np.zeros((64, 64, 3), np.uint8)).layout
    7
    """

    task: str
    seed: int
    instruction: str

    def start(self, frame: UInt8[np.ndarray, "h w 3"], state: np.ndarray | None = None) -> Start:
        """Start with the frame of this layout, and the state if it is known."""
        return Start(frame, self.instruction, self.task, self.seed, state)


def require_frame_size(size: tuple[int, ...], expected: tuple[int, int], name: str = "starts") -> None:
    """Raise InputError unless frames have the world model's height and width."""
    if tuple(size[:2]) != tuple(expected):
        (height, width), (wanted_height, wanted_width) = size[:2], expected
        raise InputError(
            f"{name}: found frames of {height}x{width} pixels, but the world model imagines {wanted_height}x"
            f"{wanted_width}. Resize them; wg.read(..., size=world.frame_size) does"
        )


@dataclass(frozen=True)
class Start:
    """One frame and one sentence, which suffice to train on a scene.

    Attributes:
        frame: uint8 [h w 3], the first frame.
        instruction: the sentence.
        task: name that groups results; free text.
        layout: seed of the `Layout` in the frame; None if the scene cannot be rebuilt (a user's photograph, or a frame
            from the middle of an episode).
        state: float32 [s], proprioception at this frame; None if unknown.

    Raises:
        InputError: the frame is no uint8 array [h w 3], a text is no text, or the state is no finite vector.

    >>> Start(np.zeros((64, 64, 3), np.uint8), "open the drawer").scene is None
    True
    """

    frame: UInt8[np.ndarray, "h w 3"]
    instruction: str
    task: str = ""
    layout: int | None = None
    state: Float[np.ndarray, " s"] | None = None

    def __post_init__(self) -> None:
        check_frame(self.frame)
        check_state(self.state)
        for name in ("instruction", "task"):
            if not isinstance(value := getattr(self, name), str):
                raise InputError(f"start: {name} is {type(value).__name__}, expected str")

    @property
    def scene(self) -> Layout | None:
        """Layout in the frame, or None."""
        return None if self.layout is None else Layout(self.task, self.layout, self.instruction)


def check_frame(frame: object) -> None:
    """Raise InputError unless this is a uint8 image [h w 3]."""
    if not isinstance(frame, np.ndarray):
        raise InputError(f"start: frame is {type(frame).__name__}, expected a uint8 NumPy array [h w 3]")
    shape, advice = list(frame.shape), ""
    if frame.ndim == 3 and shape[0] == 3 != shape[-1]:
        advice = ". Put the channels last: frame.transpose(1, 2, 0)"
    if frame.ndim != 3 or shape[-1] != 3 or 0 in shape:
        raise InputError(f"start: frame has shape {shape}, expected [h w 3] RGB{advice}")
    if frame.dtype != np.uint8:
        raise InputError(
            f"start: frame has dtype {frame.dtype}, expected uint8 from 0 to 255. Convert it; from 0 to 1: "
            "(frame * 255).round().astype('uint8')"
        )


def check_state(state: object) -> None:
    """Raise InputError unless this is None or a vector of finite float32."""
    if state is None:
        return
    if not isinstance(state, np.ndarray) or state.ndim != 1 or state.dtype != np.float32:
        found = f"{state.dtype} {list(state.shape)}" if isinstance(state, np.ndarray) else type(state).__name__
        raise InputError(f"start: state is {found}, expected a float32 NumPy array [s]")
    if not np.isfinite(state).all():
        raise InputError("start: state has NaN or infinity, expected finite numbers. Omit it if it is unknown")


StartOrLayout = Start | Layout
"""Beginning of a rollout: a start for imagination, or a layout for a real environment or simulator."""


@dataclass(frozen=True)
class Episode:
    """A logged rollout on the real robot.

    Attributes:
        frames: uint8 [T+1 h w 3].
        actions: float32 [T a] in the units of `spec`.
        instruction: the sentence.
        task: name of the task, or "".
        fps: frames per second of robot time.
        spec: meaning of the action numbers.
        success: bool [T+1], whether the task was accomplished at each frame; None if unlabeled.
        source: origin: "expert", "noisy", "play", "policy@TEMPERATURE", or the name of a data set.
        layout: seed of its scene in the real environment, or None.
        camera: name of the camera of `frames`, such as "observation.images.top", or "".
        cameras: frames uint8 [T+1 h w 3] of the other cameras by name; sizes may differ between cameras.
        state: float32 [T+1 s], proprioception at each frame, or None.
        state_names: one name for each of the s numbers, or empty.
        last_action: float32 [a], the action recorded at the last frame, without a next frame; or None.
        robot: type of the robot, such as "so101_follower", or "".

    Raises:
        InputError: the numbers of frames, actions, labels or axes do not match.
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
                f"episode of task '{self.task}': found {len(self.frames)} frames and {len(self.actions)} actions, "
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
        """Raise InputError if a camera, the state or the last action does not match the frames and actions."""
        rows = {f"cameras['{name}']": len(frames) for name, frames in self.cameras.items()}
        if self.state is not None:
            rows["state"] = len(self.state)
        for name, count in rows.items():
            if count != len(self.frames):
                raise InputError(
                    f"episode of task '{self.task}': field '{name}' has {count} rows, expected {len(self.frames)}, "
                    "one a frame"
                )
        if self.last_action is not None and self.last_action.shape != (self.spec.dim,):
            raise InputError(
                f"episode of task '{self.task}': field 'last_action' has shape {list(self.last_action.shape)}, "
                f"expected [{self.spec.dim}]"
            )

    @property
    def succeeded(self) -> bool | None:
        """Whether the task was accomplished at any frame; None if unlabeled."""
        return None if self.success is None else bool(np.any(self.success))

    def start(self, index: int = 0) -> Start:
        """Start at frame `index`; only the first frame keeps the layout."""
        state = None if self.state is None else self.state[index].astype(np.float32)
        return Start(self.frames[index], self.instruction, self.task, self.layout if index == 0 else None, state)


@dataclass(frozen=True)
class Verdict:
    """A judge's result for one clip.

    Attributes:
        score: in [0, 1] after the judge's threshold: 1 for success, less for partial success; None if the judge failed.
        probability: success probability in [0, 1], or None.
        success_frame: index of the first successful frame, or None.
        error: reason why `score` is None.
        cost: cost of the judgment, in the currency of the judge's prices.

    >>> Verdict(1.0, 0.9).succeeded, Verdict(None, error="timeout").succeeded
    (True, None)
    """

    score: float | None
    probability: float | None = None
    success_frame: int | None = None
    error: str | None = None
    cost: float = 0.0

    @property
    def succeeded(self) -> bool | None:
        """Whether the score is a success.

        None if the judge failed, which is not a failure of the policy.
        """
        return None if self.score is None else self.score >= 1


@dataclass(frozen=True)
class Clip:
    """Input of a judge.

    Attributes:
        frames: uint8 [t h w 3].
        instruction: the sentence.
        task: name of the task, or ""; selects thresholds and criteria.
        imagined: whether a world model generated the frames.
        foreseen: float [t], the world model's own success probability at each frame; None without a success head.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    instruction: str
    task: str = ""
    imagined: bool = False
    foreseen: Float[np.ndarray, " t"] | None = None

    def until(self, frames: int) -> Clip:
        """Clip of the first `frames` frames."""
        foreseen = None if self.foreseen is None else self.foreseen[:frames]
        return replace(self, frames=self.frames[:frames], foreseen=foreseen)


@dataclass(frozen=True)
class Rollout:
    """One closed-loop run of a policy in an environment, real or imagined, of n looks.

    Attributes:
        start: the start.
        images: uint8 [n h w 3] by camera name, the policy's input at each look.
        chunks: the policy's output at each look, [n ...].
        frames: uint8 [t h w 3], all decoded frames including the first: only keyframes in reinforcement learning,
            otherwise one per action.
        verdict: result of the judge (imagined) or the environment (real).
        looks_until_success: number of looks before the judged success; n without success.
        policy_version: version of the acting weights.
        success: bool [t], success at every frame as reported by the real environment; None in imagination.
        foreseen: float [n+1], the world model's own success probability at the start and after each look, or None.
        state: float32 [n s], proprioception at each look; None if the policy does not need it.
        executed: actions before the environment ended the episode; later frames repeat the last. None if unknown.
        frame_state: float32 [t s], proprioception at each of `frames`; None if the environment does not report it.
    """

    start: Start
    images: Mapping[str, UInt8[np.ndarray, "n _ _ 3"]]
    chunks: ActionChunk
    frames: UInt8[np.ndarray, "t h w 3"]
    verdict: Verdict
    looks_until_success: int
    policy_version: int = 0
    success: np.ndarray | None = None
    foreseen: Float[np.ndarray, " n1"] | None = None
    state: Float[np.ndarray, "n s"] | None = None
    executed: int | None = None
    frame_state: Float[np.ndarray, "t s"] | None = None

    @property
    def looks(self) -> int:
        """Number of looks, n."""
        return len(self.chunks.actions)

    @property
    def keyframes(self) -> UInt8[np.ndarray, "n1 h w 3"]:
        """Frame at every look, and the last frame."""
        return self.frames[:: (len(self.frames) - 1) // self.looks]

    def with_verdict(self, verdict: Verdict, looks: int) -> Rollout:
        """Copy with another verdict."""
        return replace(self, verdict=verdict, looks_until_success=looks)


@dataclass(frozen=True)
class RolloutGroup:
    """Rollouts of one start."""

    start: Start
    rollouts: Sequence[Rollout]

    @property
    def scores(self) -> np.ndarray:
        """Scores, without failed judgments."""
        return np.array([r.verdict.score for r in self.rollouts if r.verdict.score is not None], dtype=np.float64)

    @property
    def judge_errors(self) -> int:
        """Number of rollouts without a score."""
        return sum(r.verdict.score is None for r in self.rollouts)


@dataclass(frozen=True)
class WorldState:
    """State of an imagined rollout: a value that is passed in and returned, never stored on a module.

    Attributes:
        latent: float [b h w c], latents of the newest frame.
        frame: index of the newest frame (the start is frame 0).
        cache: tensors that the world model carries from frame to frame, batch first.
        extra: further tensors by name, batch first.
    """

    latent: Tensor
    frame: int
    cache: tuple[Tensor, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def fork(self, index: Tensor) -> WorldState:
        """States of rows `index` [n].

        Repeated rows continue one state in several ways.
        """
        return WorldState(
            self.latent[index],
            self.frame,
            tuple(x[index] for x in self.cache),
            {k: v[index] for k, v in self.extra.items()},
        )

    @staticmethod
    def join(states: Sequence[WorldState]) -> WorldState | None:
        """States as the rows of one; the inverse of `fork`.

        None where they cannot be rows of one state: another frame index, or tensors of other names or shapes.
        """
        first = states[0]
        kinds = [
            (
                one.frame,
                one.latent.shape[1:],
                *(x.shape[1:] for x in one.cache),
                {k: v.shape[1:] for k, v in one.extra.items()},
            )
            for one in states
        ]
        if any(kind != kinds[0] for kind in kinds):
            return None
        return WorldState(
            torch.cat([one.latent for one in states]),
            first.frame,
            tuple(torch.cat(parts) for parts in zip(*(one.cache for one in states), strict=True)),
            {name: torch.cat([one.extra[name] for one in states]) for name in first.extra},
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(x.nbytes for x in (self.latent, *self.cache, *self.extra.values()))
