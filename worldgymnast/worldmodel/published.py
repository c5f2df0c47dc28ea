"""Reader of WorldGym's published checkpoints (arXiv 2506.00613): a dict of tensors saved by torch."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.files import mistaken_file
from worldgymnast.hub import first_line
from worldgymnast.worldmodel.transformer import TransformerConfig, VideoTransformer

_NO_CHECKPOINT = "is not a checkpoint that torch can read"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 4
"""Mismatched keys listed in a message."""
_ZIP = b"PK\x03\x04"  # written by torch.save
_HEAD = 64  # width of an attention head in every published checkpoint; the tensor shapes do not show it


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint: its "ema" if not empty, else its "model", else the dict itself.

    Raises:
        InputError: the file is missing, was not saved by torch, contains pickled code, or holds no dict of tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: found no file, expected a WorldGym checkpoint (.pt). Check the path")
    _refuse_other_files(path)
    content = _load(path)
    for name in ("ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping) and content[name]:
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"{path}: found no dict of tensors, neither at the top nor under 'ema' or 'model'. Use a WorldGym "
            "checkpoint"
        )
    tensors = {str(name).removeprefix("module.").removeprefix("_orig_mod."): value for name, value in content.items()}
    _refuse_odd_tensors(tensors, path)
    for name, value in tensors.items():
        if value.dtype not in _FLOATS or not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: '{name}' holds NaN, infinity or {value.dtype}, expected finite floats")
    return tensors


def _refuse_odd_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise InputError for sparse tensors and for views that would expand to more memory than the file has."""
    needed, size = 0, path.stat().st_size
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise InputError(f"{path}: '{name}' is a sparse, quantized or empty-storage tensor, expected dense floats")
        own = value.numel() * value.element_size()
        needed += own
        if own > value.untyped_storage().nbytes() or needed > size:
            raise InputError(
                f"{path}: '{name}' is a view that repeats numbers (shape {list(value.shape)}, in a file of {size:,} "
                "bytes), expected tensors with their own storage. Save clones of them"
            )


def _refuse_other_files(path: Path) -> None:
    """Raise InputError for file types often mistaken for a checkpoint."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head.startswith(_ZIP) and (actual := mistaken_file(path)):
        raise InputError(f"{path}: {_NO_CHECKPOINT}: {actual}")
    if head[8:10] in (b'{"', b"{ "):
        raise InputError(f"{path}: is a safetensors file, expected a file written by torch.save (.pt)")


def _load(path: Path) -> Any:
    """Load tensors and plain values saved by torch.save, also by versions before 1.6."""
    try:
        zipped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles; unreadable files raise below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error) or "GLOBAL" in str(error):
            raise InputError(
                f"{path}: contains pickled code or objects, expected only tensors. It is refused because loading would "
                f"run the code ({first_line(error)})"
            ) from error
        raise InputError(f"{path}: {_NO_CHECKPOINT} ({first_line(error)}). Download it again") from error
    except Exception as error:
        raise InputError(f"{path}: {_NO_CHECKPOINT} ({first_line(error)}). Download it again") from error


def transformer_config(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    grid: tuple[int, int],
    window: int,
    rotary: Literal["standard", "pixel"],
    heads: int | None = None,
) -> TransformerConfig:
    """Infer the transformer's config from the shapes of its weights.

    Args:
        tensors: weights of a checkpoint.
        path: source of the weights, for messages.
        grid: latent height and width.
        window: frames in the attention window.
        rotary: spatial rotary positions.
        heads: attention heads; by default of width 64.

    Raises:
        InputError: keys are missing, unexpected, or have another shape; the message lists them.
    """
    projection, action = tensors.get("x_proj.weight"), tensors.get("action_embedder.weight")
    if projection is None or action is None or projection.ndim != 4 or action.ndim != 2:
        raise InputError(
            f"{path}: found no 'x_proj.weight' [D C P P] and 'action_embedder.weight' [D A], expected a WorldGym "
            "checkpoint"
        )
    width, channels, patch = projection.shape[:3]
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    config = TransformerConfig(
        channels=channels,
        grid=grid,
        patch=patch,
        width=width,
        layers=max(1, len(blocks)),
        heads=heads or max(1, width // _HEAD),
        window=window,
        action_dim=action.shape[1],
        context=0,
        learned_positions=False,
        rotary=rotary,
    )
    with torch.device("meta"):
        expected: dict[str, Any] = {k: tuple(v.shape) for k, v in VideoTransformer(config).state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    wrong = [f"{k}: found no such key, expected {list(v)}" for k, v in expected.items() if k not in found]
    wrong += [f"{k}: found {list(v)}, expected no such key" for k, v in found.items() if k not in expected]
    wrong += [f"{k}: found {list(found[k])}, expected {list(v)}" for k, v in expected.items() if found.get(k, v) != v]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise InputError(
            f"{path}: {len(wrong)} keys do not fit a WorldGym checkpoint: {'; '.join(wrong[:_SHOWN])}{more}"
        )
    return config
