"""One policy update from groups of rollouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldgymnast.protocols import Policy
from worldgymnast.rl.objective import advantages, has_signal, rewards
from worldgymnast.rl.offload import Turns
from worldgymnast.rl.parallel import make_updater
from worldgymnast.rl.update import Sample, TrainerConfig, copy_of, stack, with_prefix
from worldgymnast.run import Run
from worldgymnast.run_folder import checkpoint_errors_as_input_errors
from worldgymnast.types import Metrics, RolloutGroup

__all__ = ["KeptWeights", "Trainer", "TrainerConfig", "copy_of", "stack"]


@dataclass(frozen=True)
class KeptWeights:
    """The best weights so far, and the step of their evaluation."""

    step: int
    weights: dict[str, Tensor]


class Trainer:
    """Trained policy, start policy, best weights and optimizer.

    In several processes, process 0 has the trainer, and the others `parallel.follow` it.

    Args:
        policy: trained in place.
        config: the update.
        start: the policy before training, never changed. The KL divergence is measured from it, and tasks that lost
            their trust are held to it. Default: a copy of `policy`.
        host: device of all copies of weights that are only kept; None for that of the weights.

    Attributes:
        average: exponential moving average of the trainable weights, if the config asks for one.
        updater: takes the optimizer steps.
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
        self.policy, self.config, self.start = policy, config, start or copy_of(policy)
        self.updater = make_updater(policy, config, self.start)
        self.host = "cpu" if self.updater.is_sharded else host
        self._turns = Turns(is_on=self.updater.is_sharded)  # then only anchors need the whole start policy
        self._turns.join(policy, lambda: (self.start,), None)
        self._turns.give_to("collect")
        self.kept: KeptWeights | None = None
        self.average = self.weights() if config.average else None
        self.acting: dict[str, Tensor] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return self.updater.parameters

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Their optimizer."""
        return self.updater.optimizer

    def update(
        self, groups: Sequence[RolloutGroup], generator: torch.Generator, anchors: Mapping[str, Policy] | None = None
    ) -> Metrics:
        """Train on every group that carries signal, and count the others; with a KL term, train on all.

        Args:
            groups: judged rollouts.
            generator: draws the order of rollouts, and the samples of anchors.
            anchors: anchor policy of each held task. Rewards of these tasks are ignored; instead the policy is pulled
                toward the anchor on the observations of their rollouts.
        """
        anchors = anchors or {}
        objective = self.config.objective
        informative = [g for g in groups if has_signal(g, objective)]
        scores = np.concatenate([g.scores for g in groups]) if groups else np.zeros(0)
        verdicts = sum(len(g.rollouts) for g in groups)
        metrics = {
            "reward": float(scores.mean()) if len(scores) else float("nan"),
            "success": float((scores >= 1).mean()) if len(scores) else float("nan"),
            "judge_error_rate": sum(g.judge_errors for g in groups) / max(verdicts, 1),
            "groups": float(len(groups)),
            "zero_advantage_groups": 1 - len(informative) / max(len(groups), 1),
        }
        free = [g for g in (groups if objective.kl else informative) if g.start.task not in anchors]
        held = [g for g in groups if g.start.task in anchors]
        samples = [s for g in free for s in self._samples(g)]
        self._turns.give_to("update" if held else "collect")
        anchored = [s for g in held for s in self._anchor_samples(g, anchors[g.start.task], generator)]
        self._turns.give_to("collect")
        metrics |= {"held_groups": float(len(held))} if anchors else {}
        steps = self.updater.train(samples, anchored, generator) if samples or anchored else []
        for update, step in enumerate(steps):
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
        self._turns.close()
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
        tensors, state = self.updater.tensors()
        models = {f"kept.{k}": v for k, v in (self.kept.weights if self.kept else {}).items()}
        models |= {f"average.{k}": v for k, v in (self.average or {}).items()}
        models |= {f"acting.{k}": v for k, v in (self.acting or {}).items()}
        kept = None if self.kept is None else self.kept.step
        state = {"optimizer": state, "kept": kept, "beside": dict(extra or {})}
        run.save(step, models | tensors, state, write_shards=self.updater.shard_writer())

    def resume(self, run: Run) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint; return the number of finished steps and the saved `extra`."""
        checkpoint = run.load()
        if checkpoint is None:
            return 0, {}
        with checkpoint_errors_as_input_errors(run.path):
            self.updater.load(checkpoint, run.path)
            if (kept := checkpoint.state["kept"]) is not None:
                self.kept = KeptWeights(kept, with_prefix(checkpoint.tensors, "kept."))
            self.average = with_prefix(checkpoint.tensors, "average.") or None
            self.acting = with_prefix(checkpoint.tensors, "acting.") or None
            return checkpoint.step, dict(checkpoint.state["beside"])

    def _samples(self, group: RolloutGroup) -> list[Sample]:
        """Return the judged rollouts of a group with their advantages, which are 0 without signal."""
        judged, objective = [r for r in group.rollouts if r.verdict.score is not None], self.config.objective
        gains = np.zeros(len(judged))
        if has_signal(group, objective):
            gains = advantages(rewards(group, objective), objective.epsilon)
        return [Sample(r, float(a)) for r, a in zip(judged, gains, strict=True)]

    @staticmethod
    def _anchor_samples(group: RolloutGroup, anchor: Policy, generator: torch.Generator) -> list[Sample]:
        """Return the rollouts of a held task with chunks sampled from its anchor at each look."""
        samples = []
        for rollout in group.rollouts:
            obs, chunk, _ = stack([rollout])
            with torch.no_grad():
                target = anchor.act(obs, temperature=chunk.temperature, generator=generator)
            samples.append(Sample(replace(rollout, chunks=target.execute(chunk.actions.shape[1]).cpu())))
        return samples
