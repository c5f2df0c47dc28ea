"""The command plan: the memory that reinforcement learning will take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch

from worldgymnast.cli.checks import check_observed, check_same_actions, refuse_pool_flags
from worldgymnast.cli.command import Command, OptionalPath
from worldgymnast.cli.memory_plan import advise_rl, plan_rl, pool_workers, require_room
from worldgymnast.cli.starters import component_files
from worldgymnast.configs import Between, Positive, checked
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
        pool: as in rl; "ray" adds the workers. With "cuda", this machine's GPUs share them, or one GPU has them all.
        workers: Ray workers, each with its own copy of policy, world model and local judge.
    """

    policy: OptionalPath = None
    world: OptionalPath = None
    judge: OptionalPath = None
    rl: ReinforceConfig = ReinforceConfig()
    device: Literal["cpu", "cuda"] | None = None
    memory: Annotated[float, Between(1e-3, 1e5)] | None = None
    pool: Literal["local", "ray"] = "local"
    workers: Positive = 2

    def __call__(self) -> int:
        """Print the table.

        Raises:
            InputError: the training does not fit.
        """
        refuse_pool_flags(self.pool, self.given_flags)
        self.prepare()
        files = component_files(policy=self.policy, world=self.world, judge=self.judge)
        policy, world = load_policy(files["policy"], is_tested=False), load_world(files["world"])
        check_same_actions(files["policy"], policy.action_spec, files["world"], world.action_spec)
        check_observed(files["policy"], policy, files["world"], world)
        judge = load_judge(files["judge"], "cpu", Ledger(Path("unused")))
        has_gpu = torch.cuda.is_available()
        device = self.device or ("cuda" if self.memory is not None or has_gpu else "cpu")
        workers = pool_workers(self.pool, self.workers, device)
        plan = plan_rl(policy, world, judge, self.rl, device, workers=workers)
        available = self.memory
        if available is None and device == "cuda" and has_gpu:
            available = device_bytes(device) / _GB
        plan.show(available)
        require_room(plan, available, lambda room: advise_rl(plan, self.rl, room), "")
        return 0
