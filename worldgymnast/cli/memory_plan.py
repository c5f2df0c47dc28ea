"""The memory plan that training commands print before they begin.

It says what lies on which device and how much each role needs at most, and refuses what does not fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from worldgymnast.cli.inputs import Components
from worldgymnast.crew import leader
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.measure.machine import device_bytes
from worldgymnast.measure.memory import (
    RoleMemory,
    imitation_memory,
    judge_memory,
    peak,
    policy_memory,
    world_memory,
)
from worldgymnast.processes import rank
from worldgymnast.protocols import ComponentInfo, Judge, Policy, WorldModel, tiling_of
from worldgymnast.recipes.iterated_sft import IterSftConfig
from worldgymnast.registry import make, self_test
from worldgymnast.report import tables
from worldgymnast.report.world import Sheet
from worldgymnast.rl.offload import modules_in
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.run import is_finished
from worldgymnast.tiling import picture_sizes
from worldgymnast.training.policy import PolicyTraining

_GB = 1e9


@dataclass(frozen=True)
class Workers:
    """Processes that roll out beside the one that trains (`--pool ray`).

    Attributes:
        count: all of them.
        devices: devices that they share equally, the training's first of all; 0 if they are on other machines.

    >>> Workers(5, 2).here, Workers(5, 0).here
    (3, 0)
    """

    count: int
    devices: int = 1

    @property
    def here(self) -> int:
        """Those on the device of the training."""
        return -(-self.count // self.devices) if self.devices else 0


@dataclass
class MemoryPlan:
    """Memory of the roles of a training.

    Attributes:
        what: command that is planned.
        device: where it runs.
        roles: the roles.
        unknown: lines about roles that cannot be counted.
        offload: whether rollouts and updates take turns on the device.
        workers: the workers; None for rollouts in this process.
        worker_share: part of the parallel rollouts that one worker has at a time.
    """

    what: str
    device: str
    roles: list[RoleMemory] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    offload: bool = False
    workers: Workers | None = None
    worker_share: float = 1.0

    def add(self, role: str, component: object, count: Callable[[], RoleMemory]) -> None:
        """Count a role, or note why that is not possible."""
        if not modules_in(component):
            self.unknown.append(f"{role}: {type(component).__name__} has no torch modules here, so it is not counted")
            return
        try:
            self.roles.append(count())
        except Exception as error:  # noqa: BLE001 - a component of another package can raise anything on fake tensors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            self.unknown.append(f"{role}: {type(component).__name__} cannot be counted without running it ({reason})")

    @property
    def worker(self) -> RoleMemory:
        """What one worker holds: weights of all but the audit judge, which judges here, and what its rollouts add."""
        roles = [role for role in self.roles if role.role != "audit judge"]
        rollout = max((role.rollout for role in roles), default=0)
        return RoleMemory("worker", sum(role.weights for role in roles), rollout=int(rollout * self.worker_share))

    @property
    def workers_here(self) -> float:
        """Memory of the workers on this device, which may roll out during an update, in GB."""
        return (self.workers.here if self.workers else 0) * (self.worker.weights + self.worker.rollout) / _GB

    @property
    def peak(self) -> float:
        """Most memory at one time, in GB."""
        return peak(self.roles, offload=self.offload) / _GB + self.workers_here if self.roles else 0.0

    def show(self, available: float | None) -> None:
        """Print the plan.

        Args:
            available: memory of the device in GB; None if unknown.
        """
        if self.roles:
            tables.show(tables.sheet(self._sheet()))
        for line in self.unknown:
            print(line)
        if self.workers and not self.workers.here:
            needs = (self.worker.weights + self.worker.rollout) / _GB
            print(f"workers: each needs {needs:.3g} GB on its node of the cluster, which is not checked")
        if not self.roles:
            print("peak unknown", flush=True)
            return
        print(f"peak {self.peak:.3g} GB" + ("" if available is None else f" of {available:.3g} GB"), flush=True)

    def _sheet(self) -> Sheet:
        rows = [
            [one.role, *(f"{x / _GB:.3f}" for x in (one.weights, one.training, one.rollout, one.update))]
            for one in self.roles
        ]
        if self.workers and self.workers.here:
            sizes = (self.workers.here * size / _GB for size in (self.worker.weights, 0, self.worker.rollout, 0))
            rows.append([f"workers: {self.workers.here}", *(f"{size:.3f}" for size in sizes)])
        columns = ("", "weights", "gradients, optimizer, copies", "in a rollout", "in an update")
        turns = ", with --rl.offload in turns" if self.offload else ""
        return Sheet(f"Memory of {self.what} on {self.device}{turns}, GB", columns, rows)


def require_room(plan: MemoryPlan, available: float | None, advice: Callable[[float], str], overrule: str) -> None:
    """Raise InputError if a plan does not fit in the memory of its device.

    Args:
        plan: the plan.
        available: memory of the device in GB; None if unknown.
        advice: what to change, given that memory.
        overrule: flag that begins nevertheless.
    """
    if available is not None and plan.peak > available:
        nevertheless = f". {overrule} begins nevertheless" if overrule else ""
        raise InputError(
            f"{plan.what} needs {plan.peak:.3g} GB, but the device has {available:.3g} GB. It would run out of memory. "
            f"{advice(available)}{nevertheless}"
        )


def plan_rl(
    policy: Policy,
    world: WorldModel,
    judge: Judge,
    rl: ReinforceConfig,
    device: str,
    audit: Judge | None = None,
    workers: Workers | None = None,
    what: str = "rl",
) -> MemoryPlan:
    """Count the roles of reinforcement learning, and the workers that roll out, one group at a time."""
    kind = torch.device(device).type
    share = min(1.0, rl.group_size / rl.rows)
    plan = MemoryPlan(what, device, offload=rl.offload and kind != "cpu", workers=workers, worker_share=share)
    if rl.offload and kind == "cpu":
        plan.unknown.append("--rl.offload: what waits lies in the same memory on a CPU, so the peak is not lower")
    led = leader()
    shards = led.size if led is not None and rl.trainer.shard else 1
    if shards > 1:
        plan.unknown.append(f"--rl.trainer.shard: the plan is that of process 0 of {shards}; the others need less")
    plan.add("policy", policy, lambda: policy_memory(policy, world, rl, kind, shards))
    plan.add("world model", world, lambda: world_memory(world, rl, kind))
    for name, each in (("judge", judge), ("audit judge", audit)):
        if each is None:
            continue
        if each.is_remote and not modules_in(each):
            plan.roles.append(RoleMemory(name, 0))
            continue
        count = functools.partial(judge_memory, each, world, rl, kind)
        plan.add(name, each, lambda count=count, name=name: replace(count(), role=name))
    return plan


def plan_rounds(policy: Policy, world: WorldModel, judge: Judge, config: IterSftConfig, device: str) -> MemoryPlan:
    """Count the roles of rounds of imagination and imitation (`iter-sft`)."""
    looks = TrainerConfig(micro_batch=1)  # its update is not that of imitation, and not used
    rl = ReinforceConfig(rows=config.rows, horizon=config.horizon, execute=config.execute, trainer=looks)
    kind, plan = torch.device(device).type, MemoryPlan("iter-sft", device)

    def count() -> RoleMemory:
        sizes = picture_sizes(policy.cameras, world.frame_size, tiling_of(world))
        learning = imitation_memory(policy, sizes, config.batch, config.fit.precision, kind, is_finetuned=True)
        return replace(learning, rollout=policy_memory(policy, world, rl, kind).rollout)

    plan.add("policy", policy, count)
    plan.add("world model", world, lambda: world_memory(world, rl, kind))
    plan.add("judge", judge, lambda: judge_memory(judge, world, rl, kind))
    return plan


def advise_rounds(plan: MemoryPlan, config: IterSftConfig, available: float) -> str:
    """What to change so that `iter-sft` fits in `available` GB.

    >>> roles = [RoleMemory("policy", int(1e9), int(3e9), int(1e9), int(8e9))]
    >>> advise_rounds(MemoryPlan("iter-sft", "cpu", roles), IterSftConfig(batch=64), 8.0)
    'Add --batch 32'
    """
    rl = ReinforceConfig(rows=config.rows, trainer=TrainerConfig(micro_batch=config.batch))
    advice = advise_roles(plan.roles, rl, available)
    return advice.replace("--rl.rows", "--rows").replace("--rl.trainer.micro-batch", "--batch")


def pool_workers(pool: str, count: int, device: str, address: str = "") -> Workers | None:
    """The workers of `--pool` and `--workers`, which share this machine's GPUs or its memory; None without any.

    Those of a cluster are on unknown nodes.

    >>> pool_workers("ray", 4, "cpu"), pool_workers("local", 4, "cpu")
    (Workers(count=4, devices=1), None)
    """
    if pool == "local":
        return None
    if address:
        return Workers(count, 0)
    return Workers(count, max(1, torch.cuda.device_count() if torch.device(device).type == "cuda" else 1))


def plan_sft(start: Policy | None, config: PolicyTraining, episodes: EpisodeSet, device: str) -> MemoryPlan:
    """Count a policy that imitates episodes, from `start` or from new weights."""
    kind, plan = torch.device(device).type, MemoryPlan("sft", device)
    policy = start
    if policy is None:
        with torch.device("meta"):
            policy = make("policies", config.policy, ComponentInfo(action_spec=episodes.spec))
    sizes = picture_sizes(policy.cameras, episodes.size, episodes.tiling)
    plan.add(
        "policy",
        policy,
        lambda: imitation_memory(
            policy,
            sizes,
            config.batch,
            config.fit.precision,
            kind,
            is_finetuned=start is not None,
            optimizer=config.fit.optimizer,
        ),
    )
    if config.fit.shard:
        plan.unknown.append("--fit.shard: the plan is that of one process without it, so each process needs less")
    return plan


def check_memory(plan: MemoryPlan, advice: Callable[[float], str], *, is_overruled: bool) -> None:
    """Print the plan of a training that is about to begin, and refuse it if it does not fit.

    Args:
        plan: the plan.
        advice: what to change, given the memory of the device in GB.
        is_overruled: begin nevertheless (`--over-memory`).

    Raises:
        InputError: it does not fit.
    """
    available = device_bytes(plan.device) / _GB
    if rank() == 0:
        plan.show(available)
    if not is_overruled:
        require_room(plan, available, advice, "--over-memory")


def move_to_device(
    components: Components,
    policy: Path,
    device: str,
    out: Path,
    make_plan: Callable[[], MemoryPlan],
    advice: Callable[[MemoryPlan, float], str],
    *,
    is_overruled: bool,
) -> None:
    """Check the memory plan of a training, move its components to the device, and self-test the policy there.

    The plan comes first, while the weights are still on the CPU; a finished run needs none.

    Args:
        components: what is moved.
        policy: file of the policy.
        device: where they run.
        out: run folder.
        make_plan: count the roles.
        advice: what to change, given the plan and the memory of the device in GB.
        is_overruled: begin although the plan does not fit (`--over-memory`).

    Raises:
        InputError: the plan does not fit, or the policy is a published one that does not see.
    """
    if not is_finished(out):
        plan = make_plan()
        check_memory(plan, functools.partial(advice, plan), is_overruled=is_overruled)
    components.to(device)
    self_test(components.policy, policy)


def advise_rl(plan: MemoryPlan, rl: ReinforceConfig, available: float) -> str:
    """What to change so that RL, with its workers, fits in `available` GB.

    >>> policy = RoleMemory("policy", int(1e9), int(3e9), int(1e9), int(2e9))
    >>> advise_rl(MemoryPlan("rl", "cpu", [policy], workers=Workers(8, 2)), ReinforceConfig(), 11.0)
    'Use --workers 4'
    """
    rest = available - (plan.peak - plan.workers_here)
    if plan.workers is None or not plan.workers.here or rest < 0:
        return advise_roles(plan.roles, rl, available, plan.device)
    fitting = int(rest * plan.workers.here / plan.workers_here)
    if fitting:
        return f"Use --workers {fitting * plan.workers.devices}"
    return "No worker fits beside the training. Use --pool local, or a larger device"


def advise_roles(roles: Sequence[RoleMemory], rl: ReinforceConfig, available: float, device: str = "cpu") -> str:
    """What to change so that these roles of RL, in the process that trains, fit in `available` GB.

    >>> world = RoleMemory("world model", int(6e9), rollout=int(1e9))
    >>> lora = RoleMemory("policy", int(1e9), int(3e9), int(1e9), int(3e9), waiting=int(3e9))
    >>> advise_roles([lora, world], ReinforceConfig(), 9.0, "cuda")
    'Add --rl.offload'

    >>> policy = RoleMemory("policy", int(1e9), int(3e9), int(1e9), int(8e9))
    >>> advise_roles([policy], ReinforceConfig(), 8.0)
    'Add --rl.trainer.micro-batch 8'
    >>> advise_roles([policy], ReinforceConfig(), 4.0).split(".")[0]
    'Weights, gradients and optimizer take 4 GB, which leaves too little for one rollout at a time'
    """
    if not rl.offload and peak(roles, offload=True) / _GB <= available and device != "cpu":
        return "Add --rl.offload"
    in_turns = rl.offload and device != "cpu"
    waiting = sum(role.waiting if in_turns else 0 for role in roles)
    absent = sum(role.stored if role.training else role.kept for role in roles) if in_turns else 0
    room = available - sum(role.kept for role in roles) / _GB
    needs = {
        "--rl.rows {}": (rl.rows, max(role.rollout for role in roles), waiting),
        "--rl.trainer.micro-batch {}": (rl.trainer.micro_batch, max(role.update for role in roles), absent),
    }
    fitting = {
        flag: int(count * (room + away / _GB) * _GB / needed)
        for flag, (count, needed, away) in needs.items()
        if needed / _GB > room + away / _GB
    }
    if min(fitting.values(), default=0) < 1:
        return (
            f"Weights, gradients and optimizer take {available - room:.3g} GB, which leaves too little for one rollout "
            "at a time. Train fewer weights (adapters), store them in 16 bits, or use a smaller policy or a larger "
            "device"
        )
    return "Add " + " ".join(flag.format(count) for flag, count in fitting.items())


def advise_sft(roles: Sequence[RoleMemory], batch: int, available: float) -> str:
    """What to change so that imitation fits in `available` GB.

    >>> advise_sft([RoleMemory("policy", int(1e9), int(3e9), update=int(8e9))], 64, 8.0)
    'Add --batch 32'
    """
    room, update = available - sum(role.kept for role in roles) / _GB, max(role.update for role in roles) / _GB
    fitting = int(batch * room / update) if update else 0
    if fitting < 1:
        return (
            f"Weights, gradients and optimizer take {available - room:.3g} GB, which leaves too little for one look. "
            "Train fewer weights (adapters), or use a smaller policy or a larger device"
        )
    return f"Add --batch {fitting}"
