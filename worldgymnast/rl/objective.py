"""Group-relative advantages and the clipped policy-gradient loss, on one page.

GRPO (Shao et al. 2024, arXiv 2402.03300) with the asymmetric clip and the dynamic sampling of DAPO (Yu et al. 2025,
arXiv 2503.14476): no value network, no entropy term, no KL term unless `kl` asks for one. A rollout's advantage is the
same for every token until the judged success; what follows success gets no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldgymnast.configs import Between, NonNegative, checked
from worldgymnast.types import Metrics, RolloutGroup


@checked
class ObjectiveConfig:
    """The policy-gradient loss.

    Attributes:
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
        reward: reward of a rollout that is judged a success: 1 ("verdict"), or the judge's probability of success
            ("belief"), so that a blurred future earns less than a clear one. A failure earns 0 either way.
        epsilon: added to a group's standard deviation, so that tiny differences of belief stay small.
        mean_low: groups whose mean reward lies below carry no signal and are dropped.
        mean_high: and those above.
        kl: weight of the divergence from the start policy, in nats a token; an anchor for what should not be forgotten.
        hold: weight of the divergence from its anchor, in nats a token, of a rollout of a task that is held; a rollout
            that is trained on weighs 1.
    """

    clip_low: NonNegative = 0.2
    clip_high: Annotated[float, Between(0, 100)] = 0.28
    reward: Literal["verdict", "belief"] = "belief"
    epsilon: NonNegative = 0.05
    mean_low: NonNegative = 0.1
    mean_high: NonNegative = 0.9
    kl: NonNegative = 0.0
    hold: NonNegative = 1.0


def rewards(group: RolloutGroup, config: ObjectiveConfig) -> Float[np.ndarray, " n"]:
    """Return the rewards of the n judged rollouts of a group; see `ObjectiveConfig.reward`.

    A success without a probability earns 1.
    """
    scores = group.scores
    if config.reward == "verdict":
        return scores
    verdicts = [r.verdict for r in group.rollouts if r.verdict.score is not None]
    beliefs = np.array([1.0 if v.probability is None else v.probability for v in verdicts])
    return np.where(scores >= 1, beliefs, scores)


def has_signal(group: RolloutGroup, config: ObjectiveConfig) -> bool:
    """Whether a group tells better from worse: at least two verdicts, not all alike, mean reward within bounds."""
    scores, earned = group.scores, rewards(group, config)
    if len(scores) < 2 or np.ptp(earned) == 0:
        return False
    return config.mean_low <= float(scores.mean()) and float(earned.mean()) <= config.mean_high


def advantages(rewards: Float[np.ndarray, " n"], epsilon: float) -> Float[np.ndarray, " n"]:
    """(reward - mean) / (std + epsilon) within a group (GRPO, eq. 3)."""
    return (rewards - rewards.mean()) / (rewards.std() + epsilon)


def token_mask(looks: Sequence[int], n: int) -> Bool[Tensor, "r n"]:
    """True for the looks of each rollout that acted before the judged success."""
    return torch.arange(n)[None] < torch.tensor(list(looks))[:, None]


def divergence(logprobs: Float[Tensor, "*t"], reference: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """An unbiased, never negative estimate of KL(policy || reference) from sampled tokens (GRPO, eq. 4).

    Args:
        logprobs: of the tokens under the policy that sampled them.
        reference: and under the one it is held to.
    """
    gap = reference - logprobs
    return gap.exp() - 1 - gap


def policy_loss(
    logprobs: Float[Tensor, "r n ..."],
    old: Float[Tensor, "r n ..."],
    advantage: Float[Tensor, " r"],
    mask: Bool[Tensor, "r n"],
    total: float,
    config: ObjectiveConfig,
) -> tuple[Tensor, Metrics]:
    """Clipped surrogate of one micro-batch, every rollout weighing the same whatever its length.

    Args:
        logprobs: of what was sampled at each look under the policy being trained: one for every token, or one for the
            whole chunk.
        old: of the same samples when they were drawn.
        advantage: of each rollout.
        mask: looks that get gradient.
        total: number of rollouts of the whole step, over all micro-batches.
        config: clip ranges.
    """
    ratio = (logprobs - old).reshape(*mask.shape, -1).exp()
    gain = advantage[:, None, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * gain)
    weight = mask[:, :, None].float().expand_as(ratio)
    per_rollout = (surrogate * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
    clipped = ((ratio < 1 - config.clip_low) & (gain < 0)) | ((ratio > 1 + config.clip_high) & (gain > 0))
    seen = weight.sum().clamp(min=1)
    metrics = {
        "ratio": float((ratio.detach() * weight).sum() / seen),
        "ratio_error": float(((ratio.detach() - 1).abs() * weight).max()),
        "clip_fraction": float((clipped * weight).sum() / seen),
    }
    return -per_rollout.sum() / total, metrics
