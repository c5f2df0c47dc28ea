"""Entry point of the study scripts: a dataclass defines the command line, errors are one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional

from worldgymnast.errors import InputError

Out = Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]


def run(command: Any, description: str | None) -> int:
    """Parse the command line as `command`, a dataclass or a union, call it, and return the exit code."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        parsed = tyro.cli(command, description=description)
        if getattr(parsed, "device", "cpu").startswith("cuda") and not torch.cuda.is_available():
            raise InputError("--device: this machine has no CUDA device. Use --device cpu")
        parsed()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
