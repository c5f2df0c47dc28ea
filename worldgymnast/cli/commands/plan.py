"""The command plan: the memory that reinforcement learning will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch

from worldgymnast.cli.checks import check_observed, check_same_actions
from worldgymnast.cli.command import Command, OptionalPath
from worldgymnast.cli.starters import component_files
from worldgymnast.configs import Between, checked
from worldgymnast.errors import InputError
from worldgymnast.ledger import Ledger
from worldgymnast.measure.memory import RoleMemory, judge_memory, peak, policy_memory, world_memory
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.report import tables
from worldgymnast.report.world import Sheet
from worldgymnast.rl.reinforce import ReinforceConfig

_GB = 1e9


@checked(kw_only=True)
class Plan(Command):
    """Compute the memory that rl takes on its device, without allocating it.

    Attributes:
        policy: policy file; the starter policy if omitted.
        world: world-model file; the starter world model if omitted.
        judge: judge file, weights or a description (.json); the starter judge if omitted.
        rl: the training.
        memory: memory of the device in GB (1e9 bytes); default that of this machine's GPU, if it has one.
    """

    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    rl: ReinforceConfig = ReinforceConfig()
    memory: Annotated[float, Between(1e-3, 1e5)] | None = None

    def __call__(self) -> int:
        """Print the table.

        Raises:
            InputError: the training does not fit.
        """
        files = component_files(policy=self.policy, world=self.world, judge=self.judge)
        policy, world = load_policy(files["policy"]), load_world(files["world"])
        check_same_actions(files["policy"], policy.action_spec, files["world"], world.action_spec)
        check_observed(files["policy"], policy, files["world"], world)
        judge = load_judge(files["judge"], "cpu", Ledger(Path("unused")))
        roles = [
            policy_memory(policy, world, self.rl),
            world_memory(world, self.rl),
            judge_memory(judge, world, self.rl),
        ]
        total, available = peak(roles) / _GB, self._available()
        tables.show(tables.sheet(_sheet(roles)))
        print(f"peak {total:.3g} GB" + ("" if available is None else f" of {available:.3g} GB"))
        if available is not None and total > available:
            raise InputError(
                f"rl needs {total:.3g} GB, but the device has {available:.3g} GB. It would run out of memory. "
                f"{advice(roles, self.rl, available)}"
            )
        return 0

    def _available(self) -> float | None:
        """Memory of the device in GB, if known."""
        if self.memory is not None:
            return self.memory
        return torch.cuda.get_device_properties(0).total_memory / _GB if torch.cuda.is_available() else None


def advice(roles: Sequence[RoleMemory], rl: ReinforceConfig, available: float) -> str:
    """What to change so that a training fits in `available` GB.

    >>> policy = RoleMemory("policy", int(1e9), int(3e9), int(1e9), int(8e9))
    >>> advice([policy], ReinforceConfig(), 8.0)
    'Add --rl.trainer.micro-batch 8'
    >>> advice([policy], ReinforceConfig(), 4.0).split(".")[0]
    'Weights, gradients and optimizer take 4 GB, which leaves too little for one rollout at a time'
    """
    room = available - sum(role.weights + role.training for role in roles) / _GB
    each = {
        "--rl.rows {}": (rl.rows, max(role.rollout for role in roles) / _GB),
        "--rl.trainer.micro-batch {}": (rl.trainer.micro_batch, max(role.update for role in roles) / _GB),
    }
    fitting = {flag: int(count * room / needed) for flag, (count, needed) in each.items() if needed > room}
    if min(fitting.values(), default=0) < 1:
        return (
            f"Weights, gradients and optimizer take {available - room:.3g} GB, which leaves too little for one rollout "
            "at a time. Train fewer weights (adapters), store them in 16 bits, or use a smaller policy or a larger "
            "device"
        )
    return "Add " + " ".join(flag.format(count) for flag, count in fitting.items())


def _sheet(roles: Sequence[RoleMemory]) -> Sheet:
    """Table of the roles."""
    rows = [
        [role.role, *(f"{value / _GB:.3f}" for value in (role.weights, role.training, role.rollout, role.update))]
        for role in roles
    ]
    columns = ("", "weights", "gradients, optimizer", "in a rollout", "in an update")
    return Sheet("Memory of rl on its device, GB", columns, rows)
