"""Episodes decoded end to end, and the clips that training draws from them.

A batch of clips is a pure function of (seed, step): a resumed run draws the same batches and there is no loader state
to save. Left out: worker processes (a batch is one fancy index into a memory map, a few milliseconds).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, clipped_share, converter, union
from worldgymnast.episodes.gathered import Gathered
from worldgymnast.errors import InputError
from worldgymnast.text import is_sentence
from worldgymnast.types import Episode

_MOST_KINDS = 20
"""Different sentences above which they are no tasks, but other words in every episode."""


@dataclass(frozen=True)
class EpisodeStream:
    """A data set on its way to being converted.

    Attributes:
        count: number of episodes.
        spec: what their actions mean.
        fps: frames per second of robot time.
        episodes: the episodes whole, decoded one by one.
    """

    count: int
    spec: ActionSpec
    fps: float
    episodes: Iterator[Episode]


@dataclass(frozen=True)
class EpisodeSet:
    """Episodes of one action spec and one frame size, concatenated.

    Attributes:
        frames: uint8 [n h w 3], the T+1 frames of each episode one after the other; may be a memory map, or several.
        actions: float32 [n a]; row i is the action taken at frame i, zeros at the last frame of an episode.
        success: bool [n], whether the task was accomplished at that frame; False where unlabelled.
        first: int64 [e], row of each episode's first frame.
        length: int64 [e], number of actions T of each episode.
        labelled: bool [e], whether somebody said where it succeeded.
        instruction: e sentences.
        task: e names.
        source: e words on how each came about (see `Episode.source`).
        layout: int64 [e], seed of the scene, -1 for none.
        spec: what the action numbers mean.
        fps: frames per second of robot time.
        foreseen: float [n], of imagined frames how likely the world model itself holds success there; or None.
    """

    frames: UInt8[np.ndarray | Gathered, "n h w 3"]
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

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.first)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def rows(self) -> np.ndarray:
        """int64, the rows of `frames` and `actions` that belong to these episodes, episode by episode."""
        return np.concatenate([np.arange(f, f + n + 1) for f, n in zip(self.first, self.length, strict=True)])

    @property
    def succeeded(self) -> np.ndarray:
        """bool [e], whether each labelled episode succeeded at any frame; False where unlabelled."""
        counts = np.concatenate([[0], np.cumsum(self.success)])
        return (counts[self.first + self.length + 1] > counts[self.first]) & self.labelled

    @property
    def kinds(self) -> tuple[str, ...]:
        """e names that results are told apart by: the tasks; where no episode has one its sentence, if they are few."""
        if any(self.task):
            return self.task
        return self.instruction if len(set(self.instruction)) <= _MOST_KINDS else ("no task",) * len(self)

    @property
    def without_instruction(self) -> int:
        """Number of episodes without a sentence: none, a number, or a placeholder (see `text.is_sentence`)."""
        return sum(not is_sentence(sentence) for sentence in self.instruction)

    def episode(self, index: int) -> Episode:
        """Episode `index`, its arrays views of this set's."""
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
        )

    def select(self, which: np.ndarray | Sequence[int]) -> EpisodeSet:
        """The episodes at a bool [e] mask or at indices, in that order; frames are shared, not copied."""
        index = np.asarray(which)
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

    def acting(self, spec: ActionSpec) -> EpisodeSet:
        """The same episodes with their actions in `spec`; frames are shared.

        Where both are of one kind nothing changes: the set keeps its own bounds.

        Raises:
            ActionSpecMismatch: no conversion is known; both specs are printed.
        """
        if self.spec.is_same_kind(spec):
            return self
        warn_outside(self, self.spec, "conversion of actions")
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
        """int64 indices of the episodes that meet every condition given."""
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
        """Sets episodes of every task aside at random.

        Args:
            held_out: a fraction below 1 of each task's episodes, or a number of episodes of each task.
            seed: which ones.

        Returns:
            The training set and the held-out set, both in the order of this set.

        Raises:
            InputError: nothing of some task would be left to train on.
        """
        generator = np.random.default_rng(seed)
        aside = np.zeros(len(self), bool)
        for name in sorted(set(self.task)):
            index = self.where(task=name)
            count = round(held_out * len(index)) if isinstance(held_out, float) else held_out
            if count < 0 or count >= len(index):
                raise InputError(
                    f"episodes: found {len(index)} of task '{name}', expected more than the {count} to hold out; "
                    "record more or hold out fewer"
                )
            aside[generator.permutation(index)[:count]] = True
        return self.select(~aside), self.select(aside)


def from_episodes(episodes: Sequence[Episode]) -> EpisodeSet:
    """Concatenates episodes of one spec, frame rate and frame size; raises InputError where they differ."""
    if not episodes:
        raise InputError("episodes: found 0, expected at least 1")
    for episode in episodes:
        _require_alike(episodes[0].spec, episode.spec, episodes[0].frames, episode.frames)
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
    )


def concatenate(sets: Sequence[EpisodeSet]) -> EpisodeSet:
    """One set with the episodes of all, in order; raises where specs, frame rates or frame sizes differ, both printed.

    Frames are shared, not copied.
    """
    if not sets:
        raise InputError("episodes: found 0 sets to concatenate, expected at least 1")
    head = sets[0]
    if len(sets) == 1:
        return head
    for other in sets[1:]:
        _require_alike(head.spec, other.spec, head.frames, other.frames)
        if other.fps != head.fps:
            raise InputError(f"episode sets: found {other.fps} frames per second, expected {head.fps} in all")
    together = replace(
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
    if all(other.frames is head.frames for other in sets):
        return together
    rows = [part.rows for part in sets]
    first = np.concatenate([[0], np.cumsum(together.length + 1)[:-1]]).astype(np.int64)
    actions = np.concatenate([part.actions[row] for part, row in zip(sets, rows, strict=True)])
    actions[first + together.length] = 0.0
    said = np.repeat(together.labelled, together.length + 1)
    known = [part.foreseen[row] for part, row in zip(sets, rows, strict=True) if part.foreseen is not None]
    return replace(
        together,
        foreseen=np.concatenate(known) if len(known) == len(sets) else None,
        frames=Gathered([part.frames for part in sets], rows),
        actions=actions,
        success=np.concatenate([part.success[row] for part, row in zip(sets, rows, strict=True)]) & said,
        first=first,
    )


def warn_outside(episodes: EpisodeSet, spec: ActionSpec, what: str) -> None:
    """Say on stderr how many actions lie outside the bounds of `spec`, which `what` clips to or was made for."""
    spans = zip(episodes.first, episodes.first + episodes.length, strict=True)
    rows = np.concatenate([np.arange(first, last) for first, last in spans]) if len(episodes) else np.zeros(0, int)
    actions = episodes.actions[rows]
    if not (share := clipped_share(spec, actions)):
        return
    excess = np.maximum(np.array(spec.low) - actions.min(0), actions.max(0) - np.array(spec.high))
    axis = int(np.argmax(excess))
    print(
        f"{what}: {100 * share:.2g} % of the actions in the data lie outside its range, axis '{spec.axes[axis]}' most: "
        f"found {actions[:, axis].min():.4g} to {actions[:, axis].max():.4g}, expected {spec.low[axis]:.4g} to "
        f"{spec.high[axis]:.4g}; they are clipped, or unlike what it was trained on",
        file=sys.stderr,
        flush=True,
    )


def _require_alike(
    spec: ActionSpec, other: ActionSpec, frames: np.ndarray | Gathered, others: np.ndarray | Gathered
) -> None:
    if not spec.is_same_kind(other):
        raise ActionSpecMismatch(f"episodes differ in their action specs: found {other}; expected {spec}; convert them")
    if frames.shape[1:] != others.shape[1:]:
        raise InputError(
            f"episodes differ in frame size: found {list(others.shape[1:3])}, expected {list(frames.shape[1:3])}; "
            "read them with one `size`"
        )


@dataclass(frozen=True)
class ClipBatch:
    """Clips of T actions and T+1 frames.

    Attributes:
        frames: uint8 [b T+1 h w 3]; beyond the end of an episode its last frame is repeated.
        actions: float32 [b T a]; beyond the end zeros.
        mask: bool [b T], False where the action lies beyond the end.
        success: bool [b T+1], labels of the frames; meaningless where not `labelled`.
        labelled: bool [b].
        instruction: b sentences.
        origin: int64 [b], which set of a mixture the clip came from.
        episode: int64 [b], index of the episode in that set.
        offset: int64 [b], first frame of the clip within the episode.
    """

    frames: UInt8[Tensor, "b t1 h w 3"]
    actions: Float[Tensor, "b t a"]
    mask: Bool[Tensor, "b t"]
    success: Bool[Tensor, "b t1"]
    labelled: Bool[Tensor, " b"]
    instruction: tuple[str, ...]
    origin: Int[Tensor, " b"]
    episode: Int[Tensor, " b"]
    offset: Int[Tensor, " b"]


def clips(episodes: EpisodeSet, episode: np.ndarray, offset: np.ndarray, length: int, origin: int = 0) -> ClipBatch:
    """Cuts clips of `length` actions out of episodes `episode` [b] at frames `offset` [b]."""
    last = episodes.length[episode][:, None]
    wanted = offset[:, None] + np.arange(length + 1)
    rows = episodes.first[episode][:, None] + np.minimum(wanted, last)
    mask = wanted[:, :-1] < last
    # The action row of an episode's last frame is zeros, so padded actions are zeros without further work.
    return ClipBatch(
        frames=torch.from_numpy(np.asarray(episodes.frames[rows])),
        actions=torch.from_numpy(episodes.actions[rows[:, :-1]]),
        mask=torch.from_numpy(mask),
        success=torch.from_numpy(episodes.success[rows]),
        labelled=torch.from_numpy(episodes.labelled[episode]),
        instruction=tuple(episodes.instruction[i] for i in episode),
        origin=torch.full((len(episode),), origin, dtype=torch.int64),
        episode=torch.from_numpy(episode.astype(np.int64)),
        offset=torch.from_numpy(offset.astype(np.int64)),
    )


class ClipSampler:
    """A pure map from a step to a batch of random clips: the same (seed, step) always gives the same batch."""

    def __init__(
        self,
        sources: EpisodeSet | Sequence[tuple[EpisodeSet, float]],
        length: int,
        batch: int,
        seed: int,
        weights: np.ndarray | None = None,
        overrun: bool = False,
    ):
        """Prepares the draw.

        Args:
            sources: one set, or a mixture: (set, share of the clips) pairs; shares are normalised.
            length: actions T per clip.
            batch: clips per batch.
            seed: with the step, all that a batch depends on.
            weights: float [e], how likely each episode is, over the episodes of all sets in order (normalised within
                each set). Without it an episode is as likely as it is long, so every action is about equally likely.
            overrun: let clips start at any frame that has an action, running past the end (masked). Without it a clip
                stays inside its episode where that is long enough, and starts at its first frame otherwise.

        Raises:
            InputError: a set is empty, sets differ, or weights are not one non-negative number per episode.
        """
        pairs = [(sources, 1.0)] if isinstance(sources, EpisodeSet) else list(sources)
        if not pairs or any(len(part) == 0 for part, _ in pairs):
            raise InputError("clip sampler: found a set of 0 episodes, expected at least 1 in each")
        for part, _ in pairs:
            _require_alike(pairs[0][0].spec, part.spec, pairs[0][0].frames, part.frames)
        self.sets = tuple(part for part, _ in pairs)
        self.length, self.batch, self.seed, self.overrun = length, batch, seed, overrun
        self._share = _cumulative(np.array([share for _, share in pairs], np.float64))
        if weights is None:
            weights = np.concatenate([part.length for part in self.sets]).astype(np.float64)
        total = sum(len(part) for part in self.sets)
        if len(weights) != total:
            raise InputError(f"clip sampler: found {len(weights)} weights, expected {total}, one per episode")
        bounds = np.cumsum([len(part) for part in self.sets])[:-1]
        self._weights = [_cumulative(part) for part in np.split(np.asarray(weights, np.float64), bounds)]

    def __call__(self, step: int) -> ClipBatch:
        """The batch of `step`; clips of one set of a mixture stand next to one another."""
        generator = np.random.default_rng([self.seed, step])
        counts = np.bincount(self._pick(self._share, generator, self.batch), minlength=len(self.sets))
        parts = [self._draw(origin, int(n), generator) for origin, n in enumerate(counts) if n]
        return parts[0] if len(parts) == 1 else _join(parts)

    @staticmethod
    def _pick(cumulative: np.ndarray, generator: np.random.Generator, count: int) -> np.ndarray:
        return np.searchsorted(cumulative, generator.random(count), side="right")

    def _draw(self, origin: int, count: int, generator: np.random.Generator) -> ClipBatch:
        part = self.sets[origin]
        episode = self._pick(self._weights[origin], generator, count)
        room = part.length[episode] - (1 if self.overrun else self.length)
        offset = generator.integers(0, np.maximum(room, 0) + 1)
        return clips(part, episode, offset, self.length, origin)


def _cumulative(weights: np.ndarray) -> np.ndarray:
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise InputError(
            "clip sampler: found weights that are negative, not finite or all zero; expected positive ones"
        )
    total = np.cumsum(weights) / weights.sum()
    total[np.flatnonzero(weights)[-1] :] = 1.0  # rounding must not let a draw fall beyond the last possible episode
    return total


def _join(parts: Sequence[ClipBatch]) -> ClipBatch:
    def stacked(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return ClipBatch(
        frames=stacked("frames"),
        actions=stacked("actions"),
        mask=stacked("mask"),
        success=stacked("success"),
        labelled=stacked("labelled"),
        instruction=tuple(sentence for part in parts for sentence in part.instruction),
        origin=stacked("origin"),
        episode=stacked("episode"),
        offset=stacked("offset"),
    )


def data_hash(episodes: EpisodeSet) -> str:
    """First 16 hex digits of the SHA-256 over actions, labels, layouts, words, and three frames of each episode."""
    digest = hashlib.sha256()
    for part in (episodes.actions, episodes.success, episodes.layout, episodes.length):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update("\0".join([*episodes.instruction, *episodes.task, *episodes.source]).encode())
    for first, length in zip(episodes.first.tolist(), episodes.length.tolist(), strict=True):
        digest.update(np.asarray(episodes.frames[[first, first + length // 2, first + length]]).tobytes())
    return digest.hexdigest()[:16]
