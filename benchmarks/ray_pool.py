"""Rollouts a second in Ray workers, beside one process: how well workers pay, and what each one costs.

The parts are the starter policy, world model and judge, with one thread each, on starts of random pixels. After one
round to warm up, several rounds of groups are timed. The second judge sleeps before it answers each group. The groups
must equal those of one process, bit for bit.

    python benchmarks/ray_pool.py --workers 1 2 4
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldgymnast.protocols import Judge, Policy, RolloutPool
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.run import weights_hash
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.surrogates.ray_cluster import connected
from worldgymnast.surrogates.ray_pool import RayConfig, RayPool, ray_pool
from worldgymnast.types import Clip, RolloutGroup, Start, Verdict

ROUNDS, STARTS, SIZE, HORIZON = 2, 8, 8, 8


@dataclass(frozen=True)
class Sleeping:
    """A judge that waits, as a model on another device does; each worker has one.

    Attributes:
        judge: decides.
        pause: seconds per group.
    """

    judge: Judge
    pause: float
    name: str = "sleeping"
    identity: str = "sleeping"
    is_remote: bool = False

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """Answer after the pause."""
        time.sleep(self.pause)
        return self.judge.score(clips)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--pause", type=float, default=1.0, help="seconds of the sleeping judge")
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy, world, judge = (load(starter(name)) for load, name in PARTS)
    print(f"{_processor()}, load average {os.getloadavg()[0]:.1f} before")
    print(f"{ROUNDS} rounds of {STARTS} groups x {SIZE} rollouts x {HORIZON} actions")
    columns = "judge | pool | groups/s | efficiency | CPU s per group | MB per worker | equal to one process"
    print(f"| {columns} |\n|---|---|---|---|---|---|---|")
    with connected(cpus=max(args.workers)):
        for name, one in (("classifier", judge), (f"sleeps {args.pause:g} s", Sleeping(judge, args.pause))):
            imagination = replace(Imagination.of(policy, world, one, HORIZON), every=policy.chunk)
            table(name, policy, imagination, args.workers)


PARTS = ((load_policy, "policy"), (load_world, "world"), (load_judge, "judge"))


@dataclass(frozen=True)
class Measured:
    """What one pool did.

    Attributes:
        rate: groups a second.
        cpu: CPU seconds per group, of this process and all workers; other programs do not change it.
        memory: of the largest worker, MB.
        content: all that the groups contain.
    """

    rate: float
    cpu: float
    memory: float
    content: list[Any]


def table(name: str, policy: Policy, imagination: Imagination, counts: Sequence[int]) -> None:
    """Prints the rows of one judge."""
    options: dict[str, Any] = {"rows": 96, "temperature": 0.5, "seed": 0}
    local = LocalPool(policy, imagination, imagination.verdict_source, streams="group", **options)
    one = measure(nullcontext(local), policy, imagination)
    print(f"| {name} | one process | {one.rate:.2f} | | {one.cpu:.2f} | | |", flush=True)
    base = 0.0
    for count in counts:
        done = measure(ray_pool(policy, imagination, RayConfig(workers=count), **options), policy, imagination)
        base = base or done.rate / count
        cells = [f"{done.rate:.2f}", f"{done.rate / count / base:.0%}", f"{done.cpu:.2f}", f"{done.memory:.0f}"]
        equal = "yes" if done.content == one.content else "NO"
        print("| " + " | ".join([name, f"{count} worker{'s' * (count > 1)}", *cells, equal]) + " |", flush=True)


def measure(opened: AbstractContextManager[RolloutPool], policy: Policy, imagination: Imagination) -> Measured:
    """Rolls out all rounds; the first is not timed."""
    groups: list[RolloutGroup] = []
    began = cpu = 0.0
    with opened as pool:
        if isinstance(pool, RayPool):
            pool.wait_until_started()
        for version in range(ROUNDS + 1):
            if version == 1:
                began, cpu = time.perf_counter(), _cpu_seconds()
            pool.sync(policy.trainable_state(), version)
            groups += pool.begin(rooms(version, imagination), SIZE)()
        seconds, cpu, memory = time.perf_counter() - began, _cpu_seconds() - cpu, _worker_memory()
    count = ROUNDS * STARTS
    return Measured(count / seconds, cpu / count, memory, [_content(group) for group in groups])


def rooms(seed: int, imagination: Imagination) -> list[Start]:
    """Starts of random pixels."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (STARTS, *imagination.world.frame_size, 3), dtype=np.uint8)
    return [Start(frame, "open the drawer", "drawer-open-v3") for frame in frames]


def _content(group: RolloutGroup) -> list[Any]:
    return [
        (weights_hash({"a": r.chunks.actions, "p": r.chunks.logprobs}), r.frames.tobytes(), r.verdict)
        for r in group.rollouts
    ]


def _worker_memory() -> float:
    """Private and shared memory of the largest worker, in MB (proportional set size)."""
    reports = [(process / "smaps_rollup").read_text().splitlines() for process in _workers()]
    rows = [row for report in reports for row in report if row.startswith("Pss:")]
    return max((float(row.split()[1]) / 1024 for row in rows), default=0.0)


def _cpu_seconds() -> float:
    """CPU time of this process and all workers."""
    stats = [(process / "stat").read_text().rpartition(")")[2].split() for process in _workers()]
    ticks = sum(int(stat[11]) + int(stat[12]) for stat in stats)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _workers() -> list[Path]:
    """The entries of /proc of all workers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_text().startswith("ray::Worker"):
                found.append(process)
    return found


def _processor() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


if __name__ == "__main__":
    main()
