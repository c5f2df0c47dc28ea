"""Memory of reinforcement learning, computed on tensors without contents and measured on real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from openvla_folder import write_folder
from test_openvla_parity import COMMON, PARALLEL
from torch import nn

import worldgymnast as wg
from worldgymnast.cli.main import main
from worldgymnast.measure.memory import (
    LiveBytes,
    RoleMemory,
    _observation,
    judge_memory,
    module_bytes,
    peak,
    policy_memory,
    world_memory,
)
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import Trainer, TrainerConfig, copy_of
from worldgymnast.types import Clip, Verdict


class Elsewhere:
    """Judge that takes no memory here."""

    name, is_remote, identity = "elsewhere", True, "elsewhere"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        raise NotImplementedError


SHORT = ReinforceConfig(rows=8, horizon=4, trainer=TrainerConfig(micro_batch=2))


def test_memory_that_is_freed_is_not_counted() -> None:
    with LiveBytes() as memory:
        for _ in range(10):
            torch.zeros(1000).sum()
        view = torch.zeros(500)[:10]
    assert memory.peak < 3 * 4000
    assert memory.live == 2000 == view.untyped_storage().nbytes()


def test_saved_activations_are_counted() -> None:
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(4)])
    x = torch.zeros(100, 64)
    with LiveBytes() as memory:
        layers(x)
    assert memory.peak >= 4 * 100 * 64 * 4
    with LiveBytes() as memory, torch.no_grad():
        layers(x)
    assert memory.peak <= 3 * 100 * 64 * 4


def test_the_plan_equals_what_is_measured() -> None:
    policy, world = wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world"))
    planned, imagined = policy_memory(policy, world, SHORT), world_memory(world, SHORT)
    policy.act(_observation(policy, world, 1), temperature=1.0, generator=None)
    with LiveBytes() as acting:
        policy.act(_observation(policy, world, SHORT.rows), temperature=1.0, generator=None)
    assert planned.rollout == pytest.approx(acting.peak, rel=0.01)
    obs = _observation(policy, world, SHORT.trainer.micro_batch * SHORT.horizon // policy.chunk)
    chunk = policy.act(obs, temperature=1.0, generator=None)
    with LiveBytes() as updating:
        policy.logprobs(obs, chunk).sum().backward()
    weights = module_bytes(policy)
    assert planned.update == pytest.approx(updating.peak - weights, rel=0.05)
    assert planned.training == pytest.approx(6 * weights, rel=0.01), "gradients, two moments, start, best, average"
    with LiveBytes() as imagining, torch.no_grad():
        state, generator = world.start(torch.zeros(SHORT.rows, 64, 64, 3, dtype=torch.uint8)), torch.Generator()
        for _ in range(SHORT.horizon):
            state, _ = world.step(state, torch.zeros(SHORT.rows, 1, 4), generator=generator)
    assert imagined.rollout == pytest.approx(imagining.peak, rel=0.05)


def test_a_judge_grows_with_the_rollouts() -> None:
    world, judge = wg.load_world(wg.starter("world")), wg.load_judge(wg.starter("judge"))
    few = judge_memory(judge, world, replace(SHORT, rows=8))  # the first use of its sentence encoder, which is loaded
    many = judge_memory(judge, world, replace(SHORT, rows=32))
    assert many.rollout == pytest.approx(4 * few.rollout, rel=0.01)
    fresh = wg.load_judge(wg.starter("judge"))
    assert judge_memory(fresh, world, replace(SHORT, rows=8)) == few
    assert judge_memory(Elsewhere(), world, SHORT) == RoleMemory("judge", 0)


def test_what_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["plan", "--rl.rows", "8", "--rl.horizon", "4", "--rl.trainer.micro-batch", "2"]
    assert main(small) == 0
    total = float(capsys.readouterr().out.split("peak ")[1].split()[0])
    assert main([*small, "--memory", str(total * 0.92)]) == 2
    said = capsys.readouterr().err
    assert "It would run out of memory. Add --rl." in said
    assert main([*small, "--memory", "0.01"]) == 2
    assert "Weights, gradients and optimizer take" in capsys.readouterr().err


def test_the_peak_is_of_one_time() -> None:
    assert peak([RoleMemory("policy", 10, 30, 2, 9), RoleMemory("judge", 5, 0, 20)]) == 65


def test_copies_share_what_training_does_not_change(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "checkpoint")
    policy: Any = OpenVLACheckpoint(checkpoint=str(folder), **COMMON, **PARALLEL, lora_rank=2).load()
    copied: Any = copy_of(policy)
    trained = policy.trainable_state().keys()
    places = {name: weight.data_ptr() for name, weight in policy.named_parameters()}
    assert 0 < len(trained) < len(places)
    for name, weight in copied.named_parameters():
        assert (weight.data_ptr() != places[name]) == (name in trained), name
    trainer = Trainer(policy, TrainerConfig())
    before = {name: weight.detach().clone() for name, weight in trainer.start.trainable_state().items()}
    with torch.no_grad():
        for weight in trainer.parameters:
            weight.add_(1.0)
    trainer.keep(1)
    best = trainer.kept_policy().trainable_state()
    for name, weight in trainer.start.trainable_state().items():
        assert torch.equal(weight, before[name])
        assert torch.equal(best[name], before[name] + 1)
