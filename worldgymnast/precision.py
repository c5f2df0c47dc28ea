"""Compute precision: float32, or bfloat16 on hardware that supports it.

Weights, losses, noise and accumulated values stay in float32. Under `autocast` only matrix products and convolutions
run in bfloat16 (mixed precision, Micikevicius et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
_PLANNED: ContextVar[str] = ContextVar("planned", default="")


@contextmanager
def as_on(kind: str) -> Iterator[None]:
    """Choose dtypes and kernels as on another kind of device, to plan its memory on tensors without contents.

    Args:
        kind: type of a device, such as "cuda"; "" for that of the tensors.

    >>> with as_on("cuda"):
    ...     kind_of(torch.device("cpu"))
    'cuda'
    """
    token = _PLANNED.set(kind)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def kind_of(device: torch.device) -> str:
    """Type of a device, or that of the device which is planned (`as_on`)."""
    return _PLANNED.get() or device.type


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Dtype of matrix products; "auto" is bfloat16 on hardware that supports it.

    A CPU needs AMX or AVX512-BF16; others multiply bfloat16 more slowly than float32.

    >>> compute_dtype("fp32", torch.device("cpu"))
    torch.float32
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    kind = kind_of(device)
    if kind == "cuda":  # one that is planned elsewhere is recent
        is_recent = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if is_recent else torch.float32
    features = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return torch.bfloat16 if features.get("amx_bf16") or features.get("avx512_bf16") else torch.float32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Context manager for computing in a precision.

    A nested context does not cache cast weights: a weight cast without gradient would be reused by the outer one.
    """
    is_enabled = compute_dtype(precision, device) == torch.bfloat16
    is_nested = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=is_enabled, cache_enabled=not is_nested)
