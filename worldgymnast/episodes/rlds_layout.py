"""Metadata of an RLDS dataset, from its JSON files and shards.

A folder has one version of one dataset. `rlds.read` and `check` share this module.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgymnast.episodes.depth import is_depth_name
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, read_json_object, short, visible

FEATURES, INFO = "features.json", "dataset_info.json"
_SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<index>\d+)-of-(?P<count>\d+)")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_HINT = "expected the folder of an RLDS dataset, with its features.json; copy the folder again"
_METADATA = "episode_metadata"
_MAX_DEPTH = 20
_MAX_WIDTH = 10_000
_MAX_PIXELS = 64 * 2**20
_MAIN_CAMERA = "image_0"
_ACTIONS = ("action", "actions")
STATES = ("state", "proprio", "robot_state")
"""Names of the state in an observation, by precedence."""
_MAX_SHOWN = 5


@dataclass(frozen=True)
class Camera:
    """A feature with one picture per step.

    Attributes:
        key: key of the feature in a record, such as "steps/observation/image_0".
        shape: declared height, width and channels; None for a variable size, () if invalid.
        dtype: type of a channel, such as "uint8".
        encoding: "picture" (PNG or JPEG), or the storage of a raw tensor: "none", "bytes" or "zlib".
    """

    key: str
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str = "picture"

    @property
    def name(self) -> str:
        """The name for `image_key`, such as "image_0"."""
        return self.key.removeprefix("steps/").removeprefix("observation/")

    @property
    def is_readable(self) -> bool:
        """Whether the pictures have 8 bits per channel.

        Depth is uint16 or float32.
        """
        return self.dtype == "uint8" and self.shape[-1:] in ((), (None,), (1,), (3,), (4,))

    @property
    def is_color(self) -> bool:
        """Whether the pictures are color, which is read by default."""
        return self.is_readable and self.shape[-1:] != (1,) and not is_depth_name(self.name)


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        path: the file.
        count: declared number of records; None if dataset_info.json has none.
    """

    path: Path
    count: int | None


@dataclass(frozen=True)
class Description:
    """The content of the metadata and of the shards' names.

    Attributes:
        root: the folder.
        name: name of the dataset.
        split: the split that is read.
        other_splits: the splits that are not read.
        shards: the files of the split, in order.
        unread: files similar to shards, but with an invalid name.
        cameras: the selected cameras, read side by side.
        action_key: key of the action feature, such as "steps/action".
        width: width of the action.
        texts: keys of text features.
        state_key: key of the feature with the robot's state, such as "steps/observation/state"; "" for none.
        state_width: width of the state.
    """

    root: Path
    name: str
    split: str
    other_splits: tuple[str, ...]
    shards: tuple[Shard, ...]
    unread: tuple[Path, ...]
    cameras: tuple[Camera, ...]
    action_key: str
    width: int
    texts: tuple[str, ...] = ()
    state_key: str = ""
    state_width: int = 0


def describe(path: str | Path, image_key: str | None = None, split: str | None = None) -> Description:
    """Read the metadata.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: the camera, such as "image_0"; several separated by commas, or "all" color cameras. Defaults to the
            only color camera, or `image_0`.
        split: the split; defaults to "train", or the only one.

    Raises:
        InputError: shards are missing or duplicated, the folder has two datasets, the metadata belong to another
            dataset, a camera does not exist or has no colors, or the action is not a flat tensor.
    """
    root = Path(path)
    file = root / FEATURES
    data = read_json_object(file, _HINT)
    leaves = dict(_leaves(_steps(data, file), "steps", file))
    meta = _leaves(_get_nested(data, "featuresDict", "features", _METADATA), _METADATA, file)
    texts = sorted(key for key, feature in [*leaves.items(), *meta] if isinstance(feature.get("text"), dict))
    action_key, width = _action(leaves, file)
    cameras = _select(_cameras(leaves), image_key, file)
    files, unread = _list_shards(root)
    name = _dataset_name(files, root)
    splits = sorted({match["split"] for _, match in files})
    split = _choose_split(splits, split, root)
    shards = _shards([(file, match) for file, match in files if match["split"] == split], _lengths(root, name, split))
    others = tuple(other for other in splits if other != split)
    return Description(
        root, name, split, others, shards, tuple(unread), cameras, action_key, width, tuple(texts), *_state(leaves)
    )


def versions(root: Path) -> list[Path]:
    """Folders of versions in `root`, as in TensorFlow Datasets: NAME/1.0.0."""
    return [path for path in visible(root.iterdir()) if _VERSION.fullmatch(path.name) and (path / FEATURES).is_file()]


def _get_nested(value: Any, *names: str) -> Any:
    """The value under nested keys.

    None if a level is missing or not an object.
    """
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _steps(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The feature of a step."""
    for outer in ("sequence", "dataset"):
        step = _get_nested(data, "featuresDict", "features", "steps", outer, "feature")
        if isinstance(_get_nested(step, "featuresDict", "features"), dict):
            return step
    features = _get_nested(data, "featuresDict", "features")
    shown = short(sorted(features if isinstance(features, dict) else data))
    raise InputError(
        f"{path}: field 'steps' is missing or has no features, found {shown}; check that this is an RLDS dataset"
    )


def _leaves(feature: Any, path: str, file: Path, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the record key and the description of every leaf feature."""
    if depth > _MAX_DEPTH:
        raise InputError(f"{file}: features are nested more than {_MAX_DEPTH} levels deep; copy the file again")
    inner = _get_nested(feature, "featuresDict", "features")
    if isinstance(inner, dict):
        for name, child in inner.items():
            yield from _leaves(child, f"{path}/{name}", file, depth + 1)
    elif isinstance(feature, dict):
        yield path, feature


def _integer(value: Any) -> int | None:
    """A JSON integer, or one in a string as in protocol buffers.

    None for other values.
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**60 else None


def _shape(feature: dict[str, Any]) -> tuple[int | None, ...] | None:
    """Sizes of the axes, None for a variable one.

    None if the shape is invalid.
    """
    dimensions = _get_nested(feature, "shape", "dimensions")
    if dimensions is None and isinstance(_get_nested(feature, "shape"), dict):
        return ()
    sizes = [_integer(size) for size in dimensions] if isinstance(dimensions, list) else [None]
    if not isinstance(dimensions, list) or any(size is None for size in sizes):
        return None
    return tuple(size if size is not None and size >= 0 else None for size in sizes)


def _action(leaves: dict[str, dict[str, Any]], path: Path) -> tuple[str, int]:
    """Key and width of the action."""
    for name in _ACTIONS:
        feature = leaves.get(f"steps/{name}")
        if feature is None:
            continue
        shape = _shape(json_object(feature.get("tensor"), path, f"{name}.tensor"))
        if shape is None or len(shape) != 1 or not 0 < (shape[0] or 0) <= _MAX_WIDTH:
            shown = short(_get_nested(feature, "tensor", "shape"))
            raise InputError(
                f"{path}: field '{name}': found shape {shown}, expected one axis of 1 to {_MAX_WIDTH:,}; only flat "
                "actions are supported"
            )
        return f"steps/{name}", int(shape[0] or 0)
    parts = sorted(key for key in leaves if key.startswith(tuple(f"steps/{name}/" for name in _ACTIONS)))
    shown = f"a dictionary ({', '.join(parts[:_MAX_SHOWN])})" if parts else short(sorted(leaves))
    raise InputError(
        f"{path}: field 'action': found {shown}, expected one tensor of one axis; join its parts into one feature"
    )


def _state(leaves: dict[str, dict[str, Any]]) -> tuple[str, int]:
    """Key and width of the robot's state; ("", 0) if there is none that is a flat tensor of numbers."""
    for name in STATES:
        feature = leaves.get(key := f"steps/observation/{name}")
        tensor = feature.get("tensor") if feature else None
        shape = _shape(tensor) if isinstance(tensor, dict) else None
        is_numeric = str(_get_nested(feature, "tensor", "dtype")).startswith(("float", "int"))
        if shape is not None and len(shape) == 1 and is_numeric and 0 < (shape[0] or 0) <= _MAX_WIDTH:
            return key, int(shape[0] or 0)
    return "", 0


def _cameras(leaves: dict[str, dict[str, Any]]) -> list[Camera]:
    """All features with pictures, sorted by key.

    Includes tensors with the shape of a color picture.
    """
    cameras = []
    for key, feature in sorted(leaves.items()):
        image, tensor = feature.get("image"), feature.get("tensor")
        if isinstance(image, dict):
            cameras.append(Camera(key, _shape(image) or (), str(image.get("dtype") or "uint8")))
        elif isinstance(tensor, dict):
            shape = _shape(tensor) or ()
            camera = Camera(key, shape, str(tensor.get("dtype")), str(tensor.get("encoding") or "none").lower())
            sides = [size or 0 for size in shape]
            if len(sides) == 3 and sides[2] == 3 and camera.is_color and 0 < sides[0] * sides[1] <= _MAX_PIXELS:
                cameras.append(camera)
    return cameras


def _select(cameras: Sequence[Camera], image_key: str | None, path: Path) -> tuple[Camera, ...]:
    """The cameras in `image_key`."""
    by_name = {camera.name: camera for camera in cameras} | {camera.key: camera for camera in cameras}
    color = [camera.name for camera in cameras if camera.is_color]
    if image_key is None:
        image_key = _default(cameras, path)
    names = color if image_key == "all" else [name.strip() for name in image_key.split(",")]
    if not names:
        raise InputError(f"{path}: found no color camera, expected at least one; check the path")
    for name in names:
        if name not in by_name:
            raise InputError(
                f"{path}: found cameras {color}, expected '{name}'; name one of them with --image-key (in Python: "
                "cameras=...)"
            )
        camera = by_name[name]
        if not camera.is_readable:
            raise InputError(
                f"{path}: field '{camera.name}': found {camera.dtype} {short(list(camera.shape))}, expected a color "
                f"picture (uint8 with 3 channels), not depth; name one of {color} with --image-key (in "
                "Python: cameras=...)"
            )
    return tuple(by_name[name] for name in names)


def _default(cameras: Sequence[Camera], path: Path) -> str:
    """The default camera: `image_0`, or the only one."""
    names = [camera.name for camera in cameras if camera.is_color]
    if _MAIN_CAMERA in names:
        return _MAIN_CAMERA
    names = names or [camera.name for camera in cameras if camera.is_readable and not is_depth_name(camera.name)]
    if len(names) == 1:
        return names[0]
    if not names:
        others = ", ".join(f"{c.name} ({c.dtype} {short(list(c.shape))})" for c in cameras[:_MAX_SHOWN]) or "none"
        raise InputError(
            f"{path}: found no color camera among the pictures ({others}), expected uint8 with 3 channels; depth is "
            "not supported"
        )
    raise InputError(
        f"{path}: found cameras {names}, expected one; name it with --image-key (several separated by commas, or all; "
        "in Python: cameras=...)"
    )


def _list_shards(root: Path) -> tuple[list[tuple[Path, re.Match[str]]], list[Path]]:
    """The shards with their parsed names, and similar files with invalid names."""
    try:
        entries = visible(root.iterdir())
    except OSError as error:
        raise InputError(f"{root}: cannot be read ({error.strerror}); expected the folder of a dataset") from error
    files = [(path, match) for path in entries if (match := _SHARD.fullmatch(path.name))]
    unread = [path for path in entries if ".tfrecord" in path.name and not _SHARD.fullmatch(path.name)]
    if not files:
        other = [path.name for path in entries if ".array_record" in path.name or ".riegeli" in path.name]
        raise InputError(
            f"{root}: found no shards ({_describe_files(other, unread)}), expected "
            f"NAME-SPLIT.tfrecord-00000-of-0000N{_shard_fix(other, unread)}"
        )
    return files, unread


def _describe_files(other: Sequence[str], unread: Sequence[Path]) -> str:
    if other:
        return f"only files such as {other[0]}, a different format"
    return f"only {unread[0].name}" if unread else "none"


def _shard_fix(other: Sequence[str], unread: Sequence[Path]) -> str:
    if unread and not other and unread[0].suffix in (".gz", ".zst"):
        return "; decompress them"
    return "; rename it, if it is the complete dataset" if len(unread) == 1 else ""


def _dataset_name(files: Sequence[tuple[Path, re.Match[str]]], root: Path) -> str:
    names = sorted({match["name"] for _, match in files})
    if len(names) > 1:
        raise InputError(
            f"{root}: found shards of {len(names)} datasets ({', '.join(names[:_MAX_SHOWN])}), expected one; "
            "features.json describes one of them: move each into a separate folder"
        )
    return names[0]


def _choose_split(splits: Sequence[str], requested: str | None, root: Path) -> str:
    if requested is None and len(splits) == 1:
        return splits[0]
    split = requested or "train"
    if split not in splits:
        raise InputError(f"{root}: found splits {list(splits)}, expected '{split}'; move each into a separate folder")
    return split


def _lengths(root: Path, name: str, split: str) -> list[int] | None:
    """Number of records per shard in dataset_info.json; None if not declared."""
    path = root / INFO
    if not path.is_file():
        return None
    info = read_json_object(path)
    if isinstance(info.get("name"), str) and info["name"] != name:
        raise InputError(
            f"{path}: field 'name': found {short(info['name'])}, expected \"{name}\" as in the names of the shards; "
            "copy the metadata that belong to the shards"
        )
    splits = info.get("splits") or []
    if isinstance(splits, dict):
        splits = [json_object(part, path, f"splits.{key}") | {"name": key} for key, part in splits.items()]
    if not isinstance(splits, list):
        raise InputError(f"{path}: field 'splits': found {short(splits)}, expected a list; copy the file again")
    for index, part in enumerate(splits):
        declared = json_object(part, path, f"splits[{index}]")
        if declared.get("name") == split:
            return _shard_lengths(declared.get("shardLengths", declared.get("shard_lengths")), path, split)
    return None


def _shard_lengths(value: Any, path: Path, split: str) -> list[int] | None:
    if not value and (value is None or isinstance(value, list)):
        return None
    lengths = [_integer(length) for length in value] if isinstance(value, list) else [None]
    if any(length is None or length < 0 for length in lengths):
        raise InputError(
            f"{path}: field 'splits', shardLengths of '{split}': found {short(value)}, expected a list of numbers; "
            "copy the file again"
        )
    return [length for length in lengths if length is not None]


def _shards(files: Sequence[tuple[Path, re.Match[str]]], lengths: list[int] | None) -> tuple[Shard, ...]:
    """The shards of one split in order.

    Raises InputError if one is missing or duplicated.
    """
    first = files[0][0]
    counts = sorted({int(match["count"]) for _, match in files})
    if len(counts) > 1:
        raise InputError(
            f"{first}: found shards of {counts[0]} and of {counts[1]} in one folder, expected one version of the "
            "dataset; remove the files of the other"
        )
    count = counts[0]
    by_index: dict[int, Path] = {}
    for path, match in files:
        index = int(match["index"])
        if index in by_index:
            raise InputError(f"{path}: shard {index} already exists as {by_index[index].name}; remove one")
        if index >= count:
            raise InputError(f"{path}: found shard {index}, expected at most {count - 1}; remove it")
        by_index[index] = path
    candidates = range(min(count, len(by_index) + _MAX_SHOWN))
    if missing := [index for index in candidates if index not in by_index][:_MAX_SHOWN]:
        raise InputError(f"{first}: shards {missing} of {count} are missing; copy the folder again")
    if lengths is not None and len(lengths) != count:
        raise InputError(
            f"{first}: found {count} shards, expected {len(lengths)} by {INFO}; copy the metadata of this version"
        )
    _check_copies([by_index[index] for index in sorted(by_index)])
    return tuple(Shard(by_index[i], None if lengths is None else lengths[i]) for i in sorted(by_index))


def _check_copies(paths: Sequence[Path]) -> None:
    """Raise InputError if two shards are identical.

    Only files of equal size are compared.
    """
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        try:
            size = path.stat().st_size
            copies = [other for other in by_size.get(size, []) if size and filecmp.cmp(path, other, shallow=False)]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        if copies:
            raise InputError(f"{path}: is a copy of {copies[0].name}, expected distinct shards; copy the folder again")
        by_size.setdefault(size, []).append(path)
