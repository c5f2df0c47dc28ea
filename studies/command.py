"""How the scripts of a study are started: a dataclass is the command line, and what is wrong is said in one line."""

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
    """Parse the command line as `command`, a dataclass or a union of them, and call it; returns the exit code."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        asked = tyro.cli(command, description=description)
        if getattr(asked, "device", "cpu").startswith("cuda") and not torch.cuda.is_available():
            raise InputError("--device: found no CUDA device, expected one for cuda; use --device cpu")
        asked()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
