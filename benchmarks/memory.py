"""Compares the memory plan with what is measured, and with what was measured on GPUs.

    python benchmarks/memory.py
    python benchmarks/memory.py --gpu-table

The first command plans the starter components, and then runs each role in a process of its own with real tensors: once
with the bytes of living tensors counted, and once with the resident memory that the system gives, above that of the
process before. The second repeats what docs/explanation/imagination-speed.md measured, on tensors without contents:
608M parameters, a few minutes on one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import worldgymnast as wg
from worldgymnast.actions import WORLDGYM
from worldgymnast.measure.live_bytes import LiveBytes, counting, fake_copy
from worldgymnast.measure.memory import (
    RoleMemory,
    _observation,
    judge_memory,
    module_bytes,
    policy_memory,
    world_memory,
)
from worldgymnast.recipes.presets import WORLDS
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.types import Clip
from worldgymnast.worldmodel.sampler import LatentWorldModel

CONFIG = ReinforceConfig(rows=32, horizon=24, trainer=TrainerConfig(micro_batch=16))
MEASURED = {("b", 1): 12.9, ("b", 8): 33.7, ("c", 1): 7.8, ("c", 8): 15.1, ("c", 32): 40.0}
"""GB on GPUs by way and batch, with the benchmark's own copies: docs/explanation/imagination-speed.md."""


def acting() -> None:
    """A look of all rows."""
    policy, world = wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world"))
    policy.act(_observation(policy, world, 1), temperature=1.0, generator=None)
    yield_to(lambda: policy.act(_observation(policy, world, CONFIG.rows), temperature=1.0, generator=None))


def updating() -> None:
    """A micro-batch."""
    policy, world = wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world"))
    obs = _observation(policy, world, CONFIG.trainer.micro_batch * CONFIG.horizon // policy.chunk)
    chunk = policy.act(obs, temperature=1.0, generator=None)
    yield_to(lambda: policy.logprobs(obs, chunk).sum().backward())


def imagining() -> None:
    """The frames of all rows, until the window is full."""
    world: Any = wg.load_world(wg.starter("world"))

    def work() -> None:
        state, generator = world.start(torch.zeros(CONFIG.rows, 64, 64, 3, dtype=torch.uint8)), torch.Generator()
        for _ in range(world.config.transformer.window + 1):
            state, _ = world.step(state, torch.zeros(CONFIG.rows, 1, 4), generator=generator)

    yield_to(work)


def judging() -> None:
    """The clips of all rows."""
    import numpy as np

    judge = wg.load_judge(wg.starter("judge"))
    clip = Clip(np.zeros((CONFIG.horizon + 1, 64, 64, 3), np.uint8), "open the drawer", "", True)
    judge.score([clip])
    yield_to(lambda: judge.score([clip] * CONFIG.rows))


_MEASURES: list[Callable[[Callable[[], object]], None]] = []
"""What measures a role in this process."""


def yield_to(work: Callable[[], object]) -> None:
    """Give the work of a role to whatever measures it in this process."""
    _MEASURES[-1](work)


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024


def _measured(role: Callable[[], None], queue: Any, kind: str) -> None:
    """Measure a role in this process: "living" tensors, or "resident" memory."""

    def use(work: Callable[[], object]) -> None:
        if kind == "living":
            with torch.set_grad_enabled(role is updating), LiveBytes() as memory:
                work()
            queue.put(memory.peak)
            return
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        with torch.set_grad_enabled(role is updating):
            work()
        queue.put(_status("VmHWM") - before)

    _MEASURES.append(use)
    role()


def measured(role: Callable[[], None], kind: str) -> float:
    """Megabytes that a role takes, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measured, args=(role, queue, kind))
    process.start()
    taken = queue.get()
    process.join()
    return taken / 1e6


def cpu_table() -> None:
    """Print the plan of the starter components beside what is measured."""
    policy, world = wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world"))
    judge = wg.load_judge(wg.starter("judge"))
    planned: RoleMemory = policy_memory(policy, world, CONFIG)
    gradients = module_bytes(policy)
    rows = (
        ("policy acts", planned.rollout, acting),
        ("policy is updated", planned.update + gradients, updating),
        ("world model", world_memory(world, CONFIG).rollout, imagining),
        ("judge", judge_memory(judge, world, CONFIG).rollout, judging),
    )
    print("| MB | planned | living tensors | resident memory | living / planned | resident / planned |")
    print("|---|---|---|---|---|---|")
    for name, plan, role in rows:
        living, resident = measured(role, "living"), measured(role, "resident")
        mb = plan / 1e6
        print(
            f"| {name} | {mb:.0f} | {living:.0f} | {resident:.0f} | {living / mb:.2f} | {resident / mb:.2f} |",
            flush=True,
        )


def gpu_table() -> None:
    """Print the peaks that GPUs had beside the same work on tensors without contents."""
    preset = WORLDS["bridge-600m"]().world
    ways: dict[str, dict[str, Any]] = {
        "b": {"slide": "recompute", "steps": 10},
        "c": {"slide": "band", "steps": 1, "guidance": 1.0},
    }
    print("| way | batch | derived, GB | measured, GB | ratio |\n|---|---|---|---|---|")
    for (way, batch), measured_gb in MEASURED.items():
        with torch.device("meta"):
            world = LatentWorldModel(replace(preset, **ways[way]), WORLDGYM, 5.0).eval()
            quick = LatentWorldModel(replace(preset, **{**ways[way], "steps": 1}), WORLDGYM, 5.0).eval()
        weights = module_bytes(world)
        fakes: list[Any] = [fake_copy(world), fake_copy(quick)]
        grid, channels = world.config.transformer.grid, world.config.transformer.channels
        depth, width = world.config.transformer.window + 1, world.action_spec.dim
        with torch.no_grad(), counting("cuda") as memory:
            state = fakes[1].start_latent(torch.zeros(1, *grid, channels))
            state, _ = fakes[1].imagine(state, torch.zeros(1, depth, width), generator=torch.Generator())
            deep = memory.peak
            state = state.fork(torch.zeros(batch, dtype=torch.long))
            held = memory.live
            memory.peak = memory.live
            fakes[0].step(state, torch.zeros(batch, 1, width), generator=torch.Generator())
            step = memory.peak
        copies = 2 * weights  # the world that the benchmark loaded, and the way made of it
        made = deep + (weights if way == "b" else 0)  # (b) makes the state with a third copy
        derived = (copies + held + max(step, made)) / 1e9  # `held`: a state of the timing lay beside it
        print(f"| ({way}) | {batch} | {derived:.1f} | {measured_gb} | {derived / measured_gb:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu-table", action="store_true", help="derive the peaks that were measured on GPUs")
    if parser.parse_args().gpu_table:
        gpu_table()
    else:
        cpu_table()
