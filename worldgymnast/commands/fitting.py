"""What the data decide where no flag does: frame size, action width, and durations in frames.

Defaults are made for Meta-World's 13.3 frames per second; for data of another robot they stand for the same seconds.
Whatever is decided is printed, and is part of the run's config.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldgymnast.commands.command import Components
from worldgymnast.commands.starters import is_metaworld
from worldgymnast.config import manifest_of
from worldgymnast.episodes.sizes import frame_size
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.loops.train import JudgeTraining, PolicyTraining, WorldTraining
from worldgymnast.types import InputError

RATE = 80 / 6
"""Frames per second that the defaults are made for, unless a preset says another rate."""
SIZE, LARGEST = 64, 256
"""Pixels on each side that frames are resized to where their own size does not do; the largest that is taken as it is.
"""
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


def horizon_of(default: int, flag: str, found: Components, given: Collection[str]) -> int:
    """Actions of an imagined rollout: as many seconds as Meta-World's, in whole chunks of the policy."""
    spec, chunk = found.world.action_spec, found.policy.config.chunk
    scaled = _Scaled(RATE if is_metaworld(spec) else found.world.fps, RATE, given)
    horizon = default if is_metaworld(spec) else -(-scaled(flag, default) // chunk) * chunk
    scaled.tell()
    return default if flag in given else horizon


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
    known = _origin_of(path).get("image_key") or ()
    return tuple(known) if len(known) > 1 else next(iter(known), None)


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
