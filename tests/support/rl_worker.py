"""Workers of `test_rl_processes`, one torchrun for several trainings: rl_worker.py OUT.

OUT/plain, OUT/split, OUT/adapters     replicated: one micro-batch per process, many, LoRA adapters
OUT/shard, OUT/shard-adapters          the same sharded
OUT/shards-for-one                     sharded, stopped after a step; the test resumes it with one process
OUT/one-for-shards, OUT/one-for-two    began in the test with one process, and are resumed here, sharded or not
OUT/shards-for-two                     sharded, stopped after a step, resumed here replicated
OUT/other                              refused: the processes have different policies
OUT/killed                             slow, and killed by the test
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ray_parts import HORIZON, NoisyLamp, Rooms, imagination, small_policy
from torch import Tensor

from worldgymnast import processes
from worldgymnast.errors import InputError
from worldgymnast.policies.lora import add_adapters
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.recipes.finetune import finetune
from worldgymnast.rl.objective import ObjectiveConfig
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import TrainerConfig

WHOLE = TrainerConfig(lr=5e-3, micro_batch=12, updates=2)
"""At most one micro-batch for each of two processes."""
SPLIT = TrainerConfig(lr=5e-3, micro_batch=5, updates=2, objective=ObjectiveConfig(kl=0.1))
"""Micro-batches that two processes cannot share equally, and a gradient that needs the start policy."""


class Adapted(SmallVLA):
    """A policy that trains LoRA adapters of its head."""

    def trainable_state(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    @torch.no_grad()
    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        own = dict(self.named_parameters())
        for name, value in state.items():
            own[name].copy_(value)


def adapted() -> SmallVLA:
    policy = small_policy()
    policy.__class__ = Adapted
    add_adapters(policy, ["head.0", "head.2", "head.4"], rank=4, alpha=8.0)
    return policy


class Stopped(Exception):
    """Takes the place of a kill where several trainings share their processes."""


def learn(
    out: Path, trainer: TrainerConfig, policy: SmallVLA | None = None, stop: int | None = None, pause: float = 0.0
) -> None:
    """Train in OUT; `stop` ends it while that step is logged, `pause` are seconds per step of the world."""

    def watch(step: int, metrics: Mapping[str, float]) -> None:
        if step == stop:
            raise Stopped

    config = ReinforceConfig(
        steps=2,
        starts=6,
        group_size=4,
        horizon=HORIZON,
        rows=8,
        temperature=1.0,
        evaluate_every=100,
        save_every=1,
        trainer=trainer,
    )
    result = finetune(policy or small_policy(), imagination(NoisyLamp(pause)), Rooms(), out, config, on_metrics=watch)
    note(out, result.policy.trainable_state())


def note(out: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the sum of the weights that this process has at the end."""
    total = sum(float(weight.detach().double().sum()) for weight in weights.values())
    (out / f"sum-{processes.rank()}.json").write_text(json.dumps(total))


def stopped(*args: Any, **kwargs: Any) -> None:
    """Train until the leader is stopped; the others then end with an `InputError`."""
    expected = Stopped if processes.rank() == 0 else InputError
    try:
        learn(*args, **kwargs)
    except expected:
        return
    raise AssertionError("not stopped")


def main(out: Path) -> None:
    shard = replace(SPLIT, shard=True)
    learn(out / "plain", WHOLE)
    learn(out / "split", SPLIT)
    learn(out / "shard", shard)
    learn(out / "adapters", SPLIT, adapted())
    learn(out / "shard-adapters", shard, adapted())
    stopped(out / "shards-for-one", shard, stop=1)
    stopped(out / "shards-for-two", shard, stop=1)
    learn(out / "shards-for-two", SPLIT)
    learn(out / "one-for-shards", shard)
    learn(out / "one-for-two", SPLIT)
    try:
        learn(out / "other", SPLIT, small_policy(processes.rank()))
    except InputError as error:
        if processes.rank() == 0:
            (out / "refusal.txt").write_text(str(error))
    (out / f"pid-{processes.rank()}").write_text(str(os.getpid()))
    try:
        learn(out / "killed", shard, pause=0.1)
    except InputError as error:
        print(f"process {processes.rank()}: {error}", file=sys.stderr)
        processes.exit_process(2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes.initialize("cpu")
    main(Path(sys.argv[1]))
    processes.exit_process(0)
