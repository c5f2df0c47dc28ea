"""Reader of LeRobotDataset v3.0 and v2.1 from any source."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.episodes.cache import cached_frames, files_hash
from worldgymnast.episodes.lerobot_frames import Camera, first_sizes, open_camera, pictures, sort_by_file
from worldgymnast.episodes.lerobot_layout import INFO, ImageKey, Layout, read_layout
from worldgymnast.episodes.lerobot_rows import Rows
from worldgymnast.episodes.lerobot_spec import axis_names
from worldgymnast.episodes.lerobot_survey import PRINTED, Survey, survey
from worldgymnast.episodes.rates import resolve_rate
from worldgymnast.episodes.windows import EpisodeSet, EpisodeStream
from worldgymnast.errors import InputError
from worldgymnast.files import visible
from worldgymnast.preprocessing import Resize, fit
from worldgymnast.tiling import Tiling, compose, composed_tiling
from worldgymnast.types import Episode

_CACHE_FORMAT = "rows-by-time-1"
"""Part of the cache key. Change it if the same files are paired with different frames than before."""

Size = int | tuple[int, int] | None


def read(
    path: str | Path,
    *,
    image_key: ImageKey = None,
    size: Size = None,
    fps: float | None = None,
    resize: Resize = "squash",
    state: bool | None = None,
) -> EpisodeSet:
    """Read a dataset, v3.0 or v2.1.

    Each row of an episode, sorted by `frame_index`, gets the frame at its time (see `lerobot_pairing`). Decoded frames
    are cached (see `cache`) and memory-mapped, so only the first read decodes.

    Args:
        path: the folder.
        image_key: the camera; required if there are several. Frames of several cameras, or "all", are placed side by
            side in the given order, each scaled to the height of the first.
        size: pixels to resize the frames to.
        fps: expected frames per second of robot time, compared with the dataset's rate.
        resize: how a picture of another shape becomes a frame of `size`.
        state: whether to read the state; None reads it if there is a valid one, and reports an invalid one on stderr.

    Raises:
        InputError: a file is missing, truncated, or contradicts the metadata or `fps`; names the file and the field.
    """
    metadata = read_layout(path, image_key)
    resolve_rate(path, metadata.robot_fps, fps)
    result = _survey_with_state(metadata, state)
    layout, episodes = result.layout, result.rows
    order = sort_by_file(layout, episodes)
    counts = [len(rows.index) for rows in order]
    first = dict(zip((rows.record.index for rows in order), np.cumsum([0, *counts[:-1]]), strict=True))
    actions = np.concatenate([_zero_last(rows.actions) for rows in order])
    success = [np.zeros(len(rows.index), bool) if rows.success is None else rows.success for rows in order]
    key = files_hash(_files(layout), _CACHE_FORMAT, layout.cameras, size, *rule_of_cache(size, resize))
    pixels = "native" if size is None else str(size).replace(" ", "")
    name = f"{'+'.join(layout.cameras)[:80]}-{pixels}".replace("/", "_")
    frames = cached_frames(layout.root, name, key, len(actions), lambda: _decode(layout, order, size, resize))
    return EpisodeSet(
        frames=frames,
        actions=actions,
        success=np.concatenate(success),
        first=np.array([first[rows.record.index] for rows in episodes], np.int64),
        length=np.array([len(rows.index) - 1 for rows in episodes], np.int64),
        labelled=np.array([rows.success is not None for rows in episodes], bool),
        instruction=tuple(rows.instruction for rows in episodes),
        task=tuple(rows.record.task for rows in episodes),
        source=tuple(rows.record.source for rows in episodes),
        layout=np.array([rows.record.layout for rows in episodes], np.int64),
        spec=layout.spec,
        fps=layout.robot_fps,
        tiling=_tiling(layout, order, (frames.shape[1], frames.shape[2])),
        **_state_of(layout, order),
    )


def rule_of_cache(size: Size, rule: Resize) -> tuple[str, ...]:
    """What a rule adds to a cache key; nothing for the default, whose entries are older than the rules."""
    return () if size is None or rule == "squash" else (rule,)


def _survey_with_state(layout: Layout, state: bool | None) -> Survey:
    """The survey with the state; without it if the state alone is invalid and not required.

    Raises:
        InputError: see `_checked_survey`, or the state is required and there is none.
    """
    if state is False:
        return _checked_survey(layout)
    try:
        result = _checked_survey(layout, read_state=True)
    except InputError as error:
        if state:
            raise
        result = _checked_survey(layout)
        _print_once(f"{error}. The state is not read")
    if state and any(rows.state is None for rows in result.rows):
        raise InputError(
            f"{layout.root / INFO}: field 'features': found no {layout.state}, expected the robot's state. "
            "Record it, or train without the state"
        )
    return result


def _state_of(layout: Layout, order: Sequence[Rows]) -> dict[str, Any]:
    """State and its names as fields of an `EpisodeSet`."""
    states = [rows.state for rows in order if rows.state is not None]
    if len(states) < len(order) or len({state.shape[1] for state in states}) != 1:
        return {}
    names = _state_names(layout)
    return {"state": np.concatenate(states), "state_names": names if len(names) == states[0].shape[1] else ()}


def _tiling(layout: Layout, order: Sequence[Rows], size: tuple[int, int]) -> Tiling:
    """Where each camera lies in frames of a size."""
    if len(layout.cameras) == 1:
        return Tiling.single(size, layout.cameras[0])
    return composed_tiling(first_sizes(layout, order[0]), size)


def episodes(path: str | Path, *, image_key: ImageKey = None, size: Size = None) -> Iterator[Episode]:
    """Yield the complete episodes of a dataset; see `stream`."""
    return stream(path, image_key=image_key, size=size).episodes


def stream(
    path: str | Path, *, image_key: ImageKey = None, size: Size = None, resize: Resize = "squash"
) -> EpisodeStream:
    """Read complete episodes, with all cameras and the state, one by one.

    Nothing is cached; one episode is in memory at a time.

    Args:
        path: the folder.
        image_key: the cameras; all by default. The first is `Episode.camera`, the others are `Episode.cameras`.
        size: pixels to resize the frames to; by default each camera keeps its size.
        resize: how a picture of another shape becomes a frame of `size`.

    Raises:
        InputError: see `read`.
    """
    result = _checked_survey(read_layout(path, "all" if image_key is None else image_key), read_state=True)
    layout = result.layout
    if layout.skipped_depth and image_key in (None, "all"):
        _print_once(
            f"{layout.root}: depth maps {layout.skipped_depth} are skipped; name them with --image-key (in Python: "
            "cameras=...) to read them as pictures"
        )
    return EpisodeStream(len(result.rows), layout.spec, layout.robot_fps, _episodes(layout, result.rows, size, resize))


def recorded_actions(path: str | Path) -> list[np.ndarray]:
    """Actions [t a] of each episode of a dataset, without decoding a frame.

    Raises:
        InputError: see `read`.
    """
    return [rows.actions[:-1] for rows in _checked_survey(read_layout(path, "all")).rows]


def _episodes(layout: Layout, episodes: Sequence[Rows], size: Size, resize: Resize) -> Iterator[Episode]:
    cameras = {name: _camera(layout, name, episodes) for name in layout.cameras}
    names = _state_names(layout)
    for rows in episodes:
        frames = {name: _stack(camera, rows, size, resize) for name, camera in cameras.items()}
        main, *others = layout.cameras
        seed = rows.record.layout
        yield Episode(
            frames=frames[main],
            actions=rows.actions[:-1],
            instruction=rows.instruction,
            task=rows.record.task,
            fps=layout.robot_fps,
            spec=layout.spec,
            success=rows.success,
            source=rows.record.source,
            layout=None if seed < 0 else seed,
            camera=main,
            cameras={name: frames[name] for name in others},
            state=rows.state,
            state_names=names if rows.state is not None and rows.state.shape[1] == len(names) else (),
            last_action=rows.actions[-1] if rows.has_last_action else None,
            robot=layout.robot,
        )


def _checked_survey(layout: Layout, read_state: bool = False) -> Survey:
    """The survey.

    Raises its first error and prints the warnings that affect training.
    """
    result = survey(layout, read_state)
    for error in result.errors:
        raise error
    for warning in result.warnings:
        if warning.field in PRINTED:
            _print_once(str(warning))
    return result


@functools.cache
def _print_once(line: str) -> None:
    """Print a line on stderr, once per process."""
    print(line, file=sys.stderr, flush=True)


def _zero_last(actions: np.ndarray) -> np.ndarray:
    """The actions with the last one replaced by zeros."""
    result = actions.copy()
    result[-1] = 0.0
    return result


def _files(layout: Layout) -> set[Path]:
    """All files that affect the frames."""
    media = {span.file for record in layout.records for span in record.videos.values()}
    data = {record.data for record in layout.records}
    return media | data | set(visible(path for path in (layout.root / "meta").rglob("*") if path.is_file()))


def _camera(layout: Layout, name: str, episodes: Sequence[Rows]) -> Camera:
    """Open a camera; raises the first error of its pairings."""
    camera, pairings = open_camera(layout, name, episodes)
    for error in (error for pairing in pairings for error in pairing.errors):
        raise error
    return camera


def _decode(layout: Layout, order: Sequence[Rows], size: Size, resize: Resize) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield the frames of the episodes in order, each with its file.

    Decodes each file once.
    """
    cameras = [_camera(layout, name, order) for name in layout.cameras]
    for rows in order:
        file = cameras[0].file(rows)
        for several in pictures(cameras, rows):
            yield file, compose(dict(zip(layout.cameras, several, strict=True)), size, resize)


def _stack(camera: Camera, rows: Rows, size: Size, resize: Resize) -> np.ndarray:
    """The frames of an episode, uint8 [n h w 3]."""
    frames = [frame if size is None else fit(frame, size, resize) for frame in camera.frames(rows)]
    for frame in frames:
        if frame.shape != frames[0].shape:
            (h, w), (height, width) = frame.shape[:2], frames[0].shape[:2]
            raise InputError(
                f"{camera.file(rows)}: episode {rows.record.index}: found frames of {height}x{width} and {h}x{w} "
                "pixels, expected one size; resize all with --size (in Python: size=...)"
            )
    return np.stack(frames)


def _state_names(layout: Layout) -> tuple[str, ...]:
    names: tuple[str, ...] = ()
    for part in layout.states:
        feature = layout.info["features"].get(part, {})
        shape = feature.get("shape")
        width = shape[0] if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int) else 0
        own = axis_names(feature.get("names"), width) if 0 < width < 10_000 else ()
        prefix = "" if len(layout.states) == 1 else part.rpartition(".")[2] + "."
        names += tuple(f"{prefix}{name}" for name in own)
    return names
