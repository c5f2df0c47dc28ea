"""RLDS data sets (TFRecord shards with `features.json`, as TensorFlow Datasets writes them), read without TensorFlow.

A step holds an observation and the action taken at it, so T steps are T frames and T actions; the last action has no
frame after it and is dropped. Rewards are not read: in demonstrations they are 1 at every end, whether or not somebody
looked, so the episodes come unlabelled. Left out: writing.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from worldgymnast.actions import BRIDGE, ActionSpec, foreign_spec
from worldgymnast.episodes.cache import cached_frames, fingerprint
from worldgymnast.episodes.tfrecord import Feature, parse_example, records
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.types import InputError
from worldgymnast.video import resize

_SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<index>\d+)-of-(?P<count>\d+)$")
_MAIN_CAMERA = "image_0"


@dataclass(frozen=True)
class Description:
    """What `features.json`, `dataset_info.json` and the shards' names say.

    Attributes:
        root: the folder.
        name: of the data set.
        shards: the files, in order, with the number of records each should hold (None where it is not said).
        image_key: feature with the pictures, such as "steps/observation/image_0".
        width: of the action.
    """

    root: Path
    name: str
    shards: tuple[tuple[Path, int | None], ...]
    image_key: str
    width: int


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); expected the folder of an RLDS data set"
        ) from error


def describe(path: str | Path, image_key: str | None = None, split: str | None = None) -> Description:
    """Reads the metadata.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: which camera, such as "image_0"; without it the only one, or `image_0`.
        split: such as "train"; without it all splits whose shards are there.

    Raises:
        InputError: no shards, a missing shard, no such camera, or no action.
    """
    root = Path(path)
    features = root / "features.json"
    steps = _steps(_json(features), features)
    shards, name = _shards(root, split)
    observation = steps.get("observation", {}).get("featuresDict", {}).get("features", {})
    cameras = sorted(key for key, feature in observation.items() if "image" in feature)
    wanted = image_key or (cameras[0] if len(cameras) == 1 else _MAIN_CAMERA)
    if wanted not in cameras:
        raise InputError(f"{features}: found cameras {cameras}, expected '{wanted}'; name one of them as image_key")
    shape = steps.get("action", {}).get("tensor", {}).get("shape", {}).get("dimensions", [])
    if len(shape) != 1:
        raise InputError(
            f"{features}: field 'action': found shape {shape}, expected one axis; only flat actions are read"
        )
    return Description(root, name, tuple(shards), f"steps/observation/{wanted}", int(shape[0]))


def _steps(data: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        sequence = data["featuresDict"]["features"]["steps"]["sequence"]["feature"]
        return sequence["featuresDict"]["features"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: field {error} is missing, expected 'steps' with features; is this RLDS?") from error


def _shards(root: Path, split: str | None) -> tuple[list[tuple[Path, int | None]], str]:
    found = [(path, match) for path in sorted(root.iterdir()) if (match := _SHARD.match(path.name))]
    found = [(path, match) for path, match in found if split in (None, match["split"])]
    if not found:
        raise InputError(
            f"{root}: found no shards of split {split or 'any'}, expected NAME-SPLIT.tfrecord-00000-of-0000N"
        )
    info = root / "dataset_info.json"
    lengths = {part["name"]: part["shardLengths"] for part in _json(info).get("splits", [])} if info.is_file() else {}
    shards = []
    for path, match in found:
        present = {int(other["index"]) for _, other in found if other["split"] == match["split"]}
        missing = sorted(set(range(int(match["count"]))) - present)
        if missing:
            raise InputError(f"{path}: shards {missing[:5]} of {match['count']} are missing; copy the folder again")
        counts = lengths.get(match["split"], [])
        index = int(match["index"])
        shards.append((path, int(counts[index]) if index < len(counts) else None))
    return shards, found[0][1]["name"]


def examples(description: Description) -> Iterator[tuple[str, dict[str, Feature]]]:
    """Yields (where it is, features) of each episode; raises InputError where a shard is damaged or short."""
    for path, expected in description.shards:
        count = 0
        for count, record in enumerate(records(path), 1):
            where = f"{path}: record {count - 1}"
            try:
                yield where, parse_example(record)
            except ValueError as error:
                raise InputError(f"{where}: {error}; the file is damaged, copy it again") from error
        if expected is not None and count != expected:
            raise InputError(f"{path}: found {count} records, expected {expected} by dataset_info.json; copy it again")


def actions_of(features: dict[str, Feature], description: Description, where: str) -> np.ndarray:
    """float32 [T a], one row a step."""
    values = features.get("steps/action")
    pictures = features.get(description.image_key)
    if not isinstance(values, np.ndarray) or not isinstance(pictures, list) or not pictures:
        raise InputError(
            f"{where}: found features {sorted(features)[:6]}, expected steps/action, {description.image_key}"
        )
    if len(values) != len(pictures) * description.width:
        raise InputError(
            f"{where}: field 'action': found {len(values)} numbers for {len(pictures)} steps, "
            f"expected {description.width} a step by features.json"
        )
    return values.astype(np.float32).reshape(len(pictures), description.width)


def pictures_of(features: dict[str, Feature], description: Description, where: str) -> Iterator[np.ndarray]:
    """Yields the decoded frames uint8 [h w 3]."""
    for step, blob in enumerate(features[description.image_key]):
        try:
            yield np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(
                f"{where}: step {step}: field '{description.image_key}' is no picture ({error})"
            ) from error


def instruction_of(features: dict[str, Feature]) -> str:
    """The sentence of the first step, or ""."""
    found = features.get("steps/language_instruction")
    return found[0].decode("utf-8", "replace") if isinstance(found, list) and found else ""


def spec_of(description: Description, rows: list[np.ndarray]) -> ActionSpec:
    """Bridge's spec for BridgeData V2; else one of unknown unit with the ranges found in the data."""
    if description.name.startswith("bridge") and description.width == BRIDGE.dim:
        return BRIDGE
    every = np.concatenate(rows)
    every = every[np.isfinite(every).all(1)]  # the last action of an episode is dropped, and may be anything
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
) -> EpisodeSet:
    """Reads a folder; decoded frames are cached as in `lerobot.read`.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: which camera, such as "image_0"; without it the only one, or `image_0`.
        split: such as "train"; without it all splits whose shards are there.
        size: pixels to resize the frames to.
        fps: frames per second of robot time; needed where the data set is not BridgeData V2 (5 Hz).

    Raises:
        InputError: a shard is missing, cut short or damaged, or the frame rate is unknown.
    """
    description = describe(path, image_key, split)
    rows, sentences = _rows(description)
    spec = spec_of(description, rows)
    rate = fps or spec.rate
    if rate is None:
        raise InputError(f"{path}: RLDS does not say how many frames there are in a second; pass fps")
    count = np.array([len(actions) for actions in rows], np.int64)
    key = fingerprint([shard for shard, _ in description.shards], description.image_key, size)
    pixels = "native" if size is None else str(size).replace(" ", "")
    name = f"{description.image_key.split('/')[-1]}-{split or 'all'}-{pixels}"
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


def _rows(description: Description) -> tuple[list[np.ndarray], list[str]]:
    """The actions float32 [T a] and the sentence of each episode."""
    rows, sentences = [], []
    for where, features in examples(description):
        actions = actions_of(features, description, where)
        if not np.isfinite(actions[:-1]).all():
            raise InputError(
                f"{where}: field 'action' holds NaN or infinity, expected finite numbers; remove the episode"
            )
        rows.append(actions)
        sentences.append(instruction_of(features))
    return rows, sentences


def _frames(description: Description, size: int | tuple[int, int] | None) -> Iterator[tuple[str, np.ndarray]]:
    for where, features in examples(description):
        for frame in pictures_of(features, description, where):
            yield where, frame if size is None else resize(frame, size)
