"""Distributed training with torchrun or `accelerate launch`: ranks, collectives and rank-zero calls.

All processes run the same code on a shared file system. Only rank 0 writes a run folder; the other ranks wait for it
and fail with it. Without a launcher there is one process, and every function here returns at once. In RL rank 0 runs
`alone` and calls the others when it needs them (`crew`).
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from worldgymnast.errors import InputError
from worldgymnast.types import Metrics

_MAX_PROCESSES = 100_000
Params = ParamSpec("Params")
Result = TypeVar("Result")


def launched_processes() -> int:
    """Number of processes that the launcher started; 1 without a launcher."""
    if "LOCAL_RANK" not in os.environ:
        return 1
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or not 1 <= int(size) <= _MAX_PROCESSES:
        raise InputError(
            f"WORLD_SIZE: found '{size[:20]}' in the environment, expected 1 to {_MAX_PROCESSES}; use torchrun"
        )
    return int(size)


def initialize(device: str) -> None:
    """Initialize the process group and this process's GPU.

    Ranks above 0 stop printing.

    Args:
        device: "cpu" uses gloo, "cuda" uses nccl.

    Raises:
        InputError: the launcher requests sharded training (FSDP), which is a flag of the command instead.
    """
    if launched_processes() == 1:
        return
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise InputError(
            "accelerate launch: found --use_fsdp, expected a launch without it; use --fit.shard or --rl.trainer.shard "
            "instead"
        )
    from accelerate import PartialState

    PartialState(cpu=device == "cpu")
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # for 1x1 convolutions; harmless
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends


def exit_process(code: int) -> int:
    """Exit a launched process at once.

    Without a launcher, return the exit code.

    At a normal interpreter exit, running gloo threads occasionally abort the process (pytorch/pytorch#190489).
    Destroying the process group does not help, since caches of torch keep it alive.
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


_is_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Run code of this process only, as if there were no other: no function here waits for another one."""
    global _is_alone
    _is_alone = True
    try:
        yield
    finally:
        _is_alone = False


def is_alone() -> bool:
    """Whether this process is inside of `alone`."""
    return _is_alone


def world_size() -> int:
    """Number of processes that train together; 1 inside of `alone`.

    >>> world_size()
    1
    """
    if _is_alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, from 0; 0 inside of `alone`."""
    return dist.get_rank() if world_size() > 1 else 0


def on_rank_zero(function: Callable[[], Result]) -> Result:
    """Call a function on rank 0 and broadcast its result.

    An `InputError` on rank 0 is raised on all ranks.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except InputError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return outcome[0]


def rank_zero_only(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Decorate a function to run on rank 0 only.

    All ranks must call it and get its result.
    """

    @functools.wraps(function)
    def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        return on_rank_zero(lambda: function(*args, **kwargs))

    return call


def mean(values: Mapping[str, float], device: torch.device) -> Metrics:
    """Mean of each value over all processes.

    Args:
        values: the values of this process.
        device: device of the models, used for the reduction.

    >>> mean({"loss": 0.5}, torch.device("cpu"))
    {'loss': 0.5}
    """
    if world_size() == 1:
        return dict(values)
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(values, (total / world_size()).tolist(), strict=True))
