"""One policy update from groups of rollouts."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from worldgymnast.configs import Between, Count, Positive, checked
from worldgymnast.errors import InputError
from worldgymnast.protocols import Policy
from worldgymnast.rl.objective import (
    ObjectiveConfig,
    advantages,
    divergence,
    has_signal,
    policy_loss,
    rewards,
    token_mask,
)
from worldgymnast.run import Run, load_optimizer_tensors, optimizer_tensors
from worldgymnast.run_folder import checkpoint_errors_as_input_errors
from worldgymnast.types import ActionChunk, Metrics, Observation, Rollout, RolloutGroup
from worldgymnast.weights import check_shapes, shapes_of

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
        objective: the loss.
    """

    lr: Annotated[float, Between(1e-12, 1e6)] = 2e-4
    warmup: Count = 10
    clip_norm: Annotated[float, Between(1e-12, 1e6)] = 1.0
    average: Annotated[float, Between(0, 0.999)] = 0.7
    updates: Positive = 3
    micro_batch: Positive = 16
    objective: ObjectiveConfig = ObjectiveConfig()


@dataclass(frozen=True)
class _Sample:
    """A rollout to train on. In a held task it has its anchor's chunks and no advantage."""

    rollout: Rollout
    advantage: float = 0.0


@dataclass(frozen=True)
class KeptWeights:
    """The best weights so far, and the step of their evaluation."""

    step: int
    weights: dict[str, Tensor]


_LossFn = Callable[[list[_Sample], int], tuple[Tensor, Metrics]]
"""Loss and metrics of a micro-batch, given the total number of samples in the batch."""


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class Trainer:
    """Trained policy, start policy, best weights and optimizer.

    Args:
        policy: trained in place.
        config: the update.
        start: the policy before training, never changed. The KL divergence is measured from it, and tasks that lost
            their trust are held to it. Default: a copy of `policy`.
        host: device of all copies of weights that are only kept; None for that of the weights.

    Attributes:
        average: exponential moving average of the trainable weights, if the config asks for one.
        acting: weights of the previous policy, while rollouts of it remain to be trained on (prefetch); or None.

    Raises:
        InputError: the policy has nothing to train.
    """

    def __init__(
        self,
        policy: Policy,
        config: TrainerConfig,
        start: Policy | None = None,
        host: torch.device | str | None = None,
    ):
        self.policy, self.config, self.start, self.host = policy, config, start or copy_of(policy), host
        self.kept: KeptWeights | None = None
        self.average = self.weights() if config.average else None
        self.acting: dict[str, Tensor] | None = None
        self.parameters = [weight for weight in policy.parameters() if weight.requires_grad]
        if not self.parameters:
            raise InputError(
                "policy: no parameter requires a gradient, so there is nothing to train. Unfreeze at least one"
            )
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=0.0)

    def update(
        self, groups: Sequence[RolloutGroup], generator: torch.Generator, anchors: Mapping[str, Policy] | None = None
    ) -> Metrics:
        """Train on every group that carries signal, and count the others.

        Args:
            groups: judged rollouts.
            generator: draws the order of rollouts, and the samples of anchors.
            anchors: anchor policy of each held task. Rewards of these tasks are ignored; instead the policy is pulled
                toward the anchor on the observations of their rollouts.
        """
        anchors = anchors or {}
        informative = [g for g in groups if has_signal(g, self.config.objective)]
        scores = np.concatenate([g.scores for g in groups]) if groups else np.zeros(0)
        verdicts = sum(len(g.rollouts) for g in groups)
        metrics = {
            "reward": float(scores.mean()) if len(scores) else float("nan"),
            "success": float((scores >= 1).mean()) if len(scores) else float("nan"),
            "judge_error_rate": sum(g.judge_errors for g in groups) / max(verdicts, 1),
            "groups": float(len(groups)),
            "zero_advantage_groups": 1 - len(informative) / max(len(groups), 1),
        }
        free = [g for g in informative if g.start.task not in anchors]
        held = [g for g in groups if g.start.task in anchors]
        samples = [s for g in free for s in self._samples(g)]
        anchored = [s for g in held for s in self._anchor_samples(g, anchors[g.start.task], generator)]
        metrics |= {"held_groups": float(len(held))} if anchors else {}
        for update in range(self.config.updates if samples or anchored else 0):
            step = self._optimize(samples, anchored, generator, compare=update == 0)
            metrics |= step if update == 0 else {f"last_{k}": v for k, v in step.items()}
        self._update_average()
        return metrics

    def _update_average(self) -> None:
        """Move the average toward the newest weights."""
        if self.average is None:
            return
        for name, weight in self.weights(copy=False).items():
            mean = weight
            if weight.is_floating_point():  # on the weight's device, whose rounding may be another than the host's
                mean = self.average[name].to(weight.device).lerp_(weight, 1 - self.config.average)
            self.average[name].copy_(mean)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the policy its averaged weights within the context, to evaluate and to keep them."""
        if self.average is None:
            yield
            return
        newest = self.weights()
        self.policy.load_trainable(self.average)
        try:
            yield
        finally:
            self.policy.load_trainable(newest)

    def weights(self, copy: bool = True) -> dict[str, Tensor]:
        """Return the trainable weights; a copy does not change while the policy learns."""
        return {k: self._copied(v) if copy else v.detach() for k, v in self.policy.trainable_state().items()}

    def _copied(self, weight: Tensor) -> Tensor:
        return weight.detach().to(weight.device if self.host is None else self.host, copy=True)

    def keep(self, step: int) -> None:
        """Keep a copy of the current weights as the best so far."""
        self.kept = KeptWeights(step, self.weights())

    def finish(self, *, kept: bool) -> None:
        """Give the policy its final weights: the kept ones, or without any the average if there is one."""
        if kept and self.kept is not None:
            self.policy.load_trainable(self.kept.weights)
        elif self.average is not None:
            self.policy.load_trainable(self.average)

    def kept_policy(self) -> Policy:
        """Return a frozen policy with the kept weights, or the start policy without any."""
        if self.kept is None:
            return self.start
        policy = copy_of(self.policy)
        policy.load_trainable(self.kept.weights)
        return policy

    def save(self, run: Run, step: int, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint: trainable, kept and acting weights, optimizer, and `extra` as JSON."""
        tensors, state = optimizer_tensors(self.optimizer)
        models = {f"policy.{k}": v for k, v in self.weights(copy=False).items()}
        models |= {f"kept.{k}": v for k, v in (self.kept.weights if self.kept else {}).items()}
        models |= {f"average.{k}": v for k, v in (self.average or {}).items()}
        models |= {f"acting.{k}": v for k, v in (self.acting or {}).items()}
        kept = None if self.kept is None else self.kept.step
        run.save(step, models | tensors, {"optimizer": state, "kept": kept, "beside": dict(extra or {})})

    def resume(self, run: Run) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint; return the number of finished steps and the saved `extra`."""
        checkpoint = run.load()
        if checkpoint is None:
            return 0, {}
        with checkpoint_errors_as_input_errors(run.path):
            saved, expected = _with_prefix(checkpoint.tensors, "policy."), self.policy.trainable_state()
            check_shapes(shapes_of(expected), shapes_of(saved), type(self.policy).__name__, run.path)
            self.policy.load_trainable(saved)
            if (kept := checkpoint.state["kept"]) is not None:
                self.kept = KeptWeights(kept, _with_prefix(checkpoint.tensors, "kept."))
            self.average = _with_prefix(checkpoint.tensors, "average.") or None
            self.acting = _with_prefix(checkpoint.tensors, "acting.") or None
            load_optimizer_tensors(self.optimizer, checkpoint.tensors, checkpoint.state["optimizer"])
            return checkpoint.step, dict(checkpoint.state["beside"])

    def _samples(self, group: RolloutGroup) -> list[_Sample]:
        """Return the judged rollouts of a group with their advantages."""
        judged = [r for r in group.rollouts if r.verdict.score is not None]
        gains = advantages(rewards(group, self.config.objective), self.config.objective.epsilon)
        return [_Sample(r, float(a)) for r, a in zip(judged, gains, strict=True)]

    @staticmethod
    def _anchor_samples(group: RolloutGroup, anchor: Policy, generator: torch.Generator) -> list[_Sample]:
        """Return the rollouts of a held task with chunks sampled from its anchor at each look."""
        samples = []
        for rollout in group.rollouts:
            obs, chunk, _ = stack([rollout])
            with torch.no_grad():
                target = anchor.act(obs, temperature=chunk.temperature, generator=generator)
            samples.append(_Sample(replace(rollout, chunks=target.execute(chunk.actions.shape[1]).cpu())))
        return samples

    def _optimize(
        self, samples: list[_Sample], anchored: list[_Sample], generator: torch.Generator, *, compare: bool
    ) -> Metrics:
        """Take one optimizer step on all samples; `compare` also measures the KL divergence from the start policy."""
        self.optimizer.zero_grad()
        metrics, total = Metrics(), len(samples) + len(anchored)
        metrics |= self._backward(samples, functools.partial(self._policy_loss, compare=compare), total, generator)
        metrics |= self._backward(anchored, self._anchor_loss, total, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        return metrics | {"gradient_norm": float(norm)}

    def _backward(self, samples: list[_Sample], loss_fn: _LossFn, total: int, generator: torch.Generator) -> Metrics:
        """Accumulate gradients of `loss_fn` over micro-batches in random order."""
        if not samples:
            return {}
        order = torch.randperm(len(samples), generator=generator).tolist()
        parts: list[tuple[int, Metrics]] = []
        for first in range(0, len(order), self.config.micro_batch):
            batch = [samples[i] for i in order[first : first + self.config.micro_batch]]
            loss, metrics = loss_fn(batch, total)
            loss.backward()
            parts.append((len(batch), metrics))
        return merge(parts)

    def _learning_rate(self) -> float:
        """Return the learning rate of the next optimizer step, from the step count in the optimizer's state."""
        done = max((int(state["step"]) for state in self.optimizer.state.values()), default=0)
        return self.config.lr * min(1.0, (done + 1) / max(self.config.warmup, 1))

    def _policy_loss(self, batch: list[_Sample], total: int, *, compare: bool) -> tuple[Tensor, Metrics]:
        """Return the loss of a micro-batch; only looks with a gradient pass through the policy."""
        obs, chunk, looks = stack([s.rollout for s in batch])
        shape = (len(batch), batch[0].rollout.looks)
        mask = token_mask(looks, shape[1])
        used = mask.flatten().nonzero()[:, 0]
        recorded = _acting(chunk.logprobs, self.policy.chunk, chunk.actions)
        obs, chunk = obs.rows(used), chunk.rows(used)
        fresh = _logprobs(self.policy, obs, chunk)
        used, recorded, mask = used.to(fresh.device), recorded.to(fresh.device), mask.to(fresh.device)
        new = recorded.index_copy(0, used, fresh).unflatten(0, shape)
        advantage = torch.tensor([s.advantage for s in batch], device=fresh.device)
        loss, metrics = policy_loss(new, recorded.unflatten(0, shape), advantage, mask, total, self.config.objective)
        metrics["entropy"] = float(-fresh.detach().mean())
        weight = self.config.objective.kl
        if compare or weight:
            with torch.no_grad():
                reference = _logprobs(self.start, obs, chunk)
            kl = divergence(fresh, reference).mean()
            metrics["kl_to_start"] = float(kl.detach())
            loss = loss + weight * kl * len(batch) / total if weight else loss
        return loss, metrics

    def _anchor_loss(self, batch: list[_Sample], total: int) -> tuple[Tensor, Metrics]:
        """Return KL(anchor || policy), estimated from tokens that the anchors sampled.

        The pull does not grow with the distance from the anchor, and is exactly zero where the two policies agree.
        """
        obs, chunk, looks = stack([s.rollout for s in batch])
        used = token_mask(looks, batch[0].rollout.looks).flatten().nonzero()[:, 0]
        obs, chunk = obs.rows(used), chunk.rows(used)
        fresh = _logprobs(self.policy, obs, chunk)
        target = _acting(chunk.logprobs, self.policy.chunk, chunk.actions).to(fresh.device).reshape(fresh.shape)
        kl = torch.where((fresh - target).abs() > _ROUNDING, divergence(target, fresh), 0.0).mean()
        return self.config.objective.hold * kl * len(batch) / total, {"kl_to_anchor": float(kl.detach())}


def _logprobs(policy: Policy, obs: Observation, chunk: ActionChunk) -> Tensor:
    """Return log-probabilities of the sampled tokens that acted, [looks t]."""
    return _acting(policy.logprobs(obs, chunk), policy.chunk, chunk.actions)


def copy_of(policy: Policy) -> Policy:
    """Copy of a policy that shares the tensors which training does not change: with adapters, nearly all of them."""
    shared: dict[int, Any] = {}
    if isinstance(policy, nn.Module):
        trained = {tensor.data_ptr() for tensor in policy.trainable_state().values()}
        frozen = [weight for weight in policy.parameters() if not weight.requires_grad]
        shared = {id(weight): weight for weight in frozen if weight.data_ptr() not in trained}
    return copy.deepcopy(policy, shared)


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


def merge(parts: Sequence[tuple[int, Metrics]]) -> Metrics:
    """Average the metrics of micro-batches, weighted by size; take the maximum of `ratio_error`.

    >>> merge([(1, {"loss": 1.0, "ratio_error": 0.5}), (3, {"loss": 2.0, "ratio_error": 0.1})])
    {'loss': 1.75, 'ratio_error': 0.5}
    """
    total = sum(n for n, _ in parts)
    merged = {k: sum(n * m[k] for n, m in parts) / total for k in parts[0][1]}
    return merged | {k: max(m[k] for _, m in parts) for k in merged if k == "ratio_error"}
