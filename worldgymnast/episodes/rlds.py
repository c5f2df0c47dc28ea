"""Read RLDS datasets (TFRecord shards with `features.json`) without TensorFlow.

A step is an observation and the action taken at it, so T steps are T frames and T actions. The last action has no next
frame and is dropped. Rewards are ignored: demonstrations end with reward 1 regardless of the outcome, so the episodes
are unlabelled. Writing is not supported.

Rules:

- A folder has one version of one dataset. Of several splits "train" is read, with a line on stderr.
- Pictures have 8 bits per channel (see `worldgymnast.pictures`); raw uint8 tensors [h w 3] are accepted. A camera of
  one channel, or with "depth" in its name, is read only if it is the only one or named; depth of 16 bits or floats
  never.
- The instruction is the first non-empty text of `language_instruction`, `natural_language_instruction`, `instruction`,
  then of numbered alternatives (`language_instruction_2`, ...). Each is looked up in the step, the observation and the
  episode's metadata. An instruction that changes between steps is an error; steps without one are ignored. Integers
  are decoded as bytes of text.
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
from worldgymnast.episodes.cache import cached_frames, files_hash
from worldgymnast.episodes.rates import resolve_rate
from worldgymnast.episodes.rlds_layout import FEATURES, INFO, STATES, Camera, Description, describe
from worldgymnast.episodes.tfrecord import Feature, parse_example, records
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.pictures import open_picture
from worldgymnast.preprocessing import Resize
from worldgymnast.tiling import Tiling, compose, composed_tiling

_SENTENCE = re.compile(
    r"(?P<name>language_instruction|natural_language_instruction|instruction)(_(?P<number>\d{1,3}))?"
)
_NAMES = ("language_instruction", "natural_language_instruction", "instruction")
_PARENTS = ("steps", "steps/observation", "episode_metadata")
_MAX_SENTENCE = 10_000


@dataclass(frozen=True)
class Record:
    """A valid episode whose pictures are not decoded yet.

    Attributes:
        where: file and record, for messages.
        shard: the file.
        actions: float32 [T a], one row per step.
        instruction: the sentence, or "".
        pictures: the feature of each camera.
        state: float32 [T s], one row per step; None without a valid one.
    """

    where: str
    shard: Path
    actions: np.ndarray
    instruction: str
    pictures: tuple[Feature, ...]
    state: np.ndarray | None = None


def inspect(description: Description) -> Iterator[Record | InputError]:
    """Yield each episode or its error.

    An unreadable shard ends with its error.
    """
    total = 0
    for shard in description.shards:
        count = 0
        try:
            for record in records(shard.path):
                yield _validate(record, description, shard.path, count)
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


def _validate(record: bytes, description: Description, shard: Path, index: int) -> Record | InputError:
    where = f"{shard}: record {index}"
    keys = {description.action_key, *(camera.key for camera in description.cameras)}
    names: list[str] = []

    def is_needed(name: str) -> bool:
        names.append(name)
        return name in keys or name == description.state_key or _rank(name) is not None

    try:
        features = parse_example(record, is_needed)
    except ValueError as error:
        return InputError(f"{where}: {error}; the file is damaged, copy it again")
    if missing := sorted(keys - features.keys()):
        return InputError(
            f"{where}: found features {short(sorted(names))}, expected '{missing[0]}' by features.json; check that "
            "features.json belongs to these shards"
        )
    try:
        pictures = tuple(features[camera.key] for camera in description.cameras)
        steps = _count_steps(pictures, description, where)
        actions = _actions(features[description.action_key], steps, description, where)
        state = _state(features.get(description.state_key), steps, description.state_width)
        return Record(where, shard, actions, find_instruction(features, steps, where), pictures, state)
    except InputError as error:
        return error


def _count_steps(pictures: Sequence[Feature], description: Description, where: str) -> int:
    """The number of pictures per camera, at least 1."""
    counts = []
    for camera, blobs in zip(description.cameras, pictures, strict=True):
        size = int(np.prod([side or 0 for side in camera.shape])) if camera.encoding == "none" else 1
        if isinstance(blobs, list) == (camera.encoding == "none") and len(blobs):
            kind = "bytes" if isinstance(blobs, list) else "numbers"
            raise InputError(f"{where}: field '{camera.key}': found {kind}, expected pictures as features.json says")
        if len(blobs) % size:
            raise InputError(f"{where}: field '{camera.key}': found {len(blobs)} numbers, expected {size} per step")
        counts.append(len(blobs) // size)
    if min(counts) != max(counts) or not counts[0]:
        names = ", ".join(f"{n} of '{camera.key}'" for n, camera in zip(counts, description.cameras, strict=True))
        raise InputError(f"{where}: found {names} pictures, expected one per step, at least 1; remove the episode")
    return counts[0]


def _actions(values: Feature, steps: int, description: Description, where: str) -> np.ndarray:
    """The actions, float32 [T a], one row per step.

    The last one is not validated, since it is dropped.
    """
    name = description.action_key.removeprefix("steps/")
    if not isinstance(values, np.ndarray):
        raise InputError(f"{where}: field '{name}': found bytes, expected numbers by features.json")
    if len(values) != steps * description.width:
        raise InputError(
            f"{where}: field '{name}': found {len(values)} numbers for {steps} steps, "
            f"expected {description.width} per step by features.json"
        )
    rows = values.astype(np.float32).reshape(steps, description.width)
    if not np.isfinite(rows[:-1]).all():
        raise InputError(f"{where}: field '{name}': found NaN or infinity, expected finite numbers; remove the episode")
    return rows


def _state(values: Feature | None, steps: int, width: int) -> np.ndarray | None:
    """The state, float32 [T s]; None if its numbers are not those that features.json declares."""
    if not isinstance(values, np.ndarray) or not width or len(values) != steps * width:
        return None
    rows = values.astype(np.float32).reshape(steps, width)
    return rows if np.isfinite(rows).all() else None


def _rank(key: str) -> tuple[int, int, int, str] | None:
    """Sort key of an instruction feature, in order of precedence.

    None for other features.
    """
    parent, _, name = key.rpartition("/")
    match = _SENTENCE.fullmatch(name)
    if match is None:
        return None
    parent_rank = _PARENTS.index(parent) if parent in _PARENTS else len(_PARENTS)
    return int(match["number"] or 0), _NAMES.index(match["name"]), parent_rank, key


def find_instruction(features: dict[str, Feature], steps: int, where: str) -> str:
    """The instruction of an episode, or "".

    Raises:
        InputError: it changes within the episode, is not UTF-8, or their number is not that of the steps.
    """
    ranked = sorted((rank, key) for key in features if (rank := _rank(key)) is not None)
    for _, key in ranked:
        values = features[key]
        is_per_step = key.startswith("steps/")
        if not isinstance(values, list):
            values = _decode_integers(values, steps if is_per_step else 1)
        if is_per_step and len(values) not in (0, steps):
            raise InputError(f"{where}: field '{key}': found {len(values)} sentences, expected {steps}, one per step")
        texts = [(step, text) for step, value in enumerate(values) if (text := _text(value, key, where))]
        for step, text in texts:
            if is_per_step and text != texts[0][1]:
                raise InputError(
                    f"{where}: field '{key}': found {short(text)} at step {step} and {short(texts[0][1])} before, "
                    "expected one sentence per episode; split the episode where it changes"
                )
        if texts:
            return texts[0][1]
    return ""


def _decode_integers(values: np.ndarray, rows: int) -> list[bytes]:
    """Texts stored as integers, one per row, as in Language-Table.

    Empty if they are not text.
    """
    is_bytes = values.dtype.kind == "i" and values.size > rows and values.size % rows == 0
    if not is_bytes or not 0 <= values.min() <= values.max() < 256:
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


def iterate_frames(
    record: Record, description: Description, size: int | tuple[int, int] | None, rule: Resize = "squash"
) -> Iterator[np.ndarray]:
    """Yield the decoded frames, uint8 [h w 3], cameras side by side.

    Raises InputError for damaged ones.
    """
    for step in range(len(record.actions)):
        yield compose(_views(record, description, step), size, rule)


def _views(record: Record, description: Description, step: int) -> dict[str, np.ndarray]:
    """The pictures of a step by name of the camera."""
    return {
        camera.name: _picture(blobs, step, camera, f"{record.where}: step {step}")
        for camera, blobs in zip(description.cameras, record.pictures, strict=True)
    }


def _tiling(description: Description, size: tuple[int, int]) -> Tiling:
    """Where each camera lies in frames of a size."""
    if len(description.cameras) == 1:
        return Tiling.single(size, description.cameras[0].name)
    views = _views(next(valid_records(description)), description, 0)
    return composed_tiling({name: (view.shape[0], view.shape[1]) for name, view in views.items()}, size)


def _picture(blobs: Feature, step: int, camera: Camera, where: str) -> np.ndarray:
    field = f"{where}: field '{camera.key}'"
    if camera.encoding == "picture":
        assert isinstance(blobs, list)
        return open_picture(blobs[step], field)
    height, width = camera.shape[0] or 0, camera.shape[1] or 0
    count = height * width * 3
    if isinstance(blobs, list):
        blob = _decompress(blobs[step], count, field) if camera.encoding == "zlib" else blobs[step]
        raw = np.frombuffer(blob, np.uint8)
    else:
        raw = blobs[step * count : (step + 1) * count]
    if len(raw) != count or (len(raw) and not 0 <= raw.min() <= raw.max() <= 255):
        raise InputError(f"{field}: not a picture of {height} x {width} x 3 bytes, expected one by features.json")
    return raw.astype(np.uint8).reshape(height, width, 3)


def _decompress(blob: bytes, count: int, where: str) -> bytes:
    """At most `count` + 1 bytes of a zlib stream."""
    try:
        return zlib.decompressobj().decompress(blob, count + 1)
    except zlib.error as error:
        raise InputError(f"{where}: cannot be decompressed ({error}); the file is damaged, copy it again") from error


def spec_of(description: Description, actions: list[np.ndarray]) -> ActionSpec:
    """The spec of BridgeData V2, or one with the data's range."""
    if description.name.startswith("bridge") and description.width == BRIDGE.dim:
        return BRIDGE
    zeros = np.zeros((1, description.width), np.float32)  # for episodes of one step, whose only action is dropped
    rows = np.concatenate([part[:-1] for part in actions if len(part) > 1] or [zeros])
    axes = tuple(f"a{index}" for index in range(description.width))
    low, high = (tuple(float(v) for v in bound) for bound in (rows.min(0), rows.max(0)))
    return foreign_spec(axes, low, high)


def read(
    path: str | Path,
    *,
    image_key: str | None = None,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    fps: float | None = None,
    assumed_fps: float | None = None,
    resize: Resize = "squash",
    state: bool | None = None,
) -> EpisodeSet:
    """Read a folder; decoded frames are cached as in `lerobot.read`.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: the camera, such as "image_0"; several separated by commas, or "all" color cameras, are placed side
            by side. Defaults to the only color camera, or `image_0`.
        split: the split; defaults to "train", or the only one.
        size: pixels to resize the frames to.
        fps: frames per second of robot time; required except for BridgeData V2 (5 Hz).
        assumed_fps: default rate if neither the dataset nor `fps` has one, reported on stderr.
        resize: how a picture of another shape becomes a frame of `size`.
        state: whether to read the state; None reads it if every episode has a valid one.

    Raises:
        InputError: a shard is missing, truncated or damaged, or the frame rate is unknown or different.
    """
    description = describe(path, image_key, split)
    if split is None:
        print_split(description)
    actions, sentences, states = [], [], []
    for record in valid_records(description):
        actions.append(record.actions)
        sentences.append(record.instruction)
        states += [] if record.state is None or state is False else [record.state]
    has_state = bool(states) and len(states) == len(actions)
    if state and not has_state:
        raise InputError(
            f"{description.root}: found no state (observation/{', '.join(STATES)}) of finite numbers in every episode. "
            "Train without the state"
        )
    spec = spec_of(description, actions)
    rate = resolve_rate(path, spec.rate, fps, assumed_fps)
    count = np.array([len(rows) for rows in actions], np.int64)
    files = [shard.path for shard in description.shards]
    files += [file for name in (FEATURES, INFO) if (file := description.root / name).is_file()]
    rule = () if size is None or resize == "squash" else (resize,)
    key = files_hash(files, description.cameras, description.action_key, description.width, size, *rule)
    pixels = "native" if size is None else str(size).replace(" ", "")
    name = f"{'+'.join(camera.name.replace('/', '.') for camera in description.cameras)}-{description.split}-{pixels}"
    frames = cached_frames(description.root, name, key, int(count.sum()), lambda: _frames(description, size, resize))
    return EpisodeSet(
        frames=frames,
        actions=np.concatenate([np.concatenate([rows[:-1], np.zeros_like(rows[:1])]) for rows in actions]),
        success=np.zeros(int(count.sum()), bool),
        first=np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64),
        length=count - 1,
        labelled=np.zeros(len(actions), bool),
        instruction=tuple(sentences),
        task=("",) * len(actions),
        source=(description.name,) * len(actions),
        layout=np.full(len(actions), -1, np.int64),
        spec=spec,
        fps=rate,
        state=np.concatenate(states) if has_state else None,
        tiling=_tiling(description, (frames.shape[1], frames.shape[2])),
    )


def unread_texts(description: Description) -> list[str]:
    """Keys of text features that are not instructions."""
    return [key for key in description.texts if _rank(key) is None]


def print_split(description: Description) -> None:
    """Print on stderr which split is read and which files are skipped."""
    for path in description.unread:
        print(f"{path}: skipped, not the name of a shard", file=sys.stderr, flush=True)
    if description.other_splits:
        print(f"{description.root}: {split_note(description)}", file=sys.stderr, flush=True)


def split_note(description: Description) -> str:
    """A sentence about which of several splits is read."""
    splits = ", ".join(sorted([description.split, *description.other_splits]))
    return f"has splits {splits}; only '{description.split}' is read"


def valid_records(description: Description) -> Iterator[Record]:
    """Yield each episode; raises the first error of `inspect`."""
    for record in inspect(description):
        if isinstance(record, InputError):
            raise record
        yield record


def _frames(
    description: Description, size: int | tuple[int, int] | None, rule: Resize
) -> Iterator[tuple[str, np.ndarray]]:
    for record in valid_records(description):
        for frame in iterate_frames(record, description, size, rule):
            yield record.where, frame
