"""Defaults that depend on the data: sizes and durations.

Static defaults are for Meta-World at 13.3 frames per second; for other data they are scaled to the same seconds.
Every changed default is printed, and becomes part of the run's config.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldgymnast.cli.environment import is_metaworld
from worldgymnast.cli.inputs import Components
from worldgymnast.cli.origins import camera_names
from worldgymnast.episodes.sizes import ambiguous_cameras, frame_size, frame_sizes
from worldgymnast.episodes.windows import EpisodeSet, usual_length
from worldgymnast.errors import InputError
from worldgymnast.preprocessing import Size, compact, sides, size_text
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.training.world import WorldTraining

RATE = 80 / 6
"""Frames per second that static defaults are for, unless a preset has another rate."""
SIZE, MAX_SIZE = 64, 256
"""Default height and width of resized frames, and the largest size that is kept, in pixels."""
MAX_HORIZON = 256
"""Longest default rollout, in actions; longer ones take much time and memory."""
_SIZE_STEP = 16
"""World models take frames whose height and width are multiples of this."""


def frames_for(default: int, rate: float, default_rate: float = RATE, least: int = 1, most: int = 10_000) -> int:
    """Scale a duration in frames to another frame rate.

    >>> [frames_for(24, rate) for rate in (5, 80 / 6, 30, 50)]
    [9, 24, 54, 90]
    """
    return min(most, max(least, round(default * rate / default_rate)))


def rate_of(episodes: EpisodeSet) -> float:
    """Return the frame rate for durations; the default for Meta-World."""
    return RATE if is_metaworld(episodes.spec) else episodes.fps


# ---------------------------------------------------------------- frame size


def size_for(
    paths: Sequence[Path], size: Size | None, cameras: str | tuple[str, ...] | None, target: Size = SIZE
) -> Size | None:
    """Choose the size to resize frames to, in pixels, or None.

    Frames keep their size if it is square, a multiple of 16 and at most 256; others become `target` pixels square. The
    same holds for each of several cameras side by side. A `target` of height and width is that of the whole frame.
    """
    if size is not None or not paths:
        return size
    if isinstance(cameras, str) and "," in cameras:
        cameras = camera_names([cameras])
    if cameras == "all" or (isinstance(cameras, tuple) and len(cameras) > 1):
        return _size_of_several(paths, cameras, target)
    if cameras is None and ambiguous_cameras(paths[0]):
        return None  # the reader reports that one has to be chosen
    sizes = [frame_size(path, cameras) for path in paths]
    if None in sizes or all(map(_is_kept, filter(None, sizes))):
        return None
    if len({one for one in sizes if one and one[0] == one[1]}) > 1 or len(set(sizes)) > 1:
        return None  # the reader reports that they differ
    height, width = next(filter(None, sizes))
    print(
        f"{paths[0]}: frames of {height}x{width} pixels are resized to {'x'.join(map(str, sides(target)))}, height and "
        "width separately; --size N or HxW, and --resize, change this"
    )
    return target


def _size_of_several(paths: Sequence[Path], cameras: str | tuple[str, ...], target: Size) -> Size | None:
    """Choose the size of a frame of several cameras side by side, or None to keep it."""
    each = [frame_sizes(path, cameras) for path in paths]
    if len(each[0]) < 2:
        return size_for(paths, None, None, target)
    kept = {one for sizes in each for one in sizes}
    if len(kept) == 1 and all(one and _is_kept(one) for one in kept):
        return None
    chosen = target if isinstance(target, tuple) else (target, target * len(each[0]))
    print(
        f"{paths[0]}: {len(each[0])} cameras side by side are resized to {size_text(chosen)} together; --size HxW "
        "changes this"
    )
    return chosen


def _is_kept(size: tuple[int, int]) -> bool:
    """Whether frames of that height and width are used as they are."""
    return size[0] == size[1] and size[0] % _SIZE_STEP == 0 and size[0] <= MAX_SIZE


# ---------------------------------------------------------------- durations


def fit_policy(
    config: PolicyTraining, episodes: EpisodeSet, given_flags: Collection[str], *, is_new: bool = True
) -> PolicyTraining:
    """Scale what is imitated after a success, and the chunk of a new policy, to the data's frame rate."""
    scaled = _Scaled(rate_of(episodes), RATE, given_flags)
    policy: Any = config.policy
    if is_new:
        chunk = scaled("--policy.chunk", policy.chunk)
        horizon = {"horizon": max(chunk, policy.horizon)} if hasattr(policy, "horizon") else {}
        policy = replace(policy, chunk=chunk, **horizon)
        require_within_episodes("--policy.chunk", chunk, episodes, given_flags)
    after_success = scaled("--after-success", config.after_success)
    scaled.print_changes()
    return replace(config, policy=policy, after_success=after_success)


def require_within_episodes(flag: str, value: int, episodes: EpisodeSet, given_flags: Collection[str]) -> None:
    """Raise InputError if a flag asks for more actions than the longest episode has."""
    longest = int(episodes.length.max())
    if flag in given_flags and value > longest:
        raise InputError(
            f"{flag}: found {value}, but the longest episode has {longest} actions. All others would be padding. Give "
            f"at most {longest}"
        )


def use_state(
    config: Any, episodes: EpisodeSet, is_used: bool, paths: Sequence[Path], flag: str, given_flags: Collection[str]
) -> Any:
    """Set the width of the state in the config of a policy or world model, or say that there is one.

    Args:
        config: of the component; it has `state_dim`.
        episodes: the data.
        is_used: whether --state was given.
        paths: the data sets, for the message.
        flag: the flag of the width; it must agree with the data.
        given_flags: flags on the command line.

    Raises:
        InputError: the data's state has another width.
    """
    if flag in given_flags and config.state_dim != episodes.state_dim:
        raise InputError(
            f"{flag}: found {config.state_dim}, but the state of {paths[0]} has {episodes.state_dim or 'no'} numbers. "
            "Give --state instead"
        )
    if is_used:
        return replace(config, state_dim=episodes.state_dim)
    if episodes.state is not None:
        names = f" ({', '.join(episodes.state_names[:8])})" if episodes.state_names else ""
        print(f"{paths[0]}: has a state of {episodes.state_dim} numbers{names}, which is not used; --state uses it")
    return config


def fit_judge(config: JudgeTraining, episodes: EpisodeSet, given_flags: Collection[str]) -> JudgeTraining:
    """Scale the stride and the late starts to the data's frame rate."""
    scaled = _Scaled(rate_of(episodes), RATE, given_flags)
    stride = scaled("--stride", config.stride)
    late = scaled("--late", config.late) if config.late else 0
    scaled.print_changes()
    return replace(config, stride=stride, late=late)


def fit_world(
    config: WorldTraining,
    default_rate: float,
    episodes: EpisodeSet,
    given_flags: Collection[str],
    is_new: bool = True,
) -> WorldTraining:
    """Adapt the world model to frame size, action width and rate.

    Args:
        config: the flags, over the defaults of a size.
        default_rate: frames per second that these defaults are for.
        episodes: the data.
        given_flags: flags on the command line; they must agree with the data.
        is_new: whether the world model is trained from scratch; otherwise it keeps its architecture.

    Raises:
        InputError: a given flag contradicts the data.
    """
    world, rate = config.world, rate_of(episodes) if default_rate == RATE else episodes.fps
    scaled = _Scaled(rate, default_rate, given_flags)
    default_length = config.length
    config = replace(config, length=scaled("--length", config.length, least=6, most=48))
    if "--clips" not in given_flags:  # as many frames per step as before
        config = replace(config, clips=max(2, round(config.clips * default_length / config.length)))
    if is_new:
        window = scaled("--world.transformer.window", world.transformer.window, least=4, most=32)
        grid = _grid(config, episodes.size, given_flags)
        action_dim = _action_dim(config, episodes.spec.dim, given_flags)
        transformer = replace(world.transformer, window=window, grid=grid, action_dim=action_dim)
        config = replace(config, world=replace(world, transformer=transformer))
    scaled.print_changes()
    return config


def _grid(config: WorldTraining, size: tuple[int, int], given_flags: Collection[str]) -> tuple[int, int]:
    """Return the latent height and width for frames of that size."""
    world, flag = config.world, "--world.transformer.grid"
    shrink = world.autoencoder.shrink
    step = shrink * world.transformer.patch
    if flag in given_flags and world.frame_size != size:
        raise InputError(
            f"{flag}: found {' '.join(map(str, world.transformer.grid))}, which is for frames of "
            f"{world.frame_size[0]}x{world.frame_size[1]} pixels, but the data have {size[0]}x{size[1]}. Omit it, or "
            f"resize with --size {size_text(compact(world.frame_size))}"
        )
    if size[0] % step or size[1] % step:
        nearest = size_text(compact(tuple(max(step, round(side / step) * step) for side in size)))  # pyright: ignore
        raise InputError(
            f"frames: found {size[0]}x{size[1]} pixels, expected multiples of {step} for this world model. Resize "
            f"with --size {nearest}"
        )
    return size[0] // shrink, size[1] // shrink


def _action_dim(config: WorldTraining, dim: int, given_flags: Collection[str]) -> int:
    """Return the width of the data's actions."""
    flag, given = "--world.transformer.action-dim", config.world.transformer.action_dim
    if flag in given_flags and given != dim:
        raise InputError(f"{flag}: found {given}, but the data's actions have {dim} numbers. Omit it")
    return dim


def horizon_of(
    default: int,
    flag: str,
    components: Components,
    given_flags: Collection[str],
    episodes: EpisodeSet | None = None,
    execute: int | None = None,
    known: int = 0,
) -> int:
    """Choose the actions per imagined rollout, in whole looks.

    Nine in ten of the data's successful episodes (of all, if none succeeded) end within the horizon: the policy was
    trained on them, and a shorter one would call them failures. It is at most `MAX_HORIZON`. Without data these are
    the episodes that the world model was trained on. Meta-World keeps the default.

    Args:
        default: the default, in actions of Meta-World; without any episodes it is scaled to the same seconds.
        flag: the flag that sets the horizon.
        components: policy and world model.
        given_flags: flags on the command line.
        episodes: the data.
        execute: actions that are executed per look, if not the whole chunk.
        known: `usual_length` of the data of the world model; 0 if unknown.
    """
    if flag in given_flags or is_metaworld(components.world.action_spec):
        return default
    rate, chunk = components.world.fps, executed_per_look(components.policy, execute)
    length = known if episodes is None else usual_length(episodes)
    actions = min(length, MAX_HORIZON) or frames_for(default, rate)
    horizon = -(-actions // chunk) * chunk
    whose = "the world model's" if episodes is None else "your"
    line = f"{rate:g} frames per second: {flag} {horizon} ({horizon / rate:.2g} s)"
    if horizon < length:
        line += f"; {whose} episodes take up to {length / rate:.2g} s (nine in ten): set {flag} for longer rollouts"
    elif length:
        line += f", within which nine in ten of {whose} episodes end"
    else:
        line += f". How long your task takes is unknown: set {flag}, such as {flag} 10s, if that is too short"
    print(line)
    return horizon


class _Scaled:
    """Scales default durations to the data's frame rate, and collects the changes."""

    def __init__(self, rate: float, default_rate: float, given_flags: Collection[str]) -> None:
        self._rate, self._default_rate, self._given_flags = rate, default_rate, given_flags
        self._changes: list[str] = []

    def __call__(self, flag: str, default: int, least: int = 1, most: int = 10_000) -> int:
        frames = frames_for(default, self._rate, self._default_rate, least, most)
        is_default_rate = abs(self._rate / self._default_rate - 1) < 0.01
        if flag in self._given_flags or is_default_rate or frames == default:
            return default
        self._changes.append(f"{flag} {frames} ({frames / self._rate:.2g} s)")
        return frames

    def print_changes(self) -> None:
        """Print the changed defaults on one line, if any."""
        if self._changes:
            print(f"{self._rate:g} frames per second: {', '.join(self._changes)}")
