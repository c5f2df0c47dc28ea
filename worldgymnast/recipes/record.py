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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import Between, NonNegative, Positive, Seed, checked
from worldgymnast.episodes.lerobot import LeRobotWriter, read
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError, InputError
from worldgymnast.progress import Progress
from worldgymnast.protocols import Actor, Demonstrates, RealEnvironment, ScriptedEnv
from worldgymnast.rl.rollout import roll_out
from worldgymnast.types import IMAGE, Episode, Layout, Rollout

KINDS = ("expert", "noisy", "play")


@checked
class RecordConfig:
    """How many real episodes of each kind are logged, and where their layouts begin.

    Attributes:
        expert: demonstrations per task.
        noisy: episodes per task of the expert with noise.
        play: episodes per task of play.
        length: actions in an episode; longer than the horizon, so that the world also learns what comes after success.
        seed: the first layout; every episode has its own, and those from 1,000,000 on are for other uses.
        workers: processes.
    """

    expert: Annotated[int, Between(0, 3000)] = 20
    noisy: Annotated[int, Between(0, 3000)] = 70
    play: Annotated[int, Between(0, 3000)] = 40
    length: Annotated[int, Between(5)] = 32
    seed: Annotated[int, Between(0, 900_000)] = 0
    workers: Positive = 2

    def __post_init__(self) -> None:
        if self.expert + self.noisy + self.play == 0:
            raise FieldError("expert, noisy, play", "found 0 in all, expected at least 1 episode a task")


@dataclass(frozen=True)
class _Job:
    task: str
    kind: str
    layout: int


def _jobs(env: Demonstrates, config: RecordConfig) -> list[_Job]:
    jobs = []
    for t, task in enumerate(env.tasks):
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


def _disturbance(kind: str, rng: np.random.Generator, length: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the expert's action [t a], and how much of the expert remains [t 1].

    The last of the `dim` numbers of an action is the gripper, which does not drift.
    """
    if kind == "expert":
        return np.zeros((length, dim)), np.ones((length, 1))
    if kind == "play":
        noise = _smooth_noise(rng, length, dim, 0.7) * rng.uniform(0.5, 1.1)
        keep = np.zeros((length, 1))
        if rng.random() < 0.6:  # most play begins near the object
            keep[: rng.integers(2, 12)] = 1.0
        return noise * (1 - 0.8 * keep), keep
    jitter = _smooth_noise(rng, length, dim, rng.uniform(0.0, 0.8)) * rng.choice([0.15, 0.3, 0.5, 0.8])
    drift = np.append(rng.standard_normal(dim - 1) * rng.choice([0.0, 0.15, 0.3]), 0.0)
    keep = np.ones((length, 1))
    if rng.random() < 0.4:
        first = rng.integers(0, length - 4)
        keep[first : first + rng.integers(2, 8)] = 0.0
    return jitter + drift, keep


def _rollout(env: Demonstrates, scene: ScriptedEnv, job: _Job, length: int) -> Episode:
    spec, rng = env.action_spec, np.random.default_rng((job.layout, KINDS.index(job.kind)))
    added, keep = _disturbance(job.kind, rng, length, spec.dim)
    observed, info = scene.reset(seed=job.layout, options={"task": job.task})
    frames, actions, success = [observed[IMAGE]], [], [False]
    for t in range(length):
        action = np.clip(keep[t] * scene.expert_action() + added[t], spec.low, spec.high).astype(np.float32)
        observed, _, _, _, info = scene.step(action)
        frames.append(observed[IMAGE])
        actions.append(action)
        success.append(info["success"])
    sentences = env.instructions(job.task)
    return Episode(
        frames=np.stack(frames),
        actions=np.stack(actions),
        instruction=sentences[int(rng.integers(len(sentences)))],
        task=job.task,
        fps=rate_of(env),
        spec=spec,
        success=np.array(success),
        source=job.kind,
        layout=job.layout,
    )


def _work(env: Demonstrates, length: int, jobs: Sequence[_Job]) -> list[Episode]:
    scene = env.open()
    try:
        return [_rollout(env, scene, job, length) for job in jobs]
    finally:
        scene.close()


def rate_of(env: RealEnvironment) -> float:
    """Frames per second of a real environment.

    Raises:
        InputError: its action spec says none.
    """
    if env.action_spec.rate is None:
        raise InputError(
            f"{type(env).__name__}: its action spec has no rate, so a recording has no frame rate. Add one"
        )
    return env.action_spec.rate


def record(env: Demonstrates, config: RecordConfig) -> Iterator[Episode]:
    """Yields every episode of `config`, in a fixed order whatever the number of workers."""
    jobs = _jobs(env, config)
    parts = [jobs[i : i + 40] for i in range(0, len(jobs), 40)]
    if config.workers <= 1:
        for part in parts:
            yield from _work(env, config.length, part)
        return
    os.environ.setdefault("MUJOCO_GL", "egl")
    with ProcessPoolExecutor(config.workers, multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(_work, [env] * len(parts), [config.length] * len(parts), parts):
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


@checked
class PolicyRecordConfig:
    """Labelled real rollouts of a policy.

    Attributes:
        temperatures: of sampling.
        per_temperature: episodes per task and temperature.
        length: actions in an episode.
        seed: first layout; every task and temperature has its own.
        workers: processes of the real environment.
    """

    temperatures: tuple[NonNegative, ...] = (0.5, 1.0, 1.5)
    per_temperature: Annotated[int, Between(1, 1000)] = 40
    length: Positive = 32
    seed: Seed = 2_000_000
    workers: Positive = 2


def record_to(path: Path, env: RealEnvironment, config: RecordConfig) -> EpisodeSet:
    """Records scripted experts and play into a LeRobot folder, unless it is there.

    Raises:
        InputError: the environment has no scripted experts.
    """
    if not path.exists():
        if not isinstance(env, Demonstrates):
            raise InputError(f"{type(env).__name__} has no scripted experts, so it cannot be recorded without a person")
        total = len(env.tasks) * (config.expert + config.noisy + config.play)
        _write(path, env, record(env, config), "recording", total)
    return read(path)


def _write(path: Path, env: RealEnvironment, episodes: Iterator[Episode], what: str, total: int) -> None:
    """Writes `episodes` as they come, with their progress."""
    size = env.cameras[IMAGE]
    with LeRobotWriter(path, env.action_spec, rate_of(env), size) as writer, Progress(what, total) as progress:
        for episode in episodes:
            writer.add(episode)
            progress.advance()


def record_policy_to(path: Path, policy: Actor, env: RealEnvironment, config: PolicyRecordConfig) -> EpisodeSet:
    """Records labelled real rollouts of `policy` into a LeRobot folder, unless it is there."""
    if not path.exists():
        total = len(config.temperatures) * len(env.tasks) * config.per_temperature
        _write(path, env, policy_episodes(policy, env, config), "recording the policy", total)
    return read(path)


def record_explorers(
    data: Path,
    explorers: Sequence[Actor],
    scenes: Sequence[RealEnvironment],
    config: PolicyRecordConfig,
    first: int = 0,
) -> list[EpisodeSet]:
    """Labelled real rollouts of each explorer in a folder of its own, DATA/explored-N from N = `first` on.

    The environments `scenes` take turns.
    """
    return [
        record_policy_to(data / f"explored-{i}", explorer, scenes[(i - first) % len(scenes)], of_explorer(config, i))
        for i, explorer in enumerate(explorers, first)
    ]


def of_explorer(config: PolicyRecordConfig, number: int) -> PolicyRecordConfig:
    """The same recording on the layouts of explorer `number`."""
    return replace(config, seed=config.seed + 10_000 * number)


def policy_episodes(policy: Actor, env: RealEnvironment, config: PolicyRecordConfig) -> Iterator[Episode]:
    """Labelled real rollouts of `policy`, on layouts and with sentences drawn from `config.seed`."""
    real = env.vector(config.workers, policy.chunk, horizon=config.length)
    rng = np.random.default_rng(config.seed)
    try:
        for i, temperature in enumerate(config.temperatures):
            for t, task in enumerate(env.tasks):
                base = config.seed + 100_000 * t + 1000 * i
                sentences = rng.choice(env.instructions(task), config.per_temperature)
                layouts = [Layout(task, base + j, str(sentence)) for j, sentence in enumerate(sentences)]
                generator = torch.Generator().manual_seed(base)
                rollouts = roll_out(real, policy, layouts, temperature=temperature, generator=generator)
                yield from episodes_of(rollouts, f"policy@{temperature:g}", policy.action_spec, rate_of(env))
    finally:
        real.close()
