"""RL leaves out what the world is not to be believed in: a planted fault is found, counted, and not trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldgymnast.actions import metaworld_spec
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.errors import InputError
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.measure.world import rollout_uncertainty
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.rl.judging import JudgeVerdicts
from worldgymnast.rl.reinforce import ReinforceConfig, reinforce
from worldgymnast.rl.rollout import drop_uncertain, group, roll_out
from worldgymnast.rl.trainer import Trainer
from worldgymnast.run import Run, weights_hash
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Clip, Metrics, RolloutGroup, Start, Verdict, WorldState

SPEC = metaworld_spec(6)
TEXT = SentenceEncoder()
SIZE = 32
JITTER = JitterConfig(futures=8, pixels=1.0, actions=0.0)


class HalfWrongWorld:
    """Right on dark starts: action x makes the frame brighter or darker. On bright ones it makes things up: the next
    frames are bright or dark by the parity of the start's pixels, which no action changes and any jitter does.
    """

    action_spec, fps, frame_size, identity = SPEC, 10.0, (SIZE, SIZE), "half wrong"

    def start(self, frames: Tensor) -> WorldState:
        odd = (frames.long().sum((1, 2, 3)) % 2).float()
        wrong = (frames.float().mean((1, 2, 3)) > 150).float()
        return WorldState(frames.float(), 0, extra={"odd": odd, "wrong": wrong})

    def step(
        self, state: WorldState, actions: Tensor, *, generator: torch.Generator, every: int = 1
    ) -> tuple[WorldState, Tensor]:
        shown, odd, wrong = [], state.extra["odd"], state.extra["wrong"]
        latent = state.latent
        for action in actions.unbind(1):
            push = torch.where(wrong > 0, 20 * (2 * odd - 1), 20 * action[:, 0].sign())
            latent = (latent + push[:, None, None, None]).clamp(0, 255)
            shown.append(latent.round().byte())
        return WorldState(latent, state.frame + actions.shape[1], extra=state.extra), torch.stack(shown, 1)


class BrighterJudge:
    """Success is a last frame brighter than the first by more than one level."""

    name = identity = "brighter-v1"
    is_remote = False

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        gained = [float(c.frames[-1].mean()) - float(c.frames[0].mean()) > 1 for c in clips]
        return [Verdict(float(won), float(won)) for won in gained]


def starts(rng: np.random.Generator, count: int, bright: float = 0.5) -> list[Start]:
    levels = [180 if rng.random() < bright else 80 for _ in range(count)]
    return [
        Start(np.clip(rng.normal(level, 8, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8), "open", str(level))
        for level in levels
    ]


def is_wrong(group: RolloutGroup) -> bool:
    return group.start.task == "180"


CONFIG = ReinforceConfig(
    steps=2, starts=6, group_size=4, horizon=4, rows=16, resample=1, evaluate_every=100, save_every=1,
    uncertainty="drop", uncertainty_threshold=0.3, uncertain_limit=1.0, jitter=JITTER,
)  # fmt: skip


class Watched(LocalPool):
    """A pool that remembers what it collected."""

    def begin(self, starts: Sequence[Start], group_size: int) -> Callable[[], list[RolloutGroup]]:
        groups = super().begin(starts, group_size)()
        self.seen = [*getattr(self, "seen", []), groups]
        return lambda: groups


@pytest.fixture(scope="module")
def policy() -> SmallVLA:
    torch.manual_seed(0)
    return SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), SPEC, TEXT)


def env(rows: int, generator: torch.Generator) -> ImaginedVectorEnv:
    return ImaginedVectorEnv(HalfWrongWorld(), BrighterJudge(), rows=rows, chunk=2, horizon=4, generator=generator)


def doubt(rows: int = 16):
    return rollout_uncertainty(HalfWrongWorld(), BrighterJudge(), 2, JITTER, rows)


def learn(policy: SmallVLA, out: Path, config: ReinforceConfig) -> tuple[str, list[Metrics], Watched]:
    trained = copy.deepcopy(policy)
    pool = Watched(copy.deepcopy(policy), env, JudgeVerdicts(BrighterJudge(), 2), rows=16, temperature=1.0, seed=0)
    told = None if config.uncertainty == "off" else doubt()
    with Run(out, {}) as run:
        reinforce(trained, pool, starts, lambda step: None, config, run, told)
        return weights_hash(trained.state_dict()), run.metrics(), pool


def test_the_signal_finds_the_starts_on_which_the_world_makes_things_up(policy: SmallVLA) -> None:
    wanted = [s for s in starts(np.random.default_rng(0), 8) for _ in range(4)]
    generator = torch.Generator().manual_seed(0)
    made = roll_out(env(32, generator), policy, wanted, temperature=1.0, generator=generator)
    groups = group(made, 4)
    found = doubt()(made, 0)
    assert 0 < sum(map(is_wrong, groups)) < 8
    for g, values in zip(groups, found.reshape(-1, 4), strict=True):
        assert (values > 0.3).all() if is_wrong(g) else (values == 0).all()
    assert np.array_equal(found, doubt()(made, 0))


def test_what_is_uncertain_leaves_its_group_and_is_counted_once(policy: SmallVLA) -> None:
    wanted = [s for s in starts(np.random.default_rng(0), 3) for _ in range(4)]
    generator = torch.Generator().manual_seed(0)
    groups = group(roll_out(env(12, generator), policy, wanted, temperature=1.0, generator=generator), 4)
    values = np.array([0, 1, 0, 0.5] + [np.nan] * 4 + [1] * 4)
    kept, count = drop_uncertain(groups, values, 0.5)
    assert count == 5
    assert [len(g.rollouts) for g in kept] == [3, 4, 0]
    assert kept[0].rollouts == (groups[0].rollouts[0], *groups[0].rollouts[2:])
    assert kept[2].start is groups[2].start
    assert len(groups[2].rollouts) == 4
    with pytest.raises(ValueError, match="has 3 entries, expected one for each of 12"):
        drop_uncertain(groups, values[:3], 0.5)


def test_dropped_rollouts_train_nobody_and_the_counts_add_up(policy: SmallVLA, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1)
    found, rows, pool = learn(policy, tmp_path / "drop", config)
    collected = [g for groups in pool.seen for g in groups]
    wrong = [g for g in collected if is_wrong(g)]
    assert wrong
    assert rows[0]["rollouts"] == 4 * len(collected)
    assert rows[0]["uncertain"] == 4 * len(wrong)
    assert rows[0]["uncertain_rate"] == len(wrong) / len(collected)
    assert rows[0]["groups"] == len(collected)
    believed = [r.verdict.score for g in collected if not is_wrong(g) for r in g.rollouts]
    assert rows[0]["reward"] == pytest.approx(np.mean([b for b in believed if b is not None]))

    alone = copy.deepcopy(policy)
    right = [g for g in collected if not is_wrong(g)]
    trainer = Trainer(alone, config.trainer)
    trainer.update(right, torch.Generator().manual_seed(0))
    trainer.finish(kept=False)
    assert weights_hash(alone.state_dict()) == found != weights_hash(policy.state_dict())


def test_a_threshold_above_every_doubt_changes_nothing(policy: SmallVLA, tmp_path: Path) -> None:
    """The same weights as without, and without nothing is imagined, drawn or logged."""
    off, plain, _ = learn(policy, tmp_path / "off", replace(CONFIG, uncertainty="off"))
    high, rows, _ = learn(policy, tmp_path / "high", replace(CONFIG, uncertainty_threshold=1.0))
    assert off == high
    assert not {k for row in plain for k in row if "uncertain" in k or k == "rollouts"}
    assert [row["uncertain"] for row in rows[:2]] == [0, 0]
    for one, other in zip(plain, rows, strict=True):
        assert {k: v for k, v in one.items() if "second" not in k and k != "time"}.items() <= other.items()


def test_too_much_doubt_stops_the_run_with_a_checkpoint(policy: SmallVLA, tmp_path: Path) -> None:
    def darkening(rng: np.random.Generator, count: int) -> list[Start]:
        return starts(rng, count, bright=0.0 if not pool.version else 1.0)

    trained = copy.deepcopy(policy)
    pool = Watched(copy.deepcopy(policy), env, JudgeVerdicts(BrighterJudge(), 2), rows=16, temperature=1.0, seed=0)
    config = replace(CONFIG, uncertain_limit=0.5, save_every=100)
    with Run(tmp_path / "run", {}) as run:
        with pytest.raises(InputError, match=r"step 1: 100% of \d+ imagined .*\(limit 50%, --rl.uncertain-limit\)"):
            reinforce(trained, pool, darkening, lambda step: None, config, run, doubt())
        checkpoint = run.load()
        assert checkpoint is not None
        assert checkpoint.step == 1
        kept = {k.removeprefix("policy."): v for k, v in checkpoint.tensors.items() if k.startswith("policy.")}
    assert weights_hash(kept) == weights_hash(trained.state_dict()) != weights_hash(policy.state_dict())


def test_dropping_without_a_measure_of_doubt_is_refused(policy: SmallVLA, tmp_path: Path) -> None:
    pool = LocalPool(copy.deepcopy(policy), env, JudgeVerdicts(BrighterJudge(), 2), rows=16, temperature=1.0, seed=0)
    with Run(tmp_path / "run", {}) as run, pytest.raises(ValueError, match="no `uncertainty` was given"):
        reinforce(copy.deepcopy(policy), pool, starts, lambda step: None, CONFIG, run)
    with pytest.raises(InputError, match="uncertain_limit"):
        replace(CONFIG, uncertain_limit=1.5)


def test_off_is_the_default() -> None:
    assert ReinforceConfig().uncertainty == "off"
