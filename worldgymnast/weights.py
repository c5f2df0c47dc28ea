"""Atomic safetensors files of weights, optimizer state and generator state.

A weights file contains a SHA-256 hash of its content, which is checked on loading. Writes are atomic (see
`staging.atomic_path`). Not supported: sharded files, moving optimizer state between devices.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken_file
from worldgymnast.staging import atomic_path

_HASH = "sha256"
"""Metadata key of the content hash; files of version 0.1 have none."""
_AGAIN = "Download or copy it again"
"""Fix for a file of a published checkpoint."""
_LONGEST_NAME = 60
"""Characters of a tensor's name in a message."""


# ---------------------------------------------------------------- members of modules


class _Registered:
    """Not found, so that Python asks `nn.Module.__getattr__`, which knows submodules and buffers."""

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        if module is None:
            return self
        raise AttributeError


def registered() -> Any:
    """Declare a submodule or buffer in a class body, so that `isinstance` of a Protocol finds it.

    `isinstance` asks for attributes without calling `nn.Module.__getattr__`: always from Python 3.12 on, and with the
    Protocols of typing_extensions on every version.

    >>> class Scaled(nn.Module):
    ...     scale: Tensor = registered()
    ...
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.register_buffer("scale", torch.ones(()))
    >>> Scaled().scale
    tensor(1.)
    """
    return _Registered()


# ---------------------------------------------------------------- atomic writes


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path, len(data)) as temporary:
        temporary.write_bytes(data)


def to_json(value: Any) -> str:
    """JSON in the format of run folders: sorted keys, one field per line."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


# ---------------------------------------------------------------- weights


def savable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors needs them: on the CPU, contiguous, without shared memory.

    Copies only if necessary.
    """
    pointers: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        pointer = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if pointer in pointers else plain
        pointers.add(pointer)
    return result


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Total size of tensors in bytes."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with a content hash, atomically.

    Raises:
        InputError: the disk is full; no partial file remains.
    """
    plain, meta = savable(tensors), dict(metadata or {})
    with atomic_path(path, size_of(tensors)) as temporary:
        save_file(plain, temporary, metadata=meta | {_HASH: content_hash(plain, meta)})
        temporary.chmod(0o644)  # safetensors creates files that only the owner can read


def content_hash(tensors: Mapping[str, Tensor], metadata: Any) -> str:
    """SHA-256 of tensors and their metadata, a JSON value."""
    text = json.dumps([weights_hash(tensors), metadata], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Header:
    """Header of a safetensors file; reading it allocates no tensors.

    Attributes:
        shapes: shape of every tensor by name.
        metadata: metadata without the content hash.
        hash: content hash; None in files of version 0.1.
    """

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    hash: str | None

    @property
    def numbers(self) -> int:
        """Total number of elements."""
        return sum(map(math.prod, self.shapes.values()))


def read_header(path: Path, *, is_published: bool = False) -> Header:
    """Read names, shapes and metadata of a safetensors file.

    Args:
        path: the file.
        is_published: whether it is of a published checkpoint; then errors advise to download it, not to train it.

    Raises:
        InputError: the file is missing, or is no valid safetensors file.
    """
    with _open(path, is_published) as file:
        meta = dict(file.metadata() or {})
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = meta.pop(_HASH, None)
    return Header(shapes, meta, expected)


def load_weights(path: Path, *, is_published: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, on the CPU, and the metadata of a safetensors file.

    Args:
        path: the file.
        is_published: see `read_header`.

    Raises:
        InputError: the file is missing, is no valid safetensors file, or does not match its content hash.
    """
    with _open(path, is_published) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = dict(file.metadata() or {})
    expected = meta.pop(_HASH, None)
    if expected is not None and content_hash(tensors, meta) != expected:
        raise InputError(
            f"{path}: damaged: its content does not match its SHA-256 ({expected[:8]}...). "
            f"{_fix_for_damage(path, is_published)}"
        )
    return tensors, meta


def _fix_for_absence(path: Path) -> str:
    """How to give a weights file that is not there."""
    inside = sorted(path.glob("*.safetensors")) if os.path.isdir(path) else []  # False for a name that is too long
    return f"Give {' or '.join(map(str, inside[:3]))}" if inside else "Check the path, or train them first"


def _fix_for_damage(path: Path, is_published: bool) -> str:
    """How to replace a damaged weights file."""
    if is_published:
        return _AGAIN
    if (summary := path.parent / "summary.json").is_file():
        return f"Copy it again, or remove {summary} and run the same command again: it resumes from its checkpoint"
    return "Copy or train it again"


@contextmanager
def _open(path: Path, is_published: bool) -> Iterator[Any]:
    """Open a safetensors file; report errors of the reader in one line."""
    if not _is_file(path):
        fix = f"The checkpoint is incomplete. {_AGAIN}" if is_published else _fix_for_absence(path)
        raise InputError(f"{path}: found no file, expected weights (.safetensors). {fix}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        fix = _AGAIN if is_published else "Copy or train them again"
        raise InputError(
            f"{path}: cannot be read as safetensors weights ({reason}){_resemblance(path)}. {fix}"
        ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


_SIGNATURES = {
    b"PK\x03\x04": "it looks like a zip archive written by torch.save",
    b"\x80": "it looks like a pickle written by torch.save",
    b"GGUF": "it looks like a GGUF file",
    b"\x89HDF": "it looks like an HDF5 file",
    b"\x89PNG": "it looks like a picture",
    b"{": "it looks like JSON",
}


def _resemblance(path: Path) -> str:
    """Likely type of a file that is no safetensors file, as the end of a message."""
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip()
    except OSError:
        return ""
    known = next((text for signature, text in _SIGNATURES.items() if head.startswith(signature)), "")
    text = known or mistaken_file(path)
    return f"; {text}" if text else ""


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_floats(path: Path | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights of any precision to float32.

    Raises:
        InputError: a tensor is not of floats, or contains NaN or infinity.
    """
    check_finite(path, tensors)
    return {name: tensor.float() for name, tensor in tensors.items()}


def check_finite(path: Path | str, tensors: Mapping[str, Tensor], *, is_published: bool = False) -> None:
    """Raise InputError unless all tensors are of finite floats; `path` is their source, for messages."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            fix = _AGAIN if is_published else "Train it again"
            raise InputError(f"{path}: tensor '{_plain(name)}' holds {tensor.dtype}, expected floats. {fix}")
        if tensor.numel() and not all(math.isfinite(float(end)) for end in torch.aminmax(tensor.float())):
            count = int((~torch.isfinite(tensor)).sum())
            cause = "The training diverged, or the file is damaged. Train it again, or copy it again"
            raise InputError(
                f"{path}: tensor '{_plain(name)}' holds {count} numbers that are NaN or infinite, expected none. "
                f"{f'The file is damaged. {_AGAIN}' if is_published else cause}"
            )


def some_of(names: list[str]) -> str:
    """First three names and the number of others, for a message.

    >>> some_of(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    return ", ".join(map(_plain, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _plain(name: str) -> str:
    """Printable name of limited length."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copy all `tensors` into `module`.

    Args:
        module: the module.
        tensors: its weights.
        path: source of the weights, for messages.

    Raises:
        InputError: names are missing or unexpected, or shapes differ; the module stays unchanged.
    """
    check_shapes(shapes_of(module.state_dict()), shapes_of(tensors), type(module).__name__, path)
    module.load_state_dict(dict(tensors))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], kind: str, path: Path | str
) -> None:
    """Raise InputError unless the tensors `found` in `path` have the names and shapes of a `kind`."""
    missing = [_plain(name) for name in expected if name not in found]
    extra = [_plain(name) for name in found if name not in expected]
    shapes = [
        f"{_plain(name)} {list(found[name])} (expected {list(shape)})"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = {"missing": missing, "extra": extra, "misshapen": shapes}
    if text := "; ".join(f"{problem}: {_first(names)}" for problem, names in problems.items() if names):
        raise InputError(
            f"{path}: weights do not fit {kind}: found {text}; expected its {len(expected)} tensors. "
            "Use the config that they were trained with"
        )


def _first(names: list[str]) -> str:
    """First name and the number of others."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes.

    Equal if and only if the weights are bit-identical.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def module_identity(module: nn.Module) -> str:
    """Identity of a module: first 16 hex digits of the hash of its weights."""
    return weights_hash(module.state_dict())[:16]


def identity(component: object) -> str:
    """Identity of a component: its `identity`, or that of its weights if it is a module.

    Raises:
        InputError: it has neither.
    """
    own = getattr(component, "identity", None)
    if isinstance(own, str) and own:
        return own
    if isinstance(component, nn.Module):
        return module_identity(component)
    kind = type(component).__name__
    raise InputError(
        f"{kind} has no identity. A resumed run could not detect an exchanged component. Add a property 'identity': a "
        "short text that differs between components with different behavior"
    )


def fingerprint(settings: Sequence[Any], components: Sequence[object] = ()) -> str:
    """Hash, 16 hex digits, of JSON values and the identities of components."""
    text = json.dumps([list(settings), [identity(component) for component in components]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------- optimizers and generators as tensors


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, prefix: str = "optimizer."
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into named tensors and JSON.

    Inverse of `load_optimizer_tensors`, bit for bit.
    """
    state_dict = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"state": {}, "groups": []}
    for index, nested in state_dict["state"].items():
        state = _flat(nested)
        plain["state"][str(index)] = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        tensors |= {f"{prefix}{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    for index, group in enumerate(state_dict["param_groups"]):
        plain["groups"].append({k: v for k, v in group.items() if not isinstance(v, Tensor)})
        tensors |= {f"{prefix}group{index}.{k}": v for k, v in group.items() if isinstance(v, Tensor)}
    return tensors, json.loads(json.dumps(plain))


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    prefix: str = "optimizer.",
) -> None:
    """Inverse of `optimizer_tensors`, for an optimizer of the same parameters.

    Other tensors are ignored.
    """
    templates = optimizer.state_dict()["param_groups"]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["state"].items()}
    groups: list[dict[str, Any]] = []
    for group, template in zip(plain["groups"], templates, strict=True):
        groups.append({k: tuple(v) if isinstance(template.get(k), tuple) else v for k, v in group.items()})
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            owner, key = name.removeprefix(prefix).split(".", 1)
            target = groups[int(owner[5:])] if owner.startswith("group") else state.setdefault(int(owner), {})
            target[key] = tensor.clone()
    optimizer.load_state_dict({"state": {i: _nested(s) for i, s in state.items()}, "param_groups": groups})


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """One level of a state with dictionaries, which bitsandbytes has; their names are joined by a dot."""
    flat: dict[str, Any] = {}
    for name, value in state.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `_flat`."""
    state: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".", 1)
        (state.setdefault(outer[0], {}) if outer else state)[last] = value
    return state


def generator_state(generator: torch.Generator) -> Tensor:
    """State of a generator as a uint8 tensor on the CPU, for checkpoints."""
    return generator.get_state().clone()


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Restore a state from `generator_state`."""
    generator.set_state(state.cpu())


def mean_and_deviation(values: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [s] of rows [n s], to normalize them; 1 for a number that does not change.

    >>> [each.tolist() for each in mean_and_deviation(np.array([[1, 5], [3, 5]], np.float32))]
    [[2.0, 5.0], [1.0, 1.0]]
    """
    rows = np.asarray(values, np.float64)
    mean, deviation = rows.mean(0), rows.std(0)
    deviation = np.where(deviation > 1e-6 * np.maximum(1.0, np.abs(mean)), deviation, 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
