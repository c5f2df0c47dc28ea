"""Memory that training will take, computed without allocating it.

The components run once on fake tensors, which have shapes and no contents, while the storages that are alive are added
up (`live_bytes`). So the numbers hold for any policy and world model, and for sizes that this machine could not load.
Kernels' workspaces and the allocator's fragmentation are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from worldgymnast.measure.live_bytes import counting, fake_copy, tensor_bytes
from worldgymnast.optimizers import OptimizerName, moment_bytes
from worldgymnast.precision import Precision, autocast
from worldgymnast.protocols import Judge, PredictsState, WorldModel, tiling_of
from worldgymnast.rl.offload import modules_in, tensors_in
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.tiling import picture_sizes
from worldgymnast.types import STATE, Clip, Observation

_SENTENCE = "pick up the cup"


@dataclass(frozen=True)
class RoleMemory:
    """Bytes that a role takes on its device.

    Attributes:
        role: "policy", "world model" or "judge".
        weights: parameters and buffers.
        training: gradients, optimizer state, and the trained weights of the start, the best and the averaged policy.
        rollout: most that one call in a rollout adds.
        update: most that one micro-batch of an update adds.
        waiting: part of `training` that no rollout needs, and that `ReinforceConfig.offload` moves away.
        stored: part of `waiting` that no update needs either.
    """

    role: str
    weights: int
    training: int = 0
    rollout: int = 0
    update: int = 0
    waiting: int = 0
    stored: int = 0

    @property
    def kept(self) -> int:
        """Bytes that are always there: weights and training."""
        return self.weights + self.training


def peak(roles: Sequence[RoleMemory], *, offload: bool = False) -> int:
    """Most bytes at one time: all weights and optimizer state, and the larger of rollout and update.

    With `offload`, rollouts and updates take turns on the device: rollouts do without `waiting`, updates without the
    world model, the judge and `stored`.

    >>> roles = [RoleMemory("policy", 10, 30, 2, 9, waiting=30, stored=10), RoleMemory("judge", 5, 0, 4)]
    >>> peak(roles), peak(roles, offload=True)
    (54, 39)
    """
    rollout, update = max(role.rollout for role in roles), max(role.update for role in roles)
    if not offload:
        return sum(role.kept for role in roles) + max(rollout, update)
    collecting = sum(role.kept - role.waiting for role in roles) + rollout
    updating = sum(role.kept - role.stored for role in roles if role.training) + update
    return max(collecting, updating)


# ---------------------------------------------------------------- reinforcement learning


def policy_memory(policy: Any, world: Any, config: ReinforceConfig, kind: str = "cpu", shards: int = 1) -> RoleMemory:
    """Memory of a policy that is trained by RL in a world model.

    With several shards, that of process 0, which holds the policy that acts and a shard. The full block that FSDP
    gathers at a time is not counted.

    Args:
        policy: the `Policy`, which may be on the "meta" device.
        world: the `WorldModel`, of which only frame size, cameras and state are read.
        config: the training.
        kind: kind of device, "cpu" or "cuda".
        shards: processes that share the training state.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    trainable, moments = sum(map(tensor_bytes, trained)), moment_bytes(config.trainer.optimizer, trained)
    used = 2 + config.ahead  # gradients, the start policy; with prefetch a second acting policy
    stored = 1 + (config.trainer.average > 0) + config.ahead  # the kept weights, the average; those that act
    looks = config.trainer.micro_batch * -(-config.horizon // executed_per_look(policy, config.execute))
    faked = fake_copy(policy)

    def act(obs: Observation) -> Any:
        return faked.act(obs, temperature=1.0, generator=None)

    with counting(kind):
        obs = _observation(policy, world, looks)
        chunk = act(obs)  # also loads what the policy loads once
    with counting(kind) as acting:
        act(_observation(policy, world, config.rows))
    with counting(kind) as updating:
        faked.logprobs(obs, chunk).sum().backward()
    update = max(0, updating.peak - trainable)  # gradients are alive at the end, and counted above
    if shards > 1:
        in_host = trainable * (1 + stored) if kind == "cpu" else 0  # the start policy and the copies wait there
        shard = (module_bytes(policy) + 2 * trainable + moments) // shards
        training = shard + in_host + trainable * config.ahead
        return RoleMemory("policy", module_bytes(policy), training, acting.peak, update)
    return RoleMemory(
        "policy",
        module_bytes(policy),
        trainable * (used + stored) + moments,
        acting.peak,
        update,
        waiting=trainable * (2 + stored) + moments,
        stored=trainable * stored,
    )


def world_memory(world: WorldModel, config: ReinforceConfig, kind: str = "cpu") -> RoleMemory:
    """Memory of a world model that imagines the rollouts of `config`."""
    module: Any = world
    faked = fake_copy(module)
    with torch.no_grad(), counting(kind) as imagining:
        frames = torch.zeros(config.rows, *world.frame_size, 3, dtype=torch.uint8)
        state, generator = faked.start(frames), torch.Generator()
        window = getattr(getattr(getattr(world, "config", None), "transformer", None), "window", config.horizon)
        for _ in range(min(window + 1, config.horizon)):
            action = torch.zeros(config.rows, 1, world.action_spec.dim)
            state, _ = faked.step(state, action, generator=generator)
    return RoleMemory("world model", module_bytes(module), rollout=imagining.peak)


def judge_memory(judge: Judge, world: WorldModel, config: ReinforceConfig, kind: str = "cpu") -> RoleMemory:
    """Memory of a judge of the rollouts of `config`; none for one behind a server."""
    if members := getattr(judge, "members", ()):
        each = [judge_memory(member, world, config, kind) for member in members]
        return RoleMemory("judge", sum(one.weights for one in each), rollout=max(one.rollout for one in each))
    if not modules_in(judge):
        return RoleMemory("judge", 0)
    faked: Any = fake_copy(judge)
    if isinstance(vars(faked).get("device"), torch.device):
        faked.device = torch.device("cpu")  # where fake tensors lie
    rows = config.rows
    if not isinstance(judge, nn.Module):  # a vision-language model judges a few clips at a time
        rows = min(rows, getattr(getattr(judge, "config", None), "batch", rows))
    frames = np.zeros((config.horizon + 1, *world.frame_size, 3), np.uint8)
    clip = Clip(frames, _SENTENCE, "", True)
    with counting(kind):
        faked.score([clip])  # loads what the judge loads once, such as the encoder of its sentences
    with counting(kind) as scoring:
        faked.score([clip] * rows)
    return RoleMemory("judge", module_bytes(judge), rollout=scoring.peak)


# ---------------------------------------------------------------- imitation


def imitation_memory(
    policy: Any,
    sizes: Sequence[tuple[int, int]],
    batch: int,
    precision: Precision = "auto",
    kind: str = "cpu",
    *,
    is_finetuned: bool = False,
    optimizer: OptimizerName = "adamw",
) -> RoleMemory:
    """Memory of a policy that is trained by imitation.

    Args:
        policy: an `ImitablePolicy`, which may be on the "meta" device.
        sizes: height and width of the pictures of each of its cameras.
        batch: looks per step.
        precision: of matrix products.
        kind: kind of device, "cpu" or "cuda".
        is_finetuned: whether the policy before the training stays in memory.
        optimizer: see `FitConfig.optimizer`.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    trainable, moments = sum(map(tensor_bytes, trained)), moment_bytes(optimizer, trained)
    images = {n: torch.zeros(batch, *s, 3, dtype=torch.uint8) for n, s in zip(policy.cameras, sizes, strict=True)}
    width = getattr(getattr(policy, "config", None), "state_dim", 0)
    looks = {
        "obs": Observation(images, [_SENTENCE] * batch, torch.zeros(batch, width) if width else None, images),
        "actions": torch.zeros(batch, policy.chunk, policy.action_spec.dim),
        "mask": torch.ones(batch, policy.chunk, dtype=torch.bool),
        "generator": torch.Generator(),
        "progress": 0.0,
    }
    faked = fake_copy(policy)
    with counting(kind):
        faked.act(looks["obs"].rows(torch.arange(1)), temperature=0.0, generator=None)  # loads what it loads once
    with counting(kind) as updating:
        with autocast(precision, torch.device("cpu")):
            loss, _ = faked.loss(looks)
        loss.backward()
    copies = 2 + is_finetuned  # gradients, averaged weights, the policy before
    return RoleMemory(
        "policy", module_bytes(policy), trainable * copies + moments, update=max(0, updating.peak - trainable)
    )


def module_bytes(component: Any) -> int:
    """Bytes of a component's parameters and buffers; 0 for one without, such as a judge behind a server."""
    return sum(map(tensor_bytes, tensors_in(component)))


def _observation(policy: Any, world: Any, rows: int) -> Observation:
    """Blank observation as the world model gives it."""
    sizes = picture_sizes(policy.cameras, world.frame_size, tiling_of(world))
    images = {
        name: torch.zeros(rows, *size, 3, dtype=torch.uint8) for name, size in zip(policy.cameras, sizes, strict=True)
    }
    state = None
    if STATE in policy.needs and isinstance(world, PredictsState):
        state = torch.zeros(rows, world.state_dim)
    return Observation(images, [_SENTENCE] * rows, state, images)
