"""The training data of a component, as recorded in the file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from worldgymnast.episodes.windows import (
    MAX_INSTRUCTIONS,
    EpisodeSet,
    episode_keys,
    is_named,
    recorded_instructions,
    usual_length,
)
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object
from worldgymnast.preprocessing import RULES, Resize, Size, compact
from worldgymnast.protocols import Policy
from worldgymnast.registry import manifest_of
from worldgymnast.tiling import Tiling

HeldOut = int | Literal["auto"]
"""Held-out episodes per task; see `inputs.hold_out`."""


def origin(
    episodes: EpisodeSet,
    cameras: Sequence[str],
    held_out: HeldOut = 0,
    resize: Resize | None = None,
    reads_state: bool = False,
    kept: Sequence[EpisodeSet] = (),
    start: Path | None = None,
) -> dict[str, Any]:
    """Describe the data of a component for `Manifest.origin`.

    Args:
        episodes: the data.
        cameras: as --image-key names them.
        held_out: episodes per task that were not used.
        resize: the rule for pictures of another shape, if one was chosen.
        reads_state: whether the component reads or predicts the state.
        kept: the episodes that were not used, of every data set.
        start: file of the component that is trained further; its names of the state stay where the data have none.
    """
    extra: dict[str, Any] = {"held_out": held_out} if held_out else {}
    if kept_keys := sorted({key for part in kept for key in episode_keys(part)}):
        extra["held_out_episodes"] = kept_keys
    if resize is not None:
        extra["resize"] = resize
    if reads_state:
        names = list(episodes.state_names)
        extra["state_names"] = names if is_named(names) else _texts_in(start, "state_names") or names
    return extra | {
        "action_spec": episodes.spec.to_dict(),
        "frame_size": list(episodes.size),
        "fps": episodes.fps,
        "image_key": list(cameras),
        "instructions": recorded_instructions(episodes.instruction),
        "usual_length": usual_length(episodes),
    }


def length_of(path: Path | None) -> int:
    """Return the recorded `usual_length` of the training's episodes, in actions; 0 if unknown."""
    length = _origin_of(path).get("usual_length")
    return length if isinstance(length, int) and length > 0 else 0


def size_of(path: Path | None) -> Size | None:
    """Return the recorded frame size in pixels, or None."""
    size = size_in(path)
    return None if size is None else compact(size)


def rule_of(*paths: Path | None, requested: Resize | None = None) -> Resize | None:
    """Return the one rule for pictures of another shape that components record and --resize gives; None for none.

    Raises:
        InputError: they differ.
    """
    known = list[tuple[str, Resize]]()
    if requested is not None:
        known.append(("--resize", requested))
    for path in filter(None, paths):
        for file in weight_files(path):
            if (recorded := _rule_in(file)) is not None:
                known.append((str(file), recorded))
    for (first, rule), (other, another) in itertools.pairwise(known):
        if rule != another:
            raise InputError(
                f"{first}: found {rule} for pictures of another shape, but {other} was trained with {another}. One of "
                "them would see unfamiliar pictures. Give the same --resize to every command"
            )
    return known[0][1] if known else None


def _rule_in(path: Path) -> Resize | None:
    """Return the recorded rule."""
    rule = _origin_of(path).get("resize")
    return rule if rule in RULES else None


def check_same_state(*paths: Path | None, names: Sequence[str] = ()) -> None:
    """Raise `InputError` if the numbers of the state have other names in components or data.

    Args:
        paths: files of components; those that record no names fit any, and positions (s0 s1 ...) any of their number.
        names: those of the data.
    """
    recorded = [(str(path), _texts_in(path, "state_names")) for path in paths]
    named = [one for one in [("data", list(names)), *recorded] if one[1]]
    for (first, axes), (other, others) in itertools.combinations(named, 2):
        if len(axes) != len(others) or (axes != others and is_named(axes) and is_named(others)):
            raise InputError(
                f"{first}: the state is {' '.join(axes)}, but that of {other} is {' '.join(others)}. Give data and "
                "components of one robot"
            )


def size_in(path: Path | None) -> tuple[int, int] | None:
    """Return the recorded height and width of the frames, or None."""
    size = _origin_of(path).get("frame_size")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        return None
    return size[0], size[1]


def fps_of(path: Path | None) -> float | None:
    """Return the recorded frames per second, or None."""
    fps = _origin_of(path).get("fps")
    return float(fps) if isinstance(fps, int | float) and 0 < fps < math.inf else None


def warn_of_other_stride(judge: Path, look: int, rate: float) -> None:
    """Warn of a judge that was calibrated on frames much closer together, or further apart, than those it will see.

    A success must last a number of judged frames, so its duration grows with the distance between them.

    Args:
        judge: its file; one that does not record its stride fits any.
        look: actions that the policy executes per look, at whose end the judge sees a frame.
        rate: actions per second.
    """
    for file in weight_files(judge):
        stride = _origin_of(file).get("stride")
        if isinstance(stride, int) and stride > 0 and not 0.5 < look / stride < 2:
            print(
                f"warning: {file}: calibrated on a frame every {stride / rate:.2g} s, but sees one every "
                f"{look / rate:.2g} s, so its success must last {look / stride:.2g} times as long. Train it with "
                f"--stride {look}, or execute {stride} actions per look",
                flush=True,
            )


def warn_of_new_tasks(judge: Path, tasks: Iterable[tuple[str, str]]) -> None:
    """Warn of a judge that has been trained on no instruction of some tasks.

    Args:
        judge: its file; one that does not record all of its instructions fits any.
        tasks: task and instruction of the clips that it will judge. Without a task, the instruction stands for it.
    """
    wanted: dict[str, set[str]] = {}
    for task, instruction in tasks:
        if instruction:
            wanted.setdefault(task or instruction, set()).add(instruction)
    for file in weight_files(judge):
        known = _texts_in(file, "instructions")
        if not 0 < len(known) < MAX_INSTRUCTIONS:
            continue
        if new := [min(texts) for texts in wanted.values() if texts.isdisjoint(known)]:
            print(
                f"warning: {file}: its training data have no instruction of {len(new)} of the {len(wanted)} tasks, for "
                f"example '{min(new)}' (they have, for example, '{known[0]}'). Its verdicts may be wrong there. Check "
                "it on labelled episodes with judge calibrate, or train a judge on them",
                flush=True,
            )


def warn_of_other_size(path: Path, policy: Policy, size: tuple[int, int], tiling: Tiling | None, source: str) -> None:
    """Warn of a policy that takes any size, but was trained on pictures of another one.

    Args:
        path: its file; one that does not record the size of its data, or other cameras than these, fits any.
        policy: the policy; one with `image_sizes` is refused instead, by `arguments.check_pictures`.
        size: height and width of the frames that it will see.
        tiling: part of each camera in them; None for a single one.
        source: names what gives them.
    """
    known, cameras = size_in(path), _cameras_in(path)
    count = 1 if tiling is None else len(tiling.cameras)
    if known is None or known == size or max(1, len(cameras)) != count or cameras == ("all",):
        return
    if not getattr(getattr(policy, "config", None), "image_sizes", ()):
        print(
            f"warning: {path}: trained on frames of {known[0]}x{known[1]} pixels, but {source} gives {size[0]}x"
            f"{size[1]}, which the policy scales: its pictures will be sharper or coarser than those that it knows. "
            "Give data, world model and environment of one size (--size, --env.size)",
            flush=True,
        )


def held_out_of(path: Path | None) -> HeldOut:
    """Return the recorded number of episodes per task that were held out, 0 if none or unknown."""
    count = _origin_of(path).get("held_out")
    if count == "auto":
        return "auto"
    return count if isinstance(count, int) and count > 0 else 0


def held_out_keys(path: Path | None) -> frozenset[str]:
    """Return the recorded `episode_keys` of the episodes that were held out."""
    keys = _origin_of(path).get("held_out_episodes")
    return frozenset(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else frozenset()


def holds_out(path: Path | None, count: HeldOut, episodes: EpisodeSet) -> bool:
    """Return whether a component was trained without the episodes, which `count` holds out.

    If none were recorded, the count says so: the order of the choice is the same for every number, so a larger number
    includes a smaller one.
    """
    if keys := held_out_keys(path):
        return keys >= set(episode_keys(episodes))
    own = held_out_of(path)
    return own == count or (own != "auto" and count != "auto" and own >= count)


def cameras_of(path: Path | None) -> str | tuple[str, ...] | None:
    """Return the recorded cameras, or None."""
    cameras = _cameras_in(path)
    return cameras if len(cameras) > 1 else next(iter(cameras), None)


def check_same_cameras(*paths: Path | None, requested: Sequence[str] = ()) -> None:
    """Raise `InputError` unless components and data have the same cameras.

    Names are compared as a whole or by their last part, as "top" for "observation.images.top". A file that records no
    camera fits any.

    Args:
        paths: files of components, or of judges' descriptions (.json), that were loaded before.
        requested: cameras of the data, as --image-key names them.
    """
    named = [("--image-key", camera_names(requested))]
    named += [(str(file), _cameras_in(file)) for path in filter(None, paths) for file in weight_files(path)]
    for (first, cameras), (other, others) in itertools.combinations([one for one in named if one[1]], 2):
        if not _may_be_same(cameras, others):
            raise InputError(
                f"{first}: found cameras {' '.join(cameras)}, but {other} was trained on {' '.join(others)}. One of "
                "them would see unfamiliar pictures. Give the same --image-key, in the same order, to every command"
            )


def _may_be_same(cameras: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Compare two lists of cameras; "all" means any two or more."""
    if ("all",) in (cameras, others):
        return cameras == others or len(cameras) + len(others) > 2
    pairs = zip(cameras, others, strict=False)
    return len(cameras) == len(others) and all(a == b or a.endswith(f".{b}") or b.endswith(f".{a}") for a, b in pairs)


def camera_names(cameras: Sequence[str]) -> tuple[str, ...]:
    """Return the names of cameras, each given alone or several in one text with commas between."""
    return tuple(name.strip() for words in cameras for name in words.split(",") if name.strip())


def _origin_of(path: Path | None) -> Mapping[str, Any]:
    known = manifest_of(path).get("origin") if path else None
    return known if isinstance(known, Mapping) else {}


def _texts_in(path: Path | None, name: str) -> list[str]:
    """Return a recorded list of texts; empty if unknown."""
    texts = _origin_of(path).get(name)
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _cameras_in(path: Path | None) -> tuple[str, ...]:
    """Return the recorded cameras, in order."""
    return camera_names(_texts_in(path, "image_key"))


def weight_files(path: Path) -> list[Path]:
    """Return the file, or those of all judges in a description."""
    if path.suffix != ".json":
        return [path]
    description = read_json_object(path)
    members = [description.get(key) for key in ("judge", "first", "then")] + list(description.get("judges") or ())
    return [file for name in members if isinstance(name, str) for file in weight_files(path.parent / name)]
