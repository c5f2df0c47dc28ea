"""Shards a module over the processes of one training (FSDP2), and gathers its tensors.

Each process holds a shard of every parameter, and so of its gradient, average and optimizer state. The full parameters
of a block exist only while the block runs. Files never hold shards, so they are the same for any number of processes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from worldgymnast import processes

Module = TypeVar("Module", bound=nn.Module)


def shard_module(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """Return a copy of `module` with parameters sharded over the processes; move `module` to host memory.

    Full parameters are visible only inside the forward of the copy.

    Args:
        module: the same in every process; must be used through its forward.
        device: of this process.
        dtype: of matrix products; the parameters of blocks are gathered in it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # no code writes into a block's result
    mesh = init_device_mesh(device.type, (processes.world_size(),))
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    sharded = copy.deepcopy(module.to("cpu"))
    for parameter in sharded.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP does not support channels_last
    for block in _blocks(sharded):
        fully_shard(block, mesh=mesh, mp_policy=mixed)
    fully_shard(sharded, mesh=mesh)
    return sharded


def _blocks(module: nn.Module, is_listed: bool = False) -> Iterator[nn.Module]:
    """Yield the units to gather: entries of module lists, or the contents of those without a forward."""
    for child in module.children():
        has_forward = type(child).forward is not nn.Module.forward
        if is_listed and has_forward:
            yield child
        else:
            yield from _blocks(child, is_listed=isinstance(child, nn.ModuleList) or is_listed)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one, on its device, and any other tensor unchanged.

    Every process must call it.
    """
    if processes.world_size() == 1:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_on_first_rank(tensor: Tensor) -> Tensor:
    """Return the full tensor in host memory on the first process, and an empty one on the others."""
    full = full_tensor(tensor)
    if full is tensor:
        return tensor
    return full.cpu() if processes.rank() == 0 else full.new_empty(0)


def local_shard(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's shard of a full tensor, or the full tensor if `like` is not sharded.

    Args:
        tensor: the same in every process, with the shape of `like`.
        like: the parameter whose sharding to follow.
    """
    if processes.world_size() == 1:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
