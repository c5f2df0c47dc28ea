"""Memory of reinforcement learning, computed on tensors without contents and measured on real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
from foreign import Bright, Dimmer, Mine
from openvla_folder import COMMON, PARALLEL, write_folder
from torch import nn

import worldgymnast as wg
from worldgymnast.cli.main import main
from worldgymnast.cli.memory_plan import MemoryPlan, Workers, advise_rl, plan_rl, pool_workers
from worldgymnast.judges.local import LocalVLM, LocalVLMConfig
from worldgymnast.measure import live_bytes
from worldgymnast.measure.live_bytes import LiveBytes, counting
from worldgymnast.measure.memory import (
    RoleMemory,
    _observation,
    imitation_memory,
    judge_memory,
    module_bytes,
    peak,
    policy_memory,
    world_memory,
)
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint
from worldgymnast.rl.offload import Turns
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import Trainer, TrainerConfig, copy_of
from worldgymnast.types import Clip, Observation, Verdict


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


def test_usual_operations_are_counted_as_torch_records_them(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, world = wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world"))
    quick = policy_memory(policy, world, SHORT), world_memory(world, SHORT)
    monkeypatch.setattr(live_bytes, "_VIEWS", frozenset())
    monkeypatch.setattr(live_bytes, "_NEW", frozenset())
    assert (policy_memory(policy, world, SHORT), world_memory(world, SHORT)) == quick


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
    assert many.rollout == pytest.approx(4 * few.rollout, rel=0.02)
    clip = Clip(np.zeros((SHORT.horizon + 1, 64, 64, 3), np.uint8), "pick up the cup", "", True)
    judge.score([clip])
    with LiveBytes() as scoring:
        judge.score([clip] * 32)
    assert many.rollout == pytest.approx(scoring.peak, rel=0.02)
    batches = judge_memory(judge, world, replace(SHORT, rows=320))
    assert batches.rollout < 0.5 * 10 * many.rollout, "it judges 256 frames at a time"
    fresh = wg.load_judge(wg.starter("judge"))
    assert judge_memory(fresh, world, replace(SHORT, rows=8)) == few
    assert judge_memory(Elsewhere(), world, SHORT) == RoleMemory("judge", 0)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "smolvlm"])
def test_a_vision_language_model_in_this_process_is_counted_and_can_wait(kind: str, tmp_path: Path) -> None:
    getattr(tiny_vlm, kind)(tmp_path / kind)
    judge = LocalVLM(LocalVLMConfig(model=str(tmp_path / kind), frames=2, batch=4, criteria={"": "it is open"}))
    world = wg.load_world(wg.starter("world"))
    clip = Clip(np.zeros((SHORT.horizon + 1, 64, 64, 3), np.uint8), "pick up the cup", "", True)
    planned = judge_memory(judge, world, SHORT)
    with LiveBytes() as scoring:
        verdicts = judge.score([clip] * 4)
    assert planned.rollout == pytest.approx(scoring.peak, rel=0.02), "four of the eight rollouts at a time"
    assert planned.weights > 0
    turns = Turns([judge])
    turns.give_to("update")
    assert turns.waiting_bytes >= 0.99 * planned.weights
    turns.close()
    assert judge.score([clip] * 4) == verdicts


def test_what_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["plan", "--rl.rows", "8", "--rl.horizon", "4", "--rl.trainer.micro-batch", "2"]
    assert main(small) == 0
    total = float(capsys.readouterr().out.split("peak ")[1].split()[0])
    assert main([*small, "--memory", str(total * 0.92)]) == 2
    said = capsys.readouterr().err
    assert "It would run out of memory. Add --rl." in said
    assert main([*small, "--memory", "0.01"]) == 2
    assert "Weights, gradients and optimizer take" in capsys.readouterr().err


def test_every_worker_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--rl.rows", "16", "--rl.group-size", "8", "--rl.horizon", "4", "--rl.trainer.micro-batch", "2"]

    def planned(*more: str) -> float:
        assert main([*flags, *more]) == 0
        return float(capsys.readouterr().out.split("peak ")[1].split()[0])

    alone, one, four = planned(), planned("--pool", "ray", "--workers", "1"), planned("--pool", "ray", "--workers", "4")
    parts = [
        wg.load_policy(wg.starter("policy")),
        wg.load_world(wg.starter("world")),
        wg.load_judge(wg.starter("judge")),
    ]
    weights = sum(map(module_bytes, parts)) / 1e9
    assert one - alone > weights
    assert four - alone == pytest.approx(4 * (one - alone), rel=0.05)
    assert main([*flags, "--pool", "ray", "--workers", "4", "--memory", str(alone + 2.5 * (one - alone))]) == 2
    said = capsys.readouterr()
    assert "workers: 4" in said.out
    assert "Use --workers 2" in said.err
    assert main([*flags, "--workers", "4"]) == 2
    assert "--workers: no effect with --pool local" in capsys.readouterr().err


def test_workers_share_the_devices_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert pool_workers("ray", 6, "cuda") == Workers(6, 4)
    assert Workers(6, 4).here == 2
    parts = wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world")), wg.load_judge(wg.starter("judge"))
    here, there = (plan_rl(*parts, SHORT, "cpu", workers=Workers(2, devices)) for devices in (1, 0))
    assert here.peak == pytest.approx(there.peak + here.workers_here)
    there.show(None)
    assert "on its node of the cluster, which is not checked" in " ".join(capsys.readouterr().out.split())
    audited = plan_rl(*parts, SHORT, "cpu", parts[2], Workers(1))
    assert audited.worker == here.worker
    crowded = MemoryPlan("rl", "cpu", here.roles, workers=Workers(2))
    assert advise_rl(crowded, SHORT, there.peak).startswith("No worker fits beside the training. Use --pool local")


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


def test_imitation_equals_what_is_measured() -> None:
    policy: Any = wg.load_policy(wg.starter("policy"))
    planned = imitation_memory(policy, [(64, 64)], 8, "fp32")
    images = {"image": torch.zeros(8, 64, 64, 3, dtype=torch.uint8)}
    batch = {
        "obs": Observation(images, ["pick up the cup"] * 8, None, images),
        "actions": torch.zeros(8, policy.chunk, 4),
        "mask": torch.ones(8, policy.chunk, dtype=torch.bool),
        "generator": torch.Generator(),
    }
    policy.loss(batch)
    with LiveBytes() as memory:
        policy.loss(batch)[0].backward()
    assert planned.update == pytest.approx(memory.peak - module_bytes(policy), rel=0.05)
    assert planned.training == pytest.approx(4 * module_bytes(policy), rel=0.01)


def test_turns_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--rl.rows", "8", "--rl.horizon", "4", "--rl.trainer.micro-batch", "2", "--memory", "1"]
    peaks = []
    for more in ([], ["--rl.offload"]):
        assert main([*flags, *more]) == 0
        peaks.append(float(capsys.readouterr().out.split("peak ")[1].split()[0]))
    assert peaks[1] < 0.95 * peaks[0]
    flags[-1] = str((peaks[0] + peaks[1]) / 2)
    assert main(flags) == 2
    assert "Add --rl.offload" in capsys.readouterr().err
    assert main([*flags, "--rl.offload"]) == 0
    assert main([*flags[:-2], "--device", "cpu", "--rl.offload"]) == 0
    assert "lies in the same memory on a CPU" in capsys.readouterr().out


def test_a_gpu_is_planned_in_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # a CPU without 16 bits
    world = wg.load_world(wg.starter("world"))
    many = replace(SHORT, rows=512)  # so that activations outweigh the weights that autocast keeps in 16 bits
    on_cpu, on_gpu = world_memory(world, many, "cpu"), world_memory(world, many, "cuda")
    assert on_gpu.rollout < 0.9 * on_cpu.rollout
    x = torch.ones(2, 8)
    with counting("cuda"), torch.autocast("cpu", torch.bfloat16):
        product = x @ x.T
        assert product.dtype == torch.bfloat16
        assert product.softmax(-1).dtype == nn.LayerNorm(2)(product).dtype == torch.float32
    with counting("cpu"), torch.autocast("cpu", torch.bfloat16):
        assert (x @ x.T).softmax(-1).dtype == torch.bfloat16


def test_a_component_that_cannot_be_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Reads(Mine):
        def act(self, obs: Observation, **options: Any) -> Any:
            obs.images["image"][self.net[0].weight.nonzero()]
            return super().act(obs, **options)

    plan = plan_rl(Mine(), Dimmer(), Elsewhere(), SHORT, "cpu")
    assert [role.role for role in plan.roles] == ["policy", "judge"]
    assert plan.roles[0].training == 6 * plan.roles[0].weights
    assert plan.unknown == ["world model: Dimmer has no torch modules here, so it is not counted"]
    (problem,) = plan_rl(Reads(), wg.load_world(wg.starter("world")), Bright(), SHORT, "cpu").unknown[:1]
    assert problem.startswith("policy: Reads cannot be counted without running it (")
    world, judge = wg.load_world(wg.starter("world")), wg.load_judge(wg.starter("judge"))
    audited = plan_rl(wg.load_policy(wg.starter("policy")), world, Elsewhere(), SHORT, "cpu", judge)
    assert [role.role for role in audited.roles] == ["policy", "world model", "judge", "audit judge"]
    assert audited.roles[2].weights == 0 < audited.roles[3].weights
    plan.show(None)
    assert "Dimmer" in capsys.readouterr().out


def test_turns_lower_the_peak() -> None:
    policy = RoleMemory("policy", 10, 60, 2, 9, waiting=60, stored=20)
    world, judge = RoleMemory("world model", 50, rollout=30), RoleMemory("judge", 20, rollout=4)
    assert peak([policy, world, judge]) == 170
    assert peak([policy, world, judge], offload=True) == 10 + 50 + 20 + 30
    assert peak([policy, judge], offload=True) == 10 + 60 - 20 + 9
