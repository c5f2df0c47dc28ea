"""Episodes in WorldGym's layout: `N.mp4` with T frames beside `N.npz` with `arr_0` float32 [T, 10].

Row i is the action taken at frame i; the last row has no frame after it and is dropped when read, and written as zeros.
So is frame i + 1 conditioned on row i here and in the published inference; published training and validation pair
frame i with row i (arXiv 2506.00613 and its code), one frame apart from that.

The layout has no room for the sentence and the labels: this project writes them into `N.json` beside the two, which
other readers ignore; its fields are those of `Notes`. The mp4's own frame rate (20) is a habit of the format; the
robot's is 5 Hz.
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
from worldgymnast.episodes.cache import cached_frames, fingerprint
from worldgymnast.episodes.rates import agreed_rate
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.files import mistaken, read_json_object, short, visible
from worldgymnast.staging import StagedFolder
from worldgymnast.types import Episode
from worldgymnast.video import check_rate, encode, frame_count, iterate, rate, resize

_CONTAINER_FPS = 20.0
_ROBOT_FPS = 5.0
_MAX_FPS = 10_000.0
_MAX_ROWS = 1_000_000
_MAX_HEADER = 16_384
_ACTIONS = "arr_0"


@dataclass(frozen=True)
class Notes:
    """What this project writes beside an episode; every field may be left out.

    Attributes:
        instruction: the sentence, or "".
        task: name of the task, or "".
        source: how the episode came about (see `Episode.source`).
        layout: seed of the scene, -1 for none.
        fps: frames per second of robot time.
        success: bool [T], whether the task was accomplished at that frame; None where nobody said. In the file it is a
            list of T times true or false (or 1 and 0); a single true or false is about the last frame.
    """

    instruction: str = ""
    task: str = ""
    source: str = ""
    layout: int = -1
    fps: float = _ROBOT_FPS
    success: np.ndarray | None = None


@dataclass(frozen=True)
class Files:
    """One episode, sound but for its video, which is not decoded yet.

    Attributes:
        video: the mp4 file; the others have its name.
        actions: float32 [T, 10], one row a frame.
        notes: what stands beside it.
    """

    video: Path
    actions: np.ndarray
    notes: Notes


def videos(path: str | Path) -> list[Path]:
    """The episodes' mp4 files in order; raises InputError where there is none."""
    root = Path(path)
    found = [file for file in visible(root.glob("*")) if file.suffix.lower() == ".mp4"]
    if not found:
        raise InputError(f"{root}: found no mp4 files, expected a folder of N.mp4 and N.npz; check the path")
    return found


def inspect(path: str | Path) -> Iterator[Files | InputError]:
    """Yield each episode, or what is wrong with it.

    Raises:
        InputError: there is no video at all.
    """
    root = Path(path)
    files = videos(root)
    stems = Counter(file.stem for file in files)
    for file in visible(root.glob("*.npz")):
        if file.stem not in stems:
            yield InputError(f"{file}: video: found none, expected {file.stem}.mp4; copy the folder again")
    first: Files | None = None
    video_rate: float | None = None
    for file in files:
        try:
            if stems[file.stem] > 1:
                raise InputError(f"{file}: found two videos of this name, expected one; remove one")
            rows = read_actions(file)
            found = Files(file, rows, read_notes(file, len(rows)))
            if first is None:
                first, video_rate = found, rate(file)
            _alike(first, found)
            check_rate(file, video_rate, f"as {first.video.name} has")
            yield found
        except InputError as error:
            yield error


def _alike(first: Files, other: Files) -> None:
    """Raises InputError where two episodes differ in rate (one model has one)."""
    if other.notes.fps != first.notes.fps:
        raise InputError(
            f"{other.video.with_suffix('.json')}: field 'fps': found {other.notes.fps:g}, expected "
            f"{first.notes.fps:g} as of {first.video.name}; put episodes of another rate into a folder of their own"
        )


def read_actions(video: Path) -> np.ndarray:
    """float32 [T, 10], one row a frame, of the npz file beside `video`; numbers may be NaN."""
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
    except Exception as error:  # zipfile and numpy raise a dozen kinds on damaged files
        said = (
            (not zipfile.is_zipfile(path) and mistaken(_head(path)))
            or str(error).split("\n")[0][:200]
            or type(error).__name__
        )
        raise InputError(f"{path}: cannot be read as npz ({said}); copy the file again") from error
    return rows


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _array(archive: zipfile.ZipFile, path: Path) -> np.ndarray:
    """float32 [T, 10]; the sizes in the array's header are looked at before anything is unpacked."""
    names = [info.filename for info in archive.infolist()]
    if names.count(f"{_ACTIONS}.npy") != 1:
        found = short([name.removesuffix(".npy") for name in names])
        raise InputError(f"{path}: field 'arr_0' is missing, found {found}; write the actions under it, once")
    member = archive.getinfo(f"{_ACTIONS}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are unpacked without a bound
        raise InputError(f"{path}: found compression {member.compress_type}, expected none or deflate; write it again")
    with archive.open(member) as file:
        begin = io.BytesIO(file.read(_MAX_HEADER))
        shape, fortran, dtype = _header(begin, path)
        if len(shape) != 2 or shape[1] != WORLDGYM.dim or not 0 < shape[0] <= _MAX_ROWS:
            found = short(list(shape))
            raise InputError(f"{path}: field 'arr_0': found shape {found}, expected [T, {WORLDGYM.dim}]")
        if dtype.kind not in "fiu":
            raise InputError(f"{path}: field 'arr_0': found numpy type {dtype}, expected float32; write numbers")
        size = shape[0] * shape[1] * dtype.itemsize
        content = begin.read()
        content += file.read(max(size + 1 - len(content), 0))  # one more: at the end the checksum is compared
        if len(content) != size:
            raise InputError(f"{path}: field 'arr_0': found {len(content)} bytes, expected {size}; copy the file again")
    rows = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which is refused
        return np.ascontiguousarray(rows, np.float32)


def _header(file: io.BytesIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of the array in a npy file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise InputError(f"{path}: field 'arr_0': found npy version {version}, expected 1.0 or 2.0; write it again")


def read_notes(video: Path, frames: int) -> Notes:
    """What this project wrote beside an episode of `frames` frames; the defaults for a folder of anyone else's.

    Raises:
        InputError: the file is no JSON object, or a field holds what it cannot mean.
    """
    path = video.with_suffix(".json")
    if not os.path.lexists(path):  # a link to nowhere is no absence: labels would be lost without a word
        return Notes()
    said = read_json_object(path)
    return Notes(
        instruction=_words(said, "instruction", path),
        task=_words(said, "task", path),
        source=_words(said, "source", path),
        layout=_layout(said.get("layout"), path),
        fps=_fps(said.get("fps", _ROBOT_FPS), path),
        success=_success(said.get("success"), frames, video),
    )


def _words(said: dict[str, Any], name: str, path: Path) -> str:
    value = said.get(name)
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
    """bool [T] or None; nothing but true, false, 1 and 0 is a label: `"no"` and 2 would count as successes."""
    path = video.with_suffix(".json")
    if value is None:
        return None
    if isinstance(value, bool):
        return np.arange(frames) == (frames - 1 if value else -1)
    if not isinstance(value, list):
        raise InputError(
            f"{path}: field 'success': found {short(value)}, expected true, false, or one of them a frame; correct it"
        )
    if len(value) != frames:
        _require(frame_count(video), frames, video)  # if the video is the one that differs, that is what is wrong
        raise InputError(f"{path}: field 'success': found {len(value)} labels, expected {frames}, one a row of actions")
    for index, label in enumerate(value):
        if not isinstance(label, bool | int | float) or label not in (0, 1):
            raise InputError(
                f"{path}: field 'success': found {short(label)} at frame {index}, expected true or false; correct it"
            )
    return np.array(value, bool)


def read(path: str | Path, *, size: int | tuple[int, int] | None = None, fps: float | None = None) -> EpisodeSet:
    """Reads a folder; decoded frames are cached as in `lerobot.read`.

    Args:
        path: the folder.
        size: pixels to resize the frames to.
        fps: frames per second of robot time, if they are to be compared with what the notes say.

    Raises:
        InputError: a file is missing or damaged, holds NaN or what it cannot mean, a video's length differs from its
            actions', or the notes say another rate.
    """
    root = Path(path)
    found = list(_sound(root))
    notes = [one.notes for one in found]
    agreed_rate(path, notes[0].fps if notes else None, fps)
    count = np.array([len(one.actions) for one in found], np.int64)
    files = [one.video for one in found]
    key = fingerprint([*files, *(file.with_suffix(".npz") for file in files)], size)
    pixels = "native" if size is None else str(size).replace(" ", "")
    marks = [np.zeros(n, bool) if note.success is None else note.success for n, note in zip(count, notes, strict=True)]
    return EpisodeSet(
        frames=cached_frames(root, pixels, key, int(count.sum()), lambda: _frames(found, size)),
        actions=np.concatenate([np.concatenate([one.actions[:-1], np.zeros_like(one.actions[:1])]) for one in found]),
        success=np.concatenate(marks),
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


def _sound(root: Path) -> Iterator[Files]:
    for one in inspect(root):
        if isinstance(one, InputError):
            raise one
        if not np.isfinite(one.actions[:-1]).all():  # `check` looks at the numbers itself
            file = one.video.with_suffix(".npz")
            raise InputError(
                f"{file}: field 'arr_0' holds NaN or infinity, expected finite numbers; remove the episode"
            )
        yield one


def _frames(episodes: list[Files], size: int | tuple[int, int] | None) -> Iterator[tuple[Path, np.ndarray]]:
    for one in episodes:
        found, expected = 0, len(one.actions)
        for frame in iterate(one.video):
            found += 1
            if found <= expected:
                yield one.video, frame if size is None else resize(frame, size)
        _require(found, expected, one.video)


def _require(found: int, expected: int, video: Path) -> None:
    if found != expected:
        raise InputError(f"{video}: found {found} frames, expected {expected}, one a row of {video.stem}.npz")


def write(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Writes episodes into a new folder; actions are converted to WorldGym's where a conversion is known.

    Raises:
        InputError: the path exists, another process writes it, there are no episodes, or the disk is full.
        ActionSpecMismatch: an episode's actions cannot be converted.
    """
    with StagedFolder(path) as folder:
        written = 0
        for written, episode in enumerate(episodes, 1):
            _write_one(folder.path / f"{written - 1:09d}", episode)
        if not written:
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
