"""What the data decide where no flag does: frame size, action width, and durations in frames.

Defaults are made for Meta-World's 13.3 frames per second; for data of another robot they stand for the same seconds.
Whatever is decided is printed, and is part of the run's config.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.cli.command import Components
from worldgymnast.cli.starters import is_metaworld
from worldgymnast.episodes.sizes import frame_size
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object
from worldgymnast.registry import manifest_of
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.training.world import WorldTraining

RATE = 80 / 6
"""Frames per second that the defaults are made for, unless a preset says another rate."""
SIZE, LARGEST = 64, 256
"""Pixels on each side that frames are resized to where their own size does not do; the largest that is taken as it is.
"""
LONGEST_ROLLOUT = 256
"""Actions that a rollout is made as long as the data's episodes for; each takes time and memory."""
_STEP = 16
"""Frame sizes that world models are made for are multiples of it."""


def frames_for(default: int, rate: float, made_for: float = RATE, least: int = 1, most: int = 10_000) -> int:
    """As many seconds at `rate` frames per second as `default` frames are at the rate they were chosen for.

    >>> [frames_for(24, rate) for rate in (5, 80 / 6, 30, 50)]
    [9, 24, 54, 90]
    """
    return min(most, max(least, round(default * rate / made_for)))


def rate_of(episodes: EpisodeSet) -> float:
    """Frames per second by which durations are scaled; that of the defaults for Meta-World held for any time."""
    return RATE if is_metaworld(episodes.spec) else episodes.fps


# ---------------------------------------------------------------- frame size


def size_for(
    paths: Sequence[Path], size: int | None, cameras: str | tuple[str, ...] | None, target: int = SIZE
) -> int | None:
    """Pixels to resize the frames of data sets to: `size` if given, else None where their own size does.

    Their own size does where it is square, a multiple of 16 and at most 256; otherwise they are squashed to `target`.
    """
    if size is not None or not paths:
        return size
    if cameras == "all" or isinstance(cameras, tuple):
        print(f"{paths[0]}: cameras side by side are resized to {target}x{target} together; --size N for another size")
        return target
    found = [frame_size(path, cameras) for path in paths]
    if None in found or all(h == w and h % _STEP == 0 and h <= LARGEST for h, w in filter(None, found)):
        return None
    if len({one for one in found if one and one[0] == one[1]}) > 1 or len(set(found)) > 1:
        return None  # told by the reader, which names both
    height, width = next(filter(None, found))
    print(
        f"{paths[0]}: frames of {height}x{width} pixels are resized to {target}x{target}, height and width each on "
        f"its own; --size N makes it another size"
    )
    return target


# ---------------------------------------------------------------- durations


def fit_policy(config: PolicyTraining, episodes: EpisodeSet, given: Collection[str]) -> PolicyTraining:
    """The training with a chunk of as many seconds as Meta-World's."""
    scaled = _Scaled(rate_of(episodes), RATE, given)
    policy = replace(config.policy, chunk=scaled("--policy.chunk", config.policy.chunk))
    scaled.tell()
    return replace(config, policy=policy)


def fit_judge(config: JudgeTraining, episodes: EpisodeSet, given: Collection[str]) -> JudgeTraining:
    """The training with a stride and a late beginning of as many seconds as Meta-World's."""
    scaled = _Scaled(rate_of(episodes), RATE, given)
    stride = scaled("--stride", config.stride)
    late = scaled("--late", config.late) if config.late else 0
    scaled.tell()
    return replace(config, stride=stride, late=late)


def fit_world(
    config: WorldTraining, made_for: float, episodes: EpisodeSet, given: Collection[str], size: bool = True
) -> WorldTraining:
    """The training with a world of the data's frame size, action width and rate.

    Args:
        config: the flags, over the defaults of a size.
        made_for: frames per second that these defaults were chosen for.
        episodes: the data.
        given: flags that were given; they must agree with the data.
        size: whether the world is made anew; otherwise its sizes are those of the world it begins with.

    Raises:
        InputError: a flag that was given contradicts the data.
    """
    world, rate = config.world, rate_of(episodes) if made_for == RATE else episodes.fps
    scaled = _Scaled(rate, made_for, given)
    before = config.length
    config = replace(config, length=scaled("--length", config.length, least=6, most=48))
    if "--clips" not in given:  # as many frames a step as before
        config = replace(config, clips=max(2, round(config.clips * before / config.length)))
    if size:
        window = scaled("--world.transformer.window", world.transformer.window, least=4, most=32)
        grid, width = _grid(config, episodes.size, given), _width(config, episodes.spec.dim, given)
        transformer = replace(world.transformer, window=window, grid=grid, action_dim=width)
        config = replace(config, world=replace(world, transformer=transformer))
    scaled.tell()
    return config


def _grid(config: WorldTraining, size: tuple[int, int], given: Collection[str]) -> tuple[int, int]:
    """Latent height and width for frames of that size."""
    world, flag = config.world, "--world.transformer.grid"
    shrink = world.autoencoder.shrink
    step = shrink * world.transformer.patch
    if flag in given and world.frame_size != size:
        raise InputError(
            f"{flag}: found {' '.join(map(str, world.transformer.grid))}, which is for frames of "
            f"{world.frame_size[0]}x{world.frame_size[1]} pixels, but the data have {size[0]}x{size[1]}; leave it out, "
            f"or resize with --size {world.frame_size[0]}"
        )
    if size[0] % step or size[1] % step:
        nearest = max(step, round(size[0] / step) * step)
        raise InputError(
            f"frames: found {size[0]}x{size[1]} pixels, expected multiples of {step} for this world model; resize "
            f"with --size {nearest}"
        )
    return size[0] // shrink, size[1] // shrink


def _width(config: WorldTraining, dim: int, given: Collection[str]) -> int:
    """Width of an action."""
    width, flag = config.world.transformer.action_dim, "--world.transformer.action-dim"
    if flag in given and width != dim:
        raise InputError(f"{flag}: found {width}, but the data's actions are {dim} wide; leave it out")
    return dim


def horizon_of(
    default: int, flag: str, found: Components, given: Collection[str], episodes: EpisodeSet | None = None
) -> int:
    """Actions of an imagined rollout, in whole chunks of the policy; says which where no flag does.

    They are as many as the data's successful episodes have (the median; of all where none succeeded), up to
    `LONGEST_ROLLOUT`. Without data they are as many seconds as Meta-World's, and Meta-World keeps its number.
    """
    if flag in given or is_metaworld(found.world.action_spec):
        return default
    rate, chunk = found.world.fps, found.policy.chunk
    lasting = 0 if episodes is None else _median_length(episodes)
    wanted = min(lasting, LONGEST_ROLLOUT) or frames_for(default, rate)
    horizon = -(-wanted // chunk) * chunk
    said = f"{rate:g} frames per second: {flag} {horizon} ({horizon / rate:.2g} s)"
    if horizon < lasting:
        said += f"; your episodes last {lasting / rate:.2g} s (median): give {flag} for longer rollouts"
    elif lasting:
        said += ", as long as your episodes (median)"
    print(said)
    return horizon


def _median_length(episodes: EpisodeSet) -> int:
    """Of the episodes that succeeded, or of all where none did; 0 where none has an action."""
    length = episodes.length[episodes.succeeded] if episodes.succeeded.any() else episodes.length
    return round(float(np.median(length[length > 0]))) if (length > 0).any() else 0


class _Scaled:
    """Durations of the data's rate in the place of defaults; collects what it changes."""

    def __init__(self, rate: float, made_for: float, given: Collection[str]) -> None:
        self._rate, self._made_for, self._given = rate, made_for, given
        self._changed: list[str] = []

    def __call__(self, flag: str, default: int, least: int = 1, most: int = 10_000) -> int:
        found = frames_for(default, self._rate, self._made_for, least, most)
        if flag in self._given or abs(self._rate / self._made_for - 1) < 0.01 or found == default:
            return default
        self._changed.append(f"{flag} {found} ({found / self._rate:.2g} s)")
        return found

    def tell(self) -> None:
        """Prints what was changed."""
        if self._changed:
            print(f"{self._rate:g} frames per second: {', '.join(self._changed)}")


# ---------------------------------------------------------------- what is kept with a component


def _origin_of(path: Path | None) -> Mapping[str, Any]:
    known = manifest_of(path).get("origin") if path else None
    return known if isinstance(known, Mapping) else {}


def size_of(path: Path | None) -> int | None:
    """Pixels on each side of the frames that a component was trained on, where its file says them."""
    known = _origin_of(path).get("frame_size")
    return known[0] if isinstance(known, list) and known and isinstance(known[0], int) else None


def cameras_of(path: Path | None) -> str | tuple[str, ...] | None:
    """The cameras of the data that a component was trained on, where its file says them."""
    known = _cameras_in(path)
    return known if len(known) > 1 else next(iter(known), None)


def same_cameras(*paths: Path | None, asked: Sequence[str] = ()) -> None:
    """Raises where two components were trained on other cameras, or one on others than --image-key asks for.

    Names are compared whole or by their ending, as "top" for "observation.images.top". Where a side names none nothing
    is known, and it fits.

    Args:
        paths: files of components, or of judges' descriptions (.json), that were loaded already.
        asked: the cameras of the data that are read, as --image-key names them.
    """
    named = [("--image-key", _names(asked))]
    named += [(str(file), _cameras_in(file)) for path in filter(None, paths) for file in _weights_in(path)]
    for (first, seen), (other, cameras) in itertools.combinations([one for one in named if one[1]], 2):
        if not _alike(seen, cameras):
            raise InputError(
                f"{first}: found {' '.join(seen)}, but {other} was trained on {' '.join(cameras)}. One would be shown "
                "pictures unlike all it knows. Give the same cameras in the same order to every command (--image-key)"
            )


def _alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether these may be the same cameras; "all" may be any two or more."""
    if ("all",) in (one, other):
        return one == other or len(one) + len(other) > 2
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(a == b or a.endswith(f".{b}") or b.endswith(f".{a}") for a, b in pairs)


def _names(cameras: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for words in cameras for name in words.split(",") if name)


def _cameras_in(path: Path | None) -> tuple[str, ...]:
    """The cameras that a component's file names, in their order."""
    known = _origin_of(path).get("image_key")
    return _names([word for word in known if isinstance(word, str)]) if isinstance(known, list) else ()


def _weights_in(path: Path) -> list[Path]:
    """The component's file, or those of the judges that a description is made of."""
    if path.suffix != ".json":
        return [path]
    said = read_json_object(path)
    files = [said.get("judge"), said.get("first"), said.get("then"), *(said.get("judges") or ())]
    return [file for one in files if isinstance(one, str) for file in _weights_in(path.parent / one)]


def fps_of(path: Path | None) -> float | None:
    """Frames per second of the data that a component was trained on, where its file says them."""
    known = _origin_of(path).get("fps")
    return float(known) if isinstance(known, int | float) and 0 < known < math.inf else None


def origin(episodes: EpisodeSet, cameras: Sequence[str]) -> Mapping[str, Any]:
    """What a component's data are, as `Manifest.origin` keeps it."""
    return {
        "action_spec": episodes.spec.to_dict(),
        "frame_size": list(episodes.size),
        "fps": episodes.fps,
        "image_key": list(cameras),
        "instructions": sorted(set(episodes.instruction))[:200],
    }
