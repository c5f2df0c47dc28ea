"""The frame size of a data set, read off its metadata before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.episodes.formats import detect
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object
from worldgymnast.video import iterate


def frame_size(path: Path, cameras: str | Sequence[str] | None = None) -> tuple[int, int] | None:
    """Height and width of a camera's frames, or None where the metadata does not say; the reader says why then.

    Args:
        path: the data set's folder.
        cameras: which camera; of several the first one named.
    """
    named = [cameras] if isinstance(cameras, str) else list(cameras or ())
    wanted = next((name for name in named if name != "all"), None)
    try:
        kind = detect(path)
        if kind == "worldgym":
            first = min(path.glob("[!.]*.mp4"), default=None)
            return None if first is None else next(iter(iterate(first))).shape[:2]
        if kind == "rlds":
            return _rlds(read_json_object(path / "features.json"), wanted)
        return _lerobot(read_json_object(path / "meta/info.json"), wanted)
    except (InputError, StopIteration, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _lerobot(info: Mapping[str, Any], wanted: str | None) -> tuple[int, int] | None:
    found = {name: f for name, f in info["features"].items() if f.get("dtype") in ("video", "image")}
    feature = found[wanted] if wanted else next(iter(found.values()))
    names = feature.get("names")
    return _height_width(feature["shape"], str(names[0]).startswith("channel") if isinstance(names, list) else None)


def _rlds(features: Mapping[str, Any], wanted: str | None) -> tuple[int, int] | None:
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    seen = steps["observation"]["featuresDict"]["features"]
    pictures = sorted(name for name, feature in seen.items() if "image" in feature)
    main = "image_0" if len(pictures) > 1 else pictures[0]
    shape = seen[wanted or main]["image"]["shape"]["dimensions"]
    return _height_width([int(side) for side in shape], None)


def _height_width(shape: Sequence[int], channels_first: bool | None) -> tuple[int, int] | None:
    """Of a shape of three numbers, of which one is the channels; None where the sides are not known."""
    if len(shape) != 3 or not all(isinstance(side, int) for side in shape):
        return None
    first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) if channels_first is None else channels_first
    height, width = (shape[1], shape[2]) if first else (shape[0], shape[1])
    return (height, width) if height > 0 and width > 0 else None
