"""Stream RLDS episodes with separate cameras, for conversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldgymnast.actions import ActionSpec
from worldgymnast.episodes.rates import resolve_rate
from worldgymnast.episodes.rlds import Record, iterate_frames, print_split, spec_of, valid_records
from worldgymnast.episodes.rlds_layout import Description, describe
from worldgymnast.episodes.windows import EpisodeStream
from worldgymnast.errors import InputError
from worldgymnast.preprocessing import Resize
from worldgymnast.types import Episode


def stream(
    path: str | Path,
    image_key: str | None = None,
    size: int | tuple[int, int] | None = None,
    fps: float | None = None,
    resize: Resize = "squash",
) -> EpisodeStream:
    """Read complete episodes one by one; nothing is cached.

    The action of the last step is dropped, since RLDS does not define its meaning.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: the cameras; by default all color cameras, and `image_0` of BridgeData V2.
        size: pixels to resize the frames to.
        resize: how a picture of another shape becomes a frame of `size`.
        fps: frames per second of robot time; ignored for BridgeData V2, which has 5 Hz.

    Raises:
        InputError: a shard is missing, truncated or damaged, or the frame rate is unknown.
    """
    description = _describe(path, image_key)
    print_split(description)
    rows, has_state = [], bool(description.state_key)
    for record in valid_records(description):
        rows.append(record.actions)
        has_state = has_state and record.state is not None
    spec = spec_of(description, rows)
    rate = spec.rate or resolve_rate(path, None, fps)
    return EpisodeStream(len(rows), spec, rate, _episodes(description, spec, rate, size, resize, has_state))


def _describe(path: str | Path, image_key: str | None) -> Description:
    if image_key is not None:
        return describe(path, image_key)
    try:
        description = describe(path, "all")
    except InputError:
        return describe(path)  # for example gray cameras only
    return describe(path) if description.name.startswith("bridge") else description


def _episodes(
    description: Description,
    spec: ActionSpec,
    fps: float,
    size: int | tuple[int, int] | None,
    resize: Resize,
    has_state: bool,
) -> Iterator[Episode]:
    for record in valid_records(description):
        frames = _frames(record, description, size, resize)
        main, *others = frames
        yield Episode(
            frames=frames[main],
            actions=record.actions[:-1],
            instruction=record.instruction,
            task="",
            fps=fps,
            spec=spec,
            source=description.name,
            camera=main if others else "",
            cameras={name: frames[name] for name in others},
            state=record.state if has_state else None,
        )


def _frames(
    record: Record, description: Description, size: int | tuple[int, int] | None, resize: Resize
) -> dict[str, np.ndarray]:
    """The frames of every camera by name, uint8 [t h w 3]."""
    frames = {}
    for camera, pictures in zip(description.cameras, record.pictures, strict=True):
        single = replace(description, cameras=(camera,))
        views = iterate_frames(replace(record, pictures=(pictures,)), single, size, resize)
        frames[camera.name] = np.stack(list(views))
    return frames
