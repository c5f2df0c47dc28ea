"""A module spread over the processes of one training (FSDP2), and its tensors cut up and put together again.

Each process holds a share of every parameter, and so of its gradient, its averages and its optimiser state. What a
block computes with is put together when the block is called, and let go when it returns. Files never hold shares: they
are the same for every number of processes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from worldgymnast import processes

Spread = TypeVar("Spread", bound=nn.Module)


def spread(module: Spread, device: torch.device, dtype: torch.dtype) -> Spread:
    """A copy of `module` whose parameters are spread over the processes; `module` itself moves to the host's memory.

    Only what happens inside the copy's forward sees whole parameters.

    Args:
        module: the same in every process; whoever calls it calls its forward.
        device: where this process computes.
        dtype: of the matrix products; the blocks' parameters travel and are put together in it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # no block's result is written into
    mesh = init_device_mesh(device.type, (processes.count(),))
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    cut = copy.deepcopy(module.to("cpu"))
    for parameter in cut.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP knows no channels_last
    for block in _blocks(cut):
        fully_shard(block, mesh=mesh, mp_policy=mixed)
    fully_shard(cut, mesh=mesh)
    return cut


def _blocks(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    """What is put together at a time: entries of module lists, or what is inside those that have no forward."""
    for child in module.children():
        called = type(child).forward is not nn.Module.forward
        if listed and called:
            yield child
        else:
            yield from _blocks(child, listed=isinstance(child, nn.ModuleList) or listed)


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from its shares, on its device; one that is not spread is returned as it is.

    Every process must call it.
    """
    if processes.count() == 1:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def for_first(tensor: Tensor) -> Tensor:
    """As `whole`, in the memory of the first process' host; the others let go of it and get an empty tensor."""
    put = whole(tensor)
    if put is tensor:
        return tensor
    return put.cpu() if processes.rank() == 0 else put.new_empty(0)


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """This process' share of a whole tensor, cut like a parameter; uncut where that is.

    Args:
        tensor: the same in every process, of the shape of `like`.
        like: the parameter.
    """
    if processes.count() == 1:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
