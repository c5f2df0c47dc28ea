"""Test-time training: reinforcement learning from one frame and one sentence, with the world as it is.

The loop is `reinforce` with one start. What the published method paid for it (other tasks got worse, World-Gymnast,
arXiv 2602.02454) has two remedies here. A KL anchor: the policy is held to the one it was. Replay: a share of every
step begins at other starts, which a world model imagines for nothing. The anchor is the default, for replay without it
costs the other tasks more than it saves (docs/results.md). `forgetting` rolls the policy out, before and after, from
starts that nobody trained on.
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
        rl: the loop, with the anchor as `trainer.objective.kl`; nothing is scored for real while it runs.
        replay: share of every step's starts that are others than the one in question.
        trials: rollouts from the start in question, before and after.
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
        for name, why in (
            ("middle", "a picture has no middle"),
            ("curriculum", "the share of replay would be lost"),
        ):
            if getattr(self.rl, name):
                raise InputError(f"--rl.{name.replace('_', '-')}: found {getattr(self.rl, name)}, expected 0: {why}")


@dataclass(frozen=True)
class ReplayStarts:
    """Draws one start, and for a share of the draws others.

    Attributes:
        start: the one in question.
        others: draws the others.
        share: of the others.
    """

    start: Start
    others: StartSampler
    share: float

    @property
    def identity(self) -> str:
        """See `StartSampler`."""
        return fingerprint([starts_hash([self.start]), self.others.identity if self.share else "", self.share])

    def __call__(self, rng: np.random.Generator, count: int) -> list[StartOrLayout]:
        """See `StartSampler`."""
        more = round(self.share * count)
        return [self.start] * (count - more) + (list(self.others(rng, more)) if more else [])


def adapt(
    policy: Policy, surrogate: Surrogate, start: Start, others: StartSampler, out: Path, config: AdaptConfig
) -> Policy:
    """The policy trained on `start`; OUT/policy.safetensors, and the last weights, for nothing real chose among them.

    Args:
        policy: where it begins.
        surrogate: where it practises.
        start: the frame and the sentence.
        others: draws the starts of replay.
        out: the run folder.
        config: the training.
    """
    rl = replace(config.rl, keep_best=False)
    return finetune(policy, surrogate, ReplayStarts(start, others, config.replay), out, rl).policy


@dataclass(frozen=True)
class Adapted:
    """What became of a policy in the surrogate.

    Attributes:
        before: success from the start in question, sampled as in training, of the policy as it was.
        after: and of the trained one.
        others: greedy success on other starts, before and after, a row a task.
    """

    before: Rate
    after: Rate
    others: SuccessTable | None


def forgetting(
    policies: tuple[Policy, Policy],
    surrogate: Surrogate,
    start: Start,
    others: Sequence[Start],
    config: AdaptConfig,
) -> Adapted:
    """How both policies, before and after, do from `start` and from `others` (none of which was trained on)."""
    rl, rows = config.rl, config.rl.rows
    own = [
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
    rates = [Rate.of(r.verdict.succeeded for r in rollouts) for rollouts in own]
    if not others:
        return Adapted(rates[0], rates[1], None)
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
    return Adapted(rates[0], rates[1], success_table(first, second))
