"""Samplers of starts for RL, with tasks in equal parts.

A sampler is called with a generator and a count. Its `identity` goes into a run's config.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet, data_hash
from worldgymnast.errors import InputError
from worldgymnast.protocols import RealEnvironment, StartSampler, frame_size
from worldgymnast.types import Start, StartOrLayout, require_frame_size
from worldgymnast.weights import fingerprint

_MIN_BEFORE, _MAX_BEFORE = 2, 12
"""Range of actions before the success at which a start from the middle of an episode lies."""
_MIN_SECONDS, _MAX_SECONDS = 0.15, 0.9
"""The same range in seconds, for data with more actions per second."""


StartSource = EpisodeSet | Sequence[Start] | Start | RealEnvironment
"""What `sampler_of` makes a sampler of."""


def sampler_of(
    source: StartSampler | StartSource,
    tasks: Sequence[str] = (),
    middle: float = 0.0,
    per_task: int = 30,
    first_layout: int = 6_000_000,
) -> StartSampler:
    """Make a sampler of any source of starts; return a sampler unchanged.

    Args:
        source: a sampler, logged episodes, one start or several, or a real environment.
        tasks: tasks of the episodes; all by default.
        middle: share of starts shortly before a success, for episodes.
        per_task: photographs per task, for an environment.
        first_layout: seed of the first photographed layout.

    Raises:
        InputError: the source has no starts, or none shortly before a success although `middle` asks for them.
    """
    if isinstance(source, EpisodeSet):
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        return _sampler_of_episodes(source, names or sorted(set(source.task)), middle)
    if isinstance(source, RealEnvironment):
        if per_task < 1:
            raise InputError(f"per_task: found {per_task}, expected 1 or more")
        return PhotographedStarts(source, per_task, first_layout)
    if isinstance(source, StartSampler) and not isinstance(source, type):
        return source
    several: Sequence[Any] = source if isinstance(source, list | tuple) else [source]
    for one in several:
        if not isinstance(one, Start):
            raise InputError(
                f"starts: found {type(one).__name__}, expected a wg.Start. Give episodes (wg.read), a list of starts, "
                "or a real environment, which photographs its layouts"
            )
    return FixedStarts(several)


def _sampler_of_episodes(episodes: EpisodeSet, tasks: Sequence[str], middle: float) -> EpisodeStarts:
    """Sampler of logged frames; raises InputError if `middle` has no effect."""
    if not 0 <= middle <= 1:
        raise InputError(f"middle: found {middle:g}, expected a share from 0 to 1")
    sampler = EpisodeStarts(episodes, tasks, middle)
    if middle and not any(episodes.succeeded[episodes.where(task=task)].any() for task in tasks):
        raise InputError(
            f"middle: found {middle:g}, but no episode succeeds, so no start lies shortly before a success. Use "
            "middle=0, or data with labelled successes"
        )
    return sampler


def check_frame_size(starts: StartSampler, expected: tuple[int, int]) -> None:
    """Raise InputError if a sampler is known to give frames of another size than the world model's."""
    sizes = set[tuple[int, ...]]()
    match starts:
        case FixedStarts():
            sizes = {one.frame.shape[:2] for one in starts.starts if isinstance(one, Start)}
        case EpisodeStarts():
            sizes = {starts.episodes.size}
        case PhotographedStarts():
            sizes = {frame_size(starts.env)}
        case ParaphrasedStarts():
            check_frame_size(starts.starts, expected)
        case MixedStarts():
            check_frame_size(starts.first, expected)
            check_frame_size(starts.second, expected)
    for size in sizes:
        require_frame_size(size, expected)


def starts_hash(starts: Sequence[StartOrLayout]) -> str:
    """Return 16 hex digits of the SHA-256 over frames, sentences, tasks and layouts."""
    digest = hashlib.sha256()
    for start in starts:
        frame = start.frame.tobytes() if isinstance(start, Start) else b""
        seed = start.layout if isinstance(start, Start) else start.seed
        digest.update(frame + f"\0{start.instruction}\0{start.task}\0{seed}".encode())
        if isinstance(start, Start) and start.state is not None:
            digest.update(start.state.tobytes())
    return digest.hexdigest()[:16]


class FixedStarts:
    """Draws from a list of starts, or of layouts for a simulator.

    Args:
        starts: at least one.

    >>> import numpy as np
    >>> scene = Start(np.zeros((64, 64, 3), np.uint8), "open the drawer", "drawer-open")
    >>> [start.task for start in FixedStarts([scene])(np.random.default_rng(0), 2)]
    ['drawer-open', 'drawer-open']
    """

    def __init__(self, starts: Sequence[StartOrLayout]):
        if not starts:
            raise InputError("starts is empty. Give at least one frame or layout to start from")
        self.starts = list(starts)
        self._by_task: dict[str, list[StartOrLayout]] = {}
        for start in starts:
            self._by_task.setdefault(start.task, []).append(start)

    @property
    def identity(self) -> str:
        """Hash of the starts."""
        return starts_hash(self.starts)

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """Draw `count` starts, tasks in equal parts."""
        order = rng.permutation(len(self._by_task))
        tasks = [sorted(self._by_task)[order[i % len(order)]] for i in range(count)]
        return [self._by_task[task][int(rng.integers(len(self._by_task[task])))] for task in tasks]


@dataclass(frozen=True)
class MixedStarts:
    """Draws from two samplers in equal parts."""

    first: StartSampler
    second: StartSampler

    @property
    def identity(self) -> str:
        """Identity of both samplers."""
        return fingerprint(["mixed", self.first.identity, self.second.identity])

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """Draw `count` starts, half from each sampler."""
        own = count // 2 + count % 2 * int(rng.integers(2))
        return [*self.first(rng, own), *self.second(rng, count - own)]


@dataclass(frozen=True)
class ParaphrasedStarts:
    """Draws from a sampler, with a random sentence of each task.

    Attributes:
        starts: the sampler.
        instructions: returns the sentences of a task.
    """

    starts: FixedStarts
    instructions: Callable[[str], Sequence[str]]

    @property
    def identity(self) -> str:
        """Identity of the sampler and the sentences."""
        tasks = sorted({start.task for start in self.starts.starts})
        return fingerprint([self.starts.identity, {task: list(self.instructions(task)) for task in tasks}])

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """Draw `count` starts, each with a random sentence of its task."""
        drawn = self.starts(rng, count)
        return [replace(start, instruction=str(rng.choice(self.instructions(start.task)))) for start in drawn]


class PhotographedStarts:
    """Draws photographs of new layouts of a real environment.

    Each has a random sentence of its task. Photographs are taken when the first start is drawn; no action is executed.

    Args:
        env: the real environment.
        per_task: layouts of each task.
        first_layout: seed of the first layout; nothing else should use these layouts.
    """

    def __init__(self, env: RealEnvironment, per_task: int, first_layout: int):
        self.env, self.per_task, self.first_layout = env, per_task, first_layout

    @property
    def identity(self) -> str:
        """Identity of the environment and the layouts."""
        return fingerprint(["photographs", self.env.identity, self.per_task, self.first_layout])

    @functools.cached_property
    def photographs(self) -> list[Start]:
        """Photographed starts, ordered by task."""
        return self.env.photograph(self.env.layouts(self.per_task, self.first_layout))

    @functools.cached_property
    def _sampler(self) -> ParaphrasedStarts:
        return ParaphrasedStarts(FixedStarts(self.photographs), self.env.instructions)

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """Draw `count` photographs, each with a random sentence of its task."""
        return self._sampler(rng, count)


class EpisodeStarts:
    """Draws frames of logged episodes, some of them shortly before a success.

    Close to the goal, a policy first succeeds at a task that it cannot do from the start (Florensa et al. 2017, arXiv
    1707.05300; Salimans and Chen 2018, arXiv 1812.03381).

    Args:
        episodes: logged episodes, some of them of `tasks`.
        tasks: tasks to draw starts of.
        middle: share of starts from the middle of an episode: shortly before its success, or from its first half if no
            episode of the task succeeds.

    Raises:
        InputError: there is no episode of these tasks.
    """

    def __init__(self, episodes: EpisodeSet, tasks: Sequence[str], middle: float):
        self.episodes, self.tasks, self.middle = episodes, list(tasks), middle
        self._by_task = [episodes.where(task=task) for task in tasks if len(episodes.where(task=task))]
        if not self._by_task:
            raise InputError(
                f"the episodes are of the tasks {sorted(set(episodes.task))}, none of {self.tasks}. Give episodes of "
                "these tasks, or choose other tasks"
            )
        self._succeeded = [own[episodes.succeeded[own]] for own in self._by_task]

    @property
    def identity(self) -> str:
        """Hash of the episodes, tasks and share."""
        return fingerprint([data_hash(self.episodes), self.tasks, self.middle])

    def __call__(self, rng: np.random.Generator, count: int) -> list[Start]:
        """Draw `count` frames, tasks in equal parts."""
        order = rng.permutation(len(self._by_task))
        return [self._draw(rng, int(order[i % len(order)])) for i in range(count)]

    def _draw(self, rng: np.random.Generator, task: int) -> Start:
        episodes, succeeded = self.episodes, self._succeeded[task]
        is_middle = rng.random() < self.middle
        e = int(rng.choice(succeeded if is_middle and len(succeeded) else self._by_task[task]))
        index = self._index_before_success(rng, e) if is_middle else 0
        frame = np.asarray(episodes.frames[int(episodes.first[e]) + index])
        state = None if episodes.state is None else episodes.state[int(episodes.first[e]) + index]
        return Start(frame, episodes.instruction[e], episodes.task[e], state=state)

    def _index_before_success(self, rng: np.random.Generator, episode: int) -> int:
        """Draw a frame shortly before the success of an episode."""
        first, length = int(self.episodes.first[episode]), int(self.episodes.length[episode])
        successes = np.flatnonzero(self.episodes.success[first : first + length + 1])
        fps = self.episodes.fps
        least, most = max(_MIN_BEFORE, round(_MIN_SECONDS * fps)), max(_MAX_BEFORE, round(_MAX_SECONDS * fps))
        before = int(rng.integers(least, most + 1))
        return max(0, int(successes[0]) - before) if len(successes) else int(rng.integers(0, max(1, length // 2)))
