"""RLDS data sets (TFRecord shards with `features.json`, as TensorFlow Datasets writes them), read without TensorFlow.

A step holds an observation and the action taken at it, so T steps are T frames and T actions; the last action has no
frame after it and is dropped. Rewards are not read: in demonstrations they are 1 at every end, whether or not somebody
looked, so the episodes come unlabelled. Left out: writing.

Rules:

- One folder holds one version of one data set. Of several splits "train" is read, and a line on stderr says so.
- Pictures have 8 bits a channel by features.json and by the record (`worldgymnast.pictures` has the rest of the rule);
  raw uint8 tensors [h w 3] count as well. A camera of one channel, or with "depth" in its name, is read only where it
  is the only one or named; depth of 16 bits or floats never.
- The sentence of an episode is the first non-empty one under `language_instruction`, then
  `natural_language_instruction`, then `instruction`, then the second wordings (`language_instruction_2`, ...), each in
  the step, then in the observation, then in the episode's metadata. A sentence that changes from step to step is
  an error; steps without one are passed over. Numbers are a sentence where they are bytes of text.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldgymnast.actions import BRIDGE, ActionSpec, foreign_spec
from worldgymnast.episodes.cache import cached_frames, fingerprint
from worldgymnast.episodes.lerobot_frames import beside
from worldgymnast.episodes.rates import agreed_rate
from worldgymnast.episodes.rlds_layout import FEATURES, INFO, Camera, Description, describe
from worldgymnast.episodes.tfrecord import Feature, parse_example, records
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.pictures import open_picture
from worldgymnast.video import resize

_SENTENCE = re.compile(
    r"(?P<name>language_instruction|natural_language_instruction|instruction)(_(?P<number>\d{1,3}))?"
)
_NAMES = ("language_instruction", "natural_language_instruction", "instruction")
_PLACES = ("steps", "steps/observation", "episode_metadata")
_MAX_SENTENCE = 10_000


@dataclass(frozen=True)
class Record:
    """One episode, sound but for its pictures, which are not decoded yet.

    Attributes:
        where: file and record, for messages.
        shard: the file.
        actions: float32 [T a], one row a step.
        instruction: the sentence, or "".
        pictures: for each camera what the record holds of it.
    """

    where: str
    shard: Path
    actions: np.ndarray
    instruction: str
    pictures: tuple[Feature, ...]


def inspect(description: Description) -> Iterator[Record | InputError]:
    """Yield each episode, or what is wrong with it; a shard that cannot be read further ends in its error."""
    total = 0
    for shard in description.shards:
        count = 0
        try:
            for record in records(shard.path):
                yield _sound(record, description, shard.path, count)
                count += 1
        except InputError as error:
            yield error
        else:
            if shard.count is not None and count != shard.count:
                yield InputError(
                    f"{shard.path}: found {count} records, expected {shard.count} by dataset_info.json; copy it again"
                )
        total += count
    if not total:
        yield InputError(f"{description.shards[0].path}: found 0 records, expected at least 1; copy the folder again")


def _sound(record: bytes, description: Description, shard: Path, index: int) -> Record | InputError:
    where = f"{shard}: record {index}"
    keys = {description.action_key, *(camera.key for camera in description.cameras)}
    seen: list[str] = []

    def wanted(name: str) -> bool:
        seen.append(name)
        return name in keys or _rank(name) is not None

    try:
        features = parse_example(record, wanted)
    except ValueError as error:
        return InputError(f"{where}: {error}; the file is damaged, copy it again")
    if lost := sorted(keys - features.keys()):
        return InputError(
            f"{where}: found features {short(sorted(seen))}, expected '{lost[0]}' by features.json; does it belong to "
            "these shards?"
        )
    try:
        pictures = tuple(features[camera.key] for camera in description.cameras)
        steps = _steps(pictures, description, where)
        actions = _actions(features[description.action_key], steps, description, where)
        return Record(where, shard, actions, instruction_of(features, steps, where), pictures)
    except InputError as error:
        return error


def _steps(pictures: Sequence[Feature], description: Description, where: str) -> int:
    """The number of pictures of every camera, at least 1."""
    counts = []
    for camera, blobs in zip(description.cameras, pictures, strict=True):
        size = int(np.prod([side or 0 for side in camera.shape])) if camera.encoding == "none" else 1
        if isinstance(blobs, list) == (camera.encoding == "none") and len(blobs):
            kind = "bytes" if isinstance(blobs, list) else "numbers"
            raise InputError(f"{where}: field '{camera.key}': found {kind}, expected pictures as features.json says")
        if len(blobs) % size:
            raise InputError(f"{where}: field '{camera.key}': found {len(blobs)} numbers, expected {size} a step")
        counts.append(len(blobs) // size)
    if min(counts) != max(counts) or not counts[0]:
        names = ", ".join(f"{n} of '{camera.key}'" for n, camera in zip(counts, description.cameras, strict=True))
        raise InputError(f"{where}: found {names} pictures, expected one a step, 1 at least; remove the episode")
    return counts[0]


def _actions(values: Feature, steps: int, description: Description, where: str) -> np.ndarray:
    """float32 [T a], one row a step; the last one, which is dropped, may hold anything."""
    name = description.action_key.removeprefix("steps/")
    if not isinstance(values, np.ndarray):
        raise InputError(f"{where}: field '{name}': found bytes, expected numbers by features.json")
    if len(values) != steps * description.width:
        raise InputError(
            f"{where}: field '{name}': found {len(values)} numbers for {steps} steps, "
            f"expected {description.width} a step by features.json"
        )
    rows = values.astype(np.float32).reshape(steps, description.width)
    if not np.isfinite(rows[:-1]).all():
        raise InputError(f"{where}: field '{name}' holds NaN or infinity, expected finite numbers; remove the episode")
    return rows


def _rank(key: str) -> tuple[int, int, int, str] | None:
    """Where a feature stands among those that hold sentences, first comes first; None where it is none."""
    place, _, last = key.rpartition("/")
    match = _SENTENCE.fullmatch(last)
    if match is None:
        return None
    where = _PLACES.index(place) if place in _PLACES else len(_PLACES)
    return int(match["number"] or 0), _NAMES.index(match["name"]), where, key


def instruction_of(features: dict[str, Feature], steps: int, where: str) -> str:
    """The sentence of an episode by the rule of this module, or "".

    Raises:
        InputError: it changes within the episode, is no UTF-8 text, or there is not one a step.
    """
    ranked = sorted((rank, key) for key in features if (rank := _rank(key)) is not None)
    for _, key in ranked:
        values = features[key]
        if not isinstance(values, list):
            values = _spelled(values, steps if key.startswith("steps/") else 1)
        if key.startswith("steps/") and len(values) not in (0, steps):
            raise InputError(f"{where}: field '{key}': found {len(values)} sentences, expected {steps}, one a step")
        texts = [(step, text) for step, value in enumerate(values) if (text := _text(value, key, where))]
        for step, text in texts:
            if key.startswith("steps/") and text != texts[0][1]:
                raise InputError(
                    f"{where}: field '{key}': found {short(text)} at step {step} and {short(texts[0][1])} before, "
                    "expected one sentence an episode; split the episode where it changes"
                )
        if texts:
            return texts[0][1]
    return ""


def _spelled(values: np.ndarray, rows: int) -> list[bytes]:
    """Sentences written as byte values, one row each, as Language-Table does; [] where the numbers are none."""
    if (
        values.dtype.kind != "i"
        or values.size <= rows
        or values.size % rows
        or not 0 <= values.min() <= values.max() < 256
    ):
        return []
    texts = [bytes(row.astype(np.uint8)).rstrip(b"\0") for row in values.reshape(rows, -1)]
    try:
        return texts if all(text.decode().isprintable() for text in texts) else []
    except UnicodeDecodeError:
        return []


def _text(value: bytes, key: str, where: str) -> str:
    if len(value) > _MAX_SENTENCE:
        raise InputError(f"{where}: field '{key}': found {len(value):,} bytes, expected at most {_MAX_SENTENCE:,}")
    try:
        return value.decode("utf-8-sig").strip(" \t\r\n\0")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: field '{key}': is not UTF-8 text ({error}); write the sentence again") from error


def pictures_of(record: Record, description: Description, size: int | tuple[int, int] | None) -> Iterator[np.ndarray]:
    """Yield the decoded frames uint8 [h w 3], several cameras side by side; raises InputError where one is damaged."""
    for step in range(len(record.actions)):
        views = [
            _picture(blobs, step, camera, f"{record.where}: step {step}")
            for camera, blobs in zip(description.cameras, record.pictures, strict=True)
        ]
        frame = beside(views)
        yield frame if size is None else resize(frame, size)


def _picture(blobs: Feature, step: int, camera: Camera, where: str) -> np.ndarray:
    field = f"{where}: field '{camera.key}'"
    if camera.encoding == "picture":
        assert isinstance(blobs, list)
        return open_picture(blobs[step], field)
    height, width = camera.shape[0] or 0, camera.shape[1] or 0
    count = height * width * 3
    if isinstance(blobs, list):
        raw = np.frombuffer(
            _inflated(blobs[step], count, field) if camera.encoding == "zlib" else blobs[step], np.uint8
        )
    else:
        raw = blobs[step * count : (step + 1) * count]
    if len(raw) != count or (len(raw) and not 0 <= raw.min() <= raw.max() <= 255):
        raise InputError(f"{field}: is no picture of {height} x {width} x 3 bytes, as features.json says")
    return raw.astype(np.uint8).reshape(height, width, 3)


def _inflated(blob: bytes, count: int, where: str) -> bytes:
    """At most `count` + 1 bytes of a zlib stream."""
    try:
        return zlib.decompressobj().decompress(blob, count + 1)
    except zlib.error as error:
        raise InputError(f"{where}: cannot be unpacked ({error}); the file is damaged, copy it again") from error


def spec_of(description: Description, rows: list[np.ndarray]) -> ActionSpec:
    """Bridge's spec for BridgeData V2; else one of unknown unit with the ranges found in the data."""
    if description.name.startswith("bridge") and description.width == BRIDGE.dim:
        return BRIDGE
    zeros = np.zeros((1, description.width), np.float32)  # for episodes of one step: the last action is dropped
    every = np.concatenate([part[:-1] for part in rows if len(part) > 1] or [zeros])
    axes = tuple(f"a{index}" for index in range(description.width))
    low, high = (tuple(float(v) for v in bound) for bound in (every.min(0), every.max(0)))
    return foreign_spec(axes, low, high)


def read(
    path: str | Path,
    *,
    image_key: str | None = None,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    fps: float | None = None,
    assumed_fps: float | None = None,
) -> EpisodeSet:
    """Reads a folder; decoded frames are cached as in `lerobot.read`.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: which camera, such as "image_0"; several with commas between, or "all" for every color camera, side
            by side; without it the only color camera, or `image_0`.
        split: such as "train"; without it "train" where it is there, else the only one.
        size: pixels to resize the frames to.
        fps: frames per second of robot time; needed where the data set is not BridgeData V2 (5 Hz).
        assumed_fps: those that are taken, with a line on stderr, where neither the data set nor `fps` says them.

    Raises:
        InputError: a shard is missing, cut short or damaged, or the frame rate is unknown or another.
    """
    description = describe(path, image_key, split)
    if split is None:
        say_split(description)
    rows, sentences = [], []
    for record in sound_records(description):
        rows.append(record.actions)
        sentences.append(record.instruction)
    spec = spec_of(description, rows)
    rate = agreed_rate(path, spec.rate, fps, assumed_fps)
    count = np.array([len(actions) for actions in rows], np.int64)
    files = [shard.path for shard in description.shards]
    files += [file for name in (FEATURES, INFO) if (file := description.root / name).is_file()]
    key = fingerprint(files, description.cameras, description.action_key, description.width, size)
    pixels = "native" if size is None else str(size).replace(" ", "")
    name = f"{'+'.join(camera.name.replace('/', '.') for camera in description.cameras)}-{description.split}-{pixels}"
    return EpisodeSet(
        frames=cached_frames(description.root, name, key, int(count.sum()), lambda: _frames(description, size)),
        actions=np.concatenate([np.concatenate([actions[:-1], np.zeros_like(actions[:1])]) for actions in rows]),
        success=np.zeros(int(count.sum()), bool),
        first=np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64),
        length=count - 1,
        labelled=np.zeros(len(rows), bool),
        instruction=tuple(sentences),
        task=("",) * len(rows),
        source=(description.name,) * len(rows),
        layout=np.full(len(rows), -1, np.int64),
        spec=spec,
        fps=rate,
    )


def unread_texts(description: Description) -> list[str]:
    """Features with text that no rule of this module takes for a sentence."""
    return [key for key in description.texts if _rank(key) is None]


def say_split(description: Description) -> None:
    """Print which of several splits is read and which files are not, to stderr."""
    for path in description.unread:
        print(f"{path}: is left out, its name is no shard's", file=sys.stderr, flush=True)
    if description.other_splits:
        print(f"{description.root}: {splits_said(description)}", file=sys.stderr, flush=True)


def splits_said(description: Description) -> str:
    """One sentence on which of several splits is read."""
    there = ", ".join(sorted([description.split, *description.other_splits]))
    return f"holds the splits {there}; only '{description.split}' is read"


def sound_records(description: Description) -> Iterator[Record]:
    """Yield each episode; raises the first error of `inspect`."""
    for record in inspect(description):
        if isinstance(record, InputError):
            raise record
        yield record


def _frames(description: Description, size: int | tuple[int, int] | None) -> Iterator[tuple[str, np.ndarray]]:
    for record in sound_records(description):
        for frame in pictures_of(record, description, size):
            yield record.where, frame
