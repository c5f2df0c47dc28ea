"""AdamW with moments of 32 or of 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from worldgymnast.errors import FieldError, InputError

OptimizerName = Literal["adamw", "adamw-8bit"]
"""AdamW (Loshchilov and Hutter 2019), or the same with moments of 8 bits (Dettmers et al. 2022, by bitsandbytes)."""
_SMALL, _BLOCK = 4096, 256
"""bitsandbytes: tensors with fewer numbers keep moments of 32 bits; numbers that share a scale."""


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[Tensor],
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """Return AdamW over `parameters`.

    Raises:
        InputError: bitsandbytes is not installed, and `name` needs it.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=betas)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError:
        raise InputError(
            "optimizer adamw-8bit: bitsandbytes is not installed, so nothing was trained. Run: pip install "
            "'worldgymnast[bitsandbytes]'; or use adamw"
        ) from None
    return AdamW8bit(parameters, lr=lr, weight_decay=weight_decay, betas=betas)


def check_optimizer(name: OptimizerName, shard: bool) -> None:
    """Raise `FieldError` for moments of 8 bits that would be sharded, which bitsandbytes cannot."""
    if shard and name != "adamw":
        raise FieldError(
            "optimizer",
            f"found '{name}' with shard, expected 'adamw': bitsandbytes cannot shard its moments. Omit one of them",
        )


def moment_bytes(name: OptimizerName, parameters: Iterable[Tensor]) -> int:
    """Bytes of both moments of all parameters; one of 8 bits also has a scale per block.

    >>> weights = [torch.zeros(1024, 1024), torch.zeros(1024)]
    >>> moment_bytes("adamw", weights), moment_bytes("adamw-8bit", weights)
    (8396800, 2138112)
    """

    def of_one(parameter: Tensor) -> int:
        count = parameter.numel()
        if name == "adamw-8bit" and count >= _SMALL:
            return count + 4 * -(-count // _BLOCK)
        return count * (4 if name == "adamw-8bit" else parameter.element_size())

    return 2 * sum(map(of_one, parameters))
