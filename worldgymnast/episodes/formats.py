"""Which format a folder holds, and reading or converting whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worldgymnast.actions import ActionSpec
from worldgymnast.episodes import lerobot, rlds, rlds_layout, worldgym
from worldgymnast.episodes.lerobot_layout import INFO, ImageKey
from worldgymnast.episodes.rates import check_given
from worldgymnast.episodes.rlds_episodes import read_whole
from worldgymnast.episodes.subsample import subsample, subsampled_spec, whole_ratio
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import read_json_object, visible
from worldgymnast.progress import Progress
from worldgymnast.staging import StagedFolder
from worldgymnast.types import Episode

Format = Literal["lerobot-v3.0", "lerobot-v2.1", "worldgym", "rlds"]


def detect(path: str | Path) -> Format:
    """Names the format of the episodes in a folder; raises InputError where it holds none."""
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file, expected a folder with episodes; name the folder that holds it")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected one with episodes; check the path")
    _require_one_format(root)
    if (root / INFO).is_file():
        version = str(read_json_object(root / INFO).get("codebase_version", ""))
        return "lerobot-v2.1" if version.startswith("v2") else "lerobot-v3.0"
    if _is_rlds(root):
        return "rlds"
    if any(root.glob("*.mp4")) or any(root.glob("*.npz")):
        return "worldgym"
    if inside := rlds_layout.versions(root):
        names = [path.name for path in inside]
        raise InputError(f"{root}: found versions {names} of an RLDS data set, expected one; name it: {inside[-1]}")
    if sets := [path for path in sorted(root.iterdir()) if path.is_dir() and is_data(path)]:
        names = ", ".join(path.name for path in sets[:5]) + (", ..." if len(sets) > 5 else "")
        raise InputError(
            f"{root}: found {len(sets)} data sets in its subfolders ({names}), expected one; each subfolder is a data "
            f"set of its own: name them one by one, such as {sets[0]}"
        )
    found = sorted(entry.name for entry in root.iterdir())[:5]
    raise InputError(
        f"{root}: found {found}, expected {INFO} (LeRobot), *.tfrecord* with features.json (RLDS) or N.mp4 with N.npz "
        "(WorldGym); check the path"
    )


def _require_one_format(root: Path) -> None:
    """Raises InputError where a folder holds data sets of several formats: all but one would be left out."""
    stems = {suffix: {path.stem for path in visible(root.glob(f"*{suffix}"))} for suffix in (".mp4", ".npz")}
    there = {
        "LeRobot": (root / INFO).is_file(),
        "RLDS": bool(visible(root.glob("*.tfrecord-*"))),
        "WorldGym": bool(stems[".mp4"] & stems[".npz"]),
    }
    names = [name for name, is_there in there.items() if is_there]
    if len(names) > 1:
        raise InputError(
            f"{root}: found data sets of {len(names)} formats ({', '.join(names)}), expected one; put each into a "
            "folder of its own"
        )


def is_data(path: Path) -> bool:
    """Whether a folder holds episodes with actions, rather than pictures or videos alone."""
    return (path / INFO).is_file() or _is_rlds(path) or any(path.glob("*.npz"))


def _is_rlds(root: Path) -> bool:
    return any(root.glob("*.tfrecord*")) or (root / "features.json").is_file()


def read(
    path: str | Path,
    *,
    image_key: ImageKey = None,
    size: int | tuple[int, int] | None = None,
    fps: float | None = None,
    assumed_fps: float | None = None,
) -> EpisodeSet:
    """Reads the episodes of a folder in any known format.

    Args:
        path: the folder.
        image_key: which cameras, where there are several; more than one are put side by side.
        size: pixels to resize the frames to.
        fps: frames per second of robot time, where the format does not say (RLDS other than BridgeData V2).
        assumed_fps: those that are taken, with a line on stderr, where neither the data set nor `fps` says them.

    Raises:
        InputError: the folder cannot be read, `size` or `fps` is not positive, or the data set says another rate.
    """
    _positive(size, fps)
    kind = detect(path)
    if kind == "rlds":
        return rlds.read(path, image_key=with_commas(image_key), size=size, fps=fps, assumed_fps=assumed_fps)
    if kind == "worldgym":
        return worldgym.read(path, size=size, fps=fps)
    return lerobot.read(path, image_key=image_key, size=size, fps=fps)


def with_commas(image_key: ImageKey) -> str | None:
    """Several cameras as RLDS takes them, in one text."""
    return image_key if image_key is None or isinstance(image_key, str) else ",".join(image_key) or None


def _positive(size: int | tuple[int, int] | None, fps: float | None) -> None:
    for side in size if isinstance(size, tuple) else (size,):
        if side is not None and side < 1:
            raise FieldError("size", f"found {side}, expected at least 1")
    check_given(fps)


@dataclass
class Converted:
    """What a conversion wrote.

    Attributes:
        episodes: how many were written.
        actions: how many pairs of a frame and the action taken at it they have.
        labelled: how many say whether they succeeded.
        succeeded: how many did.
        left_out: how many had a single frame.
        fps: frames per second of robot time.
    """

    episodes: int = 0
    actions: int = 0
    labelled: int = 0
    succeeded: int = 0
    left_out: int = 0
    fps: float = 0.0


def convert(
    source: str | Path,
    target: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    image_key: ImageKey = None,
    fps: float | None = None,
    lossless: bool = False,
) -> Converted:
    """Writes the episodes of `source`, in any known format, as a LeRobotDataset v3.0 at `target`.

    Every camera, the state, the robot's type and, from LeRobot, the last action are kept. Episodes of one frame have no
    action to learn and are left out.

    Args:
        source: the folder.
        target: the folder to write, a new one.
        size: pixels to resize the frames of every camera to.
        image_key: which cameras; all of them by default.
        fps: frames per second to write, a whole part of what the data have (see `subsample`); where the format does not
            say what they have (RLDS other than BridgeData V2), just that.
        lossless: keep every bit of the frames (H.264 in RGB), rather than write small files (yuv420p).

    Raises:
        InputError: the source cannot be read, the target exists or is being written, `size` or `fps` is not positive or
            no whole part, no episode has two frames, or the disk is full.
    """
    _positive(size, fps)
    detect(source)
    with ExitStack() as stack:
        folder = StagedFolder(target)  # refused before gigabytes are read
        stack.callback(folder.discard)
        count, spec, rate, episodes = _whole(source, image_key, size, fps)
        every = 1 if fps is None else whole_ratio(rate, fps)
        writer = stack.enter_context(
            lerobot.LeRobotWriter(folder, subsampled_spec(spec, every), rate / every, lossless=lossless)
        )
        progress = stack.enter_context(Progress("converting episodes", count))
        done = Converted(fps=rate / every)
        for episode in episodes:
            _convert_one(subsample(episode, every), writer, done)
            progress.advance()
    if done.left_out:
        print(f"{source}: {done.left_out} episodes of one frame at {done.fps:g} frames per second are left out")
    return done


def _convert_one(episode: Episode, writer: lerobot.LeRobotWriter, done: Converted) -> None:
    if not len(episode.actions):
        done.left_out += 1
        return
    writer.add(episode)
    done.episodes += 1
    done.actions += len(episode.actions)
    done.labelled += episode.success is not None
    done.succeeded += bool(episode.succeeded)


def _whole(
    source: str | Path, image_key: ImageKey, size: int | tuple[int, int] | None, fps: float | None
) -> tuple[int, ActionSpec, float, Iterator[Episode]]:
    """How many episodes there are, what their actions mean, frames per second, and the episodes with all they hold."""
    kind = detect(source)
    if kind.startswith("lerobot"):
        whole = lerobot.read_whole(source, image_key=image_key, size=size)
        return whole.count, whole.spec, whole.fps, whole.episodes
    if kind == "rlds":
        made = read_whole(source, with_commas(image_key), size, fps)
        return made.count, made.spec, made.fps, made.episodes
    held = worldgym.read(source, size=size)
    return len(held), held.spec, held.fps, (held.episode(index) for index in range(len(held)))
