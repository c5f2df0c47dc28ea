"""Decoded episodes, concatenated in sets that training, rollouts and evaluation share."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, clipped_share, converter, union
from worldgymnast.episodes.frame_view import FrameView
from worldgymnast.episodes.rates import is_same_rate
from worldgymnast.errors import InputError
from worldgymnast.text import is_sentence
from worldgymnast.tiling import Tiling
from worldgymnast.types import Episode

MAX_INSTRUCTIONS = 200
"""Most instructions that the file of a component records."""
_POSITION = re.compile(r"(?:.*\.)?(?:s|a|state|dim|axis|motor)?_?[0-9]+")
"""A name that is only a position, as given to the numbers of a state that has no names."""
_MAX_KINDS = 20
"""Number of distinct instructions above which they do not serve as task names."""


def placeholder_names(width: int) -> tuple[str, ...]:
    """Names for the numbers of a state that has none."""
    return tuple(f"s{i}" for i in range(width))


def is_named(names: Sequence[str]) -> bool:
    """Whether the names of a state say more than positions.

    >>> is_named(["x", "y", "gripper"]), is_named(["s0", "s1"]), is_named(["state.a0", "state.a1"]), is_named([])
    (True, False, False, False)
    """
    return not all(_POSITION.fullmatch(name) for name in names)


@dataclass(frozen=True)
class EpisodeStream:
    """Episodes of a dataset, decoded one by one.

    Attributes:
        count: number of episodes.
        spec: meaning of the actions.
        fps: frames per second of robot time.
        episodes: the complete episodes.
    """

    count: int
    spec: ActionSpec
    fps: float
    episodes: Iterator[Episode]


@dataclass(frozen=True)
class EpisodeSet:
    """Concatenated episodes with the same action spec and frame size.

    Attributes:
        frames: uint8 [n h w 3], the T+1 frames of each episode in sequence; may be a view of memory maps.
        actions: float32 [n a], the action taken at each frame; zeros at the last frame of an episode.
        success: bool [n], whether the task is accomplished at each frame; False if unlabelled.
        first: int64 [e], row of each episode's first frame.
        length: int64 [e], number of actions T of each episode.
        labelled: bool [e], whether the episode has success labels.
        instruction: e sentences.
        task: e names.
        source: e origins (see `Episode.source`).
        layout: int64 [e], seed of the scene, -1 for none.
        spec: meaning of the actions.
        fps: frames per second of robot time.
        foreseen: float [n], the world model's own success probability at imagined frames; or None.
        state: float32 [n s], proprioception at each frame; None if unknown.
        state_names: one name for each of the s numbers, or empty.
        tiling: where each camera lies in the frames; None if unknown.
    """

    frames: UInt8[np.ndarray | FrameView, "n h w 3"]
    actions: Float[np.ndarray, "n a"]
    success: Bool[np.ndarray, " n"]
    first: Int[np.ndarray, " e"]
    length: Int[np.ndarray, " e"]
    labelled: Bool[np.ndarray, " e"]
    instruction: tuple[str, ...]
    task: tuple[str, ...]
    source: tuple[str, ...]
    layout: Int[np.ndarray, " e"]
    spec: ActionSpec
    fps: float
    foreseen: Float[np.ndarray, " n"] | None = None
    state: Float[np.ndarray, "n s"] | None = None
    state_names: tuple[str, ...] = ()
    tiling: Tiling | None = None

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.first)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras in the frames; empty if unknown."""
        return () if self.tiling is None else self.tiling.cameras

    @property
    def state_dim(self) -> int:
        """Numbers in a state, 0 without one."""
        return 0 if self.state is None else self.state.shape[1]

    def without_state(self) -> EpisodeSet:
        """The same episodes without the state."""
        return replace(self, state=None, state_names=())

    @property
    def rows(self) -> np.ndarray:
        """Row indices of these episodes in `frames` and `actions`, int64."""
        return np.concatenate([np.arange(f, f + n + 1) for f, n in zip(self.first, self.length, strict=True)])

    @property
    def succeeded(self) -> np.ndarray:
        """bool [e], whether each episode succeeded at any frame; False if unlabelled."""
        counts = np.concatenate([[0], np.cumsum(self.success)])
        return (counts[self.first + self.length + 1] > counts[self.first]) & self.labelled

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names for grouping results: tasks, or else instructions if few, or else "no task"."""
        return tuple(name or "no task" for name in self.with_task_names().task)

    def with_task_names(self) -> EpisodeSet:
        """The set, in which the instruction is the task name of episodes without one.

        Not with more than 20 different instructions, nor for texts that are no sentence (see `text.is_sentence`).
        """
        unnamed = [not name and is_sentence(text) for name, text in zip(self.task, self.instruction, strict=True)]
        names = {
            " ".join(text.split()) for text, is_unnamed in zip(self.instruction, unnamed, strict=True) if is_unnamed
        }
        if not names or len(names) > _MAX_KINDS:
            return self
        rows = zip(self.task, self.instruction, unnamed, strict=True)
        return replace(self, task=tuple(" ".join(text.split()) if new else name for name, text, new in rows))

    @property
    def without_instruction(self) -> int:
        """Number of episodes without a proper instruction (see `text.is_sentence`)."""
        return sum(not is_sentence(sentence) for sentence in self.instruction)

    def episode(self, index: int) -> Episode:
        """Episode `index`; its arrays are views of this set's."""
        start, stop = int(self.first[index]), int(self.first[index] + self.length[index] + 1)
        layout = int(self.layout[index])
        return Episode(
            frames=np.asarray(self.frames[start:stop]),
            actions=self.actions[start : stop - 1],
            instruction=self.instruction[index],
            task=self.task[index],
            fps=self.fps,
            spec=self.spec,
            success=self.success[start:stop] if self.labelled[index] else None,
            source=self.source[index],
            layout=None if layout < 0 else layout,
            state=None if self.state is None else self.state[start:stop],
            state_names=self.state_names,
        )

    def select(self, selection: np.ndarray | Sequence[int]) -> EpisodeSet:
        """Select episodes by a bool [e] mask or by indices.

        Frames are shared, not copied.
        """
        index = np.asarray(selection)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        return replace(
            self,
            first=self.first[index],
            length=self.length[index],
            labelled=self.labelled[index],
            layout=self.layout[index],
            instruction=tuple(self.instruction[i] for i in index),
            task=tuple(self.task[i] for i in index),
            source=tuple(self.source[i] for i in index),
        )

    def with_action_spec(self, spec: ActionSpec) -> EpisodeSet:
        """Convert the actions to `spec`; frames are shared.

        A set of the same kind is returned unchanged, with its own bounds.

        Raises:
            ActionSpecMismatch: no conversion is known; the message has both specs.
        """
        if self.spec.is_same_kind(spec):
            return self
        warn_out_of_range(self, self.spec, "conversion of actions")
        actions = converter(self.spec, spec)(self.actions).astype(np.float32)
        actions[self.first + self.length] = 0.0
        return replace(self, actions=actions, spec=spec)

    def where(
        self,
        task: str | None = None,
        source_prefix: str | None = None,
        labelled: bool | None = None,
        succeeded: bool | None = None,
    ) -> np.ndarray:
        """int64, indices of the episodes that meet all given conditions."""
        keep = np.ones(len(self), bool)
        if task is not None:
            keep &= np.array([name == task for name in self.task], bool)
        if source_prefix is not None:
            keep &= np.array([name.startswith(source_prefix) for name in self.source], bool)
        if labelled is not None:
            keep &= self.labelled == labelled
        if succeeded is not None:
            keep &= self.labelled & (self.succeeded == succeeded)
        return np.flatnonzero(keep)

    def split(self, held_out: float | int, seed: int) -> tuple[EpisodeSet, EpisodeSet]:
        """Hold out random episodes of every task.

        Args:
            held_out: fraction (below 1) or number of each task's episodes.
            seed: seed of the random choice.

        Returns:
            The training set and the held-out set, both in the order of this set.

        Raises:
            InputError: no episode of some task would remain for training.
        """
        sizes = {name: len(self.where(task=name)) for name in sorted(set(self.task))}
        counts = {n: round(held_out * size) if isinstance(held_out, float) else held_out for n, size in sizes.items()}
        for name, count in counts.items():
            if count < 0 or count >= sizes[name]:
                raise InputError(
                    f"episodes: found {sizes[name]} of task '{name}', expected more than the {count} to hold out; "
                    "record more or hold out fewer"
                )
        return self.split_by_task(counts, seed)

    def split_by_task(self, counts: Mapping[str, int], seed: int) -> tuple[EpisodeSet, EpisodeSet]:
        """Hold out a number of random episodes of every task; see `split`."""
        generator = np.random.default_rng(seed)
        is_held_out = np.zeros(len(self), bool)
        for name in sorted(set(self.task)):
            is_held_out[generator.permutation(self.where(task=name))[: counts[name]]] = True
        return self.select(~is_held_out), self.select(is_held_out)


def from_episodes(episodes: Sequence[Episode]) -> EpisodeSet:
    """Concatenate episodes.

    The state is kept if all episodes have one of the same names and width.

    Raises InputError if their specs, frame rates or frame sizes differ.
    """
    if not episodes:
        raise InputError("episodes: found 0, expected at least 1")
    for episode in episodes:
        check_compatible(episodes[0].spec, episode.spec, episodes[0].frames, episode.frames)
        if episode.fps != episodes[0].fps:
            raise InputError(f"episodes: found {episode.fps} frames per second, expected {episodes[0].fps} in all")
    spec = union([episode.spec for episode in episodes])
    length = np.array([len(episode.actions) for episode in episodes], np.int64)
    blank = np.zeros((1, spec.dim), np.float32)
    success = [np.zeros(len(e.frames), bool) if e.success is None else np.asarray(e.success, bool) for e in episodes]
    return EpisodeSet(
        frames=np.concatenate([episode.frames for episode in episodes]),
        actions=np.concatenate([part for e in episodes for part in (e.actions.astype(np.float32), blank)]),
        success=np.concatenate(success),
        first=np.concatenate([[0], np.cumsum(length + 1)[:-1]]).astype(np.int64),
        length=length,
        labelled=np.array([episode.success is not None for episode in episodes], bool),
        instruction=tuple(episode.instruction for episode in episodes),
        task=tuple(episode.task for episode in episodes),
        source=tuple(episode.source for episode in episodes),
        layout=np.array([-1 if e.layout is None else e.layout for e in episodes], np.int64),
        spec=spec,
        fps=episodes[0].fps,
        **_joint_state([(e.state, e.state_names) for e in episodes]),
    )


def _joint_state(parts: Sequence[tuple[np.ndarray | None, tuple[str, ...]]]) -> dict[str, Any]:
    """The joint state and its names; none unless all parts have a state of the same names and width."""
    states = [state for state, _ in parts if state is not None]
    kinds = {(state.shape[1], names) for state, names in parts if state is not None}
    if len(states) < len(parts) or len(kinds) > 1:
        return {"state": None, "state_names": ()}
    return {"state": np.concatenate(states).astype(np.float32), "state_names": parts[0][1]}


def concatenate(sets: Sequence[EpisodeSet]) -> EpisodeSet:
    """Concatenate sets without copying frames.

    The state is kept if all sets have one of the same names and width, the tiling if it is the same in all.

    Raises if specs, frame sizes, or frame rates (by 1 % or more) differ.
    """
    if not sets:
        raise InputError("episodes: found 0 sets to concatenate, expected at least 1")
    head = sets[0]
    if len(sets) == 1:
        return head
    for other in sets[1:]:
        check_compatible(head.spec, other.spec, head.frames, other.frames)
        if not is_same_rate(other.fps, head.fps):
            raise InputError(f"episode sets: found {other.fps} frames per second, expected {head.fps} in all")
    joint = replace(
        head,
        spec=union([part.spec for part in sets]),
        first=np.concatenate([part.first for part in sets]),
        length=np.concatenate([part.length for part in sets]),
        labelled=np.concatenate([part.labelled for part in sets]),
        layout=np.concatenate([part.layout for part in sets]),
        instruction=tuple(name for part in sets for name in part.instruction),
        task=tuple(name for part in sets for name in part.task),
        source=tuple(name for part in sets for name in part.source),
    )
    joint = replace(joint, tiling=head.tiling if all(part.tiling == head.tiling for part in sets) else None)
    if all(other.frames is head.frames for other in sets):
        same_state = all(part.state is head.state and part.state_names == head.state_names for part in sets)
        return joint if same_state else joint.without_state()
    rows = [part.rows for part in sets]
    first = np.concatenate([[0], np.cumsum(joint.length + 1)[:-1]]).astype(np.int64)
    actions = np.concatenate([part.actions[row] for part, row in zip(sets, rows, strict=True)])
    actions[first + joint.length] = 0.0
    is_labelled = np.repeat(joint.labelled, joint.length + 1)
    foreseen = [part.foreseen[row] for part, row in zip(sets, rows, strict=True) if part.foreseen is not None]
    return replace(
        joint,
        foreseen=np.concatenate(foreseen) if len(foreseen) == len(sets) else None,
        frames=FrameView([part.frames for part in sets], rows),
        actions=actions,
        success=np.concatenate([part.success[row] for part, row in zip(sets, rows, strict=True)]) & is_labelled,
        first=first,
        **_joint_state(
            [
                (None if part.state is None else part.state[row], part.state_names)
                for part, row in zip(sets, rows, strict=True)
            ]
        ),
    )


def warn_out_of_range(episodes: EpisodeSet, spec: ActionSpec, what: str) -> None:
    """Print the share of actions outside the bounds of `spec` on stderr."""
    spans = zip(episodes.first, episodes.first + episodes.length, strict=True)
    rows = np.concatenate([np.arange(first, last) for first, last in spans]) if len(episodes) else np.zeros(0, int)
    actions = episodes.actions[rows]
    if not (share := clipped_share(spec, actions)):
        return
    excess = np.maximum(np.array(spec.low) - actions.min(0), actions.max(0) - np.array(spec.high))
    axis = int(np.argmax(excess))
    print(
        f"{what}: {100 * share:.2g}% of the data's actions are out of range, axis '{spec.axes[axis]}' most: found "
        f"{actions[:, axis].min():.4g} to {actions[:, axis].max():.4g}, expected {spec.low[axis]:.4g} to "
        f"{spec.high[axis]:.4g}. They are clipped, or out of the training distribution.",
        file=sys.stderr,
        flush=True,
    )


def check_compatible(
    spec: ActionSpec, other: ActionSpec, frames: np.ndarray | FrameView, other_frames: np.ndarray | FrameView
) -> None:
    """Raise if two sets differ in action spec or frame size."""
    if not spec.is_same_kind(other):
        raise ActionSpecMismatch(f"episodes differ in their action specs: found {other}; expected {spec}; convert them")
    if frames.shape[1:] != other_frames.shape[1:]:
        raise InputError(
            f"episodes differ in frame size: found {list(other_frames.shape[1:3])}, expected "
            f"{list(frames.shape[1:3])}; read them with one `size`"
        )


def state_hash(episodes: EpisodeSet) -> str:
    """Hash of the state and its names, 16 hex digits; "" without a state.

    `data_hash` does not depend on the state, which most components do not use.
    """
    if episodes.state is None:
        return ""
    digest = hashlib.sha256("\0".join(episodes.state_names).encode())
    digest.update(np.ascontiguousarray(episodes.state[episodes.rows]).tobytes())
    return digest.hexdigest()[:16]


def recorded_instructions(instructions: Iterable[str]) -> list[str]:
    """Return those instructions that the file of a component records: the first `MAX_INSTRUCTIONS`, sorted."""
    return sorted(set(instructions))[:MAX_INSTRUCTIONS]


def usual_length(episodes: EpisodeSet) -> int:
    """Return the length, in actions, that nine in ten successful episodes (of all, if none succeeded) do not exceed.

    It is 0 without any.
    """
    length = episodes.length[episodes.succeeded] if episodes.succeeded.any() else episodes.length
    usual = length[length > 0]
    return int(np.quantile(usual, 0.9, method="higher")) if len(usual) else 0


def episode_keys(episodes: EpisodeSet) -> list[str]:
    """Hash of every episode's actions and instruction, 12 hex digits; the same in a data set that has grown."""
    keys = []
    for first, length, instruction in zip(episodes.first, episodes.length, episodes.instruction, strict=True):
        actions = np.ascontiguousarray(episodes.actions[first : first + length])
        keys.append(hashlib.sha256(actions.tobytes() + instruction.encode()).hexdigest()[:12])
    return keys


def data_hash(episodes: EpisodeSet) -> str:
    """Hash of actions, labels, texts and some frames, 16 hex digits."""
    digest = hashlib.sha256()
    for part in (episodes.actions, episodes.success, episodes.layout, episodes.length):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update("\0".join([*episodes.instruction, *episodes.task, *episodes.source]).encode())
    for first, length in zip(episodes.first.tolist(), episodes.length.tolist(), strict=True):
        digest.update(np.asarray(episodes.frames[[first, first + length // 2, first + length]]).tobytes())
    return digest.hexdigest()[:16]
