"""Gate before RL: accuracy of world model and judge on held-out rollouts, and frame fidelity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.agreement import (
    balanced_accuracy,
    fidelity_by_horizon,
    true_negative_rate,
    true_positive_rate,
)
from worldgymnast.evaluation.success import Outcome
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.training.replay import judge_episodes, replay, shuffled_actions
from worldgymnast.types import Metrics


def gate(world: WorldModel, judge: Judge, held_out: EpisodeSet, *, horizon: int, stride: int, seed: int) -> Metrics:
    """Measure how well world model and judge predict the outcomes of held-out real rollouts.

    Returns:
        True-positive and true-negative rate and balanced accuracy, on the real frames ("real_*") and on imagined
        replays of the same action sequences ("imagined_*"); the rates of the latter also for every task
        ("imagined_*/TASK", NaN if it never or always succeeds).
    """
    real = truncate(held_out, horizon)
    verdicts = {
        name: [verdict.succeeded for part in judge_episodes(judge, episodes, stride) for verdict in part]
        for name, episodes in (("real", real), ("imagined", replay(world, real, seed=seed)))
    }
    return gate_rates(verdicts, real.succeeded.tolist(), held_out.task)


def gate_rates(verdicts: Mapping[str, Sequence[Outcome]], truth: Sequence[bool], task: Sequence[str]) -> Metrics:
    """Compute the rates of `gate` from verdicts on "real" frames and "imagined" replays of n rollouts."""
    metrics: Metrics = {}
    for name, outcomes in verdicts.items():
        metrics[f"{name}_true_positive"] = true_positive_rate(outcomes, truth).value
        metrics[f"{name}_true_negative"] = true_negative_rate(outcomes, truth).value
        metrics[f"{name}_balanced_accuracy"] = balanced_accuracy(outcomes, truth).value
    for name in sorted(set(task)):
        rows = [i for i, other in enumerate(task) if other == name]
        outcomes, true = [verdicts["imagined"][i] for i in rows], [truth[i] for i in rows]
        metrics[f"imagined_true_positive/{name}"] = true_positive_rate(outcomes, true).value
        metrics[f"imagined_true_negative/{name}"] = true_negative_rate(outcomes, true).value
    return metrics


def truncate(episodes: EpisodeSet, length: int | Int[np.ndarray, " e"]) -> EpisodeSet:
    """Return the first `length` actions of every episode, or of each its own number."""
    return replace(episodes, length=np.minimum(episodes.length, length))


def fidelity(world: WorldModel, episodes: EpisodeSet, length: int, seed: int) -> dict[str, np.ndarray]:
    """Return `fidelity_by_horizon` of imagined replays, with shuffled actions as a control."""
    real = truncate(episodes, length)
    shape = (len(real), length + 1, *real.frames.shape[1:])
    truth = np.asarray(real.frames[real.first[:, None] + np.arange(length + 1)])
    imagined = np.asarray(replay(world, real, seed=seed).frames).reshape(shape)
    shuffled = np.asarray(replay(world, real, seed=seed, actions=shuffled_actions(real, seed)).frames).reshape(shape)
    return fidelity_by_horizon(truth, imagined, shuffled, seed)
