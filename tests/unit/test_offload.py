"""Rollouts and updates take turns on the device; on a CPU tensors move to other storage, and the first one is freed."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import Bright, Dimmer, Mine, frame_of
from small_worlds import randomised
from torch import Tensor, nn

from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.recipes.finetune import finetune
from worldgymnast.records import read_metrics
from worldgymnast.rl.offload import Turns, modules_in, tensors_in
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import FixedStarts
from worldgymnast.rl.trainer import Trainer, TrainerConfig, copy_of
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import Clip, Observation, Start, Verdict
from worldgymnast.weights import weights_hash

CONFIG = ReinforceConfig(
    steps=3, starts=2, group_size=4, horizon=4, rows=8, save_every=1, trainer=TrainerConfig(micro_batch=2)
)


class Tied(nn.Module):
    """Two layers with one weight, a view of a buffer, and an empty buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        whole = torch.arange(8.0)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[2:6].view(2, 2).T)
        self.register_buffer("none", torch.zeros(0))


def storages(component: object) -> list[weakref.ref[Any]]:
    return [weakref.ref(tensor.untyped_storage()) for tensor in tensors_in(component) if tensor.numel()]


def test_what_waits_is_freed_and_comes_back_with_its_views() -> None:
    module: Any = Tied()
    kept = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first, stays = storages(module), storages(kept)
    turns = Turns([module])
    turns.join(kept, lambda: [kept], None)
    turns.give_to("update")
    assert all(storage() is None for storage in first), "the device's memory is freed"
    assert turns.waiting_bytes == 9 * 4 + 2 * 3 * 4 + 8 * 4, "each storage once"
    second = storages(module)
    turns.give_to("update")
    assert storages(module) == second
    turns.give_to("collect")
    assert all(storage() is None for storage in second)
    assert all(storage() is not None for storage in stays), "the policy stays"
    assert turns.waiting_bytes == 0
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert module.second.weight is module.first.weight
    module.whole[3] = 100.0
    assert module.part.flatten().tolist() == [2, 4, 100, 5], "views share the storage again"


def test_moments_gradients_and_the_start_policy_wait_during_rollouts() -> None:
    policy: Any = SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), randomised().action_spec)
    trainer = Trainer(policy, TrainerConfig(), copy_of(policy), "cpu")
    turns = Turns()
    turns.join(policy, lambda: [trainer.start], trainer.optimizer)
    turns.give_to("update")
    for weight in trainer.parameters:
        weight.grad = torch.ones_like(weight)
    trainer.optimizer.step()
    moments = [value for state in trainer.optimizer.state.values() for value in state.values() if value.ndim]
    before, first = [moment.clone() for moment in moments], [weakref.ref(m.untyped_storage()) for m in moments]
    policy_before, start = storages(policy), storages(trainer.start)
    turns.give_to("collect")
    assert all(storage() is None for storage in [*first, *start])
    assert all(storage() is not None for storage in policy_before)
    assert all(weight.grad is None for weight in trainer.parameters)
    turns.give_to("update")
    assert all(torch.equal(a, b) for a, b in zip(moments, before, strict=True))


class Parity(nn.Module):
    """Judge whose verdicts are as good as random, and the same for the same frames."""

    name = identity = "parity"
    is_remote = False

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        sums = [self.scale.detach() * float(clip.frames[-1].astype(int).sum() % 2) for clip in clips]
        return [Verdict(float(each)) for each in sums]


class Watch:
    """Notes at every update whether the storage that a world model had in the last rollout is freed."""

    def __init__(self, world: nn.Module) -> None:
        self.world, self.last = world, list[weakref.ref[Any]]()
        self.is_freed: list[bool] = []

    def __deepcopy__(self, memo: Any) -> Watch:
        return self


class Watcher(SmallVLA):
    """Policy that tells a `Watch` when it acts and when it is updated."""

    watch: Watch

    def act(self, obs: Observation, **options: Any) -> Any:
        self.watch.last = storages(self.watch.world)
        return super().act(obs, **options)

    def logprobs(self, obs: Observation, chunk: Any) -> Tensor:
        self.watch.is_freed += [storage() is None for storage in self.watch.last]
        return super().logprobs(obs, chunk)


class Aboard:
    """Judge that is no module, but has one."""

    name, identity, is_remote = "aboard", "aboard", False

    def __init__(self, judge: Parity) -> None:
        self.members = (judge,)

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        return self.members[0].score(clips)


def scene(size: tuple[int, int], seed: int) -> Start:
    generator = torch.Generator().manual_seed(seed)
    return Start(torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy(), "open the drawer")


def learn(out: Path, config: ReinforceConfig, stop: int | None = None) -> tuple[str, list[bool]]:
    """Train; return the hash of the weights, and `Watch.is_freed`."""
    world, judge = randomised(), Aboard(Parity())
    made: Any = world
    torch.manual_seed(0)
    policy: Any = Watcher(SmallVLAConfig(width=16, blocks=1, hidden=32), world.action_spec)
    policy.watch = Watch(world)
    starts = FixedStarts([scene(world.frame_size, seed) for seed in range(3)])

    def interrupt(step: int, metrics: Mapping[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    weights, first = weights_hash(policy.state_dict()), weights_hash(world.state_dict())
    try:
        imagination = Imagination.of(policy, made, judge, config.horizon)
        result = finetune(policy, imagination, starts, out, config, on_metrics=interrupt)
    finally:
        assert weights_hash(policy.state_dict()) == weights
        assert weights_hash(world.state_dict()) == first
    trained: Any = result.policy
    return weights_hash(trained.state_dict()), policy.watch.is_freed


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_numbers_are_the_same(tmp_path: Path, ahead: int) -> None:
    config = replace(CONFIG, ahead=ahead)
    plain, freed = learn(tmp_path / "plain", config)
    assert freed
    assert not any(freed)
    turning, freed = learn(tmp_path / "turns", replace(config, offload=True))
    assert turning == plain
    assert freed
    assert all(freed), "the world model is elsewhere during every update"
    logs = [[{k: v for k, v in row.items() if "second" not in k and k != "time"} for row in rows]
            for rows in (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("plain", "turns"))]  # fmt: skip
    assert logs[0] == logs[1]
    assert any(row.get("gradient_norm", 0) > 0 for row in logs[0])


def test_a_killed_run_resumes_with_and_without_turns(tmp_path: Path) -> None:
    whole, _ = learn(tmp_path / "whole", CONFIG)
    for name, first, then in (("on", True, True), ("off then on", False, True), ("on then off", True, False)):
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / name, replace(CONFIG, offload=first), stop=1)
        assert learn(tmp_path / name, replace(CONFIG, offload=then))[0] == whole, name


def test_components_that_are_no_modules_stay(tmp_path: Path) -> None:
    dark = Start(frame_of(0), "light")
    hashes = []
    for offload in (False, True):
        torch.manual_seed(0)
        policy: Any = Mine()
        config, dimmer = replace(CONFIG, offload=offload), Dimmer()
        imagination = Imagination.of(policy, dimmer, Bright(), config.horizon)
        result = finetune(policy, imagination, FixedStarts([dark]), tmp_path / str(offload), config)
        trained: Any = result.policy
        hashes.append(weights_hash(trained.state_dict()))
    assert hashes[0] == hashes[1]
    assert modules_in(Dimmer()) == modules_in(Bright()) == []


@pytest.mark.gpu
def test_the_memory_of_a_gpu_is_freed() -> None:
    world = randomised().to("cuda")
    turns = Turns([world])
    before = torch.cuda.memory_allocated()
    turns.give_to("update")
    assert torch.cuda.memory_allocated() <= before - 0.9 * turns.waiting_bytes
    assert all(tensor.is_pinned() for tensor in world.parameters())
    turns.close()
    assert torch.cuda.memory_allocated() == before
