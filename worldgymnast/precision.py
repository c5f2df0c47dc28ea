"""Compute precision: float32, or bfloat16 on hardware that supports it.

Weights, losses, noise and accumulated values stay in float32. Under `autocast` only matrix products and convolutions
run in bfloat16 (mixed precision, Micikevicius et al. 2018).
"""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Dtype of matrix products; "auto" is bfloat16 on hardware that supports it.

    A CPU needs AMX or AVX512-BF16; others multiply bfloat16 more slowly than float32.

    >>> compute_dtype("fp32", torch.device("cpu"))
    torch.float32
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if features.get("amx_bf16") or features.get("avx512_bf16") else torch.float32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Context manager for computing in a precision.

    A nested context does not cache cast weights: a weight cast without gradient would be reused by the outer one.
    """
    is_enabled = compute_dtype(precision, device) == torch.bfloat16
    is_nested = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=is_enabled, cache_enabled=not is_nested)
