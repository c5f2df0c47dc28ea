"""Detect, read and convert datasets of all supported formats."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldgymnast.episodes import lerobot, rlds, rlds_episodes, rlds_layout, worldgym
from worldgymnast.episodes.labels import Labels
from worldgymnast.episodes.lerobot_layout import INFO, ImageKey, read_layout
from worldgymnast.episodes.rates import check_fps, subsampling_factor
from worldgymnast.episodes.subsample import (
    subsample,
    subsample_set,
    subsampled_spec,
    warn_unknown_motion,
)
from worldgymnast.episodes.windows import EpisodeSet, EpisodeStream
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import read_json_object, visible
from worldgymnast.preprocessing import Resize, check_rule
from worldgymnast.progress import Progress
from worldgymnast.staging import StagedFolder
from worldgymnast.types import Episode

Format = Literal["lerobot-v3.0", "lerobot-v2.1", "worldgym", "rlds"]


def detect(path: str | Path) -> Format:
    """Detect the format of a dataset.

    Raises InputError if the folder has none.
    """
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file, expected a folder with episodes; give the folder that contains it")
    if not root.is_dir():
        is_id = not root.is_absolute() and len(root.parts) == 2 and not root.parent.exists()
        fix = f"; from the Hub: hf download {root} --repo-type dataset --local-dir data/{root.name}" if is_id else ""
        raise InputError(f"{root}: no such folder, expected one with episodes; check the path{fix}")
    _require_one_format(root)
    if (root / INFO).is_file():
        version = str(read_json_object(root / INFO).get("codebase_version", ""))
        return "lerobot-v2.1" if version.startswith("v2") else "lerobot-v3.0"
    if _is_rlds(root):
        return "rlds"
    if any(root.glob("*.mp4")) or any(root.glob("*.npz")):
        return "worldgym"
    if versions := rlds_layout.versions(root):
        names = [path.name for path in versions]
        raise InputError(f"{root}: found versions {names} of an RLDS dataset, expected one; give it: {versions[-1]}")
    if sets := [path for path in sorted(root.iterdir()) if path.is_dir() and has_episodes(path)]:
        names = ", ".join(path.name for path in sets[:5]) + (", ..." if len(sets) > 5 else "")
        raise InputError(
            f"{root}: found {len(sets)} datasets in its subfolders ({names}), expected one dataset; give the "
            f"subfolders one by one, such as {sets[0]}"
        )
    found = sorted(entry.name for entry in root.iterdir())[:5]
    whole = next((folder for folder in list(root.absolute().parents)[:3] if (folder / INFO).is_file()), None)
    hint = "check the path" if whole is None else f"this folder is a part of the data set {whole}; give that"
    raise InputError(
        f"{root}: found {found}, expected {INFO} (LeRobot), *.tfrecord* with features.json (RLDS) or N.mp4 with N.npz "
        f"(WorldGym); {hint}"
    )


def _require_one_format(root: Path) -> None:
    """Raise InputError for a folder with datasets of several formats."""
    stems = {suffix: {path.stem for path in visible(root.glob(f"*{suffix}"))} for suffix in (".mp4", ".npz")}
    is_present = {
        "LeRobot": (root / INFO).is_file(),
        "RLDS": bool(visible(root.glob("*.tfrecord-*"))),
        "WorldGym": bool(stems[".mp4"] & stems[".npz"]),
    }
    names = [name for name, present in is_present.items() if present]
    if len(names) > 1:
        raise InputError(
            f"{root}: found datasets of {len(names)} formats ({', '.join(names)}), expected one; move each into a "
            "separate folder"
        )


def has_episodes(path: Path) -> bool:
    """Whether a folder has episodes with actions."""
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
    resize: Resize = "squash",
    state: bool | None = None,
    labels: Labels | None = None,
) -> EpisodeSet:
    """Read a dataset of any supported format.

    Episodes without a task name get their instruction as one; see `EpisodeSet.with_task_names`.

    Args:
        path: the folder.
        image_key: the cameras; several are placed side by side.
        size: pixels to resize the frames to.
        fps: frames per second to read, an integer fraction of the data's rate (see `subsample`). For formats without a
            rate (RLDS other than BridgeData V2) it is the data's rate.
        assumed_fps: default rate if neither the dataset nor `fps` has one, reported on stderr.
        resize: how a picture of another shape becomes a frame of `size`: "squash" scales height and width separately,
            "crop" uses the center, "pad" adds black bars. With several cameras "crop" and "pad" apply to each.
        state: whether to read the state: None reads it if there is a valid one, True requires it.
        labels: label files with success labels of the episodes; see `labels.Labels`.

    Raises:
        InputError: the folder cannot be read, `size` or `fps` is not positive, the dataset has a rate that is no
            multiple of `fps`, or it has no state although one is required.
    """
    _check_positive(size, fps)
    check_rule(resize)
    common: dict[str, Any] = {"size": size, "fps": fps, "resize": resize, "state": state}
    episodes = _read(path, image_key, assumed_fps, labels, common)
    every = 1 if fps is None else subsampling_factor(episodes.fps, fps)
    if every > 1:
        warn_unknown_motion(path, episodes.spec)
    return subsample_set(episodes, every)


def _read(
    path: str | Path,
    image_key: ImageKey,
    assumed_fps: float | None,
    labels: Labels | None,
    common: dict[str, Any],
) -> EpisodeSet:
    """Read a dataset at its own rate."""
    kind = detect(path)
    if kind == "rlds":
        episodes = rlds.read(path, image_key=join_cameras(image_key), assumed_fps=assumed_fps, **common)
    elif kind == "worldgym":
        episodes = worldgym.read(path, **common)
    else:
        episodes = lerobot.read(path, image_key=image_key, **common)
    if labels is not None:
        episodes = labels.apply(episodes, episode_numbers(path, len(episodes), image_key), path)
    return episodes.with_task_names()


def episode_numbers(path: str | Path, count: int, image_key: ImageKey = None) -> list[int]:
    """Numbers of the episodes that `read` returns, as the dataset counts them.

    LeRobot: `episode_index`. WorldGym: the names of the files, if they are numbers. Otherwise the position.
    """
    kind = detect(path)
    numbers: list[int] = []
    if kind.startswith("lerobot"):
        numbers = [record.index for record in read_layout(path, "all" if image_key is None else image_key).records]
    if kind == "worldgym" and all(video.stem.isdecimal() for video in worldgym.videos(Path(path))):
        numbers = [int(video.stem) for video in worldgym.videos(Path(path))]
    return numbers if len(numbers) == len(set(numbers)) == count else list(range(count))


def join_cameras(image_key: ImageKey) -> str | None:
    """Names of cameras as one comma-separated string, for RLDS readers.

    >>> join_cameras(["image_0", "image_1"])
    'image_0,image_1'
    """
    return image_key if image_key is None or isinstance(image_key, str) else ",".join(image_key) or None


def _check_positive(size: int | tuple[int, int] | None, fps: float | None) -> None:
    for side in size if isinstance(size, tuple) else (size,):
        if side is not None and side < 1:
            raise FieldError("size", f"found {side}, expected at least 1")
    check_fps(fps)


@dataclass
class ConversionSummary:
    """Counts of a conversion.

    Attributes:
        episodes: episodes written.
        actions: pairs of a frame and the action taken at it.
        labelled: episodes with a success label.
        succeeded: labelled episodes that succeeded.
        left_out: episodes of a single frame, which were skipped.
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
    resize: Resize = "squash",
    labels: Labels | None = None,
) -> ConversionSummary:
    """Convert a dataset of any supported format to LeRobotDataset v3.0.

    All cameras, the state, the robot type and (from LeRobot) the last action are kept. Episodes of one frame have no
    action and are skipped.

    Args:
        source: the folder to read.
        target: the folder to create.
        size: pixels to resize the frames of every camera to.
        image_key: the cameras; all by default.
        fps: frames per second to write, an integer fraction of the data's rate (see `subsample`). For formats without
            a rate (RLDS other than BridgeData V2) it is the data's rate.
        lossless: keep the frames bit-identical (H.264 in RGB) instead of writing small files (yuv420p).
        resize: how a picture of another shape becomes a frame of `size`.
        labels: label files with success labels of the episodes, which are written into the new dataset.

    Raises:
        InputError: the source cannot be read, the target exists or is being written, `size` or `fps` is invalid, no
            episode has two frames, or the disk is full.
    """
    _check_positive(size, fps)
    detect(source)
    with ExitStack() as stack:
        folder = StagedFolder(target)  # fails before gigabytes are read
        stack.callback(folder.discard)
        episodes = stream(source, image_key, size, fps, resize)
        every = 1 if fps is None else subsampling_factor(episodes.fps, fps)
        if every > 1:
            warn_unknown_motion(source, episodes.spec)
        summary = ConversionSummary(fps=episodes.fps / every)
        writer = stack.enter_context(
            lerobot.LeRobotWriter(folder, subsampled_spec(episodes.spec, every), summary.fps, lossless=lossless)
        )
        progress = stack.enter_context(Progress("converting episodes", episodes.count))
        for number, episode in zip(episode_numbers(source, episodes.count), episodes.episodes, strict=True):
            known = episode if labels is None else labels.label(episode, number)
            add_episode(subsample(known, every), writer, summary)
            progress.advance()
        if labels is not None:
            labels.require_used(str(source))
    if summary.left_out:
        print(f"{source}: {summary.left_out} episodes of one frame at {summary.fps:g} frames per second are skipped")
    return summary


def add_episode(episode: Episode, writer: lerobot.LeRobotWriter, summary: ConversionSummary) -> None:
    """Write an episode and count it; one of a single frame is skipped."""
    if not len(episode.actions):
        summary.left_out += 1
        return
    writer.add(episode)
    summary.episodes += 1
    summary.actions += len(episode.actions)
    summary.labelled += episode.success is not None
    summary.succeeded += bool(episode.succeeded)


def stream(
    source: str | Path,
    image_key: ImageKey = None,
    size: int | tuple[int, int] | None = None,
    fps: float | None = None,
    resize: Resize = "squash",
) -> EpisodeStream:
    """Read the complete episodes of a dataset of any format, one by one; all cameras by default."""
    kind = detect(source)
    if kind.startswith("lerobot"):
        return lerobot.stream(source, image_key=image_key, size=size, resize=resize)
    if kind == "rlds":
        return rlds_episodes.stream(source, join_cameras(image_key), size, fps, resize)
    episodes = worldgym.read(source, size=size, resize=resize)
    iterator = (episodes.episode(index) for index in range(len(episodes)))
    return EpisodeStream(len(episodes), episodes.spec, episodes.fps, iterator)
