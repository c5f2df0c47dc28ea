"""Merge datasets into one, such as several recordings of one robot and rollouts of its policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, converter, union
from worldgymnast.episodes import formats
from worldgymnast.episodes.labels import Labels, episode_key
from worldgymnast.episodes.lerobot import LeRobotWriter
from worldgymnast.episodes.lerobot_appender import LeRobotAppender
from worldgymnast.episodes.lerobot_layout import ImageKey
from worldgymnast.episodes.lerobot_reader import recorded_actions
from worldgymnast.episodes.lerobot_tables import Contents
from worldgymnast.episodes.rates import is_same_rate, subsampling_factor
from worldgymnast.episodes.subsample import subsample, subsampled_spec
from worldgymnast.episodes.windows import EpisodeStream
from worldgymnast.errors import InputError
from worldgymnast.preprocessing import Resize
from worldgymnast.progress import Progress
from worldgymnast.staging import StagedFolder
from worldgymnast.types import Episode
from worldgymnast.video import resize

_THUMBNAIL = 8
"""Height and width of the picture by which episodes with the same actions are compared."""
_SAME = 8.0
"""Mean difference of two such pictures, of 255, below which episodes are the same. Another encoding changes less."""


@dataclass
class _Source:
    """A dataset to add.

    Attributes:
        path: the folder.
        stream: its episodes.
        numbers: number of each episode in it.
        every: factor by which it is subsampled.
        spec: meaning of its actions after subsampling.
    """

    path: Path
    stream: EpisodeStream
    numbers: list[int]
    every: int
    spec: ActionSpec


@dataclass
class _Seen:
    """Episodes added so far, to notice one that is added twice.

    Attributes:
        pictures: dataset, number and first and last frame of each, by the hash of its actions.
        dataset: the dataset that others are added to in place; it is decoded only if an episode may be in it.
        keys: hashes of the actions of its episodes.
    """

    pictures: dict[str, list[tuple[Path, int, np.ndarray]]] = field(default_factory=dict)
    dataset: Path | None = None
    keys: frozenset[str] = frozenset()

    @classmethod
    def in_dataset(cls, path: Path) -> _Seen:
        """With the episodes of a LeRobot dataset."""
        return cls(dataset=path, keys=frozenset(map(episode_key, recorded_actions(path))))

    def require_new(self, episode: Episode, path: Path, number: int) -> None:
        """Raise InputError if another dataset has contained the episode."""
        key, picture = episode_key(episode.actions), _thumbnail(episode)
        if self.dataset is not None and key in self.keys:
            whole, self.dataset = self.dataset, None
            opened = formats.stream(whole)
            for known_number, one in zip(formats.episode_numbers(whole, opened.count), opened.episodes, strict=True):
                self.require_new(one, whole, known_number)
        known = self.pictures.setdefault(key, [])
        for other, other_number, other_picture in known:
            if other != path and np.abs(other_picture - picture).mean() < _SAME:
                raise InputError(
                    f"{path}: episode {number} is also episode {other_number} of {other}. Each episode may be added "
                    "once, since duplicates leak from training into held-out data. Leave one of the two out"
                )
        known.append((path, number, picture))


def _thumbnail(episode: Episode) -> np.ndarray:
    """First and last frame in few pixels, float32 [2 8 8 3]."""
    ends = episode.frames[[0, len(episode.frames) - 1]]
    return resize(np.asarray(ends), (_THUMBNAIL, _THUMBNAIL)).astype(np.float32)


def merge(
    paths: Sequence[Path],
    target: Path | None,
    *,
    size: int | tuple[int, int] | None = None,
    image_key: ImageKey = None,
    fps: float | None = None,
    resize: Resize = "squash",
    source: str = "",
    lossless: bool = False,
    labels: Labels | None = None,
) -> list[formats.ConversionSummary]:
    """Write the episodes of several datasets of any format to a new one, LeRobot v3.0, or into the first of them.

    The first dataset decides on actions, cameras, state and frame rate. Others are converted: actions to its spec (the
    bounds are united), higher rates by subsampling, cameras by the last part of their name. A rate within 1 % is equal.
    Episodes keep their success labels. Those without an origin get `source`, or the name of their folder.

    Args:
        paths: the datasets.
        target: the folder to create; None adds the other datasets to the first one, which must be LeRobot v3.0. Its
            files are kept, and a killed process leaves it as it was.
        size: pixels to resize the frames of every camera to.
        image_key: the cameras; all by default.
        fps: frames per second of datasets that do not state it.
        resize: how a picture of another shape becomes a frame of `size`.
        source: origin of the episodes without one, of all datasets but the first.
        lossless: keep the frames bit-identical instead of writing small files; without `target` as the first dataset.
        labels: label files with success labels of the episodes.

    Returns:
        Counts of each dataset.

    Raises:
        InputError: a dataset cannot be read or converted, an episode is in two of them, or the target exists.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("DATA: a data set was given twice. Give each once")
    if target is None and (size is not None or lossless):
        raise InputError("--size, --lossless: frames are written as those of the data set. Omit it, or give --out")
    with ExitStack() as stack:
        # fails before gigabytes are read
        folder = StagedFolder(paths[0], replaces=True) if target is None else StagedFolder(target)
        stack.callback(folder.discard)
        sources = _open(paths, image_key, size, fps, resize)
        rate = sources[0].stream.fps
        spec = _joint_spec(sources)
        summaries, seen, first = [formats.ConversionSummary(fps=rate) for _ in paths], _Seen(), None
        if target is None:
            first = next(sources[0].stream.episodes)
            seen = _Seen.in_dataset(paths[0])
            writer: LeRobotWriter = stack.enter_context(LeRobotAppender(folder, first, spec, rate))
        else:
            writer = stack.enter_context(LeRobotWriter(folder, spec, rate, lossless=lossless))
        added = [*zip(sources, summaries, strict=True)][target is None :]
        progress = stack.enter_context(Progress("adding episodes", sum(one.stream.count for one, _ in added)))
        for one, summary in added:
            origin = source or one.path.resolve().name if one is not sources[0] else one.path.resolve().name
            for number, episode in _episodes(one, seen, labels):
                converted = _converted(episode, spec, rate, origin)
                first = first or converted
                formats.add_episode(_fit(converted, first, f"{one.path}: episode {number}"), writer, summary)
                progress.advance()
        if labels is not None:
            labels.require_used(" or ".join(str(one.path) for one, _ in added))
    return summaries


def _open(
    paths: Sequence[Path], image_key: ImageKey, size: int | tuple[int, int] | None, fps: float | None, rule: Resize
) -> list[_Source]:
    """Open all datasets.

    Raises InputError if a rate is no multiple of the first one's.
    """
    sources: list[_Source] = []
    for path in paths:
        stream = formats.stream(path, image_key, size, fps, rule)
        rate = sources[0].stream.fps if sources else stream.fps
        try:
            every = 1 if is_same_rate(stream.fps, rate) else subsampling_factor(stream.fps, rate)
        except InputError as error:
            raise InputError(
                f"{path}: found {stream.fps:g} frames per second, expected {rate:g} as in {paths[0]}, or a whole "
                "multiple. Convert one of them (data convert --fps), or give the slower one first"
            ) from error
        numbers = formats.episode_numbers(path, stream.count)
        sources.append(_Source(path, stream, numbers, every, subsampled_spec(stream.spec, every)))
    return sources


def _joint_spec(sources: Sequence[_Source]) -> ActionSpec:
    """The first dataset's spec, with bounds that include those of its kind.

    Raises InputError if another cannot be converted.
    """
    head = sources[0].spec
    for one in sources[1:]:
        try:
            converter(one.spec, head)
        except ActionSpecMismatch as error:
            raise InputError(f"{one.path}: {error}. Its episodes cannot be added to {sources[0].path}") from error
    return union([one.spec for one in sources if one.spec.is_same_kind(head)])


def _episodes(source: _Source, seen: _Seen, labels: Labels | None) -> Iterator[tuple[int, Episode]]:
    """The labelled and subsampled episodes with their numbers."""
    for number, episode in zip(source.numbers, source.stream.episodes, strict=True):
        seen.require_new(episode, source.path, number)
        known = episode if labels is None else labels.label(episode, number)
        yield number, subsample(known, source.every)


def _converted(episode: Episode, spec: ActionSpec, rate: float, origin: str) -> Episode:
    convert = converter(episode.spec, spec)
    last = episode.last_action
    return replace(
        episode,
        actions=convert(episode.actions).astype(np.float32),
        last_action=None if last is None else convert(last[None])[0].astype(np.float32),
        spec=spec,
        fps=rate,
        source=episode.source or origin,
    )


def _fit(episode: Episode, first: Episode, where: str) -> Episode:
    """An episode with cameras, state and robot named as in the first one.

    Raises InputError if a camera or the state is missing or differs.
    """
    if episode is first:
        return first
    frames = {episode.camera: episode.frames, **episode.cameras}
    names = [first.camera, *first.cameras]
    chosen = {name: _same_camera(name, list(frames), len(names)) for name in names}
    unused = set(frames) - set(chosen.values())
    if None in chosen.values() or unused:
        raise InputError(
            f"{where}: found cameras {', '.join(name or 'image' for name in frames)}, expected "
            f"{', '.join(name or 'image' for name in names)}. Select the common ones with --image-key"
        )
    if first.state is not None and episode.state is None:
        raise InputError(f"{where}: found no state, which the other episodes have. Give this data set first")
    is_stateless = first.state is None
    fitted = replace(
        episode,
        camera=first.camera,
        frames=frames[chosen[first.camera] or ""],
        cameras={name: frames[chosen[name] or ""] for name in first.cameras},
        state=None if is_stateless else episode.state,
        state_names=() if is_stateless else episode.state_names or first.state_names,
        robot=episode.robot or first.robot,
    )
    known = replace(first, robot=first.robot or fitted.robot)
    if difference := Contents.of(known).difference(Contents.of(fitted)):
        hint = "Resize all with --size" if difference.startswith("field 'cameras'") else "Leave it out"
        raise InputError(f"{where}: {difference}. {hint}")
    return replace(fitted, robot=first.robot)


def _same_camera(name: str, known: Sequence[str], count: int) -> str | None:
    """The camera of that name, or with the same last part; the only one if each side has one."""
    if name in known:
        return name
    matches = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    if len(matches) == 1:
        return matches[0]
    return known[0] if len(known) == count == 1 else None
