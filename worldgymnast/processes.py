"""The processes of one training, started by torchrun or `accelerate launch`: which this is, what they tell each other.

All run the same code on the same files. Only the first writes a run folder; the others wait for it and fail with it.
They must see one file system. Without a launcher there is one process, and nothing here costs anything.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from worldgymnast.errors import InputError
from worldgymnast.types import Metrics

_MOST = 100_000
"""Processes that a launcher may start."""
Given = ParamSpec("Given")
Result = TypeVar("Result")


def launched() -> int:
    """How many processes a launcher started, this one included."""
    if "LOCAL_RANK" not in os.environ:
        return 1
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or not 1 <= int(size) <= _MOST:
        raise InputError(f"WORLD_SIZE: found '{size[:20]}' in the environment, expected 1 to {_MOST}; use torchrun")
    return int(size)


def join(device: str) -> None:
    """Meets the other processes, gloo on "cpu" and nccl on "cuda", and takes this one's GPU; only the first prints.

    Raises:
        InputError: the launcher asks for sharded training (FSDP), which is a command's own flag.
    """
    if launched() == 1:
        return
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise InputError("accelerate launch: found --use_fsdp, expected a launch without; use --fit.shard instead")
    from accelerate import PartialState

    PartialState(cpu=device == "cpu")
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # of 1x1 convolutions; costs nothing
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives


def leave(code: int) -> int:
    """Ends a process that a launcher started, at once and with that exit code; without a launcher it returns the code.

    At the interpreter's own end, threads of gloo that still run abort the process now and then, however well it went
    (pytorch/pytorch#190489); destroying the group is not enough, since caches of torch hold on to it.
    """
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, 0 for the first."""
    return dist.get_rank() if count() > 1 else 0


def first(act: Callable[[], Result]) -> Result:
    """What `act` returns in the first process, in all of them; an `InputError` there is raised in all."""
    if count() == 1:
        return act()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = act()
        except InputError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise InputError(answer[1])
    return answer[0]


def by_first(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, done by the first process alone while the others wait; every process must call it."""

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        return first(lambda: function(*args, **kwargs))

    return call


def mean(values: Mapping[str, float], device: torch.device) -> Metrics:
    """The mean over all processes of each number; `device` is where the models are."""
    if count() == 1:
        return dict(values)
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(values, (total / count()).tolist(), strict=True))
