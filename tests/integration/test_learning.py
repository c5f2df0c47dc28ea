"""The learning bar: RL in the lamp's world, which is known to the last bit, must succeed, and keep its best step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lamp import SIZE, BrightJudge, Lamp

from worldgymnast.actions import metaworld_spec
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.evaluation.task_trust import TrustConfig
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.protocols import Judge
from worldgymnast.rl.judging import JudgeVerdicts
from worldgymnast.rl.reinforce import PairedRollouts, ReinforceConfig, reinforce
from worldgymnast.rl.rollout import roll_out
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.run import Run, weights_hash
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Clip, Rollout, Start, Verdict

SPEC, TEXT, CHUNK, HORIZON = metaworld_spec(3), SentenceEncoder(), 2, 8
BAR = 0.9
"""Share of sampled rollouts that must succeed at the end; a policy that was not trained has about 0.1."""
RL = ReinforceConfig(
    steps=30,
    starts=8,
    group_size=8,
    horizon=HORIZON,
    rows=64,
    evaluate_every=5,
    save_every=10,
    trainer=TrainerConfig(lr=5e-3),
)


def starts(rng: np.random.Generator, count: int) -> list[Start]:
    """Rooms so dark that chance lights one of ten: at least four of eight actions must be right."""
    noise = rng.integers(-20, 21, (count, SIZE, SIZE, 3))
    level = rng.integers(90, 125, (count, 1, 1, 1))
    return [Start((level + noise)[i].astype(np.uint8), "turn the lamp on", "lamp") for i in range(count)]


SCORED_ON = starts(np.random.default_rng(99), 48)


def env(rows: int, generator: torch.Generator, judge: Judge | None = None) -> ImaginedVectorEnv:
    world = Lamp(spec=SPEC)
    return ImaginedVectorEnv(world, judge, rows=rows, chunk=CHUNK, horizon=HORIZON, generator=generator, every=CHUNK)


def rollouts(policy: SmallVLA, judge: Judge) -> list[Rollout]:
    """One sampled rollout from each of the starts that every scoring shares."""
    generator = torch.Generator().manual_seed(0)
    return roll_out(env(len(SCORED_ON), generator, judge), policy, SCORED_ON, temperature=1.0, generator=generator)


def success(policy: SmallVLA, judge: Judge) -> float:
    return float(np.mean([rollout.verdict.succeeded for rollout in rollouts(policy, judge)]))


@dataclass
class Learned:
    """What a training leaves: the policy, what `reinforce` returned, the weights and the success of every scoring."""

    policy: SmallVLA
    metrics: dict[str, float]
    scored: dict[int, tuple[str, float]]


def learn(out: Path, seed: int, config: ReinforceConfig = RL, truth: Judge | None = None) -> Learned:
    """The loop itself with its own Trainer, rewarded by the bright judge and scored for real by `truth`."""
    torch.manual_seed(seed)
    policy = SmallVLA(SmallVLAConfig(chunk=CHUNK, width=16, blocks=1, hidden=32), SPEC, TEXT)
    pool = LocalPool(
        copy.deepcopy(policy), env, JudgeVerdicts(BrightJudge(), CHUNK), rows=64, temperature=1.0, seed=seed
    )
    scored: dict[int, tuple[str, float]] = {}

    def score(step: int) -> PairedRollouts:
        real = rollouts(policy, truth or BrightJudge())
        scored[step] = weights_hash(policy.state_dict()), float(np.mean([r.verdict.succeeded for r in real]))
        return PairedRollouts(rollouts(policy, BrightJudge()), real)

    with Run(out, {}) as run:
        metrics, _ = reinforce(policy, pool, starts, score, replace(config, seed=seed), run)
    return Learned(policy, metrics, scored)


def best(scored: dict[int, tuple[str, float]]) -> int:
    """The step with the highest real success, of several the last."""
    return max(scored, key=lambda step: (scored[step][1], step))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reinforcement_lights_the_lamp_and_hands_out_the_best_step(seed: int, tmp_path: Path) -> None:
    learned = learn(tmp_path / "run", seed)
    assert list(learned.scored) == [0, 5, 10, 15, 20, 25, 30]
    assert learned.scored[0][1] < 0.3
    assert success(learned.policy, BrightJudge()) >= BAR
    assert learned.metrics["real_success"] >= BAR
    assert learned.metrics["best_step"] == best(learned.scored)
    assert weights_hash(learned.policy.state_dict()) == learned.scored[best(learned.scored)][0]


@dataclass(frozen=True)
class Comfortable:
    """The truth of a lamp that is rewarded for light alone: bright, and not so bright that it dazzles."""

    name: str = "comfortable"
    is_remote: bool = False
    identity: str = "comfortable"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return [Verdict(float(128 < clip.frames[-1].mean() < 155)) for clip in clips]


def test_where_training_goes_too_far_the_step_before_is_handed_out(tmp_path: Path) -> None:
    config = replace(RL, trust=TrustConfig(enabled=False))
    kept = learn(tmp_path / "kept", 1, config, Comfortable())
    rates = {step: rate for step, (_, rate) in kept.scored.items()}
    assert rates[best(kept.scored)] > max(rates[0], rates[RL.steps]) + 0.1
    assert kept.metrics["best_step"] == best(kept.scored) not in (0, RL.steps)
    assert weights_hash(kept.policy.state_dict()) == kept.scored[best(kept.scored)][0]
    assert success(kept.policy, Comfortable()) == rates[best(kept.scored)]
    last = learn(tmp_path / "last", 1, replace(config, keep_best=False), Comfortable())
    assert weights_hash(last.policy.state_dict()) == kept.scored[RL.steps][0], "without it the last weights stay"
