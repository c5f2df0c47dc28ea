"""Weights, optimizer state and generator state as safetensors files, and files that are whole or absent.

A file is written beside its place, synced and renamed, so a kill at any moment leaves either the old or the new, and
a full disk is one line that says how much to free. Left out: sharded files, and moving optimizer state between
devices.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldgymnast.types import InputError

TEMPORARY = ".tmp-"


# ---------------------------------------------------------------- files that are whole or absent


def _out_of_space(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return "os error 28" in str(error) or "No space left" in str(error)


def _full(path: Path, size: int, free: int) -> InputError:
    return InputError(
        f"{path}: no space left on the disk: found {free // 2**20} MB free, expected {math.ceil(size / 2**20)} MB; "
        f"free {max(1, math.ceil((size - free) / 2**20))} MB and run the same command again to go on"
    )


@contextmanager
def space_for(path: Path, size: int) -> Iterator[None]:
    """Turns a disk with no room for the `size` bytes of `path`, now or on the way, into a one-line InputError."""
    place = next(p for p in path.absolute().parents if p.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise _full(path, size, free)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _out_of_space(error):
            raise
        raise _full(path, size, shutil.disk_usage(place).free) from error


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic(path: Path, size: int) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it into place at the end, removes it if anything went wrong."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with space_for(path, size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with atomic(path, len(data)) as temporary:
        temporary.write_bytes(data)


def to_json(value: Any) -> str:
    """The JSON of every file in a run folder: sorted, one field a line."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


# ---------------------------------------------------------------- weights


def savable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU, contiguous, no two sharing memory: what safetensors asks for; copies only where it must."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        out[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return out


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        InputError: the disk is full; nothing half-written remains.
    """
    with atomic(path, size_of(tensors)) as temporary:
        save_file(savable(tensors), temporary, metadata=dict(metadata or {}))
        temporary.chmod(0o644)  # safetensors writes a file that only its owner can read


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file: the tensors, on the CPU, and the metadata.

    Raises:
        InputError: there is no such file, or it is not a whole safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path}: found no file, expected weights (.safetensors); check the path or train them first")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: found a file that cannot be read ({error}), expected whole safetensors weights; "
            "copy or train them again"
        ) from error


def some_of(names: list[str]) -> str:
    """The first three names, and how many more, for a one-line message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copies `tensors` into `module`, all of them, or none and an error.

    Args:
        path: where they came from, for the message.

    Raises:
        InputError: names are missing, left over, or have another shape; the message names them.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in tensors]
    extra = [n for n in tensors if n not in own]
    shapes = [
        f"{n} {list(tensors[n].shape)} (expected {list(own[n].shape)})"
        for n in own
        if n in tensors and tensors[n].shape != own[n].shape
    ]
    wrong = {"missing": missing, "extra": extra, "misshapen": shapes}
    if any(wrong.values()):
        found = "; ".join(f"{kind}: {some_of(names)}" for kind, names in wrong.items() if names)
        raise InputError(
            f"{path}: weights do not fit {type(module).__name__}: found {found}; expected its {len(own)} tensors; "
            "use the config that they were trained with"
        )
    module.load_state_dict(dict(tensors))


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names, dtypes, shapes and bytes: equal exactly if the weights are, bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity(component: object) -> str:
    """First 16 hex digits of the hash of a component's weights, or what it says itself; "" for one that has neither."""
    if isinstance(component, nn.Module):
        return weights_hash(component.state_dict())[:16]
    return str(getattr(component, "identity", ""))


def fingerprint(settings: Sequence[Any], components: Sequence[object] = ()) -> str:
    """First 16 hex digits of a hash over JSON values and the identities of components."""
    text = json.dumps([list(settings), [identity(component) for component in components]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------- optimizers and generators as tensors


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, prefix: str = "optimizer."
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Splits a state dict into named tensors and JSON; `load_optimizer_tensors` puts it back bit for bit."""
    whole = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"state": {}, "groups": []}
    for index, state in whole["state"].items():
        plain["state"][str(index)] = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        tensors |= {f"{prefix}{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    for index, group in enumerate(whole["param_groups"]):
        plain["groups"].append({k: v for k, v in group.items() if not isinstance(v, Tensor)})
        tensors |= {f"{prefix}group{index}.{k}": v for k, v in group.items() if isinstance(v, Tensor)}
    return tensors, json.loads(json.dumps(plain))


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    prefix: str = "optimizer.",
) -> None:
    """The inverse of `optimizer_tensors`, into an optimizer over the same parameters; other tensors are ignored."""
    now = optimizer.state_dict()["param_groups"]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["state"].items()}
    groups: list[dict[str, Any]] = []
    for group, template in zip(plain["groups"], now, strict=True):
        groups.append({k: tuple(v) if isinstance(template.get(k), tuple) else v for k, v in group.items()})
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            owner, key = name.removeprefix(prefix).split(".", 1)
            target = groups[int(owner[5:])] if owner.startswith("group") else state.setdefault(int(owner), {})
            target[key] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def generator_state(generator: torch.Generator) -> Tensor:
    """The generator's state as a uint8 tensor on the CPU, to save in a checkpoint."""
    return generator.get_state().clone()


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Continues the stream that `generator_state` was taken from."""
    generator.set_state(state.cpu())
