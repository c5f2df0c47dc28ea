"""The gate before RL: what world and judge know of held-out rollouts, and how sharp the world is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.agreement import (
    balanced_accuracy,
    fidelity_by_horizon,
    true_negative_rate,
    true_positive_rate,
)
from worldgymnast.evaluation.success import Outcome
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.training.replay import judged, replay, shuffled_actions
from worldgymnast.types import Metrics


def gate(world: WorldModel, judge: Judge, held_out: EpisodeSet, *, horizon: int, stride: int, seed: int) -> Metrics:
    """How often world and judge together know the true outcome of held-out real rollouts, imagined again.

    Returns:
        True-positive and true-negative rate and balanced accuracy, on the real frames ("real_*") and on imagined
        replays of the same action sequences ("imagined_*"); the rates of the latter also for every task
        ("imagined_*/TASK", NaN where it never succeeds, or always).
    """
    real = cut(held_out, horizon)
    verdicts = {
        name: [verdict.succeeded for part in judged(judge, episodes, stride) for verdict in part]
        for name, episodes in (("real", real), ("imagined", replay(world, real, seed=seed)))
    }
    return gate_rates(verdicts, real.succeeded.tolist(), held_out.task)


def gate_rates(verdicts: Mapping[str, Sequence[Outcome]], truth: Sequence[bool], task: Sequence[str]) -> Metrics:
    """The numbers of `gate` from the verdicts on "real" frames and on "imagined" replays of n rollouts."""
    found: Metrics = {}
    for name, said in verdicts.items():
        found[f"{name}_true_positive"] = true_positive_rate(said, truth).value
        found[f"{name}_true_negative"] = true_negative_rate(said, truth).value
        found[f"{name}_balanced_accuracy"] = balanced_accuracy(said, truth).value
    for name in sorted(set(task)):
        rows = [i for i, other in enumerate(task) if other == name]
        said, true = [verdicts["imagined"][i] for i in rows], [truth[i] for i in rows]
        found[f"imagined_true_positive/{name}"] = true_positive_rate(said, true).value
        found[f"imagined_true_negative/{name}"] = true_negative_rate(said, true).value
    return found


def cut(episodes: EpisodeSet, length: int) -> EpisodeSet:
    """The first `length` actions of every episode."""
    return replace(episodes, length=np.minimum(episodes.length, length))


def fidelity(world: WorldModel, episodes: EpisodeSet, length: int, seed: int) -> dict[str, np.ndarray]:
    """`fidelity_by_horizon` of imagined replays over `length` frames, with shuffled actions beside."""
    real = cut(episodes, length)
    shape = (len(real), length + 1, *real.frames.shape[1:])
    truth = np.asarray(real.frames[real.first[:, None] + np.arange(length + 1)])
    imagined = np.asarray(replay(world, real, seed=seed).frames).reshape(shape)
    shuffled = np.asarray(replay(world, real, seed=seed, actions=shuffled_actions(real, seed)).frames).reshape(shape)
    return fidelity_by_horizon(truth, imagined, shuffled, seed)
