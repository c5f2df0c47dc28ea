"""Read and write WorldGym's format: `N.mp4` and `N.npz`.

The video has T frames, the npz file `arr_0` float32 [T, 10].
Row i is the action taken at frame i. The last row has no next frame; it is dropped when read and written as zeros.
Frame i + 1 is thus conditioned on row i, as in the published inference. Published training and validation pair frame i
with row i instead (arXiv 2506.00613 and its code), which is off by one frame.

The format has no instruction and labels. This project writes them to `N.json` (see `Notes`), which other readers
ignore. The mp4's frame rate (20) is a convention of the format; the robot's rate is 5 Hz.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import WORLDGYM, converter
from worldgymnast.episodes.cache import cached_frames, files_hash
from worldgymnast.episodes.rates import resolve_rate
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.files import mistaken, read_json_object, short, visible
from worldgymnast.preprocessing import Resize, fit
from worldgymnast.staging import StagedFolder
from worldgymnast.types import Episode
from worldgymnast.video import check_rate, encode, frame_count, iterate_frames, rate

_CONTAINER_FPS = 20.0
_ROBOT_FPS = 5.0
_MAX_FPS = 10_000.0
_MAX_ROWS = 1_000_000
_MAX_HEADER = 16_384
_ACTIONS = "arr_0"


@dataclass(frozen=True)
class Notes:
    """The JSON file of an episode; all fields are optional.

    Attributes:
        instruction: the sentence, or "".
        task: name of the task, or "".
        source: origin of the episode (see `Episode.source`).
        layout: seed of the scene, -1 for none.
        fps: frames per second of robot time.
        success: bool [T], whether the task is accomplished at each frame; None if unlabelled. The file has a list of T
            booleans (or 1 and 0), or a single boolean for the last frame.
    """

    instruction: str = ""
    task: str = ""
    source: str = ""
    layout: int = -1
    fps: float = _ROBOT_FPS
    success: np.ndarray | None = None


@dataclass(frozen=True)
class EpisodeFiles:
    """A valid episode whose video is not decoded yet.

    Attributes:
        video: the mp4 file; the other files have the same stem.
        actions: float32 [T, 10], one row per frame.
        notes: content of the JSON file.
    """

    video: Path
    actions: np.ndarray
    notes: Notes


def videos(path: str | Path) -> list[Path]:
    """The mp4 files of the episodes, sorted.

    Raises InputError if there are none.
    """
    root = Path(path)
    files = [file for file in visible(root.glob("*")) if file.suffix.lower() == ".mp4"]
    if not files:
        raise InputError(f"{root}: found no mp4 files, expected a folder of N.mp4 and N.npz; check the path")
    return files


def inspect(path: str | Path) -> Iterator[EpisodeFiles | InputError]:
    """Yield each episode or its error.

    Raises:
        InputError: there are no videos.
    """
    root = Path(path)
    files = videos(root)
    stems = Counter(file.stem for file in files)
    for file in visible(root.glob("*.npz")):
        if file.stem not in stems:
            yield InputError(f"{file}: video: found none, expected {file.stem}.mp4; copy the folder again")
    first: EpisodeFiles | None = None
    video_rate: float | None = None
    for file in files:
        try:
            if stems[file.stem] > 1:
                raise InputError(f"{file}: found two videos of this name, expected one; remove one")
            rows = read_actions(file)
            episode = EpisodeFiles(file, rows, read_notes(file, len(rows)))
            if first is None:
                first, video_rate = episode, rate(file)
            _check_robot_rate(first, episode)
            check_rate(file, video_rate, f"as {first.video.name} has")
            yield episode
        except InputError as error:
            yield error


def _check_robot_rate(first: EpisodeFiles, other: EpisodeFiles) -> None:
    """Raise InputError if two episodes differ in rate."""
    if other.notes.fps != first.notes.fps:
        raise InputError(
            f"{other.video.with_suffix('.json')}: field 'fps': found {other.notes.fps:g}, expected "
            f"{first.notes.fps:g} as in {first.video.name}; move episodes of another rate into a separate folder"
        )


def read_actions(video: Path) -> np.ndarray:
    """Read the actions of a video from its npz file, float32 [T, 10].

    Values may be NaN.
    """
    path = video.with_suffix(".npz")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file, expected the actions of {video.name}; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            rows = _array(archive, path)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file, expected the actions of {video.name}; copy the folder again"
        ) from error
    except Exception as error:  # zipfile and NumPy raise many types for damaged files
        reason = mistaken(_head(path)) if not zipfile.is_zipfile(path) else ""
        reason = reason or str(error).split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read as npz ({reason}); copy the file again") from error
    return rows


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _array(archive: zipfile.ZipFile, path: Path) -> np.ndarray:
    """Read the array, float32 [T, 10]; its header is checked before decompression."""
    names = [info.filename for info in archive.infolist()]
    if names.count(f"{_ACTIONS}.npy") != 1:
        shown = short([name.removesuffix(".npy") for name in names])
        raise InputError(f"{path}: field 'arr_0' is missing, found {shown}; write the actions under that name, once")
    member = archive.getinfo(f"{_ACTIONS}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others decompress without a limit
        raise InputError(f"{path}: found compression {member.compress_type}, expected none or deflate; write it again")
    with archive.open(member) as file:
        head = io.BytesIO(file.read(_MAX_HEADER))
        shape, is_fortran, dtype = _header(head, path)
        if len(shape) != 2 or shape[1] != WORLDGYM.dim or not 0 < shape[0] <= _MAX_ROWS:
            shown = short(list(shape))
            raise InputError(f"{path}: field 'arr_0': found shape {shown}, expected [T, {WORLDGYM.dim}]")
        if dtype.kind not in "fiu":
            raise InputError(f"{path}: field 'arr_0': found numpy type {dtype}, expected float32; write numbers")
        size = shape[0] * shape[1] * dtype.itemsize
        content = head.read()
        content += file.read(max(size + 1 - len(content), 0))  # one more byte triggers the check of the checksum
        if len(content) != size:
            raise InputError(f"{path}: field 'arr_0': found {len(content)} bytes, expected {size}; copy the file again")
    rows = np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
    with np.errstate(over="ignore"):  # overflows become infinity, which is rejected
        return np.ascontiguousarray(rows, np.float32)


def _header(file: io.BytesIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of the array in a npy file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise InputError(f"{path}: field 'arr_0': found npy version {version}, expected 1.0 or 2.0; write it again")


def read_notes(video: Path, frames: int) -> Notes:
    """Read the JSON file of an episode; defaults if there is none.

    Args:
        video: the mp4 file.
        frames: number of frames of the episode.

    Raises:
        InputError: the file is not a JSON object, or a field is invalid.
    """
    path = video.with_suffix(".json")
    if not os.path.lexists(path):  # a dangling link is an error: its labels would be lost silently
        return Notes()
    fields = read_json_object(path)
    return Notes(
        instruction=_text(fields, "instruction", path),
        task=_text(fields, "task", path),
        source=_text(fields, "source", path),
        layout=_layout(fields.get("layout"), path),
        fps=_fps(fields.get("fps", _ROBOT_FPS), path),
        success=_success(fields.get("success"), frames, video),
    )


def _text(fields: dict[str, Any], name: str, path: Path) -> str:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: field '{name}': found {short(value)}, expected a string; correct it")
    return value or ""


def _layout(value: Any, path: Path) -> int:
    if value is None:
        return -1
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InputError(f"{path}: field 'layout': found {short(value)}, expected null or 0 to 2**63 - 1; correct it")
    return value


def _fps(value: Any, path: Path) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= _MAX_FPS:
        raise InputError(
            f"{path}: field 'fps': found {short(value)}, expected more than 0, at most {_MAX_FPS:g}; correct it"
        )
    return float(value)


def _success(value: Any, frames: int, video: Path) -> np.ndarray | None:
    """Labels bool [T] or None.

    Values other than true, false, 1 and 0 are rejected.
    """
    path = video.with_suffix(".json")
    if value is None:
        return None
    if isinstance(value, bool):
        return np.arange(frames) == (frames - 1 if value else -1)
    if not isinstance(value, list):
        raise InputError(
            f"{path}: field 'success': found {short(value)}, expected true, false, or a list of them; correct it"
        )
    if len(value) != frames:
        _check_count(frame_count(video), frames, video)  # a wrong video is reported first
        raise InputError(f"{path}: field 'success': found {len(value)} labels, expected {frames}, one per action")
    for index, label in enumerate(value):
        if not isinstance(label, bool | int | float) or label not in (0, 1):
            raise InputError(
                f"{path}: field 'success': found {short(label)} at frame {index}, expected true or false; correct it"
            )
    return np.array(value, bool)


def read(
    path: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    fps: float | None = None,
    resize: Resize = "squash",
    state: bool | None = None,
) -> EpisodeSet:
    """Read a folder; decoded frames are cached as in `lerobot.read`.

    Args:
        path: the folder.
        size: pixels to resize the frames to.
        fps: expected frames per second of robot time, compared with those of the JSON files.
        resize: how a picture of another shape becomes a frame of `size`.
        state: must not be True: the format has no state.

    Raises:
        InputError: a file is missing, damaged or invalid, actions are NaN, the lengths of video and actions differ, or
            the rate is different.
    """
    root = Path(path)
    if state:
        raise InputError(f"{root}: WorldGym's format has no state. Train without it, or give LeRobot or RLDS data")
    episodes = list(_valid_episodes(root))
    notes = [episode.notes for episode in episodes]
    resolve_rate(path, notes[0].fps if notes else None, fps)
    count = np.array([len(episode.actions) for episode in episodes], np.int64)
    files = [episode.video for episode in episodes]
    rule = () if size is None or resize == "squash" else (resize,)
    key = files_hash([*files, *(file.with_suffix(".npz") for file in files)], size, *rule)
    pixels = "native" if size is None else str(size).replace(" ", "")
    labels = [np.zeros(n, bool) if note.success is None else note.success for n, note in zip(count, notes, strict=True)]
    rows = [np.concatenate([episode.actions[:-1], np.zeros_like(episode.actions[:1])]) for episode in episodes]
    return EpisodeSet(
        frames=cached_frames(root, pixels, key, int(count.sum()), lambda: _frames(episodes, size, resize)),
        actions=np.concatenate(rows),
        success=np.concatenate(labels),
        first=np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64),
        length=count - 1,
        labelled=np.array([note.success is not None for note in notes], bool),
        instruction=tuple(note.instruction for note in notes),
        task=tuple(note.task for note in notes),
        source=tuple(note.source for note in notes),
        layout=np.array([note.layout for note in notes], np.int64),
        spec=WORLDGYM,
        fps=notes[0].fps,
    )


def _valid_episodes(root: Path) -> Iterator[EpisodeFiles]:
    for episode in inspect(root):
        if isinstance(episode, InputError):
            raise episode
        if not np.isfinite(episode.actions[:-1]).all():  # `check` reports NaN itself
            file = episode.video.with_suffix(".npz")
            raise InputError(
                f"{file}: field 'arr_0': found NaN or infinity, expected finite numbers; remove the episode"
            )
        yield episode


def _frames(
    episodes: list[EpisodeFiles], size: int | tuple[int, int] | None, rule: Resize
) -> Iterator[tuple[Path, np.ndarray]]:
    for episode in episodes:
        count, expected = 0, len(episode.actions)
        for frame in iterate_frames(episode.video):
            count += 1
            if count <= expected:
                yield episode.video, frame if size is None else fit(frame, size, rule)
        _check_count(count, expected, episode.video)


def _check_count(count: int, expected: int, video: Path) -> None:
    if count != expected:
        raise InputError(f"{video}: found {count} frames, expected {expected}, one per row of {video.stem}.npz")


def write(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Write episodes to a new folder, converting actions to WorldGym's spec.

    Raises:
        InputError: the path exists, another process is writing it, there are no episodes, or the disk is full.
        ActionSpecMismatch: an episode's actions cannot be converted.
    """
    with StagedFolder(path) as folder:
        count = 0
        for count, episode in enumerate(episodes, 1):
            _write_one(folder.path / f"{count - 1:09d}", episode)
        if not count:
            raise InputError(f"{path}: found 0 episodes to write, expected at least 1")


def _write_one(stem: Path, episode: Episode) -> None:
    actions = converter(episode.spec, WORLDGYM)(episode.actions).astype(np.float32)
    WORLDGYM.check(actions, str(stem))
    encode(stem.with_suffix(".mp4"), episode.frames, _CONTAINER_FPS)
    np.savez(stem.with_suffix(".npz"), np.concatenate([actions, np.zeros((1, WORLDGYM.dim), np.float32)]))
    notes = {
        "instruction": episode.instruction,
        "task": episode.task,
        "source": episode.source,
        "layout": episode.layout,
        "fps": episode.fps,
        "success": None if episode.success is None else np.asarray(episode.success).astype(int).tolist(),
    }
    stem.with_suffix(".json").write_text(json.dumps(notes, ensure_ascii=False), encoding="utf-8")
