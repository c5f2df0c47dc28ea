"""Records real episodes: scripted experts, experts with graded noise, replayed experts, and play.

World models need failures and near misses, not only demonstrations. So noise has several levels and three forms: jitter
on every action, a constant drift that makes the gripper miss by centimeters, and phases in which the expert is ignored.
An expert corrects itself, so it never carries nothing; a demonstration that is executed again on another layout, with
noise and without looking, does.

Rollouts of a policy are collected by `rl.rollout.roll_out` and logged with `to_episodes`.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from worldgymnast.actions import ActionSpec
from worldgymnast.configs import LATER, Between, Executed, NonNegative, Positive, Seed, checked
from worldgymnast.environments import OptionalMembers
from worldgymnast.episodes.lerobot import LeRobotWriter, read
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError, InputError
from worldgymnast.progress import Progress
from worldgymnast.protocols import (
    Actor,
    Demonstrates,
    KeepsLayouts,
    RealEnvironment,
    ScriptedEnv,
    WorldModel,
    tiling_of,
)
from worldgymnast.rl.rollout import executed_per_look, open_vector, roll_out
from worldgymnast.surrogates.plans import execute_plans
from worldgymnast.tiling import Tiling
from worldgymnast.types import IMAGE, STATE, Episode, Layout, Rollout

_KEY = "observation.images."
"""Prefix of the names of cameras in a LeRobot data set."""
KINDS = ("expert", "noisy", "play", "replayed")
_DONOR = 5_000
"""Distance from the layout of a replayed episode to that of its demonstration."""


@checked
class RecordConfig:
    """Number of real episodes of each kind, and their layouts.

    Attributes:
        expert: demonstrations per task.
        noisy: episodes of the noisy expert per task.
        play: play episodes per task.
        replayed: demonstrations per task that are executed again on another layout, with noise and without looking.
        length: actions per episode; longer than the horizon, so the world model also learns what follows success.
        seed: the first layout, after those that a benchmark reserves for scores; every episode has its own. Layouts
            from 1,000,000 on are reserved for other uses.
        workers: processes.
    """

    expert: Annotated[int, Between(0, 3000)] = 20
    noisy: Annotated[int, Between(0, 3000)] = 70
    play: Annotated[int, Between(0, 3000)] = 40
    replayed: Annotated[int, Between(0, 3000)] = field(default=0, metadata=LATER)
    length: Annotated[int, Between(5)] = 32
    seed: Annotated[int, Between(0, 900_000)] = 0
    workers: Positive = 2

    def __post_init__(self) -> None:
        if self.per_task == 0:
            raise FieldError(", ".join(KINDS), "found 0 in total, expected at least 1 episode per task")

    @property
    def per_task(self) -> int:
        """Episodes of a task."""
        return sum(getattr(self, kind) for kind in KINDS)


@dataclass(frozen=True)
class _Job:
    task: str
    kind: str
    layout: int


def _jobs(env: Demonstrates, config: RecordConfig) -> list[_Job]:
    """All episodes to record; layouts that a benchmark keeps for scores are left out."""
    kept = (env.scoring_layouts, env.evaluation_layouts) if isinstance(env, KeepsLayouts) else ()
    first = config.seed + max((layouts.stop for layouts in kept), default=0)
    jobs = []
    for t, task in enumerate(env.tasks):
        kinds = [kind for kind in KINDS for _ in range(getattr(config, kind))]
        jobs += [_Job(task, kind, first + 10_000 * t + i) for i, kind in enumerate(kinds)]
    return jobs


def _smooth_noise(rng: np.random.Generator, length: int, dim: int, correlation: float) -> np.ndarray:
    """Draw Ornstein-Uhlenbeck noise of unit variance, [length dim]."""
    noise = np.empty((length, dim))
    noise[0] = rng.standard_normal(dim)
    for t in range(1, length):
        noise[t] = correlation * noise[t - 1] + np.sqrt(1 - correlation**2) * rng.standard_normal(dim)
    return noise


def _disturbance(kind: str, rng: np.random.Generator, length: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw noise to add to the expert's actions [t a], and the weight of the expert [t 1].

    The last of the `dim` numbers of an action is the gripper, which does not drift.
    """
    if kind == "expert":
        return np.zeros((length, dim)), np.ones((length, 1))
    if kind == "play":
        noise = _smooth_noise(rng, length, dim, 0.7) * rng.uniform(0.5, 1.1)
        keep = np.zeros((length, 1))
        if rng.random() < 0.6:  # most play starts near the object
            keep[: rng.integers(2, 12)] = 1.0
        return noise * (1 - 0.8 * keep), keep
    if kind == "replayed":
        noise = _smooth_noise(rng, length, dim, 0.8) * rng.choice([0.0, 0.1, 0.2, 0.4])
        noise[:, -1] = 0.0
        return noise, np.ones((length, 1))
    jitter = _smooth_noise(rng, length, dim, rng.uniform(0.0, 0.8)) * rng.choice([0.15, 0.3, 0.5, 0.8])
    drift = np.append(rng.standard_normal(dim - 1) * rng.choice([0.0, 0.15, 0.3]), 0.0)
    keep = np.ones((length, 1))
    if rng.random() < 0.4:
        first = rng.integers(0, length - 4)
        keep[first : first + rng.integers(2, 8)] = 0.0
    return jitter + drift, keep


def _record_episode(env: Demonstrates, scene: ScriptedEnv, job: _Job, length: int) -> Episode:
    spec, rng = env.action_spec, np.random.default_rng((job.layout, KINDS.index(job.kind)))
    noise, keep = _disturbance(job.kind, rng, length, spec.dim)
    low, high = np.array(spec.low), np.array(spec.high)
    noise *= (high - low) / 2
    if job.kind != "play":
        noise = noise * np.asarray(OptionalMembers.of(env).noise_scale)
    if spec.is_absolute:  # targets: the noise is around the middle
        noise += (1 - keep) * (low + high) / 2
    demonstrated = _demonstration(scene, job, length) if job.kind == "replayed" else None
    observed, info = scene.reset(seed=job.layout, options={"task": job.task})
    frames, actions, states = [observed[IMAGE]], [], [observed.get(STATE)]
    labels = list[bool | None]()
    for t in range(length):
        demonstrated_now = (
            scene.expert_action() if demonstrated is None else demonstrated[min(t, len(demonstrated) - 1)]
        )
        wanted = keep[t] * demonstrated_now + noise[t]
        action = np.clip(wanted, spec.low, spec.high).astype(np.float32)
        observed, _, terminated, _, info = scene.step(action)
        frames.append(observed[IMAGE])
        states.append(observed.get(STATE))
        actions.append(action)
        labels.append(info["success"])
        if terminated or info.get("ended"):
            break
    is_known = True in labels or labels[-1] is not None
    sentences = env.instructions(job.task)
    return Episode(
        frames=np.stack(frames),
        actions=np.stack(actions),
        instruction=sentences[int(rng.integers(len(sentences)))],
        task=job.task,
        fps=frame_rate(env),
        spec=spec,
        success=np.array([False, *(bool(one) for one in labels)]) if is_known else None,
        source=job.kind,
        layout=job.layout,
        state=None if states[0] is None else np.stack([np.asarray(state, np.float32) for state in states]),
    )


def _demonstration(scene: ScriptedEnv, job: _Job, length: int) -> list[np.ndarray]:
    """Actions of the expert on another layout."""
    scene.reset(seed=job.layout + _DONOR, options={"task": job.task})
    actions = list[np.ndarray]()
    while len(actions) < length:
        actions.append(np.asarray(scene.expert_action()))
        _, _, terminated, _, info = scene.step(actions[-1].astype(np.float32))
        if terminated or info.get("ended"):
            break
    return actions


def _work(env: Demonstrates, length: int, jobs: Sequence[_Job]) -> list[Episode]:
    scene = env.open()
    try:
        return [_record_episode(env, scene, job, length) for job in jobs]
    finally:
        scene.close()


def frame_rate(env: RealEnvironment) -> float:
    """Return the frames per second of a real environment.

    Raises:
        InputError: its action spec has no rate.
    """
    if env.action_spec.rate is None:
        raise InputError(
            f"{type(env).__name__}: its action spec has no rate, so a recording has no frame rate. Add one"
        )
    return env.action_spec.rate


def record(env: Demonstrates, config: RecordConfig) -> Iterator[Episode]:
    """Yield every episode of `config`, in an order independent of the number of workers."""
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


def to_episodes(rollouts: Iterable[Rollout], source: str, spec: ActionSpec, fps: float) -> Iterator[Episode]:
    """Convert real rollouts of a policy to labeled episodes, until the environment ended them."""
    for rollout in rollouts:
        actions = rollout.chunks.actions.flatten(0, 1).numpy()
        count = len(actions) if rollout.executed is None else rollout.executed
        yield Episode(
            frames=rollout.frames[: count + 1],
            actions=actions[:count],
            instruction=rollout.start.instruction,
            task=rollout.start.task,
            fps=fps,
            spec=spec,
            success=None if rollout.success is None else rollout.success[: count + 1],
            source=source,
            layout=rollout.start.layout,
            state=None if rollout.frame_state is None else rollout.frame_state[: count + 1],
        )


@checked
class PolicyRecordConfig:
    """Recording of labeled real rollouts of a policy.

    Attributes:
        temperatures: sampling temperatures.
        per_temperature: episodes per task and temperature.
        length: actions per episode.
        seed: first layout; every task and temperature has its own.
        workers: processes of the real environment.
        execute: actions to execute of each predicted chunk; all by default.
    """

    temperatures: tuple[NonNegative, ...] = (0.5, 1.0, 1.5)
    per_temperature: Annotated[int, Between(1, 1000)] = 40
    length: Positive = 32
    seed: Seed = 2_000_000
    workers: Positive = 2
    execute: Executed = None


def record_to(path: Path, env: RealEnvironment, config: RecordConfig) -> EpisodeSet:
    """Record scripted experts and play to a LeRobot folder, unless it exists.

    Raises:
        InputError: the environment has no scripted experts.
    """
    if not path.exists():
        if not isinstance(env, Demonstrates):
            raise InputError(
                f"{type(env).__name__} has no scripted experts, so it cannot record demonstrations. Give recorded data"
            )
        if not OptionalMembers.of(env).has_expert and config.per_task > config.play:
            raise InputError(
                "environment: found no expert_action(), so it cannot demonstrate. Record play alone, with --expert 0 "
                "--noisy 0 --replayed 0, or give recorded demonstrations"
            )
        total = len(env.tasks) * config.per_task
        _write(path, env, record(env, config), "recording", total)
    return read_recording(path, env)


def _write(path: Path, env: RealEnvironment, episodes: Iterator[Episode], label: str, total: int) -> None:
    """Write `episodes` as they arrive, with a progress bar."""
    names = OptionalMembers.of(env).state_names
    with LeRobotWriter(path, env.action_spec, frame_rate(env)) as writer, Progress(label, total) as progress:
        for episode in episodes:
            writer.add(_apart(replace(episode, state_names=names), tiling_of(env)))
            progress.advance()


def _apart(episode: Episode, tiling: Tiling | None) -> Episode:
    """Return the episode with one picture per camera, as other programs read them."""
    if tiling is None or not tiling.names_cameras:
        return episode
    (camera, frames), *others = tiling.untile(episode.frames).items()
    return replace(
        episode,
        frames=np.ascontiguousarray(frames),
        camera=_KEY + camera,
        cameras={_KEY + name: np.ascontiguousarray(part) for name, part in others},
    )


def read_recording(path: Path, env: RealEnvironment) -> EpisodeSet:
    """Read a recording of an environment, with the frames that the environment shows."""
    tiling = tiling_of(env)
    if tiling is None or not tiling.names_cameras:
        return read(path)
    return read(path, image_key=[_KEY + name for name in tiling.cameras])


def record_policy_to(
    path: Path, policy: Actor, env: RealEnvironment, config: PolicyRecordConfig, world: WorldModel | None = None
) -> EpisodeSet:
    """Record labeled real rollouts of `policy` to a LeRobot folder, unless it exists; see `policy_episodes`."""
    if not path.exists():
        total = len(config.temperatures) * len(env.tasks) * config.per_temperature
        _write(path, env, policy_episodes(policy, env, config, world), "recording the policy", total)
    return read_recording(path, env)


def record_explorers(
    data: Path,
    explorers: Sequence[Actor],
    scenes: Sequence[RealEnvironment],
    config: PolicyRecordConfig,
    first: int = 0,
    world: WorldModel | None = None,
) -> list[EpisodeSet]:
    """Record labeled real rollouts of each explorer to DATA/explored-N, from N = `first` on.

    The environments `scenes` are used in turn; for `world` see `policy_episodes`.
    """
    return [
        record_policy_to(
            data / f"explored-{i}", explorer, scenes[(i - first) % len(scenes)], explorer_config(config, i), world
        )
        for i, explorer in enumerate(explorers, first)
    ]


def explorer_config(config: PolicyRecordConfig, number: int) -> PolicyRecordConfig:
    """Return the same recording on the layouts of explorer `number`."""
    return replace(config, seed=config.seed + 10_000 * number)


def policy_episodes(
    policy: Actor, env: RealEnvironment, config: PolicyRecordConfig, world: WorldModel | None = None
) -> Iterator[Episode]:
    """Yield labeled real rollouts of `policy`, with layouts and sentences drawn from `config.seed`.

    Args:
        policy: acts.
        env: the real environment.
        config: numbers of rollouts.
        world: if given, the policy acts in this world model instead, and its actions are executed for real without
            looking (`surrogates.plans`).
    """
    execute = executed_per_look(policy, config.execute)
    real = open_vector(env, config.workers, execute, horizon=config.length)
    rng = np.random.default_rng(config.seed)
    try:
        for i, temperature in enumerate(config.temperatures):
            for t, task in enumerate(env.tasks):
                base = config.seed + 100_000 * t + 1000 * i
                sentences = rng.choice(env.instructions(task), config.per_temperature)
                layouts = [Layout(task, base + j, str(sentence)) for j, sentence in enumerate(sentences)]
                generator = torch.Generator().manual_seed(base)
                if world is None:
                    rollouts = roll_out(real, policy, layouts, temperature=temperature, generator=generator)
                else:
                    rollouts = execute_plans(
                        real,
                        policy,
                        world,
                        layouts,
                        execute=execute,
                        horizon=config.length,
                        temperature=temperature,
                        generator=generator,
                    )
                source = f"{'policy' if world is None else 'plan'}@{temperature:g}"
                yield from to_episodes(rollouts, source, policy.action_spec, frame_rate(env))
    finally:
        real.close()
