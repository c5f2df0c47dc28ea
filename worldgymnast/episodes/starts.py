"""Read and write starts as pictures with instructions.

A folder has WorldGym's layout: `NAME.png` (or .jpg, or the first frame of .mp4) with `NAME.json`:

    {"instruction": "open the drawer", "task": "drawer-open"}

`instruction` is a sentence or a list of paraphrases. `task` defaults to the first sentence. Other keys, such as
WorldGym's "partial_credit_criteria", belong to a judge's description and are ignored here, as are hidden files.

Pictures are decoded by the rules of `worldgymnast.pictures` and `worldgymnast.video_reader`: orientations are applied,
transparency becomes white.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.files import read_json, short, visible
from worldgymnast.types import Start
from worldgymnast.video import center_crop, decode, png, read_picture, resize
from worldgymnast.weights import write_bytes, write_text

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_UNSUPPORTED = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".exr", ".ppm", ".tga", ".dng")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_KEYS = ("instruction", "task")


def read_frame(path: Path, size: int | None, crop: bool = False) -> np.ndarray:
    """Read a picture, or a video's first frame, as uint8 [size size 3].

    Args:
        path: the file.
        size: pixels on each side; None keeps the original size, which may not be square.
        crop: crop a picture to its central square.

    Raises:
        InputError: the file is not a picture, or not square.
    """
    is_video = path.suffix.lower() in VIDEOS and path.is_file()
    frame = decode(path, 0, 1)[0] if is_video else read_picture(path)
    if size is None:
        return frame
    height, width = frame.shape[:2]
    if height != width and not crop:
        raise InputError(
            f"{path}: found {width}x{height} pixels, expected a square picture, as the world model requires; add "
            "--crop to use the center, or crop it to the view of the robot's camera"
        )
    return resize(center_crop(frame), size)


def read_starts(folder: Path, size: int | None, crop: bool = False) -> list[Start]:
    """Read the starts in a folder, sorted by name.

    A picture with several instructions yields several starts.

    Args:
        folder: a folder in the layout of this module.
        size: pixels on each side to resize to; None keeps the original size.
        crop: crop pictures to their central square.

    Raises:
        InputError: the folder is missing or has no pictures, or a picture has no instruction.
    """
    starts = []
    for path in list_pictures(folder):
        sentences, task = read_instructions(path)
        frame = read_frame(path, size, crop)
        starts += [Start(frame, sentence, task) for sentence in sentences]
    return starts


def list_pictures(folder: Path) -> list[Path]:
    """Paths of the pictures and videos in a folder, sorted by name.

    Raises `InputError` if there are none.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: found no folder, expected one of pictures or videos, each with NAME.json; check the path"
        )
    try:
        paths = visible(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from error
    files = [path for path in paths if path.suffix.lower() in (*PICTURES, *VIDEOS)]
    if unsupported := [path for path in paths if path.suffix.lower() in _UNSUPPORTED]:
        raise InputError(f"{unsupported[0]}: cannot be read, expected one of {', '.join(PICTURES)}; convert it to PNG")
    if not files:
        raise InputError(f"{folder}: found no picture, expected NAME.png with NAME.json; check the path")
    if special := [path for path in files if not path.is_file()]:
        raise InputError(f"{special[0]}: found no regular file, expected a picture or video; remove it")
    for path, other in itertools.pairwise(sorted(files, key=lambda path: path.stem)):
        if path.stem == other.stem:
            raise InputError(f"{path}: shares its JSON file with {other.name}, expected unique names; rename one")
    return files


def write_start(folder: Path, name: str, frame: np.ndarray, instructions: Sequence[str], task: str) -> None:
    """Write FOLDER/NAME.png, then FOLDER/NAME.json, each atomically, as `read_starts` reads them."""
    write_bytes(folder / f"{name}.png", png(frame))
    labels = {"instruction": instructions[0] if len(instructions) == 1 else list(instructions), "task": task}
    write_text(folder / f"{name}.json", json.dumps(labels, indent=2, ensure_ascii=False) + "\n")


def folder_hash(folder: Path) -> str:
    """Hash of a folder's pictures and JSON files, 16 hex digits."""
    digest = hashlib.sha256()
    for path in list_pictures(folder):
        digest.update(path.name.encode(errors="surrogateescape"))
        for file in (path, path.with_suffix(".json")):
            if file == path or file.is_file():
                _add(digest, file)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it readable") from error


def read_instructions(path: Path) -> tuple[list[str], str]:
    """The sentences and the task in the JSON file of a picture."""
    file = path.with_suffix(".json")
    example = '{"instruction": "open the drawer"}'
    if not file.is_file():
        raise InputError(f"{file}: no such file beside its picture, expected one with {example}")
    labels = read_json(file, f"expected {example}")
    for key in labels if isinstance(labels, dict) else ():
        if key not in _KEYS and (matches := difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)):
            field = short(key).strip('"')
            raise InputError(f"{file}: field '{field}': found an unknown key, expected '{matches[0]}'; rename it")
    instruction = labels.get("instruction") if isinstance(labels, dict) else None
    sentences = [instruction] if isinstance(instruction, str) else instruction
    if not isinstance(sentences, list) or not sentences or not all(map(_is_text, sentences)):
        is_plain = instruction is None or isinstance(instruction, str)
        shown = repr(instruction)[:60] if is_plain else short(instruction)
        raise InputError(f"{file}: field 'instruction': found {shown}, expected a sentence or a list of sentences")
    task = labels.get("task", sentences[0])
    if not _is_text(task):
        raise InputError(f"{file}: field 'task': found {short(task)}, expected a name")
    return [s.strip() for s in sentences], task


def _is_text(value: object) -> bool:
    """Whether a value is a non-blank string without lone surrogates."""
    return isinstance(value, str) and bool(value.strip()) and value == value.encode(errors="replace").decode()
