"""Imagined frames per second, five ways, with the same weights, machine, process and batches.

(a) uncached: every step of every frame computes the whole window anew, 10 steps, guidance; the published way until late
    2025;
(p) cached within a frame: the first step of a frame computes the whole window, the other nine only the new frame; the
    published way since. (Theirs leaves the causal mask out in the first step; the cost is the same.)
(b) cached: each frame of the past is computed once, and once more when the window slides; the frames of (a);
(h) as (b), but ten frames leave the window at once, so that it is computed anew once in ten frames;
(c) few steps: a student distilled from the same weights, or the weights themselves, one step without guidance.

A rollout's cost is added up from frames timed at several depths, so that 200 frames of (a) need not be waited for. Ways
are timed in turn, and the peak of the machine's matrix products beside each, so that ratios hold whatever else the
machine does. Arithmetic is counted by torch's FlopCounterMode.

    python benchmarks/imagination.py --world runs/diffusion/world.safetensors --student runs/student/world.safetensors
    python benchmarks/imagination.py --size bridge-600m --device cuda --batches 1 8 32 --training
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldgymnast.actions import WORLDGYM, metaworld_spec
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.agreement import psnr
from worldgymnast.precision import autocast, compute_dtype
from worldgymnast.recipes.presets import WORLDS
from worldgymnast.registry import load_trainable_world
from worldgymnast.types import WorldState
from worldgymnast.worldmodel.sampler import LatentWorldModel

WAYS = {
    "a": "uncached: whole window at every step",
    "p": "cached within a frame",
    "b": "cached, the frames of (a)",
    "h": "cached, ten frames leave at once",
    "c": "few steps, no guidance",
}
HOP = 10
Found = TypeVar("Found")


class CachedWithinFrame(LatentWorldModel):
    """The same frames with a cache that is emptied before every frame, as WorldGym's sampler does it."""

    def _make_room(self, state: WorldState) -> WorldState:
        return replace(super()._make_room(state), cache=())


def clock(device: torch.device) -> float:
    """Seconds, after everything on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device, enough: float = 2.0) -> float:
    """Best seconds of `work`: of one call where that takes `enough`, else of two or more after one not counted."""
    times: list[float] = []
    while len(times) < 3 and (not times or times[0] < enough):
        began = clock(device)
        work()
        times.append(clock(device) - began)
    return min(times[1:] or times)


def peak(device: torch.device) -> float:
    """Multiplications and additions a second of the machine's matrix products, in the dtype that models compute in."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=compute_dtype("auto", device))
    return 2 * side**3 / seconds(lambda: a @ a, device)


def variant(
    world: LatentWorldModel, kind: type[LatentWorldModel] = LatentWorldModel, **changes: object
) -> LatentWorldModel:
    """The same weights, sampled otherwise."""
    other = kind(replace(world.config, **changes), world.action_spec, world.fps)  # type: ignore[arg-type]
    other.load_state_dict(world.state_dict())
    return other.to(world.device).eval()


def ways(world: LatentWorldModel, student: LatentWorldModel | None) -> dict[str, LatentWorldModel]:
    """All of them, by letter."""
    full = {"slide": "recompute", "steps": max(10, world.config.steps)}
    return {
        "a": variant(world, cached=False, **full),
        "p": variant(world, CachedWithinFrame, **full),
        "b": variant(world, **full),
        "h": variant(world, hop=min(HOP, world.config.transformer.window - 1), **full),
        "c": student or variant(world, steps=1, guidance=1.0, slide="band"),
    }


def at_depth(world: LatentWorldModel, depth: int, batch: int) -> WorldState:
    """A state `depth` frames into `batch` rollouts; its contents do not matter, so it is made in one step a frame."""
    quick = world if world.config.steps == 1 else variant(world, steps=1)
    grid, channels = world.config.transformer.grid, world.config.transformer.channels
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, *grid, channels, generator=generator).to(world.device)
    actions = torch.zeros(1, depth, world.action_spec.dim)
    state = quick.start_latent(latent)
    if depth:
        state, _ = quick.imagine(state, actions, generator=generator)
    return state.fork(torch.zeros(batch, dtype=torch.long, device=world.device))


def next_frames(world: LatentWorldModel, state: WorldState, batch: int, decode: bool = True) -> object:
    """The next frames of all rollouts, as many as leave the window at once: their costs differ."""
    actions = torch.zeros(batch, world.config.hop, world.action_spec.dim)
    return (world.step if decode else world.imagine)(state, actions, generator=torch.Generator().manual_seed(0))


def frame_seconds(world: LatentWorldModel, state: WorldState, batch: int, decode: bool = True) -> float:
    """Seconds of a frame of all rollouts."""
    work = functools.partial(next_frames, world, state, batch, decode)
    return seconds(work, world.device) / world.config.hop


def cost_by_depth(world: LatentWorldModel, batch: int, deepest: int) -> dict[int, float]:
    """Seconds of a frame at several depths, the last two of them in a full window."""
    window = world.config.transformer.window
    depths = [0, window // 2, window - 2, window, max(window + 1, deepest - 1)]
    states = {depth: at_depth(world, depth, batch) for depth in depths}
    return {depth: frame_seconds(world, state, batch) for depth, state in states.items()}


def rollout_seconds(costs: dict[int, float], horizon: int) -> float:
    """Seconds of a rollout of that many frames."""
    return float(np.interp(np.arange(horizon), list(costs), list(costs.values())).sum())


def arithmetic(world: LatentWorldModel, batch: int) -> float:
    """Multiplications and additions of one frame of all rollouts in a full window, without decoding."""
    state = at_depth(world, world.config.transformer.window + 1, batch)
    with FlopCounterMode(display=False) as counter:
        next_frames(world, state, batch, decode=False)
    return float(counter.get_total_flops()) / world.config.hop


def memory(world: LatentWorldModel, batch: int) -> float:
    """Largest gigabytes while a frame is imagined in a full window: of the GPU, or of a process of its own."""
    work = functools.partial(_frame_in_full_window, world, batch)
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 1e9
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident, (work,))


def _frame_in_full_window(world: LatentWorldModel, batch: int) -> None:
    next_frames(world, at_depth(world, world.config.transformer.window + 1, batch), batch)


def _resident(work: Callable[[], object]) -> float:
    work()
    if not Path("/proc/self/status").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    status = Path("/proc/self/status").read_text()  # unlike getrusage, it does not begin with the parent's peak
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def equal_frames(found: dict[str, LatentWorldModel]) -> float:
    """Largest difference of latents between (a) and (b) in 32 bits, two frames beyond the window."""
    latents = []
    for letter in "ab":
        world = variant(found[letter], precision="fp32", steps=2)
        grid, channels = world.config.transformer.grid, world.config.transformer.channels
        generator = torch.Generator().manual_seed(1)
        start = torch.randn(1, *grid, channels, generator=generator).to(world.device)
        actions = torch.rand(1, world.config.transformer.window + 2, world.action_spec.dim, generator=generator)
        latents.append(world.imagine(world.start_latent(start), actions, generator=generator)[1])
    return float((latents[0] - latents[1]).abs().max() / latents[0].abs().max())


def fidelity(world: LatentWorldModel, episodes: EpisodeSet, horizon: int) -> np.ndarray:
    """PSNR at frame `horizon` of every episode that is long enough, imagined from its first frame."""
    chosen = [episodes.episode(i) for i in np.flatnonzero(episodes.length >= horizon)]
    first = torch.from_numpy(np.stack([e.frames[0] for e in chosen]))
    actions = torch.from_numpy(np.stack([e.actions[:horizon] for e in chosen]))
    _, frames = world.step(world.start(first), actions, generator=torch.Generator().manual_seed(0))
    return psnr(np.stack([e.frames[horizon] for e in chosen]), frames[:, -1].cpu().numpy())


def fitting(work: Callable[[], Found]) -> Found | None:
    """What `work` gives, or None where the GPU's memory does not suffice for it."""
    try:
        return work()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def shares(world: LatentWorldModel, batch: int) -> str:
    """A frame's arithmetic, its share of the peak, decoding's share of the time, and the memory, as cells."""
    work, best = arithmetic(world, batch), peak(world.device)
    state = at_depth(world, world.config.transformer.window + 1, batch)
    whole, bare = (frame_seconds(world, state, batch, decode) for decode in (True, False))
    share = work / bare / best
    cells = f"{work / batch / 1e12:.3f} | {share:.0%} of {best / 1e12:.2f} TFLOP/s | {1 - bare / whole:.0%}"
    return f"{cells} | {memory(world, batch):.1f}"


def imagination_tables(
    found: dict[str, LatentWorldModel], batches: Sequence[int], horizons: Sequence[int], episodes: EpisodeSet | None
) -> None:
    """Prints frames per second, arithmetic and memory of the ways."""
    deepest = max(horizons)
    rates = " | ".join(f"frames/s over {h}" for h in horizons)
    print(f"\n| batch | way | {rates} | times the first, over {horizons[0]} to {deepest} | frame {deepest} costs |")
    print("|---|---|" + "---|" * (len(horizons) + 2))
    for batch in batches:
        costs = {}
        for letter, world in found.items():
            if (cost := fitting(functools.partial(cost_by_depth, world, batch, deepest))) is not None:
                costs[letter] = cost
            else:
                print(f"| {batch} | ({letter}) |{' does not fit |' * (len(horizons) + 2)}", flush=True)
        for letter, cost in costs.items():
            speeds = [batch * h / rollout_seconds(cost, h) for h in horizons]
            first = next(iter(costs.values()))
            times = rollout_seconds(first, horizons[0]) / rollout_seconds(cost, horizons[0])
            late = rollout_seconds(first, deepest) / rollout_seconds(cost, deepest)
            full, last = list(cost.values())[-2:]
            cells = " | ".join(f"{rate:.1f}" for rate in speeds)
            ratios = f"{times:.1f} to {late:.1f} | {last / full:.2f} of the first full one"
            print(f"| {batch} | ({letter}) | {cells} | {ratios} |", flush=True)
    print("\n| batch | way | TFLOP a frame | share of peak | share of decoding | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    for batch in batches:
        for letter, world in found.items():
            if letter == "a" and batch != batches[0]:  # the same share, at many times the cost
                continue
            cells = fitting(functools.partial(shares, world, batch)) or "does not fit | | |"
            print(f"| {batch} | ({letter}) | {cells} |", flush=True)
    if {"a", "b"} <= set(found):
        print(f"\n(a) and (b) differ, in 32 bits, by at most: {equal_frames(found):.1e} of the range")
    if episodes is not None and {"b", "c"} <= set(found):
        scores = {letter: fidelity(found[letter], episodes, 20) for letter in "bc"}
        apart = scores["c"] - scores["b"]
        error = apart.std(ddof=1) / len(apart) ** 0.5
        print(
            f"PSNR at frame 20 of {len(apart)} episodes: (b) {scores['b'].mean():.2f}, (c) {scores['c'].mean():.2f} dB"
        )
        print(f"(c) - (b): {apart.mean():+.2f} dB, standard error {error:.2f}")


def training_table(world: LatentWorldModel, clips: int, length: int) -> None:
    """Prints frames per second and the share of the peak of a training step of the transformer."""
    device, c = world.device, world.config.transformer
    batch = {
        "latents": torch.randn(clips, length + 1, *c.grid, c.channels, device=device),
        "actions": torch.rand(clips, length, c.action_dim, device=device),
        "mask": torch.ones(clips, length, dtype=torch.bool, device=device),
        "progress": 0.0,
    }
    optimizer = torch.optim.AdamW(world.transformer.parameters())

    def step() -> None:
        with autocast("auto", device):
            loss, _ = world.loss({**batch, "generator": torch.Generator().manual_seed(0)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    spent, best = seconds(step, device), peak(device)
    share = counter.get_total_flops() / spent / best
    print("\n| training | frames/s | share of peak |\n|---|---|---|")
    print(f"| {clips} clips of {length} | {clips * length / spent:.0f} | {share:.0%} of {best / 1e12:.2f} TFLOP/s |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--world", type=Path, help="a world model that walks several steps with guidance")
    source.add_argument("--size", choices=list(WORLDS), help="random weights of that size")
    parser.add_argument("--student", type=Path, help="distilled from --world")
    parser.add_argument("--data", type=Path, help="episodes to score (b) and (c) on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--horizons", type=int, nargs="+", default=[20, 40, 200])
    parser.add_argument("--ways", default="apbhc", help="which of them, such as pbc where (a) would take too long")
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer")
    parser.add_argument("--training", action="store_true", help="also time a training step")
    args = parser.parse_args()
    torch.manual_seed(0)
    preset = WORLDS[args.size or "bridge-25m-diffusion"]()
    if args.world:
        world = load_trainable_world(args.world, args.device)
    else:
        specs = {spec.dim: spec for spec in (metaworld_spec(6), WORLDGYM)}
        spec = specs[preset.world.transformer.action_dim]
        world = LatentWorldModel(preset.world, spec, spec.rate).to(args.device).eval()
    found = ways(world, load_trainable_world(args.student, args.device) if args.student else None)
    found = {letter: way for letter, way in found.items() if letter in args.ways}
    size = sum(p.numel() for p in world.transformer.parameters()) / 1e6
    names = {letter: f"({letter}) {WAYS[letter]}, {w.config.steps} steps" for letter, w in found.items()}
    c = world.config.transformer
    print(f"{args.device}, {torch.get_num_threads()} threads, {compute_dtype('auto', world.device)}")
    print(f"{size:.0f}M parameters, {c.tokens} tokens a frame, frames {world.frame_size}, window {c.window}")
    print("; ".join(names.values()))
    if args.compile:
        for each in found.values():
            each.transformer.compile()
    imagination_tables(found, args.batches, args.horizons, formats.read(args.data) if args.data else None)
    if args.training:
        training_table(variant(world), preset.clips, preset.length)


if __name__ == "__main__":
    main()
