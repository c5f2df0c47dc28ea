"""Optimizer steps on rollouts, in several processes (torchrun, `accelerate launch`).

Process 0 leads (`crew`). It collects rollouts, as alone, and shares those that carry signal. Of the micro-batches of an
optimizer step, each process runs every W-th, and the gradients are added up. The loss of each micro-batch is divided by
the number of rollouts of the whole step, so the sum is the gradient of one process up to the order of additions. It is
the same to the bit if each process has at most one micro-batch and there are two processes.

Two ways to hold the policy: `ReplicatedUpdater`, every process all of it (data parallel); `ShardedUpdater`, every
process a shard (FSDP2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldgymnast.crew import Crew, announced, crew, leader, lost_processes_as_input_errors
from worldgymnast.errors import InputError
from worldgymnast.protocols import Policy
from worldgymnast.rl.update import POLICY, LossFn, Part, Sample, TrainerConfig, Updater, copy_of
from worldgymnast.run import Checkpoint, WriteShards, load_optimizer_tensors, optimizer_tensors
from worldgymnast.sharding import full_tensor, is_sharded, local_shard, read_shards, shard_for_sum, write_shard
from worldgymnast.types import ActionChunk, Metrics, Observation
from worldgymnast.weights import check_shapes, identity, shapes_of

_BUCKET = 2**25
"""Gradients that are exchanged at a time, in numbers."""
_MOMENT = re.compile(r"optimizer\.(\d+)\.")


def make_updater(policy: Policy, config: TrainerConfig, start: Policy) -> Updater:
    """Make the updater of this process, and of those that it leads.

    Raises:
        InputError: the policy has nothing to train, or the processes have different policies.
    """
    led = leader()
    if led is None:
        return Updater(policy, config, start)
    led.announce("begin", config)
    return _begin(policy, config, start, led)


def follow(policy: Policy, start: Policy | None = None) -> Any:
    """Update with the leader until it finishes; return the value that it finishes with.

    Args:
        policy: the same as that of the leader; it is changed, and with `TrainerConfig.shard` of no use afterwards.
        start: an unchanging copy of it; made if omitted and needed.

    Raises:
        InputError: the leader stopped.
    """

    def begin(config: TrainerConfig) -> Updater:
        first = policy if config.shard else start or copy_of(policy)
        return _begin(policy, config, first, crew())

    return crew().follow(begin)


def _begin(policy: Policy, config: TrainerConfig, start: Policy, own: Crew) -> Updater:
    identities = own.gather(identity(policy))
    if len(set(identities)) > 1:
        other = next(rank for rank, each in enumerate(identities) if each != identities[0])
        raise InputError(
            f"process {other} has another policy ({identities[other]}) than process 0 ({identities[0]}). Nothing was "
            "trained. Give all processes the same policy file"
        )
    kind = ShardedUpdater if config.shard else ReplicatedUpdater
    return kind(policy, config, start, own)


def _light(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples without what no update reads: the frames of their rollouts."""
    return [
        Sample(
            replace(s.rollout, frames=s.rollout.frames[:0], success=None, foreseen=None, frame_state=None), s.advantage
        )
        for s in samples
    ]


class ReplicatedUpdater(Updater):
    """Updater of a policy that every process holds: gradients are added up after the last micro-batch.

    Args:
        policy: the same in every process.
        config: the update.
        start: the start policy.
        crew: the processes.
    """

    runs_idle = False
    """Whether a process without a micro-batch runs one that does not count, because all must run the same number."""

    def __init__(self, policy: Policy, config: TrainerConfig, start: Policy, crew: Crew):
        self.crew = crew
        self._given: Mapping[str, Tensor] | None = None
        super().__init__(policy, config, start)

    def train(self, samples: list[Sample], anchored: list[Sample], generator: torch.Generator) -> list[Metrics]:
        """Take the optimizer steps in all processes; see `Updater.train`."""
        return self._train(_light(samples), _light(anchored), generator.get_state())

    @announced
    def _train(self, samples: list[Sample], anchored: list[Sample], state: Tensor) -> list[Metrics]:
        generator = torch.Generator()
        generator.set_state(state)
        with lost_processes_as_input_errors():
            metrics = super().train(samples, anchored, generator)
            self._publish()
        return metrics

    def _publish(self) -> None:
        """Give the newest weights to the leader's policy, where it is not the one that is trained."""

    def _run(self, batches: list[list[Sample]], loss_fn: LossFn, total: int) -> list[Part]:
        """Run this process's micro-batches; return the metrics of all on the leader."""
        parts: dict[int, Part] = {}
        for number in range(self.crew.rank, -(-len(batches) // self.crew.size) * self.crew.size, self.crew.size):
            if number < len(batches):
                parts[number] = self._run_one(batches[number], loss_fn, total)
            elif self.runs_idle:
                self._run_one(batches[0], loss_fn, total, weight=0.0)
        merged = {number: part for each in self.crew.gather(parts) for number, part in each.items()}
        return [merged[number] for number in sorted(merged)]

    @torch.no_grad()
    def _exchange_gradients(self) -> None:
        """Add up the gradients of all processes, a bucket of one type at a time."""
        exist = torch.tensor([weight.grad is not None for weight in self.parameters], dtype=torch.int32)
        dist.all_reduce(exist, op=dist.ReduceOp.MAX, group=self.crew.group)
        used = [weight for weight, is_used in zip(self.parameters, exist.tolist(), strict=True) if is_used]
        for bucket in _buckets(used):
            for weight in bucket:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            gradients = [weight.grad for weight in bucket if weight.grad is not None]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(total.view(gradient.shape))

    def _load_full(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], path: Path) -> None:
        self._check(tensors, path)
        self._given = {name: tensor for name, tensor in tensors.items() if name.startswith((POLICY, "optimizer."))}
        self._take(dict(state))
        self._given = None

    @announced
    def _take(self, state: dict[str, Any]) -> None:
        """Load the tensors that the leader gives."""
        tensors = dict(self.crew.share(self._given))
        super()._load_full(tensors, state, Path())


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters in order, in lists of one type and a limited size."""
    bucket: list[nn.Parameter] = []
    for weight in parameters:
        is_full = sum(each.numel() for each in bucket) + weight.numel() > _BUCKET
        if bucket and (is_full or weight.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(weight)
    if bucket:
        yield bucket


class _Scoring(nn.Module):
    """A policy whose forward scores a chunk, for FSDP to wrap."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        policy: Any = self.policy
        return policy.logprobs(obs, chunk)


class ShardedUpdater(ReplicatedUpdater):
    """Updater of a policy of which every process holds a shard.

    The leader's `policy` is a full copy that acts. It gets the newest weights after every update. The start policy is a
    second set of shards, which takes the place of the newest for the length of a forward.
    """

    is_sharded = True
    runs_idle = True

    def __init__(self, policy: Policy, config: TrainerConfig, start: Policy, crew: Crew):
        if not isinstance(policy, nn.Module):
            raise InputError(
                f"--rl.trainer.shard: {type(policy).__name__} is no torch module, so it has no parameters to shard. "
                "Train without the flag"
            )
        device = next(iter(policy.parameters())).device
        self._module = shard_for_sum(_Scoring(policy), device, is_copied=crew.is_leader)
        if crew.is_leader:
            policy.to(device)
        inner: Any = self._module.policy
        self._tensors: dict[str, Tensor] = inner.trainable_state()
        super().__init__(policy, config, start, crew)
        self._start = [_local(weight).clone() for weight in self.parameters]

    def _parameters(self) -> Sequence[nn.Parameter]:
        return list(self._module.parameters())

    def _score(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        return self._module(obs, chunk)

    def _score_by_start(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        with torch.no_grad(), self._started():
            return self._module(obs, chunk)

    @contextmanager
    def _started(self) -> Iterator[None]:
        """Give the module the weights of the start policy within the context."""
        newest = [_local(weight).clone() for weight in self.parameters]
        for weight, first in zip(self.parameters, self._start, strict=True):
            _local(weight).copy_(first)
        try:
            yield
        finally:
            for weight, last in zip(self.parameters, newest, strict=True):
                _local(weight).copy_(last)

    def _exchange_gradients(self) -> None:
        """Do nothing: FSDP adds up gradients in every backward."""

    @torch.no_grad()
    def _publish(self) -> None:
        """Give the newest weights to the leader's policy."""
        own = self.policy.trainable_state() if self.crew.is_leader else {}
        with lost_processes_as_input_errors():
            for name, tensor in self._tensors.items():
                full = full_tensor(tensor)
                if own:
                    own[name].copy_(full)

    # ------------------------------------------------------------ checkpoints

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors that are not sharded, and the optimizer's JSON."""
        everything, state = self._everything()
        return {name: tensor for name, tensor in everything.items() if not is_sharded(tensor)}, state

    def shard_writer(self) -> WriteShards | None:
        """Return what has every process write its shards."""
        return self._write_all

    def _write_all(self, folder: Path) -> dict[str, str]:
        """Have every process write its shards; return the hashes of the files by name."""
        files: list[tuple[str, str]] = []
        for outcome in self._write(str(folder)):
            if isinstance(outcome, Exception):
                raise outcome
            files.append(outcome)
        return dict(files)

    def _everything(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        moments, state = optimizer_tensors(self.optimizer)
        return {f"{POLICY}{k}": v.detach() for k, v in self._tensors.items()} | moments, state

    @announced
    def _write(self, folder: str) -> list[tuple[str, str] | Exception]:
        """Write this process's shards; return the name and hash of each file, or its error, on the leader."""
        outcome: tuple[str, str] | Exception
        try:
            everything, _ = self._everything()
            outcome = write_shard(Path(folder), {k: v for k, v in everything.items() if is_sharded(v)})
        except (InputError, OSError) as error:
            outcome = error
        return self.crew.gather(outcome)

    def load(self, checkpoint: Checkpoint, path: Path) -> None:
        """Load a checkpoint, each process its shards; see `Updater.load`."""
        if checkpoint.shards is None:
            super().load(checkpoint, path)
        else:
            state, whole = checkpoint.state["optimizer"], checkpoint.tensors
            kept = {name: tensor for name, tensor in whole.items() if name.startswith((POLICY, "optimizer."))}
            self._load_shards(str(checkpoint.shards), dict(checkpoint.hashes), kept, state)

    @announced
    def _load_shards(
        self, folder: str, hashes: dict[str, str], tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Load what other processes wrote, and `tensors`, which are whole."""
        targets = {f"{POLICY}{name}": tensor.detach() for name, tensor in self._tensors.items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(POLICY)}
        for name, piece in read_shards(Path(folder), hashes):
            if name not in targets and (moment := _MOMENT.match(name)):
                targets[name] = torch.zeros_like(self.parameters[int(moment[1])].detach())
            if name in targets and tuple(targets[name].shape) == piece.shape:
                piece.write_into(targets[name])
            if name.startswith(POLICY):
                found[name] = piece.shape
        expected = {f"{POLICY}{name}": tuple(tensor.shape) for name, tensor in self._tensors.items()}
        check_shapes(expected, found, type(self.policy).__name__, folder)
        moments = {name: tensor for name, tensor in targets.items() if not name.startswith(POLICY)}
        self._assign({name: tensor for name, tensor in tensors.items() if name.startswith(POLICY)})
        self._restore(tensors | moments, state)

    @announced
    def _take(self, state: dict[str, Any]) -> None:
        """Load shards of the tensors that the leader gives, one tensor at a time."""
        moments: dict[str, Tensor] = {}
        for name, tensor in self.crew.share(self._given):
            if name.startswith(POLICY):
                self._assign({name: tensor})
                continue
            moment = _MOMENT.match(name)
            weight = self.parameters[int(moment[1])] if moment else tensor
            moments[name] = local_shard(tensor, weight) if tensor.shape == weight.shape else tensor
        self._restore(moments, state)

    @torch.no_grad()
    def _assign(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy full weights into the shards."""
        for name, tensor in tensors.items():
            target = self._tensors[name.removeprefix(POLICY)]
            target.copy_(local_shard(tensor, target))

    def _restore(self, moments: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        load_optimizer_tensors(self.optimizer, moments, state)
        self._publish()

    def _check(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        saved = {name: tensor for name, tensor in tensors.items() if name.startswith(POLICY)}
        expected = {f"{POLICY}{name}": tensor for name, tensor in self._tensors.items()}
        check_shapes(shapes_of(expected), shapes_of(saved), type(self.policy).__name__, path)


def _local(weight: Tensor) -> Tensor:
    """Return this process's shard of a parameter, for changes in place."""
    sharded: Any = weight
    return sharded.detach().to_local()
