"""What describes an RLDS data set: `features.json`, `dataset_info.json` and the names of its shards.

A folder holds one version of one data set. Everything here is read once and serves `rlds.read` and `check` alike.
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
_HINT = "expected the folder of an RLDS data set, with its features.json; copy the folder again"
_METADATA = "episode_metadata"
_MAX_DEPTH = 20
_MAX_WIDTH = 10_000
_MAX_PIXELS = 64 * 2**20
_MAIN_CAMERA = "image_0"
_ACTIONS = ("action", "actions")
_SHOWN = 5


@dataclass(frozen=True)
class Camera:
    """One feature that holds a picture a step.

    Attributes:
        key: of the feature in a record, such as "steps/observation/image_0".
        shape: height, width and channels as features.json says them; None where it does not, () if unreadable.
        dtype: of a channel, such as "uint8".
        encoding: "picture" (PNG or JPEG), or how a raw tensor is stored: "none", "bytes" or "zlib".
    """

    key: str
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str = "picture"

    @property
    def name(self) -> str:
        """What `image_key` calls it, such as "image_0"."""
        return self.key.removeprefix("steps/").removeprefix("observation/")

    @property
    def is_readable(self) -> bool:
        """Whether features.json describes pictures of 8 bits a channel; depth is stored as uint16 or float32."""
        return self.dtype == "uint8" and self.shape[-1:] in ((), (None,), (1,), (3,), (4,))

    @property
    def is_color(self) -> bool:
        """Whether the pictures are color by features.json and not depth by name: those that are read unasked."""
        return self.is_readable and self.shape[-1:] != (1,) and not is_depth_name(self.name)


@dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        path: the file.
        count: how many records it should hold, None where dataset_info.json does not say.
    """

    path: Path
    count: int | None


@dataclass(frozen=True)
class Description:
    """What the metadata and the shards' names say.

    Attributes:
        root: the folder.
        name: of the data set.
        split: the one that is read.
        other_splits: those that are there and are not read.
        shards: the files of the split, in order.
        unread: files that look like shards and are none by their name.
        cameras: the ones that are read, side by side.
        action_key: the feature with the actions, such as "steps/action".
        width: of the action.
        texts: features that hold text.
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


def describe(path: str | Path, image_key: str | None = None, split: str | None = None) -> Description:
    """Read the metadata.

    Args:
        path: the folder with `features.json` and the shards.
        image_key: which camera, such as "image_0"; several with commas between, "all" for every color camera; without
            it the only color camera, or `image_0`.
        split: such as "train"; without it "train" where it is there, else the only one.

    Raises:
        InputError: no shards, a missing or doubled shard, two data sets in the folder, metadata of another data set,
            no such camera or one without colors, or no flat action.
    """
    root = Path(path)
    file = root / FEATURES
    data = read_json_object(file, _HINT)
    leaves = dict(_leaves(_steps(data, file), "steps", file))
    meta = _leaves(_inside(data, "featuresDict", "features", _METADATA), _METADATA, file)
    texts = sorted(key for key, feature in [*leaves.items(), *meta] if isinstance(feature.get("text"), dict))
    action_key, width = _action(leaves, file)
    cameras = _chosen(_cameras(leaves), image_key, file)
    files, unread = _named(root)
    name = _one_name(files, root)
    wanted = _split(sorted({match["split"] for _, match in files}), split, root)
    shards = _shards([(file, match) for file, match in files if match["split"] == wanted], _lengths(root, name, wanted))
    others = sorted({match["split"] for _, match in files} - {wanted})
    return Description(
        root, name, wanted, tuple(others), shards, tuple(unread), cameras, action_key, width, tuple(texts)
    )


def versions(root: Path) -> list[Path]:
    """Folders of versions in `root`, as TensorFlow Datasets lays them out: NAME/1.0.0."""
    return [path for path in visible(root.iterdir()) if _VERSION.fullmatch(path.name) and (path / FEATURES).is_file()]


def _inside(value: Any, *names: str) -> Any:
    """The value under nested keys; None where a level is missing or no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _steps(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The description of one step."""
    for outer in ("sequence", "dataset"):
        step = _inside(data, "featuresDict", "features", "steps", outer, "feature")
        if isinstance(_inside(step, "featuresDict", "features"), dict):
            return step
    found = _inside(data, "featuresDict", "features")
    shown = short(sorted(found if isinstance(found, dict) else data))
    raise InputError(f"{path}: field 'steps' is missing or holds no features, found {shown}; is this RLDS?")


def _leaves(feature: Any, path: str, file: Path, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key in a record, description) of every feature that holds no others."""
    if depth > _MAX_DEPTH:
        raise InputError(f"{file}: features are nested more than {_MAX_DEPTH} deep; copy the file again")
    inner = _inside(feature, "featuresDict", "features")
    if isinstance(inner, dict):
        for name, child in inner.items():
            yield from _leaves(child, f"{path}/{name}", file, depth + 1)
    elif isinstance(feature, dict):
        yield path, feature


def _integer(value: Any) -> int | None:
    """A JSON integer, or one in a string as protocol buffers write it; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**60 else None


def _shape(feature: dict[str, Any]) -> tuple[int | None, ...] | None:
    """Sizes of the axes, None for one that varies; None where there is no readable shape."""
    dimensions = _inside(feature, "shape", "dimensions")
    if dimensions is None and isinstance(_inside(feature, "shape"), dict):
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
            found = short(_inside(feature, "tensor", "shape"))
            raise InputError(
                f"{path}: field '{name}': found shape {found}, expected one axis of 1 to {_MAX_WIDTH:,}; only flat "
                "actions are read"
            )
        return f"steps/{name}", int(shape[0] or 0)
    parts = sorted(key for key in leaves if key.startswith(tuple(f"steps/{name}/" for name in _ACTIONS)))
    found = f"a dictionary ({', '.join(parts[:_SHOWN])})" if parts else short(sorted(leaves))
    raise InputError(
        f"{path}: field 'action': found {found}, expected one tensor of one axis; join its parts into one feature"
    )


def _cameras(leaves: dict[str, dict[str, Any]]) -> list[Camera]:
    """Every feature that holds pictures, by key; tensors count where they have the shape of a color picture."""
    found = []
    for key, feature in sorted(leaves.items()):
        image, tensor = feature.get("image"), feature.get("tensor")
        if isinstance(image, dict):
            found.append(Camera(key, _shape(image) or (), str(image.get("dtype") or "uint8")))
        elif isinstance(tensor, dict):
            shape = _shape(tensor) or ()
            camera = Camera(key, shape, str(tensor.get("dtype")), str(tensor.get("encoding") or "none").lower())
            sides = [size or 0 for size in shape]
            if len(sides) == 3 and sides[2] == 3 and camera.is_color and 0 < sides[0] * sides[1] <= _MAX_PIXELS:
                found.append(camera)
    return found


def _chosen(cameras: Sequence[Camera], image_key: str | None, path: Path) -> tuple[Camera, ...]:
    """The cameras that `image_key` names."""
    by_name = {camera.name: camera for camera in cameras} | {camera.key: camera for camera in cameras}
    color = [camera.name for camera in cameras if camera.is_color]
    if image_key is None:
        image_key = _default(cameras, path)
    names = color if image_key == "all" else [name.strip() for name in image_key.split(",")]
    if not names:
        raise InputError(f"{path}: found no color camera, expected at least one; is this the right data set?")
    for name in names:
        if name not in by_name:
            raise InputError(f"{path}: found cameras {color}, expected '{name}'; name one of them with --image-key")
        camera = by_name[name]
        if not camera.is_readable:
            raise InputError(
                f"{path}: field '{camera.name}': found {camera.dtype} {short(list(camera.shape))}, which is no color "
                f"picture (depth, for example), expected uint8 with 3 channels; name one of {color} with --image-key"
            )
    return tuple(by_name[name] for name in names)


def _default(cameras: Sequence[Camera], path: Path) -> str:
    """The camera that is read where none is named: the only color one, or `image_0`, or else the only gray one."""
    names = [camera.name for camera in cameras if camera.is_color]
    if _MAIN_CAMERA in names:
        return _MAIN_CAMERA
    names = names or [camera.name for camera in cameras if camera.is_readable and not is_depth_name(camera.name)]
    if len(names) == 1:
        return names[0]
    if not names:
        others = ", ".join(f"{c.name} ({c.dtype} {short(list(c.shape))})" for c in cameras[:_SHOWN]) or "none"
        raise InputError(
            f"{path}: found no color camera among the pictures ({others}), expected uint8 with 3 channels; depth is "
            "not read"
        )
    raise InputError(
        f"{path}: found cameras {names}, expected one; name it with --image-key (several with commas between, or all)"
    )


def _named(root: Path) -> tuple[list[tuple[Path, re.Match[str]]], list[Path]]:
    """The shards with what their names say, and files that look like shards and are none."""
    try:
        entries = visible(root.iterdir())
    except OSError as error:
        raise InputError(f"{root}: cannot be read ({error.strerror}); expected the folder of a data set") from error
    files = [(path, match) for path in entries if (match := _SHARD.fullmatch(path.name))]
    unread = [path for path in entries if ".tfrecord" in path.name and not _SHARD.fullmatch(path.name)]
    if not files:
        other = [path.name for path in entries if ".array_record" in path.name or ".riegeli" in path.name]
        seen = f"only {other[0]} and the like, which is another format" if other else "none"
        seen = f"only {unread[0].name}" if unread and not other else seen
        is_packed = unread and not other and unread[0].suffix in (".gz", ".zst")
        fix = "; unpack them" if is_packed else "; rename it, if it is the whole data set" if len(unread) == 1 else ""
        raise InputError(f"{root}: found no shards ({seen}), expected NAME-SPLIT.tfrecord-00000-of-0000N{fix}")
    return files, unread


def _one_name(files: Sequence[tuple[Path, re.Match[str]]], root: Path) -> str:
    names = sorted({match["name"] for _, match in files})
    if len(names) > 1:
        raise InputError(
            f"{root}: found shards of {len(names)} data sets ({', '.join(names[:_SHOWN])}), expected one; "
            "features.json describes one of them: put each into a folder of its own"
        )
    return names[0]


def _split(splits: Sequence[str], wanted: str | None, root: Path) -> str:
    if wanted is None and len(splits) == 1:
        return splits[0]
    if (wanted or "train") not in splits:
        raise InputError(
            f"{root}: found splits {list(splits)}, expected '{wanted or 'train'}'; put each into its own folder"
        )
    return wanted or "train"


def _lengths(root: Path, name: str, split: str) -> list[int] | None:
    """Records of each shard by dataset_info.json; None where it is absent or does not say."""
    path = root / INFO
    if not path.is_file():
        return None
    info = read_json_object(path)
    if isinstance(info.get("name"), str) and info["name"] != name:
        raise InputError(
            f"{path}: field 'name': found {short(info['name'])}, expected \"{name}\" as the shards are called; the "
            "metadata are another data set's: copy those that belong to the shards"
        )
    splits = info.get("splits") or []
    if isinstance(splits, dict):
        splits = [json_object(part, path, f"splits.{key}") | {"name": key} for key, part in splits.items()]
    if not isinstance(splits, list):
        raise InputError(f"{path}: field 'splits': found {short(splits)}, expected a list; copy the file again")
    for index, part in enumerate(splits):
        said = json_object(part, path, f"splits[{index}]")
        if said.get("name") == split:
            return _shard_lengths(said.get("shardLengths", said.get("shard_lengths")), path, split)
    return None


def _shard_lengths(found: Any, path: Path, split: str) -> list[int] | None:
    if not found and (found is None or isinstance(found, list)):
        return None
    lengths = [_integer(length) for length in found] if isinstance(found, list) else [None]
    if any(length is None or length < 0 for length in lengths):
        raise InputError(
            f"{path}: field 'splits', shardLengths of '{split}': found {short(found)}, expected a list of numbers; "
            "copy the file again"
        )
    return [length for length in lengths if length is not None]


def _shards(files: Sequence[tuple[Path, re.Match[str]]], lengths: list[int] | None) -> tuple[Shard, ...]:
    """The shards of one split in order, each there once."""
    first = files[0][0]
    counts = sorted({int(match["count"]) for _, match in files})
    if len(counts) > 1:
        raise InputError(
            f"{first}: found shards of {counts[0]} and of {counts[1]} in one folder, expected one version of the data "
            "set; remove the files of the other"
        )
    by_index: dict[int, Path] = {}
    for path, match in files:
        index = int(match["index"])
        if index in by_index or index >= counts[0]:
            said = f"there already as {by_index[index].name}" if index in by_index else f"beyond the {counts[0]}"
            raise InputError(f"{path}: shard {index} is {said}, expected each once; remove one")
        by_index[index] = path
    missing = [index for index in range(min(counts[0], len(by_index) + _SHOWN)) if index not in by_index][:_SHOWN]
    if missing:
        raise InputError(f"{first}: shards {missing} of {counts[0]} are missing; copy the folder again")
    if lengths is not None and len(lengths) != counts[0]:
        raise InputError(
            f"{first}: found {counts[0]} shards, expected {len(lengths)} by {INFO}; the metadata are another version's"
        )
    _no_copies([by_index[index] for index in sorted(by_index)])
    return tuple(Shard(by_index[i], None if lengths is None else lengths[i]) for i in sorted(by_index))


def _no_copies(paths: Sequence[Path]) -> None:
    """Raises InputError where two shards hold the same bytes; only files of equal size are compared."""
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        try:
            size = path.stat().st_size
            alike = [other for other in by_size.get(size, []) if size and filecmp.cmp(path, other, shallow=False)]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        if alike:
            raise InputError(f"{path}: is a copy of {alike[0].name}, expected another shard; copy the folder again")
        by_size.setdefault(size, []).append(path)
