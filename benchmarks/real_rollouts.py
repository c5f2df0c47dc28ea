"""Rollouts in MuJoCo: every frame rendered against one a look, and few processes against more.

The same policy from the same layouts, greedy; all variants in the same run, and outcomes must be the same.

    python benchmarks/real_rollouts.py
"""

from __future__ import annotations

import argparse
import time

from worldgymnast.envs.metaworld import MetaWorld
from worldgymnast.measure.real import score_real
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_policy


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-task", type=int, default=8)
    args = parser.parse_args()
    policy, robot = load_policy(starter("policy")), MetaWorld()
    chunk, starts = policy.chunk, robot.layouts(args.per_task, 1_000_000)
    outcomes, first = [], 0.0
    print("| processes | frames rendered | seconds an episode | speed |\n|---|---|---|---|")
    for workers in (2, 4):
        for every in (1, chunk):
            env = robot.vector(workers, chunk, horizon=robot.horizon, keyframes_only=every > 1)
            try:
                score_real(policy, env, starts[:: args.per_task] * workers, temperature=0.0, seed=0)  # loads each scene
                began = time.perf_counter()
                found = score_real(policy, env, starts, temperature=0.0, seed=0)
                seconds = (time.perf_counter() - began) / len(starts)
            finally:
                env.close()
            outcomes.append([r.verdict.succeeded for r in found])
            first = first or seconds
            rendered = "all" if every == 1 else f"one in {every}"
            print(f"| {workers} | {rendered} | {seconds:.3f} | {first / seconds:.2f} |")
    print(f"the same outcomes: {all(other == outcomes[0] for other in outcomes)}")


if __name__ == "__main__":
    main()
