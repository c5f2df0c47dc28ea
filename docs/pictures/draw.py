"""Draws the pictures of policies at work in docs/how-to/capabilities.md and docs/how-to/scenes.md.

Run `python docs/pictures/draw.py runs/tables` after `python -m studies.tables`. One seed of the tables scenes, dyna and
diverse must be there.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from worldgymnast.envs.metaworld import EXTRA_TASKS, MetaWorld, MetaWorldConfig
from worldgymnast.episodes.lerobot import read
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.agreement import psnr
from worldgymnast.measure.gate import truncate
from worldgymnast.measure.real import score_real
from worldgymnast.protocols import Policy
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_learned_judge, load_policy, load_world
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.training.replay import replay
from worldgymnast.types import Layout, Rollout, Start
from worldgymnast.video import contact_sheet, enlarge, png

HERE = Path(__file__).parent
ENV = MetaWorldConfig()
EVERY = 3


def draw(name: str, rows: Sequence[np.ndarray]) -> None:
    """Writes a picture with a row a video, every third frame."""
    (HERE / name).write_bytes(png(enlarge(contact_sheet([row[::EVERY] for row in rows], 2), 2)))


def truly(policy: Policy, starts: Sequence[Layout], env: MetaWorldConfig = ENV) -> list[Rollout]:
    """Real rollouts, greedy."""
    real = MetaWorld(env).vector(1, policy.chunk, horizon=env.horizon)
    try:
        return score_real(policy, real, starts, temperature=0.0, seed=0)
    finally:
        real.close()


def imagined(policy: Policy, starts: Sequence[Start]) -> list[Rollout]:
    """The same in the starter world."""
    world, judge = load_world(starter("world")), load_learned_judge(starter("judge"))
    surrogate = Imagination.of(policy, world, judge, ENV.horizon)
    return score_in(surrogate, policy, starts, rows=len(starts), temperature=0.0, seed=0)


def frames_of(episodes: EpisodeSet, index: int) -> np.ndarray:
    """The frames of an episode, uint8 [t+1 h w 3]."""
    return np.asarray(episodes.episode(index).frames)


def adapted(tables: Path, task: str = "drawer-open", layout: int = 9_000_000) -> None:
    """Test-time training: before and after, real and imagined, from the one frame that was trained on."""
    (folder,) = tables.glob("scenes-*")
    after = folder / f"anchor-{task}-{layout}" / "policy.safetensors"
    scenes = MetaWorld(replace(ENV, tasks=(task,))).layouts(1, layout)
    rows = []
    for file in (tables / "cells" / "rl-world-0" / "policy.safetensors", after):
        policy = load_policy(file)
        (real,) = truly(policy, scenes)
        (shown,) = imagined(policy, [real.start])
        print(file.parent.name, "real", real.verdict.succeeded, "imagined", shown.verdict.succeeded)
        rows += [real.frames, shown.frames]
    draw("test-time.png", rows)


def rounds(tables: Path) -> None:
    """Dyna: a real rollout that the world imagined wrongly before the round that recorded it, and rightly after."""
    place = tables / "dyna" / "0"
    recorded = truncate(read(place / "data" / "round-1"), ENV.horizon)
    shown = [recorded] + [replay(load_world(file), recorded, seed=0)
                          for file in (starter("world"), *sorted(place.glob("world-*/world.safetensors")))]  # fmt: skip
    last = [np.stack([frames_of(part, i)[-1] for i in range(len(recorded))]) for part in shown]
    gain = psnr(last[0], last[-1]) - psnr(last[0], last[1])
    chosen = int(np.argmax(gain))
    print(recorded.task[chosen], bool(recorded.succeeded[chosen]), gain[chosen], gain.mean())
    draw("dyna.png", [frames_of(part, chosen) for part in shown])


def candidates(tables: Path, task: str = "button-press", layout: int = 1_000_000, count: int = 4) -> None:
    """Best of N: what the world imagines of some sampled first chunks, and what the judge believes of each."""
    policy = load_policy(tables / "cells" / "rl-world-0" / "policy.safetensors")
    (real,) = truly(policy, MetaWorld(replace(ENV, tasks=(task,))).layouts(1, layout))
    world, judge = load_world(starter("world")), load_learned_judge(starter("judge"))
    surrogate = Imagination.of(policy, world, judge, 12)
    found = score_in(surrogate, policy, [real.start] * 8, rows=8, temperature=1.0, seed=0)
    found.sort(key=lambda rollout: -(rollout.verdict.probability or 0.0))
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, count).round().astype(int)]
    print([rollout.verdict.probability for rollout in chosen])
    draw("best-of.png", [rollout.frames for rollout in chosen])


def further(tables: Path) -> None:
    """More tasks: a policy for real in tasks that were never demonstrated, first before and then after RL."""
    env, rows = replace(ENV, tasks=EXTRA_TASKS), []
    before, after = (load_policy(file) for file in (starter("policy"), tables / "cells/tasks-1/policy.safetensors"))
    for task in EXTRA_TASKS:
        starts = MetaWorld(replace(ENV, tasks=(task,))).layouts(8, 1_000_000)
        own, other = truly(before, starts, env), truly(after, starts, env)
        won = [i for i, (a, b) in enumerate(zip(own, other, strict=True)) if b.verdict.succeeded > a.verdict.succeeded]
        print(task, sum(r.verdict.succeeded or 0 for r in own), sum(r.verdict.succeeded or 0 for r in other))
        rows += [part[won[0] if won else 0].frames for part in (own, other)]
    draw("tasks.png", rows)


if __name__ == "__main__":
    torch.manual_seed(0)
    for part in (adapted, rounds, candidates, further):
        part(Path(sys.argv[1]))
