"""The reader of LeRobotDataset v3.0 and v2.1, this project's and anyone's."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from worldgymnast.episodes.cache import cached_frames, fingerprint
from worldgymnast.episodes.lerobot_frames import Camera, camera, in_order, side_by_side
from worldgymnast.episodes.lerobot_layout import ImageKey, Layout, read_layout
from worldgymnast.episodes.lerobot_rows import Rows
from worldgymnast.episodes.lerobot_spec import axis_names
from worldgymnast.episodes.lerobot_survey import SAID, Survey, survey
from worldgymnast.episodes.rates import agreed_rate
from worldgymnast.episodes.windows import EpisodeSet, EpisodeStream
from worldgymnast.errors import InputError
from worldgymnast.files import visible
from worldgymnast.types import Episode
from worldgymnast.video import resize

_CACHE_FORMAT = "rows-by-time-1"
"""Changes whenever the same files give other frames, so that frames decoded before are not taken."""

Size = int | tuple[int, int] | None


def read(path: str | Path, *, image_key: ImageKey = None, size: Size = None, fps: float | None = None) -> EpisodeSet:
    """Reads a data set, v3.0 or v2.1, this project's or anyone's.

    Row i of an episode, by `frame_index`, gets the frame at its time (see `lerobot_pairing`). The decoded frames are
    kept in the user's cache folder (see `cache`) and mapped, so only the first read decodes.

    Args:
        path: the folder.
        image_key: which camera; needed only where there are several. Several names, or "all", put their frames side by
            side, from left to right in that order, each scaled to the height of the first.
        size: pixels to resize the frames to.
        fps: frames per second of robot time, if they are to be compared with what the data set says.

    Raises:
        InputError: a file is missing, cut short, or contradicts the metadata or `fps`; names the file and the field.
    """
    read_from = read_layout(path, image_key)
    agreed_rate(path, read_from.robot_fps, fps)
    made = _sound(read_from)
    found, rows = made.layout, made.rows
    order = in_order(found, rows)
    counts = [len(one.index) for one in order]
    first = dict(zip((one.record.index for one in order), np.cumsum([0, *counts[:-1]]), strict=True))
    actions = np.concatenate([_without_last(one.actions) for one in order])
    success = [np.zeros(len(one.index), bool) if one.success is None else one.success for one in order]
    key = fingerprint(_files(found), _CACHE_FORMAT, found.cameras, size)
    pixels = "native" if size is None else str(size).replace(" ", "")
    name = f"{'+'.join(found.cameras)[:80]}-{pixels}".replace("/", "_")
    return EpisodeSet(
        frames=cached_frames(found.root, name, key, len(actions), lambda: _decoded(found, order, size)),
        actions=actions,
        success=np.concatenate(success),
        first=np.array([first[one.record.index] for one in rows], np.int64),
        length=np.array([len(one.index) - 1 for one in rows], np.int64),
        labelled=np.array([one.success is not None for one in rows], bool),
        instruction=tuple(one.instruction for one in rows),
        task=tuple(one.record.task for one in rows),
        source=tuple(one.record.source for one in rows),
        layout=np.array([one.record.layout for one in rows], np.int64),
        spec=found.spec,
        fps=found.robot_fps,
    )


def episodes(path: str | Path, *, image_key: ImageKey = None, size: Size = None) -> Iterator[Episode]:
    """The episodes of a data set whole, one by one; see `read_whole`."""
    return read_whole(path, image_key=image_key, size=size).episodes


def read_whole(path: str | Path, *, image_key: ImageKey = None, size: Size = None) -> EpisodeStream:
    """Reads a data set whole: every camera, the state, the last action, the robot's type.

    Nothing is cached; one episode is held at a time.

    Args:
        path: the folder.
        image_key: which cameras; all of them by default. The first is `Episode.camera`, the others `Episode.cameras`.
        size: pixels to resize the frames to; without it each camera keeps its own.

    Raises:
        InputError: see `read`.
    """
    made = _sound(read_layout(path, "all" if image_key is None else image_key), state=True)
    found = made.layout
    if found.depth and image_key in (None, "all"):
        _say(
            f"{found.root}: depth maps {found.depth} are left out; name them with --image-key to take them as pictures"
        )
    return EpisodeStream(len(made.rows), found.spec, found.robot_fps, _whole(found, made.rows, size))


def _whole(found: Layout, rows: Sequence[Rows], size: Size) -> Iterator[Episode]:
    cameras = {name: _camera(found, name, rows) for name in found.cameras}
    names = _state_names(found)
    for one in rows:
        frames = {name: _stacked(source, one, size) for name, source in cameras.items()}
        main, *others = found.cameras
        layout = one.record.layout
        yield Episode(
            frames=frames[main],
            actions=one.actions[:-1],
            instruction=one.instruction,
            task=one.record.task,
            fps=found.robot_fps,
            spec=found.spec,
            success=one.success,
            source=one.record.source,
            layout=None if layout < 0 else layout,
            camera=main,
            cameras={name: frames[name] for name in others},
            state=one.state,
            state_names=names if one.state is not None and one.state.shape[1] == len(names) else (),
            last_action=one.actions[-1] if one.has_last_action else None,
            robot=found.robot,
        )


def _sound(found: Layout, state: bool = False) -> Survey:
    """The survey; raises its first error, and says where a step is no step in time or the statistics do not hold."""
    made = survey(found, state)
    for error in made.errors:
        raise error
    for warning in made.warnings:
        if warning.field in SAID:
            _say(str(warning))
    return made


@functools.cache
def _say(line: str) -> None:
    """Prints a line on stderr, once."""
    print(line, file=sys.stderr, flush=True)


def _without_last(actions: np.ndarray) -> np.ndarray:
    """The actions with zeros in the place of the last, which has no frame after it."""
    kept = actions.copy()
    kept[-1] = 0.0
    return kept


def _files(found: Layout) -> set[Path]:
    """All files that decide which frames are read."""
    media = {place.file for record in found.records for place in record.places.values()}
    data = {record.data for record in found.records}
    return media | data | set(visible(path for path in (found.root / "meta").rglob("*") if path.is_file()))


def _camera(found: Layout, name: str, rows: Sequence[Rows]) -> Camera:
    """A camera's frames; raises the first error of its pairings."""
    source, pairings = camera(found, name, rows)
    for error in (error for pairing in pairings for error in pairing.errors):
        raise error
    return source


def _decoded(found: Layout, order: Sequence[Rows], size: Size) -> Iterator[tuple[Path, np.ndarray]]:
    """The frames of the episodes in that order with their files, each file walked once."""
    cameras = [_camera(found, name, order) for name in found.cameras]
    for one in order:
        file = cameras[0].file(one)
        for frame in side_by_side(cameras, one):
            yield file, frame if size is None else resize(frame, size)


def _stacked(source: Camera, one: Rows, size: Size) -> np.ndarray:
    """uint8 [n h w 3]."""
    frames = [frame if size is None else resize(frame, size) for frame in source.frames(one)]
    for frame in frames:
        if frame.shape != frames[0].shape:
            (h, w), (height, width) = frame.shape[:2], frames[0].shape[:2]
            raise InputError(
                f"{source.file(one)}: episode {one.record.index}: found frames of {height}x{width} and {h}x{w} pixels, "
                "expected one size; resize all with --size"
            )
    return np.stack(frames)


def _state_names(found: Layout) -> tuple[str, ...]:
    feature = found.info["features"].get(found.state, {})
    shape = feature.get("shape")
    width = shape[0] if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int) else 0
    return axis_names(feature.get("names"), width) if 0 < width < 10_000 else ()
