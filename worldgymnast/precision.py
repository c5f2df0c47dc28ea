"""Which numbers a model computes in: 32 bits, or 16 (bfloat16) where the machine has arithmetic for them.

Weights, losses, noise and everything that is added up over time stay in 32 bits; under `autocast` only the matrix
products and convolutions run in bfloat16 (Micikevicius et al. 2018, mixed precision).
"""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def computes_in(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: for "auto" bfloat16 on a GPU or CPU that has arithmetic for it.

    On a CPU that is matrix tiles (AMX) or AVX512-BF16; one without multiplies bfloat16 more slowly than float32.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which models on `device` compute in that precision.

    Inside another one it keeps no casted weights: one cast without gradient would be taken for the step's own.
    """
    enabled = computes_in(precision, device) == torch.bfloat16
    nested = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=not nested)
