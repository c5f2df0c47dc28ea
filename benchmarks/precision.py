"""Imagination in 32 and in 16 bits, with the same weights and the same noise, one after the other in one run.

Prints how much faster 16 bits are on this machine, how far the frames of both are from the real ones, and on how many
rollouts the judge says the same. Needs labelled real episodes, such as `worldgymnast record-policy` writes.

    python benchmarks/precision.py --data runs/policy
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from imagination import variant

from worldgymnast.episodes.formats import read
from worldgymnast.evaluation.agreement import psnr
from worldgymnast.measure.gate import truncate
from worldgymnast.precision import Precision, compute_dtype
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_judge, load_world
from worldgymnast.training.replay import judge_episodes, replay


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    world, judge = load_world(starter("world")), load_judge(starter("judge"))
    real = read(args.data)
    some = np.random.default_rng(0).choice(len(real), min(args.episodes, len(real)), replace=False)
    real = truncate(real.select(np.sort(some)), args.length)
    rows = real.first[:, None] + np.arange(args.length + 1)
    truth = np.asarray(real.frames[rows])

    precisions: tuple[Precision, Precision] = ("fp32", "bf16")
    seconds: dict[str, list[float]] = {name: [] for name in precisions}
    last, says = dict[str, float](), dict[str, np.ndarray]()
    worlds = {name: variant(world, precision=name) for name in precisions}
    for _ in range(args.repeats):
        for name, other in worlds.items():
            began = time.perf_counter()
            imagined = replay(other, real, seed=0)
            seconds[name].append(time.perf_counter() - began)
            frames = np.asarray(imagined.frames).reshape(truth.shape)
            says[name] = np.array([bool(v.succeeded) for part in judge_episodes(judge, imagined, 2) for v in part])
            last[name] = float(psnr(truth[:, -1], frames[:, -1]).mean())

    right = {name: float((said == real.succeeded).mean()) for name, said in says.items()}
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"threads {torch.get_num_threads()}, {len(real)} rollouts x {args.length} actions, {args.repeats} times; "
          f"'auto' is {compute_dtype('auto', world.device)} here")  # fmt: skip
    print("| | 32 bits | 16 bits |\n|---|---|---|")
    print("| seconds, median | " + " | ".join(f"{np.median(seconds[name]):.1f}" for name in precisions) + " |")
    print(f"| speed | 1.00 | {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")
    print("| PSNR of the last frame, dB | " + " | ".join(f"{last[name]:.2f}" for name in precisions) + " |")
    print("| judge right about the rollout | " + " | ".join(f"{right[name]:.1%}" for name in precisions) + " |")
    print(f"| judge says the same | | {float((says['fp32'] == says['bf16']).mean()):.1%} |")


if __name__ == "__main__":
    main()
