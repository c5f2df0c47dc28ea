"""The nouns of the method and the three Protocols everything else is written against.

Axis letters, used in every shape string of the project:
`b` batch, `t` time, `k` chunk (actions emitted per look), `h` height, `w` width, `c` channels, `a` action axes.
`T` actions always come with `T + 1` frames. Frames are uint8 RGB at every boundary; floats live inside models only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from worldgymnast.actions import ActionSpec
from worldgymnast.errors import InputError

Metrics = dict[str, float]


IMAGE = "image"
"""Name of the one camera of a rig that has one, or of the frame into which the cameras of a rig are tiled."""


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one look.

    Attributes:
        images: uint8 [b h w 3] by camera name, the newest frames.
        instruction: b sentences.
        state: float32 [b s], proprioception, or None where the policy does not need it.
        first: uint8 [b h w 3] by camera name, the first frames of the episode, for planning; or None.
    """

    images: Mapping[str, UInt8[Tensor, "b h w 3"]]
    instruction: Sequence[str]
    state: Float[Tensor, "b s"] | None = None
    first: Mapping[str, UInt8[Tensor, "b h w 3"]] | None = None

    @classmethod
    def of(cls, image: UInt8[Tensor, "b h w 3"], instruction: Sequence[str]) -> Observation:
        """The observation of a rig with one camera."""
        return cls({IMAGE: image}, instruction)

    @property
    def image(self) -> UInt8[Tensor, "b h w 3"]:
        """The frames of the only camera.

        Raises:
            ValueError: there are several cameras.
        """
        if len(self.images) != 1:
            raise ValueError(f"observation has {len(self.images)} cameras ({', '.join(self.images)}): name one")
        return next(iter(self.images.values()))

    def __len__(self) -> int:
        return len(self.instruction)

    def rows(self, index: Tensor) -> Observation:
        """The rows `index` [n]."""
        return Observation(
            {name: frames[index] for name, frames in self.images.items()},
            [self.instruction[int(i)] for i in index],
            None if self.state is None else self.state[index],
            None if self.first is None else {name: frames[index] for name, frames in self.first.items()},
        )


Sample = Tensor | Mapping[str, Tensor]
"""What a policy drew, as only the policy reads it; every tensor in it has the batch first."""


def map_sample(change: Callable[..., Tensor], *samples: Sample) -> Sample:
    """Apply `change` to each tensor of one sample, or to the tensors of one name of several samples."""
    first = samples[0]
    if isinstance(first, Tensor):
        return change(*samples)
    return {name: change(*(one[name] for one in samples if not isinstance(one, Tensor))) for name in first}


@dataclass(frozen=True)
class ActionChunk:
    """What a policy answers to one look.

    Attributes:
        actions: float32 [b k a] in the units of the policy's `ActionSpec`.
        sample: what the policy drew, from which `Policy.logprobs` scores the same chunk again: the tokens of a policy
            with action tokens, the noise path of a flow policy. Opaque to everything else.
        logprobs: float32 [b ...], detached log-probabilities of what was drawn, at the temperature it was drawn with:
            one for each token, or one for the whole chunk.
        temperature: that temperature; 0 means greedy, and then `logprobs` are those at temperature 1.
    """

    actions: Float[Tensor, "b k a"]
    sample: Sample
    logprobs: Float[Tensor, "b ..."]
    temperature: float

    def map(self, change: Callable[[Tensor], Tensor]) -> ActionChunk:
        """The chunk with every tensor changed in the same way."""
        return ActionChunk(
            change(self.actions), map_sample(change, self.sample), change(self.logprobs), self.temperature
        )

    def rows(self, index: Tensor) -> ActionChunk:
        """The rows `index` [n]."""
        return self.map(lambda tensor: tensor[index.to(tensor.device)])

    def cpu(self) -> ActionChunk:
        """The same chunk in main memory."""
        return self.map(lambda tensor: tensor.cpu())

    @staticmethod
    def join(chunks: Sequence[ActionChunk], join: Callable[[list[Tensor]], Tensor]) -> ActionChunk:
        """Several chunks of one temperature as one; `join` is `torch.cat` or `torch.stack`."""
        return ActionChunk(
            join([chunk.actions for chunk in chunks]),
            map_sample(lambda *tensors: join(list(tensors)), *(chunk.sample for chunk in chunks)),
            join([chunk.logprobs for chunk in chunks]),
            chunks[0].temperature,
        )


@dataclass(frozen=True)
class Layout:
    """A scene that the real environment can build again.

    Attributes:
        task: the task's name.
        seed: decides where everything lies.
        instruction: the sentence.
    """

    task: str
    seed: int
    instruction: str

    def start(self, frame: UInt8[np.ndarray, "h w 3"]) -> Start:
        """The start that is seen there."""
        return Start(frame, self.instruction, self.task, self.seed)


@dataclass(frozen=True)
class Start:
    """One frame and one sentence: all that is needed to train on a scene.

    Attributes:
        frame: uint8 [h w 3], what was seen.
        instruction: the sentence.
        task: name used to group results; free text.
        layout: seed of the `Layout` it is a picture of, or None where only the picture exists (a photograph of one's
            own, or a frame from the middle of an episode).
    """

    frame: UInt8[np.ndarray, "h w 3"]
    instruction: str
    task: str = ""
    layout: int | None = None

    @property
    def scene(self) -> Layout | None:
        """The layout it is a picture of, or None."""
        return None if self.layout is None else Layout(self.task, self.layout, self.instruction)


Begin = Start | Layout
"""Where a rollout begins: a start to imagine from, or a layout that a real environment or a simulator builds."""


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
        images: uint8 [n h w 3] by camera name, what the policy saw at each look.
        chunks: what it answered at each look, [n ...].
        frames: uint8 [t h w 3], every frame that was decoded, the first one included; in reinforcement learning those
            at the looks, otherwise one an action.
        verdict: the judge's (imagined) or the environment's (real) answer.
        looks_until_success: number of looks whose actions came before the judged success; n if there was none.
        policy_version: version of the weights that acted.
        success: bool [t], success at every frame as the real environment reports it; None in imagination.
        foreseen: float [n+1], how likely the world model holds success at the start and after each look, or None.
        state: float32 [n s], proprioception at each look, or None where the policy does not need it.
    """

    start: Start
    images: Mapping[str, UInt8[np.ndarray, "n h w 3"]]
    chunks: ActionChunk
    frames: UInt8[np.ndarray, "t h w 3"]
    verdict: Verdict
    looks_until_success: int
    policy_version: int = 0
    success: np.ndarray | None = None
    foreseen: Float[np.ndarray, " n1"] | None = None
    state: Float[np.ndarray, "n s"] | None = None

    @property
    def looks(self) -> int:
        """How often the policy looked, n."""
        return len(self.chunks.actions)

    @property
    def frames_at_looks(self) -> UInt8[np.ndarray, "n1 h w 3"]:
        """The frame of every look, and the last one."""
        return self.frames[:: (len(self.frames) - 1) // self.looks]

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
