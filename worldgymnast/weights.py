"""Weights, optimizer state and generator state as safetensors files, whole or absent (see `staging.atomic_path`).

A weights file carries a SHA-256 of its content, which is checked when it is read. Left out: sharded files, and moving
optimizer state between devices.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken_file
from worldgymnast.staging import atomic_path

_HASH = "sha256"
"""Where a weights file's metadata holds the hash of its content; files of version 0.1 hold none."""
_LONGEST_NAME = 60


# ---------------------------------------------------------------- files that are whole or absent


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with atomic_path(path, len(data)) as temporary:
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
    """Write a safetensors file with a hash of its content, whole or not at all.

    Raises:
        InputError: the disk is full; nothing half-written remains.
    """
    plain, meta = savable(tensors), dict(metadata or {})
    with atomic_path(path, size_of(tensors)) as temporary:
        save_file(plain, temporary, metadata=meta | {_HASH: content_hash(plain, meta)})
        temporary.chmod(0o644)  # safetensors writes a file that only its owner can read


def content_hash(tensors: Mapping[str, Tensor], beside: Any) -> str:
    """SHA-256 over tensors and the JSON value that belongs to them."""
    text = json.dumps([weights_hash(tensors), beside], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself; reading it allocates nothing.

    Attributes:
        shapes: of every tensor, by name.
        metadata: the words in it, without the hash.
        hash: of the content; None in files of version 0.1.
    """

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    hash: str | None

    @property
    def numbers(self) -> int:
        """Elements of all tensors together."""
        return sum(map(math.prod, self.shapes.values()))


def read_header(path: Path) -> Header:
    """Read names, shapes and metadata of a safetensors file.

    Raises:
        InputError: there is no such file, or it is no whole safetensors file.
    """
    with _opened(path) as file:
        meta = dict(file.metadata() or {})
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = meta.pop(_HASH, None)
    return Header(shapes, meta, expected)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: the tensors, on the CPU, and the metadata.

    Raises:
        InputError: there is no such file, it is not a whole safetensors file, or its content is not what was written.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = dict(file.metadata() or {})
    expected = meta.pop(_HASH, None)
    if expected is not None and content_hash(tensors, meta) != expected:
        raise InputError(
            f"{path}: damaged: its content has another SHA-256 than was written with it ({expected[:8]}...). "
            f"{_cure(path)}"
        )
    return tensors, meta


def _cure(path: Path) -> str:
    """What to do about a damaged weights file."""
    if (summary := path.parent / "summary.json").is_file():
        return f"Copy it again, or remove {summary} and run the same command again: it resumes from its checkpoint"
    return "Copy or train it again"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file; whatever its reader finds wrong is one line."""
    if not _is_file(path):
        raise InputError(f"{path}: found no file, expected weights (.safetensors); check the path or train them first")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(
            f"{path}: cannot be read as safetensors weights ({reason}){_resemblance(path)}. Copy or train them again"
        ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


_BEGINNINGS = {
    b"PK\x03\x04": "it looks like a zip archive, as torch.save writes",
    b"\x80": "it looks like a pickle, as torch.save writes",
    b"GGUF": "it looks like a GGUF file",
    b"\x89HDF": "it looks like an HDF5 file",
    b"\x89PNG": "it looks like a picture",
    b"{": "it looks like JSON",
}


def _resemblance(path: Path) -> str:
    """What a file that is no safetensors file looks like."""
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip()
    except OSError:
        return ""
    own = next((words for begin, words in _BEGINNINGS.items() if head.startswith(begin)), "")
    said = own or mistaken_file(path)
    return f"; {said}" if said else ""


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_floats(path: Path | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of any precision as float32; raises `InputError` where one is no finite real number."""
    floats = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            raise InputError(f"{path}: tensor '{_plain(name)}' holds {tensor.dtype}, expected floats; train it again")
        floats[name] = wide = tensor.float()
        if wide.numel() and not all(math.isfinite(float(end)) for end in torch.aminmax(wide)):
            bad = int((~torch.isfinite(wide)).sum())
            raise InputError(
                f"{path}: tensor '{_plain(name)}' holds {bad} numbers that are NaN or infinite, expected none; "
                "the training diverged or the file is damaged. Train it again or copy it again"
            )
    return floats


def some_of(names: list[str]) -> str:
    """The first three names, and how many more, for a one-line message."""
    return ", ".join(map(_plain, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _plain(name: str) -> str:
    """A name without line ends and control characters, not too long."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copies `tensors` into `module`, all of them, or none and an error.

    Args:
        path: where they came from, for the message.

    Raises:
        InputError: names are missing, left over, or have another shape; the message names them.
    """
    check_shapes(shapes_of(module.state_dict()), shapes_of(tensors), type(module).__name__, path)
    module.load_state_dict(dict(tensors))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(
    own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], kind: str, path: Path | str
) -> None:
    """Raise `InputError` unless the names and shapes `found` in `path` are those of a `kind`, which are `own`."""
    missing = [n for n in own if n not in found]
    extra = [n for n in found if n not in own]
    shapes = [
        f"{_plain(n)} {list(found[n])} (expected {list(own[n])})" for n in own if n in found and found[n] != own[n]
    ]
    wrong = {"missing": list(map(_plain, missing)), "extra": list(map(_plain, extra)), "misshapen": shapes}
    if said := "; ".join(f"{kind}: {_first(names)}" for kind, names in wrong.items() if names):
        raise InputError(
            f"{path}: weights do not fit {kind}: found {said}; expected its {len(own)} tensors; "
            "use the config that they were trained with"
        )


def _first(names: list[str]) -> str:
    """The first name, and how many more."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names, dtypes, shapes and bytes: equal exactly if the weights are, bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def module_identity(module: nn.Module) -> str:
    """The identity of a component that is a module: first 16 hex digits of the hash of its weights."""
    return weights_hash(module.state_dict())[:16]


def identity(component: object) -> str:
    """What tells a component from another: its own `identity`, or that of its weights where it is a module.

    Raises:
        InputError: it has neither, so a resumed run could not notice that it was exchanged.
    """
    own = getattr(component, "identity", None)
    if isinstance(own, str) and own:
        return own
    if isinstance(component, nn.Module):
        return module_identity(component)
    kind = type(component).__name__
    raise InputError(
        f"{kind} has no identity, so a resumed run could not notice that it was exchanged. Give the class a property "
        "'identity': a short text that differs where it would behave differently"
    )


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
