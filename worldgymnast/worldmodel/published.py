"""Checkpoints as WorldGym publishes them: a dict saved by torch, named and shaped as in arXiv 2506.00613's release."""

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

_NO_CHECKPOINT = "found no checkpoint that torch can read"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 4
_ZIP = b"PK\x03\x04"  # as torch.save writes
_HEAD = 64  # width of an attention head in every published checkpoint: shapes do not tell it


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: its "ema" if present and not empty, else its "model", else the dict itself.

    Raises:
        InputError: no such file, not saved by torch, pickled code, or no dict of tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: found no file, expected a WorldGym checkpoint (.pt); check the path")
    _refuse_other_files(path)
    found = _loaded(path)
    for name in ("ema", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping) and found[name]:
            found = found[name]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(
            f"{path}: found no dict of tensors, nor one under 'ema' or 'model'; give a WorldGym checkpoint"
        )
    tensors = {str(name).removeprefix("module.").removeprefix("_orig_mod."): value for name, value in found.items()}
    _refuse_odd_tensors(tensors, path)
    for name, value in tensors.items():
        if value.dtype not in _FLOATS or not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: '{name}' holds NaN, infinity or {value.dtype}, expected finite floats")
    return tensors


def _refuse_odd_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises InputError, before anything is computed, for tensors that do not hold their own numbers in the file."""
    needed, size = 0, path.stat().st_size
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise InputError(
                f"{path}: '{name}' is a tensor that is sparse, quantised or without numbers, expected dense floats"
            )
        own = value.numel() * value.element_size()
        needed += own
        if own > value.untyped_storage().nbytes() or needed > size:
            raise InputError(
                f"{path}: '{name}' is a view that repeats numbers (shape {list(value.shape)}, in a file of {size:,} "
                "bytes), expected tensors that hold their own; save clones of them"
            )


def _refuse_other_files(path: Path) -> None:
    """Raises InputError for files that are often in the place of a checkpoint, and says which."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head.startswith(_ZIP) and (said := mistaken_file(path)):
        raise InputError(f"{path}: {_NO_CHECKPOINT}: {said}")
    if head[8:10] in (b'{"', b"{ "):
        raise InputError(f"{path}: is a safetensors file, expected what torch.save wrote (.pt)")


def _loaded(path: Path) -> Any:
    """What torch.save wrote, tensors and plain values alone; files of before torch 1.6 are read, too."""
    try:
        zipped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old and odd pickles; what cannot be read is told below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error) or "GLOBAL" in str(error):
            raise InputError(
                f"{path}: found pickled code or objects, expected tensors alone; refused, since loading it would run "
                f"the code ({first_line(error)})"
            ) from error
        raise InputError(f"{path}: {_NO_CHECKPOINT} ({first_line(error)}); download it again") from error
    except Exception as error:
        raise InputError(f"{path}: {_NO_CHECKPOINT} ({first_line(error)}); download it again") from error


def transformer_config(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    grid: tuple[int, int],
    window: int,
    rotary: Literal["standard", "pixel"],
    heads: int | None = None,
) -> TransformerConfig:
    """The sizes that the shapes of `tensors` tell, with those they do not.

    Args:
        tensors: a checkpoint's weights.
        path: where they come from, for messages.
        grid: latent height and width.
        window: most frames seen at once.
        rotary: spatial rotary positions.
        heads: attention heads; 64 wide each if left out.

    Raises:
        InputError: keys are missing, left over or misshapen; all are named.
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
