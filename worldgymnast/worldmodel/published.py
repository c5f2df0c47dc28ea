"""Checkpoints as WorldGym publishes them: a dict saved by torch, named and shaped as in arXiv 2506.00613's release."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from worldgymnast.types import InputError
from worldgymnast.worldmodel.transformer import TransformerConfig, VideoTransformer

_HEAD = 64  # width of an attention head in every published checkpoint: shapes do not tell it


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: its "ema" if present, else its "model", else the dict itself.

    Raises:
        InputError: no such file, not saved by torch, pickled code, or no dict of tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: found no file, expected a WorldGym checkpoint (.pt); check the path")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: found pickled code or objects, expected tensors alone; refused, since loading it would run the "
            f"code ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"{path}: found no checkpoint that torch can read ({str(error).splitlines()[0]}); download it again"
        ) from error
    for name in ("ema", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(
            f"{path}: found no dict of tensors, nor one under 'ema' or 'model'; give a WorldGym checkpoint"
        )
    return {str(name).removeprefix("module."): value for name, value in found.items()}


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
    blocks = [name.split(".")[1] for name in tensors if name.startswith("blocks.")]
    numbers = [int(number) for number in blocks if number.isdigit()]
    config = TransformerConfig(
        channels=channels,
        grid=grid,
        patch=patch,
        width=width,
        layers=max(numbers, default=-1) + 1,
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
        raise InputError(f"{path}: {len(wrong)} keys do not fit a WorldGym checkpoint: {'; '.join(wrong)}")
    return config
