"""Files of published OpenVLA checkpoints: shards and extra parts."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.files import json_object, read_json_object, short
from worldgymnast.hub import check_source, first_line, hub_reason
from worldgymnast.weights import load_weights, read_header

_INDEX = "model.safetensors.index.json"
_DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*_checkpoint.pt")


def checkpoint_folder(name: str, base: Path = Path()) -> Path:
    """Folder of a checkpoint: one relative to `base`, or a download from the hub.

    Raises:
        InputError: there is no such folder and no such model on the hub, or it is a file.
    """
    folder = base / name
    check_source(name, "a checkpoint", folder)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_DOWNLOADED)))
    except Exception as error:  # the library raises errors of several other libraries
        raise InputError(f"{name}: found no such folder, and the hub gave none ({hub_reason(error, name)})") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards in its index.

    Raises:
        InputError: a file is missing or damaged, or a shard and the index differ.
    """
    return _gather(folder, lambda path: load_weights(path, is_published=True)[0])


def meta_tensors(folder: Path) -> dict[str, Tensor]:
    """Names and shapes of the same, as tensors without content.

    Raises:
        InputError: as `read_tensors`.
    """

    def shapes(path: Path) -> dict[str, Tensor]:
        header = read_header(path, is_published=True)
        return {name: torch.empty(shape, device="meta") for name, shape in header.shapes.items()}

    return _gather(folder, shapes)


def _gather(folder: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of all files of weights, each read by a function."""
    if not (folder / _INDEX).is_file():
        if not (folder / "model.safetensors").is_file():
            raise InputError(
                f"{folder}: found no weights, expected model.safetensors or {_INDEX}. Download the whole checkpoint, "
                "in safetensors"
            )
        return read(folder / "model.safetensors")
    if (folder / "model.safetensors").is_file():
        raise InputError(
            f"{folder}: found model.safetensors and {_INDEX}, which can hold different weights. Remove the wrong ones"
        )
    index = read_json_object(folder / _INDEX)
    places = json_object(index.get("weight_map"), folder / _INDEX, "weight_map")
    tensors: dict[str, Tensor] = {}
    for file in sorted({str(place) for place in places.values()}):
        if Path(file).name != file:
            raise InputError(
                f"{folder / _INDEX}: names {short(file)}, expected a file in the same folder. Copy it again"
            )
        shard = read(folder / file)
        listed = {name for name, place in places.items() if place == file}
        if different := sorted(listed ^ set(shard)):
            raise InputError(
                f"{folder / file}: has other tensors than {_INDEX} lists, first {different[0]}. The checkpoint is "
                "incomplete or mixed with another. Copy the whole folder again"
            )
        tensors |= shard
    return tensors


def extra_tensors(folder: Path, part: str) -> dict[str, Tensor]:
    """Tensors of `PART--STEP_checkpoint.pt`; empty without such a file.

    Raises:
        InputError: there are several, or the file contains code or anything but tensors.
    """
    files = sorted(folder.glob(f"{part}--*checkpoint.pt"))
    if not files:
        return {}
    if len(files) > 1:
        raise InputError(f"{folder}: found {len(files)} files {part}--*_checkpoint.pt, expected one. Remove the others")
    try:
        content = torch.load(files[0], map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{files[0]}: cannot be read as tensors alone ({first_line(error)}). Files with code are refused. Copy it "
            "again"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{files[0]}: found no dict of tensors. Copy it again")
    return {str(name).removeprefix("module."): value for name, value in content.items()}
