"""Estimates the duration of a finetuning on this machine, from a few seconds of each of its parts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from worldgymnast.measure.real import ScoringConfig
from worldgymnast.protocols import Policy, RealEnvironment
from worldgymnast.rl.reinforce import ReinforceConfig, evaluation_steps
from worldgymnast.rl.rollout import executed_per_look, group
from worldgymnast.rl.trainer import Trainer
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.types import IMAGE, Rollout, Start, Verdict

_LOOKS = 2
"""Looks of the timed rollouts."""
_RESAMPLING = 1.3
"""Imagined rollouts per requested one, because groups without signal are replaced once."""


@dataclass(frozen=True)
class Pace:
    """Seconds per unit of work on this machine.

    Attributes:
        imagined: per imagined frame, in a large batch, including policy and judge.
        learned: per look in one policy update.
        acted: per action in the real environment, in one process.
        laid_out: per new layout in the real environment.
    """

    imagined: float
    learned: float
    acted: float
    laid_out: float

    def finetuning(self, rl: ReinforceConfig, scoring: ScoringConfig, chunk: int, tasks: int) -> float:
        """Estimate the seconds of RL with its evaluations."""
        rollouts = rl.starts * rl.group_size
        step = _RESAMPLING * rollouts * rl.horizon * self.imagined
        step += rl.trainer.updates * rollouts * (rl.horizon / chunk) * self.learned
        episodes = len(evaluation_steps(rl)) * scoring.per_task * tasks
        return rl.steps * step + self.evaluation(episodes, rl.horizon, scoring.workers)

    def evaluation(self, episodes: int, horizon: int, workers: int) -> float:
        """Estimate the seconds of real episodes, and of imagining the same starts."""
        return episodes * ((self.laid_out + horizon * self.acted) / workers + horizon * self.imagined)


def measure_pace(policy: Policy, imagine: Imagination, env: RealEnvironment, rl: ReinforceConfig) -> Pace:
    """Time a few seconds of each part, without changing anything."""
    executed = executed_per_look(policy, rl.execute)
    acted, laid_out, start = _time_real(env, executed)
    rows = min(rl.rows, rl.starts * rl.group_size)
    short = Imagination.of(policy, imagine.world, imagine.judge, _LOOKS * executed, rl.execute).keyframes_only()
    seconds, rollouts = _time(
        lambda: score_in(short, policy, [start] * rows, rows=rows, temperature=rl.temperature, seed=0)
    )
    imagined = seconds / (rows * short.horizon)
    return Pace(imagined, _time_learning(policy, rollouts[: 2 * rl.trainer.micro_batch], rl), acted, laid_out)


def _time(run: Callable[[], list[Rollout]]) -> tuple[float, list[Rollout]]:
    """Time the second call; the first one warms up."""
    run()
    began = time.perf_counter()
    rollouts = run()
    return time.perf_counter() - began, rollouts


def _time_real(env: RealEnvironment, chunk: int) -> tuple[float, float, Start]:
    """Return the seconds per action and per layout, and the start in that layout."""
    before, layout = env.layouts(2, 0)[:2]
    rows = env.vector(1, chunk, horizon=2 * chunk)
    try:
        rows.reset(options={"starts": [before]})
        began = time.perf_counter()
        observed, _ = rows.reset(options={"starts": [layout]})
        laid_out, began = time.perf_counter() - began, time.perf_counter()
        for _ in range(2):
            rows.step(np.zeros((1, chunk, env.action_spec.dim), np.float32))
        acted = (time.perf_counter() - began) / (2 * chunk)
    finally:
        rows.close()
    return acted, laid_out, layout.start(observed[IMAGE][0])


def _time_learning(policy: Policy, rollouts: list[Rollout], rl: ReinforceConfig) -> float:
    """Return the seconds per look of an update of a copy.

    Every other rollout counts as a success.
    """
    judged = [r.with_verdict(Verdict(float(i % 2)), _LOOKS) for i, r in enumerate(rollouts)]
    trainer, generator = Trainer(copy.deepcopy(policy), rl.trainer, policy), torch.Generator().manual_seed(0)
    groups = group(judged, len(judged))
    began = time.perf_counter()
    trainer.update(groups, generator)
    return (time.perf_counter() - began) / (rl.trainer.updates * len(judged) * _LOOKS)


def format_duration(seconds: float) -> str:
    """Format an estimated duration.

    >>> format_duration(100), format_duration(1000)
    ('about 2 minutes', 'about 17 minutes')
    """
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} minute{'s' if minutes > 1 else ''}"
