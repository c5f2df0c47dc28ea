"""Training steps of the default world model with batches made in a thread, by the threads that torch uses there.

One run, both ways in turn: a thread in which torch computes on all cores, and one in which it computes on one core
(`worldgymnast.threads`), as `training.fit` does. Random latents and actions; needs at least two cores.

    python benchmarks/batch_thread.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from worldgymnast.actions import metaworld_spec
from worldgymnast.precision import autocast, compute_dtype
from worldgymnast.threads import single_threaded_worker
from worldgymnast.training.world import EMBEDDED
from worldgymnast.worldmodel.sampler import LatentWorldModel

WORKERS: dict[str, Callable[[], ThreadPoolExecutor]] = {
    "all cores": lambda: ThreadPoolExecutor(1),
    "one core": lambda: single_threaded_worker("batches"),
}


def batch(clips: int, length: int) -> Mapping[str, Any]:
    """A batch of the world model's loss, from latents in 16 bits as in training."""
    t = EMBEDDED.transformer
    stored = torch.randn(clips, length + 1, *t.grid, t.channels).half()
    return {
        "latents": stored.float(),
        "actions": torch.rand(clips, length, t.action_dim) * 2 - 1,
        "mask": torch.ones(clips, length, dtype=torch.bool),
        "success": torch.zeros(clips, length + 1, dtype=torch.bool),
        "labelled": torch.ones(clips, dtype=torch.bool),
        "instruction": ("push",) * clips,
        "progress": 1.0,
    }


def seconds_per_step(world: LatentWorldModel, worker: ThreadPoolExecutor, steps: int, clips: int, length: int) -> float:
    """Mean time of a step after a first one."""
    began = 0.0
    pending = worker.submit(batch, clips, length)
    for step in range(steps + 1):
        if step == 1:
            began = time.perf_counter()
        given = pending.result()
        pending = worker.submit(batch, clips, length)
        with autocast("auto", world.device):
            loss, _ = world.loss({**given, "generator": torch.Generator().manual_seed(step)})
        loss.backward()
        world.zero_grad()
    return (time.perf_counter() - began) / steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world = LatentWorldModel(EMBEDDED, metaworld_spec(6), 10.0).train()
    times: dict[str, list[float]] = {name: [] for name in WORKERS}
    for _ in range(args.repeats):
        for name, make in WORKERS.items():
            with make() as worker:
                times[name].append(seconds_per_step(world, worker, args.steps, args.clips, args.length))
    ratios = [slow / fast for slow, fast in zip(*times.values(), strict=True)]
    print(f"threads {args.threads}, {compute_dtype('auto', world.device)}, {args.repeats} x {args.steps} steps of "
          f"{args.clips} clips x {args.length} actions")  # fmt: skip
    print("| torch in the batch thread | seconds per step, median | speed |\n|---|---|---|")
    for name, each in times.items():
        speed = (
            "1.00"
            if name == "all cores"
            else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
        print(f"| {name} | {statistics.median(each):.2f} | {speed} |")


if __name__ == "__main__":
    main()
