"""How long a finetuning will take on this machine, from a few seconds of each of its parts."""

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
from worldgymnast.rl.rollout import group
from worldgymnast.rl.trainer import Trainer
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.types import IMAGE, Rollout, Start, Verdict

_LOOKS = 2
"""Looks of the rollouts that are timed."""
_AGAIN = 1.3
"""Rollouts imagined for each that a step asks for: groups without signal are drawn anew once."""


@dataclass(frozen=True)
class Pace:
    """Seconds that one of each takes here.

    Attributes:
        imagined: an imagined frame, of many side by side, policy and judge included.
        learned: a look that the policy learns from once.
        acted: an action in the real environment, in one process.
        laid_out: a new layout there.
    """

    imagined: float
    learned: float
    acted: float
    laid_out: float

    def finetuning(self, rl: ReinforceConfig, scoring: ScoringConfig, chunk: int, tasks: int) -> float:
        """Seconds of reinforcement learning with its scorings."""
        rollouts = rl.starts * rl.group_size
        step = _AGAIN * rollouts * rl.horizon * self.imagined
        step += rl.trainer.updates * rollouts * (rl.horizon / chunk) * self.learned
        scored = len(evaluation_steps(rl)) * scoring.per_task * tasks
        return rl.steps * step + self.evaluation(scored, rl.horizon, scoring.workers)

    def evaluation(self, episodes: int, horizon: int, workers: int) -> float:
        """Seconds of so many real episodes, and of the same starts imagined."""
        return episodes * ((self.laid_out + horizon * self.acted) / workers + horizon * self.imagined)


def pace(policy: Policy, imagine: Imagination, env: RealEnvironment, rl: ReinforceConfig) -> Pace:
    """Takes a few seconds of each part; changes nothing."""
    acted, laid_out, seen = _real(env, policy.chunk)
    rows = min(rl.rows, rl.starts * rl.group_size)
    short = Imagination.of(policy, imagine.world, imagine.judge, _LOOKS * policy.chunk).keyframes_only()
    seconds, rollouts = _timed(
        lambda: score_in(short, policy, [seen] * rows, rows=rows, temperature=rl.temperature, seed=0)
    )
    imagined = seconds / (rows * short.horizon)
    return Pace(imagined, _learning(policy, rollouts[: 2 * rl.trainer.micro_batch], rl), acted, laid_out)


def _timed(act: Callable[[], list[Rollout]]) -> tuple[float, list[Rollout]]:
    """Seconds of the second call: the first one warms up."""
    act()
    began = time.perf_counter()
    found = act()
    return time.perf_counter() - began, found


def _real(env: RealEnvironment, chunk: int) -> tuple[float, float, Start]:
    """Seconds an action and a layout, and the start that is seen in it."""
    before, layout = env.layouts(2, 0)[:2]
    rows = env.vector(1, chunk, horizon=2 * chunk)
    try:
        rows.reset(options={"starts": [before]})
        began = time.perf_counter()
        seen, _ = rows.reset(options={"starts": [layout]})
        laid_out, began = time.perf_counter() - began, time.perf_counter()
        for _ in range(2):
            rows.step(np.zeros((1, chunk, env.action_spec.dim), np.float32))
        acted = (time.perf_counter() - began) / (2 * chunk)
    finally:
        rows.close()
    return acted, laid_out, layout.start(seen[IMAGE][0])


def _learning(policy: Policy, rollouts: list[Rollout], rl: ReinforceConfig) -> float:
    """Seconds a look: an update of a copy, on rollouts of which every other one is said to have succeeded."""
    said = [r.with_verdict(Verdict(float(i % 2)), _LOOKS) for i, r in enumerate(rollouts)]
    trainer, generator = Trainer(copy.deepcopy(policy), rl.trainer, policy), torch.Generator().manual_seed(0)
    groups = group(said, len(said))
    began = time.perf_counter()
    trainer.update(groups, generator)
    return (time.perf_counter() - began) / (rl.trainer.updates * len(said) * _LOOKS)


def said(seconds: float) -> str:
    """A duration as one would say it before it has passed.

    >>> said(100), said(1000)
    ('about 2 minutes', 'about 17 minutes')
    """
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} minute{'s' if minutes > 1 else ''}"
