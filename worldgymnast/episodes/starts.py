"""Starts from pictures: one frame and one sentence are all that is needed to train on a scene.

A folder in WorldGym's layout: `NAME.png` (or .jpg, or .mp4, whose first frame counts) with `NAME.json`:

    {"instruction": "open the drawer", "task": "drawer-open"}

`instruction` is a sentence or a list of paraphrases; `task` may be left out, and then the first sentence names it.
Other keys, such as WorldGym's "partial_credit_criteria", belong to a judge's description and are not read here.
Hidden files, such as the `._NAME` of macOS, are passed over. `pictures` and `video_reader` say what a person sees in a
picture: it is turned as its EXIF orientation or display matrix asks, transparency is laid on white.
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
from worldgymnast.video import decode, picture, png, resize, square
from worldgymnast.weights import write_bytes, write_text

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".exr", ".ppm", ".tga", ".dng")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_KEYS = ("instruction", "task")


def frame_of(path: Path, size: int | None, crop: bool = False) -> np.ndarray:
    """The picture in a file, or the first frame of a video, as uint8 [size size 3].

    Args:
        path: the file.
        size: pixels on each side; as it is, square or not, where None.
        crop: take the middle square of a picture that is not square.

    Raises:
        InputError: there is no picture, or none that is square.
    """
    video = path.suffix.lower() in VIDEOS and path.is_file()
    shown = decode(path, 0, 1)[0] if video else picture(path)
    if size is None:
        return shown
    height, width = shown.shape[:2]
    if height != width and not crop:
        raise InputError(
            f"{path}: found {width}x{height} pixels, expected a square picture, as the world model has; add --crop to "
            "take the middle, or crop it to what the robot's camera sees"
        )
    return resize(square(shown), size)


def read_starts(folder: Path, size: int | None, crop: bool = False) -> list[Start]:
    """The starts in a folder, in the order of their names; a picture with several sentences is several starts.

    Args:
        folder: see the module.
        size: pixels on each side to resize to; as they are where None.
        crop: take the middle square of pictures that are not square.

    Raises:
        InputError: there is no folder or no picture in it, or a picture lacks its sentence.
    """
    starts = []
    for path in pictures(folder):
        sentences, task = said_of(path)
        frame = frame_of(path, size, crop)
        starts += [Start(frame, sentence, task) for sentence in sentences]
    return starts


def pictures(folder: Path) -> list[Path]:
    """The pictures and videos in a folder, in the order of their names; raises `InputError` where there are none."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: found no folder, expected one of pictures or videos, NAME.json beside each; check the path"
        )
    try:
        listed = visible(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from error
    files = [path for path in listed if path.suffix.lower() in (*PICTURES, *VIDEOS)]
    if other := [path for path in listed if path.suffix.lower() in _UNREAD]:
        raise InputError(f"{other[0]}: cannot be read, expected one of {', '.join(PICTURES)}; convert it to PNG")
    if not files:
        raise InputError(f"{folder}: found no picture, expected NAME.png with NAME.json beside; check the path")
    if special := [path for path in files if not path.is_file()]:
        raise InputError(f"{special[0]}: found no regular file, expected a picture or video; remove it")
    for one, other in itertools.pairwise(sorted(files, key=lambda path: path.stem)):
        if one.stem == other.stem:
            raise InputError(f"{one}: shares its JSON file with {other.name}, expected one picture a name; rename one")
    return files


def write_start(folder: Path, name: str, frame: np.ndarray, instructions: Sequence[str], task: str) -> None:
    """FOLDER/NAME.png and then FOLDER/NAME.json, as `read_starts` reads them; each is whole or absent."""
    write_bytes(folder / f"{name}.png", png(frame))
    said = {"instruction": instructions[0] if len(instructions) == 1 else list(instructions), "task": task}
    write_text(folder / f"{name}.json", json.dumps(said, indent=2, ensure_ascii=False) + "\n")


def folder_hash(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 over the pictures in a folder and what is said of them."""
    digest = hashlib.sha256()
    for path in pictures(folder):
        digest.update(path.name.encode(errors="surrogateescape"))
        for file in (path, path.with_suffix(".json")):
            if file == path or file.is_file():
                _add(digest, file)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, file: Path) -> None:
    try:
        with file.open("rb") as opened:
            while part := opened.read(2**20):
                digest.update(part)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); make it readable") from error


def said_of(path: Path) -> tuple[list[str], str]:
    """The sentences and the task in the JSON file beside a picture."""
    file = path.with_suffix(".json")
    example = '{"instruction": "open the drawer"}'
    if not file.is_file():
        raise InputError(f"{file}: found no file beside its picture, expected one with {example}")
    found = read_json(file, f"expected {example}")
    for key in found if isinstance(found, dict) else ():
        if key not in _KEYS and (near := difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)):
            field = short(key).strip('"')
            raise InputError(f"{file}: field '{field}': found an unknown key, expected '{near[0]}'; rename it")
    given = found.get("instruction") if isinstance(found, dict) else None
    sentences = [given] if isinstance(given, str) else given
    if not isinstance(sentences, list) or not sentences or not all(map(_is_text, sentences)):
        shown = repr(given)[:60] if given is None or isinstance(given, str) else short(given)
        raise InputError(f"{file}: field 'instruction': found {shown}, expected a sentence or a list of sentences")
    task = found.get("task", sentences[0])
    if not _is_text(task):
        raise InputError(f"{file}: field 'task': found {short(task)}, expected a name")
    return [s.strip() for s in sentences], task


def _is_text(value: object) -> bool:
    """Whether it is a text with something in it that can be written as UTF-8; half a surrogate pair cannot."""
    return isinstance(value, str) and bool(value.strip()) and value == value.encode(errors="replace").decode()
