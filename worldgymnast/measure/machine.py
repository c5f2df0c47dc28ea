"""Memory of this machine and of its devices."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the limit of a container, in bytes."""


def machine_bytes() -> int:
    """Memory of this machine, or of the container that this process runs in.

    >>> machine_bytes() > 2**20
    True
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _LIMITS:
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def device_bytes(device: str) -> int:
    """Memory of a device that this process can use.

    On a GPU that is what is free, and what this process holds; other programs may share it.

    Args:
        device: "cpu", "cuda" or "cuda:1".
    """
    parsed = torch.device(device)
    if parsed.type != "cuda":
        return machine_bytes()
    free, _ = torch.cuda.mem_get_info(parsed)
    return free + torch.cuda.memory_reserved(parsed)
