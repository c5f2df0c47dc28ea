"""Logging real episodes: scripted experts, experts with graded noise, and play.

World models need failures and near misses, not demonstrations alone; so noise comes in grades and three shapes: jitter
on every action, a constant drift that makes the gripper miss by centimetres, and stretches in which the expert is
ignored. Rollouts of a policy are collected by `rl.rollout.roll_out` and logged with `episodes_of`.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from worldgymnast.actions import ActionSpec
from worldgymnast.envs.metaworld import MetaWorldConfig, MetaWorldEnv, instructions
from worldgymnast.types import Episode, InputError, Rollout, in_range

KINDS = ("expert", "noisy", "play")


@dataclass(frozen=True)
class RecordConfig:
    """How many real episodes of each kind are logged, and where their layouts begin.

    Attributes:
        env: the real environment.
        expert: demonstrations per task.
        noisy: episodes per task of the expert with noise.
        play: episodes per task of play.
        length: actions in an episode; longer than the horizon, so that the world also learns what comes after success.
        seed: the first layout; every episode has its own, and those from 1,000,000 on are for other uses.
        workers: processes.
    """

    env: MetaWorldConfig = MetaWorldConfig()
    expert: int = 20
    noisy: int = 70
    play: int = 40
    length: int = 32
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        in_range(self, 0, "expert", "noisy", "play", high=3000)
        in_range(self, 0, "seed", high=900_000)
        in_range(self, 5, "length")
        in_range(self, 1, "workers")
        if self.expert + self.noisy + self.play == 0:
            raise InputError("fields 'expert', 'noisy', 'play': found 0 in all, expected at least 1 episode a task")


@dataclass(frozen=True)
class _Job:
    task: str
    kind: str
    layout: int


def _jobs(config: RecordConfig) -> list[_Job]:
    jobs = []
    for t, task in enumerate(config.env.tasks):
        kinds = [kind for kind in KINDS for _ in range(getattr(config, kind))]
        jobs += [_Job(task, kind, config.seed + 10_000 * t + i) for i, kind in enumerate(kinds)]
    return jobs


def _smooth_noise(rng: np.random.Generator, length: int, dim: int, correlation: float) -> np.ndarray:
    """Ornstein-Uhlenbeck noise of unit variance, [length dim]."""
    noise = np.empty((length, dim))
    noise[0] = rng.standard_normal(dim)
    for t in range(1, length):
        noise[t] = correlation * noise[t - 1] + np.sqrt(1 - correlation**2) * rng.standard_normal(dim)
    return noise


def _disturbance(kind: str, rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the expert's action [t a], and how much of the expert remains [t 1]."""
    if kind == "expert":
        return np.zeros((length, 4)), np.ones((length, 1))
    if kind == "play":
        noise = _smooth_noise(rng, length, 4, 0.7) * rng.uniform(0.5, 1.1)
        keep = np.zeros((length, 1))
        if rng.random() < 0.6:  # most play begins near the object
            keep[: rng.integers(2, 12)] = 1.0
        return noise * (1 - 0.8 * keep), keep
    jitter = _smooth_noise(rng, length, 4, rng.uniform(0.0, 0.8)) * rng.choice([0.15, 0.3, 0.5, 0.8])
    drift = np.append(rng.standard_normal(3) * rng.choice([0.0, 0.15, 0.3]), 0.0)
    keep = np.ones((length, 1))
    if rng.random() < 0.4:
        first = rng.integers(0, length - 4)
        keep[first : first + rng.integers(2, 8)] = 0.0
    return jitter + drift, keep


def _rollout(env: MetaWorldEnv, job: _Job, length: int) -> Episode:
    rng = np.random.default_rng((job.layout, KINDS.index(job.kind)))
    added, keep = _disturbance(job.kind, rng, length)
    observed, info = env.reset(seed=job.layout, options={"task": job.task})
    frames, actions, success = [observed["image"]], [], [False]
    for t in range(length):
        action = np.clip(keep[t] * env.expert_action() + added[t], -1, 1).astype(np.float32)
        observed, _, _, _, info = env.step(action)
        frames.append(observed["image"])
        actions.append(action)
        success.append(info["success"])
    sentences = instructions(job.task)
    return Episode(
        frames=np.stack(frames),
        actions=np.stack(actions),
        instruction=sentences[int(rng.integers(len(sentences)))],
        task=job.task,
        fps=80.0 / env.config.hold,
        spec=env.action_spec,
        success=np.array(success),
        source=job.kind,
        layout=job.layout,
    )


def _work(config: RecordConfig, jobs: Sequence[_Job]) -> list[Episode]:
    env = MetaWorldEnv(config.env)
    try:
        return [_rollout(env, job, config.length) for job in jobs]
    finally:
        env.close()


def record(config: RecordConfig) -> Iterator[Episode]:
    """Yields every episode of `config`, in a fixed order whatever the number of workers."""
    if config.length < 1:
        raise InputError(f"field 'length': found {config.length}, expected at least 1 action an episode")
    jobs = _jobs(config)
    parts = [jobs[i : i + 40] for i in range(0, len(jobs), 40)]
    if config.workers <= 1:
        for part in parts:
            yield from _work(config, part)
        return
    os.environ.setdefault("MUJOCO_GL", "egl")
    with ProcessPoolExecutor(config.workers, multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(_work, [config] * len(parts), parts):
            yield from done


def episodes_of(rollouts: Iterable[Rollout], source: str, spec: ActionSpec, fps: float) -> Iterator[Episode]:
    """Real rollouts of a policy as labelled episodes."""
    for rollout in rollouts:
        yield Episode(
            frames=rollout.frames,
            actions=rollout.chunks.actions.flatten(0, 1).numpy(),
            instruction=rollout.start.instruction,
            task=rollout.start.task,
            fps=fps,
            spec=spec,
            success=rollout.success,
            source=source,
            layout=rollout.start.layout,
        )
