"""Scoring: a policy for real on fixed starts; world and judge on real rollouts, the gate before RL."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from worldgymnast.envs.metaworld import MetaWorldConfig, MetaWorldEnv, instructions
from worldgymnast.envs.wrappers import vectorise
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.agreement import (
    balanced_accuracy,
    fidelity_by_horizon,
    true_negative_rate,
    true_positive_rate,
)
from worldgymnast.evaluation.success import Outcome
from worldgymnast.loops.replay import judged, replay, shuffled_actions
from worldgymnast.progress import Progress
from worldgymnast.rl.rollout import roll_out
from worldgymnast.types import Judge, Metrics, Policy, Rollout, Start, WorldModel, in_range

_SOME = 10
"""Real episodes between two lines of progress."""


@dataclass(frozen=True)
class ScoreConfig:
    """Real evaluation.

    Attributes:
        per_task: episodes per task.
        temperature: of sampling; 0 is greedy.
        first_layout: layouts count up from here; never recorded ones.
        workers: processes that run the real environment.
    """

    per_task: int = 50
    temperature: float = 0.0
    first_layout: int = 1_000_000
    workers: int = 2

    def __post_init__(self) -> None:
        in_range(self, 1, "per_task", high=160)
        in_range(self, 1, "workers")
        in_range(self, 0, "temperature", "first_layout")


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


def gate(world: WorldModel, judge: Judge, held_out: EpisodeSet, *, horizon: int, stride: int, seed: int) -> Metrics:
    """How often world and judge together know the true outcome of held-out real rollouts, imagined again.

    Returns:
        True-positive and true-negative rate and balanced accuracy, on the real frames ("real_*") and on imagined
        replays of the same action sequences ("imagined_*"); the rates of the latter also for every task
        ("imagined_*/TASK", NaN where it never succeeds, or always).
    """
    real = cut(held_out, horizon)
    verdicts = {
        name: [verdict.succeeded for part in judged(judge, episodes, stride) for verdict in part]
        for name, episodes in (("real", real), ("imagined", replay(world, real, seed=seed)))
    }
    return gate_rates(verdicts, real.succeeded.tolist(), held_out.task)


def gate_rates(verdicts: Mapping[str, Sequence[Outcome]], truth: Sequence[bool], task: Sequence[str]) -> Metrics:
    """The numbers of `gate` from the verdicts on "real" frames and on "imagined" replays of n rollouts."""
    found: Metrics = {}
    for name, said in verdicts.items():
        found[f"{name}_true_positive"] = true_positive_rate(said, truth).value
        found[f"{name}_true_negative"] = true_negative_rate(said, truth).value
        found[f"{name}_balanced_accuracy"] = balanced_accuracy(said, truth).value
    for name in sorted(set(task)):
        rows = [i for i, other in enumerate(task) if other == name]
        said, true = [verdicts["imagined"][i] for i in rows], [truth[i] for i in rows]
        found[f"imagined_true_positive/{name}"] = true_positive_rate(said, true).value
        found[f"imagined_true_negative/{name}"] = true_negative_rate(said, true).value
    return found


def cut(episodes: EpisodeSet, length: int) -> EpisodeSet:
    """The first `length` actions of every episode."""
    return replace(episodes, length=np.minimum(episodes.length, length))


def fidelity(world: WorldModel, episodes: EpisodeSet, length: int, seed: int) -> dict[str, np.ndarray]:
    """`fidelity_by_horizon` of imagined replays over `length` frames, with shuffled actions beside."""
    real = cut(episodes, length)
    shape = (len(real), length + 1, *real.frames.shape[1:])
    truth = np.asarray(real.frames[real.first[:, None] + np.arange(length + 1)])
    imagined = np.asarray(replay(world, real, seed=seed).frames).reshape(shape)
    shuffled = np.asarray(replay(world, real, seed=seed, actions=shuffled_actions(real, seed)).frames).reshape(shape)
    return fidelity_by_horizon(truth, imagined, shuffled, seed)
