"""Test-time training: RL from one frame and one sentence, without changing the world model.

The loop is `reinforce` with one start. The published method made other tasks worse (World-Gymnast, arXiv 2602.02454).
There are two remedies here. A KL anchor pulls the policy toward the initial one. Replay starts a share of every step
from other starts, which costs only imagination. The anchor is the default: replay without it costs the other tasks more
than it saves (docs/results.md). `measure_forgetting` rolls out the policy, before and after, from held-out starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from worldgymnast.configs import Between, Positive, checked
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import EpisodeResult, Rate, SuccessTable, success_table
from worldgymnast.protocols import Policy, StartSampler
from worldgymnast.recipes.finetune import finetune
from worldgymnast.rl.objective import ObjectiveConfig
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import starts_hash
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.surrogates.imagination import Surrogate, score_in
from worldgymnast.types import Start, StartOrLayout
from worldgymnast.weights import fingerprint


@checked
class AdaptConfig:
    """Training on one start.

    Attributes:
        rl: the loop, with the anchor as `trainer.objective.kl`; without real evaluations.
        replay: share of other starts in every step.
        trials: rollouts from the start, before and after.
    """

    rl: ReinforceConfig = ReinforceConfig(
        steps=12,
        starts=8,
        middle=0.0,
        resample=0,
        trainer=TrainerConfig(objective=ObjectiveConfig(kl=0.2)),
    )
    replay: Annotated[float, Between(0, 0.9)] = 0.0
    trials: Positive = 32

    def __post_init__(self) -> None:
        for name, reason in (
            ("middle", "a picture is no episode with a middle"),
            ("curriculum", "it would change the share of replay"),
        ):
            if value := getattr(self.rl, name):
                raise InputError(f"--rl.{name}: found {value}, expected 0: {reason}")


@dataclass(frozen=True)
class ReplayStarts:
    """Repeats one start, mixed with a share of other starts.

    Attributes:
        start: the repeated start.
        others: draws the other starts.
        share: share of other starts.
    """

    start: Start
    others: StartSampler
    share: float

    @property
    def identity(self) -> str:
        """Hash of the start, the other sampler and the share."""
        return fingerprint([starts_hash([self.start]), self.others.identity if self.share else "", self.share])

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """Draw `count` starts, a share of them from the other sampler."""
        replayed = round(self.share * count)
        others = self.others(rng, replayed) if replayed else ()
        return [self.start] * (count - replayed) + list(others)


def adapt(
    policy: Policy, surrogate: Surrogate, start: Start, others: StartSampler, out: Path, config: AdaptConfig
) -> Policy:
    """Train a copy of `policy` on `start`; write OUT/policy.safetensors with the last weights.

    Without real evaluations, no other step can be chosen.

    Args:
        policy: the initial policy.
        surrogate: where it trains.
        start: the frame and the sentence.
        others: draws the starts of replay.
        out: the run folder.
        config: the training.
    """
    rl = replace(config.rl, keep_best=False)
    return finetune(policy, surrogate, ReplayStarts(start, others, config.replay), out, rl).policy


@dataclass(frozen=True)
class AdaptResult:
    """Success in the surrogate before and after test-time training.

    Attributes:
        before: success of the initial policy from the start, sampled as in training.
        after: the same of the trained policy.
        others: greedy success on other starts, before and after, by task; None without other starts.
    """

    before: Rate
    after: Rate
    others: SuccessTable | None


def measure_forgetting(
    policies: tuple[Policy, Policy],
    surrogate: Surrogate,
    start: Start,
    others: Sequence[Start],
    config: AdaptConfig,
) -> AdaptResult:
    """Roll out both policies, before and after, from `start` and from held-out `others`."""
    rl, rows = config.rl, config.rl.rows
    by_policy = [
        score_in(
            surrogate,
            p,
            [start] * config.trials,
            rows=rows,
            temperature=rl.temperature,
            seed=rl.seed,
            label="imagining this scene",
        )
        for p in policies
    ]
    rates = [Rate.of(r.verdict.succeeded for r in rollouts) for rollouts in by_policy]
    if not others:
        return AdaptResult(rates[0], rates[1], None)
    first, second = (
        [
            EpisodeResult(r.start.task, i, rl.seed, r.verdict.succeeded, len(r.frames))
            for i, r in enumerate(
                score_in(
                    surrogate, p, others, rows=rows, temperature=0.0, seed=rl.seed, label="imagining the other scenes"
                )
            )
        ]
        for p in policies
    )
    return AdaptResult(rates[0], rates[1], success_table(first, second))
