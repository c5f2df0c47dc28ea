"""Episodes in WorldGym's layout: `N.mp4` with T frames beside `N.npz` with `arr_0` float32 [T, 10].

Row i is the action taken at frame i (frame i + 1 is conditioned on it, arXiv 2506.00613); the last row has no frame
after it and is dropped when read, and written as zeros. The layout has no room for the sentence and the labels: this
project writes them into `N.json` beside the two, which other readers ignore. The mp4's own frame rate (20) is a habit
of the format; the robot's is 5 Hz.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.actions import WORLDGYM, converter
from worldgymnast.episodes.cache import cached_frames, fingerprint
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.staging import StagedFolder
from worldgymnast.types import Episode, InputError
from worldgymnast.video import check_rate, encode, iterate, rate, resize

_CONTAINER_FPS = 20.0
_ROBOT_FPS = 5.0


def videos(path: str | Path) -> list[Path]:
    """The episodes' mp4 files in order; raises InputError where there is none."""
    root = Path(path)
    found = sorted(root.glob("*.mp4"))
    if not found:
        raise InputError(f"{root}: found no mp4 files, expected a folder of N.mp4 and N.npz; check the path")
    return found


def read_actions(video: Path) -> np.ndarray:
    """float32 [T, 10], one row a frame, of the npz file beside `video`."""
    path = video.with_suffix(".npz")
    try:
        with np.load(path) as archive:
            if "arr_0" not in archive:
                raise InputError(f"{path}: field 'arr_0' is missing, found {archive.files}; write the actions under it")
            rows = archive["arr_0"]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file, expected the actions of {video.name}; copy the folder again"
        ) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as npz ({error}); copy the file again") from error
    if rows.ndim != 2 or rows.shape[1] != WORLDGYM.dim or not len(rows):
        raise InputError(f"{path}: field 'arr_0': found shape {list(rows.shape)}, expected [T, {WORLDGYM.dim}]")
    return rows.astype(np.float32)


def read_notes(video: Path) -> dict[str, Any]:
    """What this project wrote beside the episode; empty for a folder of anyone else's."""
    path = video.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); copy the file again") from error
    if not isinstance(notes, dict):
        raise InputError(f"{path}: found {type(notes).__name__}, expected an object with 'instruction'")
    return notes


def read(path: str | Path, *, size: int | tuple[int, int] | None = None) -> EpisodeSet:
    """Reads a folder; decoded frames are cached as in `lerobot.read`.

    Args:
        path: the folder.
        size: pixels to resize the frames to.

    Raises:
        InputError: a file is missing or damaged, holds NaN, or a video's length differs from its actions'.
    """
    root = Path(path)
    files = videos(root)
    rows = [read_actions(file) for file in files]
    for file, actions in zip(files, rows, strict=True):
        if not np.isfinite(actions[:-1]).all():
            raise InputError(
                f"{file.with_suffix('.npz')}: field 'arr_0' holds NaN or infinity, expected finite numbers; remove the "
                "episode"
            )
    notes = [read_notes(file) for file in files]
    rates = [float(note.get("fps", _ROBOT_FPS)) for note in notes]
    for file, fps in zip(files, rates, strict=True):
        if fps != rates[0]:
            raise InputError(
                f"{file.with_suffix('.json')}: field 'fps': found {fps:g}, expected {rates[0]:g} as of "
                f"{files[0].name}; put episodes of another rate into a folder of their own"
            )
    count = np.array([len(actions) for actions in rows], np.int64)
    key = fingerprint([*files, *(file.with_suffix(".npz") for file in files)], size)
    pixels = "native" if size is None else str(size).replace(" ", "")
    success = [note.get("success") for note in notes]
    return EpisodeSet(
        frames=cached_frames(root, pixels, key, int(count.sum()), lambda: _frames(files, count, size)),
        actions=np.concatenate([np.concatenate([actions[:-1], np.zeros_like(actions[:1])]) for actions in rows]),
        success=np.concatenate(
            [_marks(mark, int(n), file) for mark, n, file in zip(success, count, files, strict=True)]
        ),
        first=np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64),
        length=count - 1,
        labelled=np.array([mark is not None for mark in success], bool),
        instruction=tuple(str(note.get("instruction", "")) for note in notes),
        task=tuple(str(note.get("task", "")) for note in notes),
        source=tuple(str(note.get("source", "")) for note in notes),
        layout=np.array([-1 if note.get("layout") is None else note["layout"] for note in notes], np.int64),
        spec=WORLDGYM,
        fps=rates[0],
    )


def _marks(marks: list[int] | None, count: int, file: Path) -> np.ndarray:
    if marks is None:
        return np.zeros(count, bool)
    if len(marks) != count:
        raise InputError(f"{file.with_suffix('.json')}: field 'success': found {len(marks)} labels, expected {count}")
    return np.array(marks, bool)


def _frames(
    files: list[Path], count: np.ndarray, size: int | tuple[int, int] | None
) -> Iterator[tuple[Path, np.ndarray]]:
    fps = rate(files[0])
    for file, expected in zip(files, count, strict=True):
        found = 0
        check_rate(file, fps, f"as {files[0].name} has")
        for frame in iterate(file):
            found += 1
            if found <= expected:
                yield file, frame if size is None else resize(frame, size)
        if found != expected:
            raise InputError(f"{file}: found {found} frames, expected {expected}, one a row of {file.stem}.npz")


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
