"""One step of RL in imagination: where its time goes, and how much of it is not model arithmetic.

The step is the quickstart's, on the starter parts or on given ones. After one step to warm up, one is timed and one
runs under torch's profiler, whose operator times are what is called model arithmetic; the rest of that step is Python,
numpy and bookkeeping.

    python benchmarks/reinforcement.py
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from worldgymnast.environments import environment
from worldgymnast.recipes.quickstart import QuickstartConfig, starter
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.rl.trainer import Trainer
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.pool import LocalPool


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("policy", "world", "judge"):
        parser.add_argument(f"--{name}", type=Path, default=starter(name))
    args = parser.parse_args()
    config = QuickstartConfig()
    rl, env = config.finetune.rl, environment(config.env)
    policy, world, judge = load_policy(args.policy), load_world(args.world), load_judge(args.judge)

    imagine = Imagination.of(policy, world, judge, rl.horizon)
    pool = LocalPool(policy, imagine, imagine.verdict_source, rows=rl.rows, temperature=rl.temperature, seed=0)
    trainer = Trainer(policy, rl.trainer)
    sample = PhotographedStarts(env, 2, config.photograph_layout)
    sample(np.random.default_rng(0), 1)

    def step(index: int) -> tuple[float, float, int]:
        starts = sample(np.random.default_rng(index), rl.starts)
        began = time.perf_counter()
        groups = pool.begin(starts, rl.group_size)()
        collected = time.perf_counter()
        trainer.update(groups, torch.Generator().manual_seed(index))
        frames = sum(len(r.frames) - 1 for g in groups for r in g.rollouts)
        return collected - began, time.perf_counter() - collected, frames

    step(0)
    collect, update, frames = step(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        profiled = sum(step(2)[:2])
    operators = [e for e in profiler.key_averages() if e.key.startswith(("aten::", "Optimizer."))]
    inside = sum(e.self_cpu_time_total for e in operators) / 1e6
    print(f"threads {torch.get_num_threads()}, {rl.starts} starts x {rl.group_size} rollouts x {rl.horizon} actions")
    print("| | |\n|---|---|")
    print(f"| collect, seconds | {collect:.1f} |\n| update, seconds | {update:.1f} |")
    print(f"| imagined frames per second, all included | {frames / collect:.0f} |")
    print(f"| time outside model arithmetic | {1 - inside / profiled:.0%} |")
    print(f"| peak memory before the profiled step, GB | {peak:.1f} |")


if __name__ == "__main__":
    main()
