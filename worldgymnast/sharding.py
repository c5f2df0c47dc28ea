"""Shards a module over the processes of one training (FSDP2), gathers its tensors, and files shards.

Each process holds a shard of every parameter, and so of its gradient, average and optimizer state. The full parameters
of a block exist only while the block runs. Weights files never hold shards. Checkpoints of RL do (`write_shard`): one
safetensors file per process, from which any number of processes can resume.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldgymnast import processes
from worldgymnast.errors import InputError
from worldgymnast.weights import load_weights, read_header, save_weights

Module = TypeVar("Module", bound=nn.Module)
_PIECES = "pieces"
"""Metadata key: offset in the first axis and full shape of every tensor of a shard."""


def shard_module(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """Return a copy of `module` with parameters sharded over the processes; move `module` to host memory.

    Full parameters are visible only inside the forward of the copy.

    Args:
        module: the same in every process; must be used through its forward.
        device: of this process.
        dtype: of matrix products; the parameters of blocks are gathered in it.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    sharded, mesh = _in_host(module), _mesh(device)
    for block in _blocks(sharded):
        fully_shard(block, mesh=mesh, mp_policy=mixed)
    fully_shard(sharded, mesh=mesh)
    return sharded


def shard_for_sum(module: Module, device: torch.device, *, is_copied: bool = True) -> Module:
    """Shard a module as `shard_module` does, but with gradients that are sums over the processes, in their own types.

    No full parameter outlives a forward, not even one outside of the blocks, so the shards may be changed between two
    forwards.

    Args:
        module: the same in every process; must be used through its forward.
        device: of this process.
        is_copied: shard a copy; otherwise the module itself.

    Raises:
        InputError: trained parameters of one block have several types, which one exchange of gradients cannot hold.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mixed = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    sharded, mesh = _in_host(module, is_copied=is_copied), _mesh(device)
    blocks = list(_blocks(sharded))
    _check_types(sharded, blocks)
    for unit in (*blocks, sharded):
        made: Any = fully_shard(unit, mesh=mesh, mp_policy=mixed, reshard_after_forward=True)
        made.set_force_sum_reduction_for_comms(True)
        made.set_gradient_divide_factor(1.0)
    return sharded


def _in_host(module: Module, *, is_copied: bool = True) -> Module:
    """Return a module, or a copy, in host memory, with parameters that FSDP can shard."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # no code writes into a block's result
    module.to("cpu")
    copied = copy.deepcopy(module) if is_copied else module
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP does not support channels_last
    return copied


def _mesh(device: torch.device) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (dist.get_world_size(),))


def _blocks(module: nn.Module, is_listed: bool = False) -> Iterator[nn.Module]:
    """Yield the units to gather: entries of module lists, or the contents of those without a forward."""
    for child in module.children():
        has_forward = type(child).forward is not nn.Module.forward
        if is_listed and has_forward:
            yield child
        else:
            yield from _blocks(child, is_listed=isinstance(child, nn.ModuleList) or is_listed)


def _check_types(module: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Raise InputError if trained parameters of a block, or of the rest of the module, have several types."""
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    rest = [parameter for parameter in module.parameters() if id(parameter) not in inside]
    for unit in (*(block.parameters() for block in blocks), rest):
        if len(types := {str(parameter.dtype) for parameter in unit if parameter.requires_grad}) > 1:
            raise InputError(
                f"policy: trained weights of one block have the types {', '.join(sorted(types))}, which cannot be "
                "sharded together. Train weights of one type, or train without --rl.trainer.shard"
            )


# ---------------------------------------------------------------- tensors


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a shard of one that several processes hold."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one, on its device, and any other tensor unchanged.

    Every process must call it.
    """
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


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
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(tensor.to(like.device), sharded.device_mesh, sharded.placements, src_data_rank=None)


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor, from `offset` in its first axis.

    Attributes:
        rows: the rows, in host memory.
        offset: index of the first of them.
        shape: of the full tensor.
    """

    rows: Tensor
    offset: int
    shape: tuple[int, ...]

    def write_into(self, tensor: Tensor) -> None:
        """Copy the rows that a tensor, or its shard in this process, has in common with this piece."""
        first, local = _rows_here(tensor)
        begin, end = max(first, self.offset), min(first + len(local), self.offset + len(self.rows))
        if begin < end:
            local[begin - first : end - first].copy_(self.rows[begin - self.offset : end - self.offset])


def _rows_here(tensor: Tensor) -> tuple[int, Tensor]:
    """Return the rows of a tensor that lie in this process, and the index of the first."""
    if not is_sharded(tensor):
        return 0, tensor if tensor.ndim else tensor[None]
    sharded: Any = tensor
    local, chunk = sharded.to_local(), -(-len(tensor) // dist.get_world_size())
    return min(dist.get_rank() * chunk, len(tensor)), local


def write_shard(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Write this process's shard of sharded tensors; return the name and the content hash of the file."""
    name = f"shard-{dist.get_rank():05d}-of-{dist.get_world_size():05d}.safetensors"
    here = {key: _rows_here(tensor) for key, tensor in tensors.items()}
    kept = {key: (first, rows) for key, (first, rows) in here.items() if len(rows)}
    places = {key: [first, list(tensors[key].shape)] for key, (first, _) in kept.items()}
    save_weights(folder / name, {key: rows for key, (_, rows) in kept.items()}, {_PIECES: json.dumps(places)})
    return name, str(read_header(folder / name).hash)


def read_shards(folder: Path, hashes: Mapping[str, str]) -> Iterator[tuple[str, Piece]]:
    """Yield the pieces of all tensors of a checkpoint, file by file.

    Args:
        folder: of the shards.
        hashes: content hash of each file, as `write_shard` returned it.

    Raises:
        InputError: a file is missing, damaged, or of another checkpoint.
    """
    for name, expected in sorted(hashes.items()):
        path = folder / Path(name).name
        try:
            tensors, metadata = load_weights(path)
            if (found := read_header(path).hash) != expected:
                raise InputError(
                    f"{path}: of another checkpoint: has SHA-256 {str(found)[:8]}..., not {expected[:8]}..."
                )
        except InputError as error:
            raise InputError(f"{error}. Or remove {folder.parent} to resume from the checkpoint before it") from error
        for key, (offset, shape) in json.loads(metadata[_PIECES]).items():
            yield key, Piece(tensors[key], offset, tuple(shape))


def read_full(folder: Path, hashes: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the full tensors of a checkpoint, in host memory; see `read_shards`."""
    full: dict[str, Tensor] = {}
    for key, piece in read_shards(folder, hashes):
        if key not in full:
            full[key] = torch.empty(piece.shape, dtype=piece.rows.dtype)
        piece.write_into(full[key])
    return full
