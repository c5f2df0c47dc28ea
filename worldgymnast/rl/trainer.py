"""One policy update from groups of rollouts."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from worldgymnast.configs import Between, Count, Positive, checked
from worldgymnast.protocols import Policy
from worldgymnast.rl.objective import ObjectiveConfig, advantages, divergence, has_signal, policy_loss, token_mask
from worldgymnast.run import Run, load_into, load_optimizer_tensors, optimizer_tensors
from worldgymnast.run_folder import resuming
from worldgymnast.types import ActionChunk, Metrics, Observation, Rollout, RolloutGroup

_ROUNDING = 1e-4
"""Nats by which log-probabilities of one policy differ; Adam would make steps of full length of it."""


@checked
class TrainerConfig:
    """The optimiser and its loss.

    Attributes:
        lr: learning rate, constant after the warm-up.
        warmup: optimiser steps in which it rises in equal parts. Adam's first steps are as long as its rate, however
            uncertain the gradient, and would throw a policy about that is already good.
        clip_norm: largest gradient norm.
        updates: optimiser steps a batch of groups is used for; above 1 the ratio leaves 1 and the clip acts.
        micro_batch: rollouts per forward pass.
        objective: the loss.
    """

    lr: Annotated[float, Between(1e-12, 1e6)] = 2e-4
    warmup: Count = 10
    clip_norm: Annotated[float, Between(1e-12, 1e6)] = 1.0
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
    """Holds the policy being trained, a frozen copy of where it began, the one that is kept, and the optimiser.

    Attributes:
        acting: weights of an earlier policy whose rollouts are still to be learned from, where imagination runs ahead.
    """

    def __init__(self, policy: Policy, config: TrainerConfig):
        assert isinstance(policy, nn.Module)
        self.policy, self.config = policy, config
        self.kept: Kept | None = None
        self.acting: dict[str, Tensor] | None = None
        self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=config.lr, weight_decay=0.0)

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
            step = self._optimise(samples, holding, generator, compare=update == 0)
            metrics |= step if update == 0 else {f"last_{k}": v for k, v in step.items()}
        return metrics

    def weights(self, copy: bool = True) -> dict[str, Tensor]:
        """The policy's weights; a copy stays as it is while the policy learns."""
        assert isinstance(self.policy, nn.Module)
        return {k: v.detach().clone() if copy else v.detach() for k, v in self.policy.state_dict().items()}

    def keep(self, step: int) -> None:
        """Remembers the weights of now as those to hand out."""
        self.kept = Kept(step, self.weights())

    def restore_kept(self) -> int | None:
        """Puts the weights that are kept back into the policy and returns their step; None where none are."""
        assert isinstance(self.policy, nn.Module)
        if self.kept is None:
            return None
        self.policy.load_state_dict(self.kept.weights)
        return self.kept.step

    def kept_policy(self) -> Policy:
        """A frozen policy with the weights that are kept; the start policy where none are."""
        if self.kept is None:
            return self.reference
        made = copy.deepcopy(self.reference)
        assert isinstance(made, nn.Module)
        made.load_state_dict(self.kept.weights)
        return made

    def save(self, run: Run, step: int, beside: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint of policy, start policy, kept policy, acting policy and optimiser; `beside` is JSON."""
        assert isinstance(self.policy, nn.Module)
        assert isinstance(self.reference, nn.Module)
        tensors, state = optimizer_tensors(self.optimizer)
        models = {f"policy.{k}": v for k, v in self.policy.state_dict().items()}
        models |= {f"reference.{k}": v for k, v in self.reference.state_dict().items()}
        models |= {f"kept.{k}": v for k, v in (self.kept.weights if self.kept else {}).items()}
        models |= {f"acting.{k}": v for k, v in (self.acting or {}).items()}
        kept = None if self.kept is None else self.kept.step
        run.save(step, models | tensors, {"optimizer": state, "kept": kept, "beside": dict(beside or {})})

    def resume(self, run: Run) -> tuple[int, dict[str, Any]]:
        """Goes on from the newest checkpoint; returns the number of finished steps, and what was saved beside."""
        checkpoint = run.load()
        if checkpoint is None:
            return 0, {}
        with resuming(run.path):
            for name, module in (("policy.", self.policy), ("reference.", self.reference)):
                assert isinstance(module, nn.Module)
                load_into(module, _under(checkpoint.tensors, name), run.path)
            if (kept := checkpoint.state["kept"]) is not None:
                self.kept = Kept(kept, _under(checkpoint.tensors, "kept."))
            self.acting = _under(checkpoint.tensors, "acting.") or None
            load_optimizer_tensors(self.optimizer, checkpoint.tensors, checkpoint.state["optimizer"])
            return checkpoint.step, dict(checkpoint.state["beside"])

    def _samples(self, group: RolloutGroup) -> list[_Sample]:
        judged = [r for r in group.rollouts if r.verdict.score is not None]
        gains = advantages(group.scores, self.config.objective.epsilon)
        return [_Sample(r, float(a)) for r, a in zip(judged, gains, strict=True)]

    def _held(self, group: RolloutGroup, anchors: Mapping[str, Policy], generator: torch.Generator) -> list[_Sample]:
        """The rollouts of a held task, with what its anchor would do at each look in the place of what was done."""
        anchor, found = anchors[group.start.task], []
        for rollout in group.rollouts:
            obs, chunk, _ = stack([rollout])
            with torch.no_grad():
                wanted = anchor.act(obs, temperature=chunk.temperature, generator=generator)
            cpu = (wanted.actions.cpu(), wanted.tokens.cpu(), wanted.logprobs.cpu())
            found.append(_Sample(replace(rollout, chunks=ActionChunk(*cpu, wanted.temperature))))
        return found

    def _optimise(
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
        assert isinstance(self.policy, nn.Module)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return found | {"gradient_norm": float(norm)}

    def _rate(self) -> float:
        """The learning rate of the next optimiser step; how many there were stands in the optimiser's own state."""
        done = max((int(state["step"]) for state in self.optimizer.state.values()), default=0)
        return self.config.lr * min(1.0, (done + 1) / max(self.config.warmup, 1))

    def _loss(self, part: list[_Sample], total: int, *, compare: bool) -> tuple[Tensor, Metrics]:
        """The loss of a micro-batch; only looks that get gradient pass through the policy."""
        obs, chunk, looks = stack([s.rollout for s in part])
        shape = (len(part), len(part[0].rollout.images))
        mask = token_mask(looks, shape[1])
        seen = mask.flatten().nonzero()[:, 0]
        recorded = chunk.logprobs
        obs, chunk = _rows(obs, seen), _rows_of(chunk, seen)
        fresh = self.policy.logprobs(obs, chunk)
        seen, recorded, mask = seen.to(fresh.device), recorded.to(fresh.device), mask.to(fresh.device)
        new = recorded.index_copy(0, seen, fresh).unflatten(0, shape)
        advantage = torch.tensor([s.advantage for s in part], device=fresh.device)
        loss, metrics = policy_loss(new, recorded.unflatten(0, shape), advantage, mask, total, self.config.objective)
        metrics["entropy"] = float(-fresh.detach().mean())
        anchor = self.config.objective.kl
        if compare or anchor:
            with torch.no_grad():
                reference = self.reference.logprobs(obs, chunk)
            away = divergence(fresh, reference).mean()
            metrics["kl_to_start"] = float(away.detach())
            loss = loss + anchor * away * len(part) / total if anchor else loss
        return loss, metrics

    def _hold(self, part: list[_Sample], total: int) -> tuple[Tensor, Metrics]:
        """The divergence of the policy from anchors: KL(anchor || policy), from tokens that the anchors sampled.

        So the pull is no larger however far the policy has gone, and it is zero, without noise, where the two are one.
        """
        obs, chunk, looks = stack([s.rollout for s in part])
        seen = token_mask(looks, len(part[0].rollout.images)).flatten().nonzero()[:, 0]
        obs, chunk = _rows(obs, seen), _rows_of(chunk, seen)
        fresh = self.policy.logprobs(obs, chunk)
        wanted = chunk.logprobs.to(fresh.device)
        away = torch.where((fresh - wanted).abs() > _ROUNDING, divergence(wanted, fresh), 0.0).mean()
        return self.config.objective.hold * away * len(part) / total, {"kl_to_anchor": float(away.detach())}


def _rows(obs: Observation, rows: Tensor) -> Observation:
    sentences = [obs.instruction[int(i)] for i in rows]
    return Observation(obs.image[rows], sentences, None if obs.state is None else obs.state[rows])


def _rows_of(chunk: ActionChunk, rows: Tensor) -> ActionChunk:
    return ActionChunk(chunk.actions[rows], chunk.tokens[rows], chunk.logprobs[rows], chunk.temperature)


def stack(rollouts: Sequence[Rollout]) -> tuple[Observation, ActionChunk, list[int]]:
    """All looks of `rollouts` as one batch of r*n, and the number of looks of each that count."""
    images = torch.from_numpy(np.concatenate([r.images for r in rollouts]))
    sentences = [r.start.instruction for r in rollouts for _ in range(len(r.images))]
    chunk = ActionChunk(
        torch.cat([r.chunks.actions for r in rollouts]),
        torch.cat([r.chunks.tokens for r in rollouts]),
        torch.cat([r.chunks.logprobs for r in rollouts]),
        rollouts[0].chunks.temperature,
    )
    return Observation(images, sentences), chunk, [r.looks_until_success for r in rollouts]


def merge(parts: Sequence[tuple[int, Metrics]]) -> Metrics:
    """Metrics of micro-batches, weighted by their size; the largest value of `ratio_error`."""
    total = sum(n for n, _ in parts)
    merged = {k: sum(n * m[k] for n, m in parts) / total for k in parts[0][1]}
    return merged | {k: max(m[k] for _, m in parts) for k in merged if k == "ratio_error"}
