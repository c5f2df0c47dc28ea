"""Frame size of a dataset from its metadata, without decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.episodes.depth import is_depth
from worldgymnast.episodes.formats import detect
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_object
from worldgymnast.video import iterate_frames


def frame_size(path: Path, cameras: str | Sequence[str] | None = None) -> tuple[int, int] | None:
    """Height and width of a camera's frames.

    None if the metadata are missing or invalid.

    Errors are ignored here and reported by the reader.

    Args:
        path: the dataset's folder.
        cameras: the camera, or several, of which the first counts.
    """
    names = [cameras] if isinstance(cameras, str) else list(cameras or ())
    camera = next((name for name in names if name != "all"), None)
    try:
        kind = detect(path)
        if kind == "worldgym":
            first = min(path.glob("[!.]*.mp4"), default=None)
            return None if first is None else next(iter(iterate_frames(first))).shape[:2]
        if kind == "rlds":
            return _rlds(read_json_object(path / "features.json"), camera)
        return _lerobot(read_json_object(path / "meta/info.json"), camera)
    except (InputError, StopIteration, OSError, LookupError, TypeError, ValueError, AttributeError):
        return None


def frame_sizes(path: Path, cameras: str | Sequence[str]) -> list[tuple[int, int] | None]:
    """Height and width of the frames of each of several cameras; "all" are those in the metadata."""
    names = camera_names(path) if cameras == "all" else cameras
    return [frame_size(path, name) for name in ([names] if isinstance(names, str) else names)]


def camera_names(path: Path) -> list[str]:
    """Names of all color cameras of a LeRobot or RLDS data set.

    Empty if the metadata are missing or invalid, which the reader reports.
    """
    try:
        if detect(path) == "rlds":
            observed = _observation(read_json_object(path / "features.json"))
            return [name for name, feature in observed if "image" in feature]
        features = read_json_object(path / "meta/info.json")["features"]
        cameras = {name: one for name, one in features.items() if one.get("dtype") in ("video", "image")}
        return [name for name, one in cameras.items() if not is_depth(name, one)]
    except (InputError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return []


def ambiguous_cameras(path: Path) -> list[str]:
    """Names of the color cameras of a LeRobot data set that has several, so that a reader must be told which."""
    names = camera_names(path)
    return names if len(names) > 1 and detect(path).startswith("lerobot") else []


def _observation(features: Mapping[str, Any]) -> list[tuple[str, Any]]:
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    return sorted(steps["observation"]["featuresDict"]["features"].items())


def _lerobot(info: Mapping[str, Any], camera: str | None) -> tuple[int, int] | None:
    features = {name: f for name, f in info["features"].items() if f.get("dtype") in ("video", "image")}
    named = [name for name in features if name == camera or name.endswith(f".{camera}")]
    feature = features[camera if camera in features else named[0]] if camera else next(iter(features.values()))
    names = feature.get("names")
    return _height_width(feature["shape"], str(names[0]).startswith("channel") if isinstance(names, list) else None)


def _rlds(features: Mapping[str, Any], camera: str | None) -> tuple[int, int] | None:
    observation = dict(_observation(features))
    cameras = [name for name, feature in observation.items() if "image" in feature]
    main = "image_0" if len(cameras) > 1 else cameras[0]
    shape = observation[camera or main]["image"]["shape"]["dimensions"]
    return _height_width([int(side) for side in shape], None)


def _height_width(shape: Sequence[int], channels_first: bool | None) -> tuple[int, int] | None:
    """Height and width in the shape of an image.

    None if they cannot be determined.
    """
    if len(shape) != 3 or not all(isinstance(side, int) for side in shape):
        return None
    if channels_first is None:
        channels_first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
    height, width = (shape[1], shape[2]) if channels_first else (shape[0], shape[1])
    return (height, width) if height > 0 and width > 0 else None
