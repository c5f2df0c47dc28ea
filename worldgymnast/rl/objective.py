"""Group-relative advantages and the clipped policy-gradient loss, on one page.

GRPO (Shao et al. 2024, arXiv 2402.03300) with the asymmetric clip and the dynamic sampling of DAPO (Yu et al. 2025,
arXiv 2503.14476): no value network, no entropy term, and no KL term unless `kl` is above 0. The advantage of a rollout
is the same for every token until the judged success; later tokens get no gradient.
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
        clip_high: the ratio is clipped above 1 + clip_high.
        reward: reward of a judged success: 1 ("verdict"), or the judge's success probability ("belief"), so a blurred
            future earns less than a clear one. A failure earns 0 either way.
        epsilon: added to the standard deviation of a group, so tiny differences of probability stay small.
        mean_low: groups with a lower mean reward carry no signal and give no advantage.
        mean_high: groups with a higher mean reward carry no signal and give no advantage.
        kl: weight of the KL divergence from the start policy, in nats per token. Above 0 it also covers the groups
            without signal, so that the policy does not forget what the world model gives no reward for.
        hold: weight of the KL divergence from the anchor, in nats per token, for rollouts of a held task. A rollout
            with an advantage has weight 1.
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
    """Return whether a group carries signal: two or more different rewards, mean within bounds."""
    scores, earned = group.scores, rewards(group, config)
    if len(scores) < 2 or np.ptp(earned) == 0:
        return False
    return config.mean_low <= float(scores.mean()) and float(earned.mean()) <= config.mean_high


def advantages(rewards: Float[np.ndarray, " n"], epsilon: float) -> Float[np.ndarray, " n"]:
    """Return (reward - mean) / (std + epsilon) within a group (GRPO, eq. 3).

    >>> advantages(np.array([0.0, 1.0]), 0.0).tolist()
    [-1.0, 1.0]
    """
    return (rewards - rewards.mean()) / (rewards.std() + epsilon)


def token_mask(looks: Sequence[int], n: int) -> Bool[Tensor, "r n"]:
    """Mask the looks of each rollout that acted before the judged success.

    >>> token_mask([1, 3], 3).tolist()
    [[True, False, False], [True, True, True]]
    """
    return torch.arange(n)[None] < torch.tensor(list(looks))[:, None]


def divergence(logprobs: Float[Tensor, "*t"], reference: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """Estimate KL(policy || reference) from sampled tokens, unbiased and never negative (GRPO, eq. 4).

    Args:
        logprobs: of the tokens under the policy that sampled them.
        reference: log-probabilities of the same tokens under the reference policy.
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
    """Return the clipped surrogate loss of a micro-batch, with equal weight for every rollout.

    Args:
        logprobs: log-probabilities of the samples under the policy being trained: one per token, or one per chunk.
        old: log-probabilities of the same samples when they were drawn.
        advantage: of each rollout.
        mask: looks that get a gradient.
        total: number of rollouts in the step, over all micro-batches.
        config: clip ranges.
    """
    ratio = (logprobs - old).reshape(*mask.shape, -1).exp()
    gain = advantage[:, None, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * gain)
    weight = mask[:, :, None].float().expand_as(ratio)
    per_rollout = (surrogate * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
    clipped = ((ratio < 1 - config.clip_low) & (gain < 0)) | ((ratio > 1 + config.clip_high) & (gain > 0))
    tokens = weight.sum().clamp(min=1)
    metrics = {
        "ratio": float((ratio.detach() * weight).sum() / tokens),
        "ratio_error": float(((ratio.detach() - 1).abs() * weight).max()),
        "clip_fraction": float((clipped * weight).sum() / tokens),
    }
    return -per_rollout.sum() / total, metrics
