"""One policy update from groups of rollouts."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
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
from worldgymnast.run_folder import resuming
from worldgymnast.types import ActionChunk, Metrics, Observation, Rollout, RolloutGroup
from worldgymnast.weights import check_shapes, shapes_of

_ROUNDING = 1e-4
"""Nats by which log-probabilities of one policy differ; Adam would make steps of full length of it."""


@checked
class TrainerConfig:
    """The optimizer and its loss.

    Attributes:
        lr: learning rate, constant after the warm-up.
        warmup: optimizer steps in which it rises in equal parts. Adam's first steps are as long as its rate, however
            uncertain the gradient, and would throw a policy about that is already good.
        clip_norm: largest gradient norm.
        average: share of the averaged weights that each step keeps; the average is scored and handed out. 0 scores the
            newest weights.
        updates: optimizer steps a batch of groups is used for; above 1 the ratio leaves 1 and the clip acts.
        micro_batch: rollouts per forward pass.
        objective: the loss.
    """

    lr: Annotated[float, Between(1e-12, 1e6)] = 2e-4
    warmup: Count = 10
    clip_norm: Annotated[float, Between(1e-12, 1e6)] = 1.0
    average: Annotated[float, Between(0, 0.999)] = 0.0
    updates: Positive = 3
    micro_batch: Positive = 16
    objective: ObjectiveConfig = ObjectiveConfig()


@dataclass(frozen=True)
class _Sample:
    """A rollout that is trained on; one that is held has its anchor's chunks, and no advantage."""

    rollout: Rollout
    advantage: float = 0.0


@dataclass(frozen=True)
class Kept:
    """The weights that would be handed out now, and the step at which they were scored."""

    step: int
    weights: dict[str, Tensor]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class Trainer:
    """Holds the policy being trained, the start policy, the weights that are kept, and the optimizer.

    Args:
        policy: is trained in place.
        config: the update.
        start: the policy as it was before, which is never changed: what the divergence is measured from, and what a
            task that lost its trust is held to. Left out, it is a copy of `policy` as it is now.

    Attributes:
        average: exponential moving average of the weights over steps, where the config asks for one.
        acting: weights of an earlier policy whose rollouts are still to be learned from, where imagination runs ahead.

    Raises:
        InputError: the policy has nothing to train.
    """

    def __init__(self, policy: Policy, config: TrainerConfig, start: Policy | None = None):
        self.policy, self.config, self.start = policy, config, start or copy.deepcopy(policy)
        self.kept: Kept | None = None
        self.average = self.weights() if config.average else None
        self.acting: dict[str, Tensor] | None = None
        self.parameters = [weight for weight in policy.parameters() if weight.requires_grad]
        if not self.parameters:
            raise InputError("policy: none of its parameters requires a gradient, so there is nothing to train")
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=0.0)

    def update(
        self, groups: Sequence[RolloutGroup], generator: torch.Generator, held: Mapping[str, Policy] | None = None
    ) -> Metrics:
        """Trains on every group that carries signal; the others are counted.

        Args:
            groups: judged rollouts.
            generator: of the order of rollouts, and of what anchors sample.
            held: the anchor of every task that is held: its rewards do not count, and the policy is held to the anchor
                on what it saw there.
        """
        anchors = held or {}
        informative = [g for g in groups if has_signal(g, self.config.objective)]
        used = [g for g in informative if g.start.task not in anchors]
        scores = np.concatenate([g.scores for g in groups]) if groups else np.zeros(0)
        verdicts = sum(len(g.rollouts) for g in groups)
        metrics = {
            "reward": float(scores.mean()) if len(scores) else float("nan"),
            "success": float((scores >= 1).mean()) if len(scores) else float("nan"),
            "judge_error_rate": sum(g.judge_errors for g in groups) / max(verdicts, 1),
            "groups": float(len(groups)),
            "zero_advantage_groups": 1 - len(informative) / max(len(groups), 1),
        }
        samples = [s for g in used for s in self._samples(g)]
        holding = [s for g in groups if g.start.task in anchors for s in self._held(g, anchors, generator)]
        metrics |= {"held_groups": float(sum(g.start.task in anchors for g in groups))} if anchors else {}
        for update in range(self.config.updates if samples or holding else 0):
            step = self._optimize(samples, holding, generator, compare=update == 0)
            metrics |= step if update == 0 else {f"last_{k}": v for k, v in step.items()}
        self._update_average()
        return metrics

    def _update_average(self) -> None:
        """Move the average towards the newest weights."""
        if self.average is None:
            return
        for name, weight in self.weights(copy=False).items():
            if weight.is_floating_point():
                self.average[name].lerp_(weight, 1 - self.config.average)
            else:
                self.average[name].copy_(weight)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the policy its averaged weights for a while: to score and to keep them."""
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
        """What training changes of the policy; a copy stays as it is while the policy learns."""
        return {k: v.detach().clone() if copy else v.detach() for k, v in self.policy.trainable_state().items()}

    def keep(self, step: int) -> None:
        """Remembers the weights of now as those to hand out."""
        self.kept = Kept(step, self.weights())

    def finish(self, *, kept: bool) -> None:
        """Give the policy the weights to hand out: those that are kept, or else the average where there is one."""
        if kept and self.kept is not None:
            self.policy.load_trainable(self.kept.weights)
        elif self.average is not None:
            self.policy.load_trainable(self.average)

    def kept_policy(self) -> Policy:
        """A frozen policy with the weights that are kept; the start policy where none are."""
        if self.kept is None:
            return self.start
        made = copy.deepcopy(self.start)
        made.load_trainable(self.kept.weights)
        return made

    def save(self, run: Run, step: int, beside: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint: what training changed, what is kept, what acts, the optimizer; `beside` is JSON."""
        tensors, state = optimizer_tensors(self.optimizer)
        models = {f"policy.{k}": v for k, v in self.weights(copy=False).items()}
        models |= {f"kept.{k}": v for k, v in (self.kept.weights if self.kept else {}).items()}
        models |= {f"average.{k}": v for k, v in (self.average or {}).items()}
        models |= {f"acting.{k}": v for k, v in (self.acting or {}).items()}
        kept = None if self.kept is None else self.kept.step
        run.save(step, models | tensors, {"optimizer": state, "kept": kept, "beside": dict(beside or {})})

    def resume(self, run: Run) -> tuple[int, dict[str, Any]]:
        """Goes on from the newest checkpoint; returns the number of finished steps, and what was saved beside."""
        checkpoint = run.load()
        if checkpoint is None:
            return 0, {}
        with resuming(run.path):
            saved, expected = _under(checkpoint.tensors, "policy."), self.policy.trainable_state()
            check_shapes(shapes_of(expected), shapes_of(saved), type(self.policy).__name__, run.path)
            self.policy.load_trainable(saved)
            if (kept := checkpoint.state["kept"]) is not None:
                self.kept = Kept(kept, _under(checkpoint.tensors, "kept."))
            self.average = _under(checkpoint.tensors, "average.") or None
            self.acting = _under(checkpoint.tensors, "acting.") or None
            load_optimizer_tensors(self.optimizer, checkpoint.tensors, checkpoint.state["optimizer"])
            return checkpoint.step, dict(checkpoint.state["beside"])

    def _samples(self, group: RolloutGroup) -> list[_Sample]:
        judged = [r for r in group.rollouts if r.verdict.score is not None]
        gains = advantages(rewards(group, self.config.objective), self.config.objective.epsilon)
        return [_Sample(r, float(a)) for r, a in zip(judged, gains, strict=True)]

    def _held(self, group: RolloutGroup, anchors: Mapping[str, Policy], generator: torch.Generator) -> list[_Sample]:
        """The rollouts of a held task, with what its anchor would do at each look in the place of what was done."""
        anchor, found = anchors[group.start.task], []
        for rollout in group.rollouts:
            obs, chunk, _ = stack([rollout])
            with torch.no_grad():
                wanted = anchor.act(obs, temperature=chunk.temperature, generator=generator)
            found.append(_Sample(replace(rollout, chunks=wanted.cpu())))
        return found

    def _optimize(
        self, samples: list[_Sample], holding: list[_Sample], generator: torch.Generator, *, compare: bool
    ) -> Metrics:
        self.optimizer.zero_grad()
        total, found = len(samples) + len(holding), Metrics()
        for each, loss_of in ((samples, functools.partial(self._loss, compare=compare)), (holding, self._hold)):
            order = torch.randperm(len(each), generator=generator).tolist() if each else []
            parts: list[tuple[int, Metrics]] = []
            for first in range(0, len(order), self.config.micro_batch):
                part = [each[i] for i in order[first : first + self.config.micro_batch]]
                loss, metrics = loss_of(part, total)
                loss.backward()
                parts.append((len(part), metrics))
            found |= merge(parts) if parts else {}
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        return found | {"gradient_norm": float(norm)}

    def _rate(self) -> float:
        """The learning rate of the next optimizer step; how many there were stands in the optimizer's own state."""
        done = max((int(state["step"]) for state in self.optimizer.state.values()), default=0)
        return self.config.lr * min(1.0, (done + 1) / max(self.config.warmup, 1))

    def _loss(self, part: list[_Sample], total: int, *, compare: bool) -> tuple[Tensor, Metrics]:
        """The loss of a micro-batch; only looks that get gradient pass through the policy."""
        obs, chunk, looks = stack([s.rollout for s in part])
        shape = (len(part), part[0].rollout.looks)
        mask = token_mask(looks, shape[1])
        seen = mask.flatten().nonzero()[:, 0]
        recorded = chunk.logprobs.flatten(1) if chunk.logprobs.ndim > 1 else chunk.logprobs[:, None]
        obs, chunk = obs.rows(seen), chunk.rows(seen)
        fresh = self._scored(self.policy, obs, chunk)
        seen, recorded, mask = seen.to(fresh.device), recorded.to(fresh.device), mask.to(fresh.device)
        new = recorded.index_copy(0, seen, fresh).unflatten(0, shape)
        advantage = torch.tensor([s.advantage for s in part], device=fresh.device)
        loss, metrics = policy_loss(new, recorded.unflatten(0, shape), advantage, mask, total, self.config.objective)
        metrics["entropy"] = float(-fresh.detach().mean())
        anchor = self.config.objective.kl
        if compare or anchor:
            with torch.no_grad():
                reference = self._scored(self.start, obs, chunk)
            away = divergence(fresh, reference).mean()
            metrics["kl_to_start"] = float(away.detach())
            loss = loss + anchor * away * len(part) / total if anchor else loss
        return loss, metrics

    @staticmethod
    def _scored(policy: Policy, obs: Observation, chunk: ActionChunk) -> Tensor:
        """Log-probabilities of what was sampled, [looks t]."""
        found = policy.logprobs(obs, chunk)
        return found.flatten(1) if found.ndim > 1 else found[:, None]

    def _hold(self, part: list[_Sample], total: int) -> tuple[Tensor, Metrics]:
        """The divergence of the policy from anchors: KL(anchor || policy), from tokens that the anchors sampled.

        So the pull is no larger however far the policy has gone, and it is zero, without noise, where the two are one.
        """
        obs, chunk, looks = stack([s.rollout for s in part])
        seen = token_mask(looks, part[0].rollout.looks).flatten().nonzero()[:, 0]
        obs, chunk = obs.rows(seen), chunk.rows(seen)
        fresh = self._scored(self.policy, obs, chunk)
        wanted = chunk.logprobs.to(fresh.device).reshape(fresh.shape)
        away = torch.where((fresh - wanted).abs() > _ROUNDING, divergence(wanted, fresh), 0.0).mean()
        return self.config.objective.hold * away * len(part) / total, {"kl_to_anchor": float(away.detach())}


def stack(rollouts: Sequence[Rollout]) -> tuple[Observation, ActionChunk, list[int]]:
    """All looks of `rollouts` as one batch of r*n, and the number of looks of each that count."""
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
    """Metrics of micro-batches, weighted by their size; the largest value of `ratio_error`."""
    total = sum(n for n, _ in parts)
    merged = {k: sum(n * m[k] for n, m in parts) / total for k in parts[0][1]}
    return merged | {k: max(m[k] for _, m in parts) for k in merged if k == "ratio_error"}
