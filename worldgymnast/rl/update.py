"""Optimizer steps on rollouts, in one process."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from worldgymnast.configs import LATER, Between, Count, Positive, checked
from worldgymnast.errors import InputError
from worldgymnast.optimizers import OptimizerName, check_optimizer, make_optimizer
from worldgymnast.protocols import Policy
from worldgymnast.rl.objective import ObjectiveConfig, divergence, policy_loss, token_mask
from worldgymnast.run import Checkpoint, WriteShards, load_optimizer_tensors, optimizer_tensors
from worldgymnast.sharding import full_tensor, read_full
from worldgymnast.types import ActionChunk, Metrics, Observation, Rollout
from worldgymnast.weights import check_shapes, shapes_of

POLICY = "policy."
"""Prefix of the policy's weights in a checkpoint."""
_ROUNDING = 1e-4
"""Rounding error between two log-probabilities of one policy, in nats. Adam would take full-size steps on it."""


@checked
class TrainerConfig:
    """Optimizer and loss.

    Attributes:
        lr: learning rate, constant after the warmup.
        warmup: optimizer steps of linear warmup. Adam's first steps are as long as the learning rate, however noisy
            the gradient, and would damage a policy that is already good.
        clip_norm: largest gradient norm.
        average: decay per step of the moving average of the weights that is evaluated and handed out. With 0 these are
            the newest weights. Success of single tasks swings from step to step; the average swings less.
        updates: optimizer steps per batch of groups; above 1 the ratio leaves 1 and clipping takes effect.
        micro_batch: rollouts per forward pass.
        shard: with several processes, shard the trained policy, its gradients and the optimizer over them (FSDP2), for
            policies that one device cannot train. Process 0 also holds the policy that acts. Without it, every process
            holds everything. The result is the same up to rounding. No effect in one process.
        objective: the loss.
        optimizer: "adamw", or "adamw-8bit", whose moments take a quarter of the memory (`pip install
            'worldgymnast[bitsandbytes]'`; not with `shard`).
    """

    lr: Annotated[float, Between(1e-12, 1e6)] = 2e-4
    warmup: Count = 10
    clip_norm: Annotated[float, Between(1e-12, 1e6)] = 1.0
    average: Annotated[float, Between(0, 0.999)] = 0.7
    updates: Positive = 3
    micro_batch: Positive = 16
    shard: bool = field(default=False, metadata=LATER)
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerName = "adamw"

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer, self.shard)


@dataclass(frozen=True)
class Sample:
    """A rollout to train on.

    Its advantage is 0 in a group without signal, and in a held task, where it has its anchor's chunks.
    """

    rollout: Rollout
    advantage: float = 0.0


Part = tuple[int, Metrics]
"""Number of samples of a micro-batch, and its metrics."""
LossFn = Callable[[list[Sample], int], tuple[Tensor, Metrics]]
"""Loss and metrics of a micro-batch, given the total number of samples in the batch."""


class Updater:
    """Takes optimizer steps on samples.

    Args:
        policy: trained in place.
        config: the update.
        start: the KL divergence is measured from it.

    Attributes:
        parameters: the trained parameters.
        optimizer: their optimizer.
        is_sharded: whether the parameters are shards, and `policy` a full copy of them that acts.

    Raises:
        InputError: the policy has nothing to train.
    """

    is_sharded = False

    def __init__(self, policy: Policy, config: TrainerConfig, start: Policy):
        self.policy, self.config, self.start = policy, config, start
        self.parameters = [weight for weight in self._parameters() if weight.requires_grad]
        if not self.parameters:
            raise InputError(
                "policy: no parameter requires a gradient, so there is nothing to train. Unfreeze at least one"
            )
        self.optimizer = make_optimizer(config.optimizer, self.parameters, lr=config.lr, weight_decay=0.0)

    def train(self, samples: list[Sample], anchored: list[Sample], generator: torch.Generator) -> list[Metrics]:
        """Take the optimizer steps of one batch of groups; return the metrics of each.

        Args:
            samples: judged rollouts with advantages.
            anchored: rollouts of held tasks, with the chunks of their anchors.
            generator: draws the order of rollouts.
        """
        return [
            self._optimize(samples, anchored, generator, compare=update == 0) for update in range(self.config.updates)
        ]

    # ------------------------------------------------------------ checkpoints

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of the newest weights and of the optimizer for a checkpoint, and the optimizer's JSON."""
        moments, state = optimizer_tensors(self.optimizer)
        return {f"{POLICY}{k}": v.detach() for k, v in self.policy.trainable_state().items()} | moments, state

    def shard_writer(self) -> WriteShards | None:
        """Return what writes the tensors that `tensors` leaves out, if it leaves any out."""
        return None

    def load(self, checkpoint: Checkpoint, path: Path) -> None:
        """Load weights and optimizer of a checkpoint of the run in `path`.

        Raises:
            InputError: they do not fit the policy.
        """
        tensors = dict(checkpoint.tensors)
        if checkpoint.shards is not None:
            tensors |= read_full(checkpoint.shards, checkpoint.hashes)
        self._load_full(tensors, checkpoint.state["optimizer"], path)

    def _load_full(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], path: Path) -> None:
        self._check(tensors, path)
        self.policy.load_trainable(with_prefix(tensors, POLICY))
        load_optimizer_tensors(self.optimizer, tensors, state)

    def _check(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Raise InputError unless the full tensors of a checkpoint fit the policy."""
        saved, expected = with_prefix(tensors, POLICY), self.policy.trainable_state()
        check_shapes(shapes_of(expected), shapes_of(saved), type(self.policy).__name__, path)

    # ------------------------------------------------------------ one optimizer step

    def _parameters(self) -> Sequence[nn.Parameter]:
        return list(self.policy.parameters())

    def _score(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        """Return the log-probabilities of the trained policy."""
        return self.policy.logprobs(obs, chunk)

    def _score_by_start(self, obs: Observation, chunk: ActionChunk) -> Tensor:
        """Return the log-probabilities of the start policy, without a gradient."""
        with torch.no_grad():
            return self.start.logprobs(obs, chunk)

    def _exchange_gradients(self) -> None:
        """Add up the gradients of all processes."""

    def _optimize(
        self, samples: list[Sample], anchored: list[Sample], generator: torch.Generator, *, compare: bool
    ) -> Metrics:
        """Take one optimizer step on all samples; `compare` also measures the KL divergence from the start policy."""
        self.optimizer.zero_grad()
        metrics, total = Metrics(), len(samples) + len(anchored)
        metrics |= self._backward(samples, functools.partial(self._policy_loss, compare=compare), total, generator)
        metrics |= self._backward(anchored, self._anchor_loss, total, generator)
        self._exchange_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        return metrics | {"gradient_norm": float(full_tensor(norm))}

    def _backward(self, samples: list[Sample], loss_fn: LossFn, total: int, generator: torch.Generator) -> Metrics:
        """Accumulate gradients of `loss_fn` over micro-batches in random order."""
        if not samples:
            return {}
        order = torch.randperm(len(samples), generator=generator).tolist()
        size = self.config.micro_batch
        batches = [[samples[i] for i in order[first : first + size]] for first in range(0, len(order), size)]
        parts = self._run(batches, loss_fn, total)
        return merge(parts) if parts else {}

    def _run(self, batches: list[list[Sample]], loss_fn: LossFn, total: int) -> list[Part]:
        """Run all micro-batches forward and backward; return their metrics in order."""
        return [self._run_one(batch, loss_fn, total) for batch in batches]

    def _run_one(self, batch: list[Sample], loss_fn: LossFn, total: int, weight: float = 1.0) -> Part:
        loss, metrics = loss_fn(batch, total)
        (loss if weight == 1 else weight * loss).backward()
        return len(batch), metrics

    def _learning_rate(self) -> float:
        """Return the learning rate of the next optimizer step, from the step count in the optimizer's state."""
        done = max((int(state["step"]) for state in self.optimizer.state.values()), default=0)
        return self.config.lr * min(1.0, (done + 1) / max(self.config.warmup, 1))

    # ------------------------------------------------------------ losses

    def _policy_loss(self, batch: list[Sample], total: int, *, compare: bool) -> tuple[Tensor, Metrics]:
        """Return the loss of a micro-batch; only looks with a gradient pass through the policy."""
        obs, chunk, looks = stack([s.rollout for s in batch])
        shape = (len(batch), batch[0].rollout.looks)
        mask = token_mask(looks, shape[1])
        used = mask.flatten().nonzero()[:, 0]
        recorded = _acting(chunk.logprobs, self.policy.chunk, chunk.actions)
        obs, chunk = obs.rows(used), chunk.rows(used)
        fresh = _acting(self._score(obs, chunk), self.policy.chunk, chunk.actions)
        used, recorded, mask = used.to(fresh.device), recorded.to(fresh.device), mask.to(fresh.device)
        new = recorded.index_copy(0, used, fresh).unflatten(0, shape)
        advantage = torch.tensor([s.advantage for s in batch], device=fresh.device)
        loss, metrics = policy_loss(new, recorded.unflatten(0, shape), advantage, mask, total, self.config.objective)
        metrics["entropy"] = float(-fresh.detach().mean())
        weight = self.config.objective.kl
        if compare or weight:
            reference = _acting(self._score_by_start(obs, chunk), self.policy.chunk, chunk.actions)
            kl = _above_rounding(divergence(fresh, reference), fresh, reference)
            metrics["kl_to_start"] = float(kl.detach())
            loss = loss + weight * kl * len(batch) / total if weight else loss
        return loss, metrics

    def _anchor_loss(self, batch: list[Sample], total: int) -> tuple[Tensor, Metrics]:
        """Return KL(anchor || policy), estimated from tokens that the anchors sampled.

        The pull does not grow with the distance from the anchor, and is exactly zero where the two policies agree.
        """
        obs, chunk, looks = stack([s.rollout for s in batch])
        used = token_mask(looks, batch[0].rollout.looks).flatten().nonzero()[:, 0]
        obs, chunk = obs.rows(used), chunk.rows(used)
        fresh = _acting(self._score(obs, chunk), self.policy.chunk, chunk.actions)
        target = _acting(chunk.logprobs, self.policy.chunk, chunk.actions).to(fresh.device).reshape(fresh.shape)
        kl = _above_rounding(divergence(target, fresh), target, fresh)
        return self.config.objective.hold * kl * len(batch) / total, {"kl_to_anchor": float(kl.detach())}


def _above_rounding(kl: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the mean divergence, without the tokens whose log-probabilities differ by rounding alone."""
    return torch.where((first - second).abs() > _ROUNDING, kl, 0.0).mean()


def copy_of(policy: Policy) -> Policy:
    """Copy of a policy that shares the tensors which training does not change: with adapters, nearly all of them."""
    shared: dict[int, Any] = {}
    if isinstance(policy, nn.Module):
        trained = {tensor.data_ptr() for tensor in policy.trainable_state().values()}
        frozen = [weight for weight in policy.parameters() if not weight.requires_grad]
        shared = {id(weight): weight for weight in frozen if weight.data_ptr() not in trained}
    return copy.deepcopy(policy, shared)


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _acting(logprobs: Tensor, predicted: int, executed: Tensor) -> Tensor:
    """Return the log-probabilities that get a gradient, [looks t].

    The whole sample is always scored. Where only a part of each chunk was executed and the log-probabilities have an
    axis of actions, [b k] or [b ... k a], those of the executed actions count. Any other shape, such as one number per
    chunk [b], counts whole. Old and new log-probabilities are cut alike, so the ratio is 1 before the first update.

    Args:
        logprobs: of the whole sample, [b ...].
        predicted: actions that the policy predicts per look, k.
        executed: the executed actions [b n a].
    """
    count, width = executed.shape[1:]
    if count < predicted and logprobs.ndim > 2 and tuple(logprobs.shape[-2:]) == (predicted, width):
        logprobs = logprobs[..., :count, :]
    elif count < predicted and logprobs.ndim == 2 and logprobs.shape[1] == predicted:
        logprobs = logprobs[:, :count]
    return logprobs.flatten(1) if logprobs.ndim > 1 else logprobs[:, None]


def stack(rollouts: Sequence[Rollout]) -> tuple[Observation, ActionChunk, list[int]]:
    """Stack all looks of r rollouts of n looks into one batch of r*n.

    Returns:
        Observations, action chunks, and the number of looks of each rollout that count.
    """
    names = list(rollouts[0].images)
    images = {name: torch.from_numpy(np.concatenate([r.images[name] for r in rollouts])) for name in names}
    sentences = [r.start.instruction for r in rollouts for _ in range(r.looks)]
    first = {
        name: torch.from_numpy(np.concatenate([np.repeat(r.images[name][:1], r.looks, 0) for r in rollouts]))
        for name in names
    }
    states = [r.state for r in rollouts if r.state is not None]
    state = torch.from_numpy(np.concatenate(states)) if states else None
    chunk = ActionChunk.join([r.chunks for r in rollouts], torch.cat)
    return Observation(images, sentences, state, first), chunk, [r.looks_until_success for r in rollouts]


def merge(parts: Sequence[Part]) -> Metrics:
    """Average the metrics of micro-batches, weighted by size; take the maximum of `ratio_error`.

    >>> merge([(1, {"loss": 1.0, "ratio_error": 0.5}), (3, {"loss": 2.0, "ratio_error": 0.1})])
    {'loss': 1.75, 'ratio_error': 0.5}
    """
    total = sum(n for n, _ in parts)
    merged = {k: sum(n * m[k] for n, m in parts) / total for k in parts[0][1]}
    return merged | {k: max(m[k] for _, m in parts) for k in merged if k == "ratio_error"}
