"""A policy executes the first actions of its chunk: what is acted, what is scored, and what gets a gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from lamp import SIZE, BrightJudge, Lamp
from torch import Tensor, nn
from trainable import Trainable

from worldgymnast.configs import from_dict, to_dict
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.errors import FieldError, InputError
from worldgymnast.policies.flow_vla import FlowVLA, FlowVLAConfig
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.recipes.finetune import finetune
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.rollout import executed_per_look, roll_out
from worldgymnast.rl.starts import FixedStarts
from worldgymnast.rl.trainer import Trainer, TrainerConfig
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.types import ActionChunk, Observation, Rollout, RolloutGroup, Start, Verdict

START = Start(np.full((SIZE, SIZE, 3), 100, np.uint8), "turn the lamp on", "lamp")
CHUNK = 4


class Gaussian(Trainable):
    """A mean for each of four actions a look; how the log-probabilities are summed is `shape`."""

    chunk = CHUNK
    action_spec = Lamp().action_spec

    def __init__(self, shape: str = "b k a"):
        super().__init__()
        self.shape, self.mean = shape, nn.Parameter(torch.linspace(-0.3, 0.3, CHUNK)[:, None].repeat(1, 4))

    @torch.no_grad()
    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        noise = torch.randn(len(obs), CHUNK, 4, generator=generator)
        sample = self.mean + temperature * noise
        chunk = ActionChunk(sample.clamp(-1, 1), sample, torch.zeros(len(obs)), temperature)
        return replace(chunk, logprobs=self.logprobs(obs, chunk))

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        each = torch.distributions.Normal(self.mean, 1.0).log_prob(chunk.sample)
        return {"b k a": each, "b k": each.sum(2), "b": each.sum((1, 2)), "b s k a": torch.stack([each, each], 1)}[
            self.shape
        ]


def imagined(policy: Trainable, execute: int | None, horizon: int = 8, rows: int = 6, seed: int = 0) -> list[Rollout]:
    surrogate = Imagination.of(policy, Lamp(), BrightJudge(), horizon, execute)
    return score_in(surrogate, policy, [START] * rows, rows=4, temperature=1.0, seed=seed)


@pytest.mark.parametrize("execute", [1, 2, 4, None])
def test_only_the_executed_actions_move_the_world(execute: int | None) -> None:
    for rollout in imagined(Gaussian(), execute):
        n = execute or CHUNK
        assert rollout.looks == 8 // n
        assert rollout.chunks.actions.shape == (8 // n, n, 4)
        assert rollout.chunks.sample.shape == (8 // n, CHUNK, 4)
        assert torch.equal(rollout.chunks.actions, rollout.chunks.sample[:, :n].clamp(-1, 1))
        again = [Lamp().start(torch.from_numpy(START.frame)[None])]
        for action in rollout.chunks.actions.flatten(0, 1):
            again.append(Lamp().step(again[-1], action[None, None], generator=torch.Generator())[0])
        expected = np.stack([state.latent[0].round().byte().numpy() for state in again])
        assert np.array_equal(rollout.frames, expected)
        assert len(rollout.keyframes) == rollout.looks + 1


def judged(rollouts: list[Rollout]) -> RolloutGroup:
    return RolloutGroup(START, [r.with_verdict(Verdict(float(i % 2)), r.looks) for i, r in enumerate(rollouts)])


def test_a_whole_chunk_is_the_same_to_the_bit() -> None:
    one, other = imagined(Gaussian(), None), imagined(Gaussian(), CHUNK)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert torch.equal(a.chunks.logprobs, b.chunks.logprobs)


@pytest.mark.parametrize("shape", ["b k a", "b k", "b", "b s k a"])
@pytest.mark.parametrize("execute", [1, 2, 3])
def test_the_ratio_is_one_and_the_gradient_comes_from_what_acted(shape: str, execute: int) -> None:
    policy = Gaussian(shape)
    before = policy.mean.detach().clone()
    config = TrainerConfig(lr=1e-2, warmup=0, average=0, updates=1, micro_batch=4)
    trainer = Trainer(policy, config)
    group = judged(imagined(policy, execute, horizon=6))
    metrics = trainer.update([group], torch.Generator().manual_seed(0))
    assert metrics["ratio"] == 1.0
    assert metrics["ratio_error"] == 0.0
    assert metrics["kl_to_start"] == 0.0
    moved = (policy.mean.detach() != before).all(1)
    assert moved[:execute].all()
    assert bool(moved[execute:].any()) == (shape == "b")  # one number a chunk has no part that did not act


@pytest.mark.parametrize("shape", ["b k a", "b"])
def test_a_held_task_is_pulled_towards_its_anchor(shape: str) -> None:
    policy, anchor = Gaussian(shape), Gaussian(shape)
    with torch.no_grad():
        anchor.mean += 0.5
    before = policy.mean.detach().clone()
    trainer = Trainer(policy, TrainerConfig(lr=1e-2, warmup=0, average=0, updates=1))
    trainer.update([judged(imagined(policy, 2))], torch.Generator().manual_seed(0), {"lamp": anchor})
    assert (policy.mean.detach() > before)[:2].all()


@pytest.mark.parametrize("kind", [SmallVLA, FlowVLA])
def test_own_policies(kind: type) -> None:
    sizes = {"width": 16, "blocks": 1, "hidden": 32, "chunk": 5}
    config = SmallVLAConfig(**sizes) if kind is SmallVLA else FlowVLAConfig(**sizes)
    policy = kind(config, Lamp().action_spec)
    start = Start(np.zeros((64, 64, 3), np.uint8), "turn the lamp on", "lamp")
    world = Lamp()
    world.frame_size = (64, 64)  # type: ignore[misc]
    rollouts = score_in(
        Imagination.of(policy, world, BrightJudge(), 6, 2), policy, [start] * 4, rows=4, temperature=1.0, seed=0
    )
    metrics = Trainer(policy, TrainerConfig(updates=1)).update([judged(rollouts)], torch.Generator().manual_seed(0))
    assert metrics["ratio_error"] < 1e-5
    assert metrics["gradient_norm"] > 0


def test_reinforcement_learns_with_a_part_of_the_chunk(tmp_path) -> None:
    policy = Gaussian()
    trainer = TrainerConfig(lr=5e-2, warmup=0, average=0)
    config = ReinforceConfig(steps=12, starts=2, horizon=4, execute=2, temperature=1.0, trainer=trainer)
    surrogate = Imagination.of(policy, Lamp(), BrightJudge(), 4, 2)
    dim = replace(START, frame=START.frame + np.uint8(25))
    done = finetune(policy, surrogate, FixedStarts([dim]), tmp_path / "run", config)
    rewards = [row["reward"] for row in done.rows() if "reward" in row]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3])


def test_what_does_not_fit_is_one_line(tmp_path) -> None:
    policy = Gaussian()
    with pytest.raises(FieldError, match=r"execute.*found 5, expected at most the policy's chunk \(4\)"):
        executed_per_look(policy, 5)
    with pytest.raises(FieldError, match=r"horizon.*found 8, expected a multiple"):
        imagined(policy, 3)
    wide = ImaginedVectorEnv(Lamp(), None, rows=1, chunk=8, horizon=8, generator=torch.Generator())
    with pytest.raises(InputError, match="executes 8 actions per look, but the policy predicts 4"):
        roll_out(wide, policy, [START], temperature=1.0, generator=torch.Generator())
    surrogate = Imagination.of(policy, Lamp(), BrightJudge(), 8)
    with pytest.raises(FieldError, match=r"execute.*found 2 actions per look, but the surrogate executes 4"):
        finetune(policy, surrogate, FixedStarts([START]), tmp_path / "run", ReinforceConfig(steps=1, execute=2))
    with pytest.raises(FieldError, match=r"execute.*found 0"):
        ReinforceConfig(execute=0)


def test_files_of_earlier_versions_stay_as_they_are() -> None:
    assert "execute" not in to_dict(ReinforceConfig())
    assert to_dict(ReinforceConfig(execute=2))["execute"] == 2
    assert from_dict(ReinforceConfig, {"execute": 3}, "config.json").execute == 3
