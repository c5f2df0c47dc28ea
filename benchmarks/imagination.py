"""Imagined frames per second: with the cache and without, by batch size, and over the length of a rollout.

All numbers of one table come from one process, one set of weights and alternating repetitions, so that ratios hold
whatever else the machine does. "Without" recomputes every frame of the context from its stored inputs, as published
samplers do.

    python benchmarks/imagination.py --world worldgymnast/starter/world.safetensors
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from worldgymnast.config import load_world
from worldgymnast.types import WorldState
from worldgymnast.worldmodel.sampler import LatentWorldModel


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `work` after one unmeasured call."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def variant(world: LatentWorldModel, *, cached: bool, window: int) -> LatentWorldModel:
    """The same weights with another window (weights do not depend on it), with or without the cache."""
    config = replace(world.config, cached=cached, transformer=replace(world.config.transformer, window=window))
    other = LatentWorldModel(config, world.action_spec, world.fps)
    other.load_state_dict(world.state_dict())
    return other.to(world.device).eval()


def filled(world: LatentWorldModel, batch: int, context: int, size: int) -> WorldState:
    """A state `context` frames into a rollout."""
    frames = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    actions = torch.rand(batch, context, world.action_spec.dim) * 2 - 1
    return world.imagine(world.start(frames), actions, generator=torch.Generator().manual_seed(0))[0]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--context", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    world = load_world(args.world, args.device)
    ours, plain = (variant(world, cached=c, window=args.context) for c in (True, False))
    dim = world.action_spec.dim
    threads, steps = torch.get_num_threads(), world.config.steps
    print(f"threads {threads}, device {args.device}, flow steps {steps}, context {args.context}")
    print("| batch | with cache, decoded frames/s | without | ratio | share of decoding |\n|---|---|---|---|---|")
    for batch in (1, 8, 64):
        one = torch.rand(batch, 1, dim) * 2 - 1
        generator = torch.Generator().manual_seed(1)
        states = [filled(w, batch, args.context - 1, args.size) for w in (ours, plain)]
        fast, slow = (
            seconds(functools.partial(w.step, s, one, generator=generator), args.repeats)
            for w, s in zip((ours, plain), states, strict=True)
        )
        decode = seconds(functools.partial(world.autoencoder.decode, states[0].latent), args.repeats)
        print(f"| {batch} | {batch / fast:.0f} | {batch / slow:.0f} | {slow / fast:.1f}x | {decode / fast:.0%} |")
    print("\n| frames so far (batch 8) | milliseconds a frame |\n|---|---|")
    one = torch.rand(8, 1, dim) * 2 - 1
    for length in (args.context, 4 * args.context, 12 * args.context):
        state = filled(ours, 8, length, args.size)
        spent = seconds(functools.partial(ours.step, state, one, generator=generator), args.repeats)
        print(f"| {length} | {1000 * spent:.1f} |")


if __name__ == "__main__":
    main()
