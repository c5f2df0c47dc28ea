"""The command plan: the memory that reinforcement learning will take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch

from worldgymnast.cli.checks import check_observed, check_same_actions
from worldgymnast.cli.command import Command, OptionalPath
from worldgymnast.cli.memory_plan import advice_rl, plan_rl, require_room
from worldgymnast.cli.starters import component_files
from worldgymnast.configs import Between, checked
from worldgymnast.ledger import Ledger
from worldgymnast.measure.machine import device_bytes
from worldgymnast.registry import load_judge, load_policy, load_world
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
        device: kind of the device; "cuda" computes in bfloat16, a CPU only if it can. Default: "cuda" with --memory or
            if this machine has a GPU.
        memory: memory of the device in GB (1e9 bytes); default that of this machine's GPU, if it has one.
    """

    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    rl: ReinforceConfig = ReinforceConfig()
    device: Literal["cpu", "cuda"] | None = None
    memory: Annotated[float, Between(1e-3, 1e5)] | None = None

    def __call__(self) -> int:
        """Print the table.

        Raises:
            InputError: the training does not fit.
        """
        files = component_files(policy=self.policy, world=self.world, judge=self.judge)
        policy, world = load_policy(files["policy"], is_tested=False), load_world(files["world"])
        check_same_actions(files["policy"], policy.action_spec, files["world"], world.action_spec)
        check_observed(files["policy"], policy, files["world"], world)
        judge = load_judge(files["judge"], "cpu", Ledger(Path("unused")))
        has_gpu = torch.cuda.is_available()
        device = self.device or ("cuda" if self.memory is not None or has_gpu else "cpu")
        plan = plan_rl(policy, world, judge, self.rl, device)
        available = self.memory
        if available is None and device == "cuda" and has_gpu:
            available = device_bytes(device) / _GB
        plan.show(available)
        require_room(plan, available, lambda room: advice_rl(plan.roles, self.rl, room, device), "")
        return 0
