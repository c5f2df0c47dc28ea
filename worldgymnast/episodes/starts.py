"""Read and write starts as pictures with instructions.

A folder has WorldGym's layout: `NAME.png` (or .jpg, or the first frame of .mp4) with `NAME.json`:

    {"instruction": "open the drawer", "task": "drawer-open", "state": [0.1, -0.4, 0.7]}

`instruction` is a sentence or a list of paraphrases. `task` defaults to the first sentence. `state` is the robot's
proprioception in the picture, for policies that need it; without it a world model estimates it. Other keys, such as
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
from worldgymnast.preprocessing import Resize, Size, fit, sides
from worldgymnast.types import Start
from worldgymnast.video import decode, png, read_picture
from worldgymnast.weights import write_bytes, write_text

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_UNSUPPORTED = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".exr", ".ppm", ".tga", ".dng")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_KEYS = ("instruction", "task", "state")


def read_frame(path: Path, size: Size | None, crop: bool = False, resize: Resize | None = None) -> np.ndarray:
    """Read a picture, or a video's first frame, as uint8 [h w 3].

    Args:
        path: the file.
        size: pixels on each side, or height and width; None keeps the original size.
        crop: the same as `resize` "crop".
        resize: how a picture of another shape becomes a frame of `size`; None refuses it.

    Raises:
        InputError: the file is not a picture, or has another shape.
    """
    is_video = path.suffix.lower() in VIDEOS and path.is_file()
    frame = decode(path, 0, 1)[0] if is_video else read_picture(path)
    if size is None:
        return frame
    (height, width), (wanted_height, wanted_width) = frame.shape[:2], sides(size)
    rule = "crop" if crop else resize
    if height * wanted_width != width * wanted_height and rule is None:
        shape = f"a picture of shape {wanted_width}x{wanted_height}"
        if wanted_height == wanted_width:
            shape = "a square picture"
        raise InputError(
            f"{path}: found {width}x{height} pixels, expected {shape}, as the world model requires; add "
            "--crop to use the center, or crop it to the view of the robot's camera"
        )
    return fit(frame, size, rule or "squash")


def read_starts(folder: Path, size: Size | None, crop: bool = False, resize: Resize | None = None) -> list[Start]:
    """Read the starts in a folder, sorted by name.

    A picture with several instructions yields several starts.

    Args:
        folder: a folder in the layout of this module.
        size: pixels on each side to resize to, or height and width; None keeps the original size.
        crop: the same as `resize` "crop".
        resize: how a picture of another shape becomes a frame of `size`; None refuses it.

    Raises:
        InputError: the folder is missing or has no pictures, or a picture has no instruction or a wrong state.
    """
    starts = []
    for path in list_pictures(folder):
        sentences, task = read_instructions(path)
        frame, state = read_frame(path, size, crop, resize), read_state(path)
        starts += [Start(frame, sentence, task, state=state) for sentence in sentences]
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


def read_state(path: Path) -> np.ndarray | None:
    """The state, float32 [s], in the JSON file of a picture; None if it has none."""
    file = path.with_suffix(".json")
    labels = read_json(file, 'expected {"instruction": "open the drawer"}')
    value = labels.get("state") if isinstance(labels, dict) else None
    if value is None:
        return None
    is_numbers = isinstance(value, list) and bool(value)
    if not is_numbers or not all(type(number) in (int, float) and abs(number) < 1e30 for number in value):
        raise InputError(f"{file}: field 'state': found {short(value)}, expected a list of numbers")
    return np.array(value, np.float32)


def _is_text(value: object) -> bool:
    """Whether a value is a non-blank string without lone surrogates."""
    return isinstance(value, str) and bool(value.strip()) and value == value.encode(errors="replace").decode()
