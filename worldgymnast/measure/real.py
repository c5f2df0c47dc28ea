"""Scoring: a policy for real on fixed starts; world and judge on real rollouts, the gate before RL."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from worldgymnast.configs import Between, Count, NonNegative, Positive, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, MetaWorldEnv, instructions
from worldgymnast.envs.wrappers import vectorise
from worldgymnast.progress import Progress
from worldgymnast.protocols import Policy
from worldgymnast.rl.collect import Sample
from worldgymnast.rl.rollout import roll_out
from worldgymnast.rl.starts import from_starts
from worldgymnast.types import Rollout, Start

_SOME = 10
"""Real episodes between two lines of progress."""


@checked
class ScoreConfig:
    """Real evaluation.

    Attributes:
        per_task: episodes per task.
        temperature: of sampling; 0 is greedy.
        first_layout: layouts count up from here; never recorded ones.
        workers: processes that run the real environment.
    """

    per_task: Annotated[int, Between(1, 160)] = 50
    temperature: NonNegative = 0.0
    first_layout: Count = 1_000_000
    workers: Positive = 2


def real_env(config: MetaWorldConfig, chunk: int, workers: int, every: int = 1) -> VectorEnv[Any, Any, Any]:
    """The real environment in `workers` processes; `chunk` for `every` where nobody watches between two looks."""
    return vectorise(functools.partial(MetaWorldEnv, config, every), workers, chunk)


def layouts(config: MetaWorldConfig, per_task: int, first: int) -> list[Start]:
    """Starts on consecutive layouts of every task; frames are blank until the real environment has shown them."""
    blank = np.zeros((config.size, config.size, 3), np.uint8)
    return [Start(blank, instructions(t)[0], t, first + i) for t in config.tasks for i in range(per_task)]


def score_real(
    policy: Policy, env: VectorEnv[Any, Any, Any], starts: Sequence[Start], *, temperature: float, seed: int
) -> list[Rollout]:
    """Real rollouts whose starts carry the frame that was really seen."""
    generator = torch.Generator().manual_seed(seed)
    rollouts = roll_out(env, policy, starts, temperature=temperature, generator=generator)
    return [replace(r, start=replace(r.start, frame=r.frames[0])) for r in rollouts]


def trials(
    policy: Policy, env: VectorEnv[Any, Any, Any], starts: Sequence[Start], *, temperature: float, seed: int, what: str
) -> list[Rollout]:
    """`score_real` some starts at a time, with their progress; `what` says what is done."""
    found: list[Rollout] = []
    with Progress(what, len(starts)) as progress:
        for i in range(0, len(starts), _SOME):
            part = starts[i : i + _SOME]
            found += score_real(policy, env, part, temperature=temperature, seed=seed)
            progress.advance(len(part))
    return found


def row(rollout: Rollout, seed: int) -> dict[str, Any]:
    """A real episode in an evaluation's file; `seed` pairs it with another policy's."""
    start = rollout.start
    return {"task": start.task, "layout": start.layout, "seed": seed, "success": rollout.verdict.succeeded}


def photographs(env: MetaWorldConfig, per_task: int, first_layout: int) -> list[Start]:
    """One frame of each of `per_task` new layouts of every task, with a sentence each: no action is ever taken."""
    camera = MetaWorldEnv(env)
    try:
        wanted, found = layouts(env, per_task, first_layout), []
        with Progress("photographing new layouts", len(wanted)) as progress:
            for start in wanted:
                seen, _ = camera.reset(seed=start.layout, options={"task": start.task})
                found.append(replace(start, frame=seen["image"]))
                progress.advance()
        return found
    finally:
        camera.close()


def from_photographs(photos: Sequence[Start]) -> Sample:
    """Draws from `photos` of the real environment, each time with one of the task's sentences."""
    draw = from_starts(photos)

    def sample(rng: np.random.Generator, count: int) -> list[Start]:
        return [replace(s, instruction=str(rng.choice(instructions(s.task)))) for s in draw(rng, count)]

    return sample
