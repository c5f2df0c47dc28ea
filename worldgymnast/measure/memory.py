"""Memory that rollouts and updates will take, computed without allocating it.

The components run once on fake tensors, which have shapes and no contents, while a dispatch mode adds up the storages
that are alive. So the numbers hold for any policy and world model, and for sizes that this machine could not load.
Kernels' workspaces and the allocator's fragmentation are not counted.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldgymnast.protocols import Judge, Policy, PredictsState, WorldModel, tiling_of
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.tiling import picture_sizes
from worldgymnast.types import STATE, Clip, Observation

_M = TypeVar("_M")


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are alive, and their peak.

    Attributes:
        live: now.
        peak: the most so far.

    >>> with LiveBytes() as memory:
    ...     a = torch.zeros(1000)
    ...     b = a + 1
    ...     del a
    ...     c = b[:10]
    >>> memory.peak, memory.live
    (8000, 4000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the storages of its results that are not those of its arguments."""
        self._add(args, is_counted=False)
        result = func(*args, **(kwargs or {}))
        self._add(result, is_counted=True)
        return result

    def _add(self, tensors: Any, *, is_counted: bool) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._known:
                self._know(storage, storage.nbytes() if is_counted else 0)

    def _know(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class RoleMemory:
    """Bytes that a role takes on its device.

    Attributes:
        role: "policy", "world model" or "judge".
        weights: parameters and buffers.
        training: gradients, optimizer state, and the trained weights of the start, the best and the averaged policy.
        rollout: most that one call in a rollout adds.
        update: most that one micro-batch of an update adds.
    """

    role: str
    weights: int
    training: int = 0
    rollout: int = 0
    update: int = 0


def peak(roles: Sequence[RoleMemory]) -> int:
    """Most bytes at one time: all weights and optimizer state, and the larger of rollout and update.

    >>> peak([RoleMemory("policy", 10, 30, 2, 9), RoleMemory("judge", 5, 0, 4)])
    54
    """
    kept = sum(role.weights + role.training for role in roles)
    return kept + max(max(role.rollout for role in roles), max(role.update for role in roles))


def policy_memory(policy: Policy, world: WorldModel, config: ReinforceConfig) -> RoleMemory:
    """Memory of a policy that is trained by RL in a world model."""
    module: Any = policy
    trainable = sum(_bytes(p) for p in module.parameters() if p.requires_grad)
    copies = 5 + (config.trainer.average > 0)  # gradients, two moments of AdamW, start and kept weights, the average
    looks = config.trainer.micro_batch * -(-config.horizon // executed_per_look(policy, config.execute))
    faked = _fake(module)
    faked.act(_observation(policy, world, 1), temperature=1.0, generator=None)  # loads what the policy loads once
    with LiveBytes() as acting:
        faked.act(_observation(policy, world, config.rows), temperature=1.0, generator=None)
    obs = _observation(policy, world, looks)
    chunk = faked.act(obs, temperature=1.0, generator=None)
    with LiveBytes() as updating:
        faked.logprobs(obs, chunk).sum().backward()
    update = max(0, updating.peak - trainable)  # gradients are alive at the end, and counted above
    return RoleMemory("policy", module_bytes(module), trainable * copies, acting.peak, update)


def world_memory(world: WorldModel, config: ReinforceConfig) -> RoleMemory:
    """Memory of a world model that imagines the rollouts of `config`."""
    module: Any = world
    faked = _fake(module)
    with LiveBytes() as imagining, torch.no_grad():
        frames = torch.zeros(config.rows, *world.frame_size, 3, dtype=torch.uint8)
        state, generator = faked.start(frames), torch.Generator()
        window = getattr(getattr(getattr(world, "config", None), "transformer", None), "window", config.horizon)
        for _ in range(min(window, config.horizon)):
            action = torch.zeros(config.rows, 1, world.action_spec.dim)
            state, _ = faked.step(state, action, generator=generator)
    return RoleMemory("world model", module_bytes(module), rollout=imagining.peak)


def judge_memory(judge: Judge, world: WorldModel, config: ReinforceConfig) -> RoleMemory:
    """Memory of a judge of the rollouts of `config`, from two small batches; none for one behind a server."""
    if not isinstance(judge, nn.Module):
        return RoleMemory("judge", 0)

    def measured(count: int) -> int:
        frames = np.zeros((config.horizon + 1, *world.frame_size, 3), np.uint8)
        with LiveBytes() as scoring:
            judge.score([Clip(frames, "pick up the cup", "", True) for _ in range(count)])
        return scoring.peak

    measured(1)  # loads what the judge loads once, such as the encoder of its sentences
    two, four = measured(2), measured(4)
    return RoleMemory("judge", module_bytes(judge), rollout=two + (four - two) * (config.rows - 2) // 2)


def module_bytes(component: Any) -> int:
    """Bytes of a component's parameters and buffers; 0 for one without, such as a judge behind a server."""
    if not isinstance(component, nn.Module):
        return 0
    return sum(map(_bytes, [*component.parameters(), *component.buffers()]))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _observation(policy: Policy, world: WorldModel, rows: int) -> Observation:
    """Blank observation as the world model gives it."""
    sizes = picture_sizes(policy.cameras, world.frame_size, tiling_of(world))
    images = {
        name: torch.zeros(rows, *size, 3, dtype=torch.uint8) for name, size in zip(policy.cameras, sizes, strict=True)
    }
    state = None
    if STATE in policy.needs and isinstance(world, PredictsState):
        state = torch.zeros(rows, world.state_dim)
    return Observation(images, ["pick up the cup"] * rows, state, images)


def _fake(component: _M) -> _M:
    """Copy of a module whose tensors have shapes but no contents; so have the results of its operations."""
    module: Any = component
    memo: dict[int, Any] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for tensor in [*module.parameters(), *module.buffers()]:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(component, memo)
