"""RLDS episodes with every camera on its own, one at a time, for a conversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldgymnast.actions import ActionSpec
from worldgymnast.episodes.rates import agreed_rate
from worldgymnast.episodes.rlds import Record, pictures_of, say_split, sound_records, spec_of
from worldgymnast.episodes.rlds_layout import Description, describe
from worldgymnast.episodes.windows import EpisodeStream
from worldgymnast.errors import InputError
from worldgymnast.types import Episode


def read_whole(
    path: str | Path,
    image_key: str | None = None,
    size: int | tuple[int, int] | None = None,
    fps: float | None = None,
) -> EpisodeStream:
    """Read a folder; nothing is cached.

    The action of the last step is left out: RLDS does not say what it means where an episode ends.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: which cameras; by default every color camera, and `image_0` of BridgeData V2.
        size: pixels to resize the frames to.
        fps: frames per second of robot time, where the data set is not BridgeData V2 (5 Hz whatever is given).

    Raises:
        InputError: a shard is missing, cut short or damaged, or the frame rate is unknown.
    """
    description = _described(path, image_key)
    say_split(description)
    rows = [record.actions for record in sound_records(description)]
    spec = spec_of(description, rows)
    rate = spec.rate or agreed_rate(path, None, fps)
    return EpisodeStream(len(rows), spec, rate, _episodes(description, spec, rate, size))


def _described(path: str | Path, image_key: str | None) -> Description:
    if image_key is None:
        try:
            whole = describe(path, "all")
        except InputError:
            return describe(path)  # gray cameras only, for example
        return describe(path) if whole.name.startswith("bridge") else whole
    return describe(path, image_key)


def _episodes(
    description: Description, spec: ActionSpec, fps: float, size: int | tuple[int, int] | None
) -> Iterator[Episode]:
    for record in sound_records(description):
        frames = _frames(record, description, size)
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
        )


def _frames(record: Record, description: Description, size: int | tuple[int, int] | None) -> dict[str, np.ndarray]:
    """The frames uint8 [t h w 3] of every camera by name."""
    made = {}
    for camera, pictures in zip(description.cameras, record.pictures, strict=True):
        alone = replace(description, cameras=(camera,))
        made[camera.name] = np.stack(list(pictures_of(replace(record, pictures=(pictures,)), alone, size)))
    return made
