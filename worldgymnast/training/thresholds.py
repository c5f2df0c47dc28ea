"""Splits labeled episodes for a judge, and calibrates its probabilities and threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.scaling import fit_scaling
from worldgymnast.judges.sustained import sustained
from worldgymnast.protocols import TrainableJudge
from worldgymnast.training.replay import clip_probabilities, episode_clips
from worldgymnast.types import Metrics

MAX_CALIBRATION, CALIBRATION_ONE_IN = 20, 4
"""Default size of a task's calibration set: one in `CALIBRATION_ONE_IN` episodes, at most `MAX_CALIBRATION`."""
LEAST_LABELS = 3
"""Labeled episodes that a judge needs: a success and a failure to learn from, and one to set the threshold."""
FEW_LABELS = 20
"""Labeled successes, and failures, below which a judge's threshold is little more than a guess."""


def unsolved_after(episodes: EpisodeSet, frame: int) -> EpisodeSet:
    """Return the rest, from `frame` on, of the episodes that have not succeeded by then."""
    solved = [episodes.success[first : first + frame + 1].any() for first in episodes.first]
    unsolved = episodes.select((episodes.length > frame) & ~np.array(solved, bool))
    return replace(unsolved, first=unsolved.first + frame, length=unsolved.length - frame)


def split_for_calibration(episodes: EpisodeSet, per_task: int, seed: int) -> tuple[EpisodeSet, EpisodeSet]:
    """Split into a training and a calibration set of `per_task` policy rollouts per task.

    Without policy rollouts, any episodes are drawn. Edited copies of a held-out episode (with distractors, for example)
    are excluded from training, too.

    Args:
        episodes: labeled episodes.
        per_task: held-out episodes per task; 0 uses `draw_calibration`.
        seed: of the draw.

    Returns:
        The training set and the calibration set.

    Raises:
        InputError: nothing would be left to train on.
    """
    candidates = _calibration_candidates(episodes)
    tasks = sorted(set(candidates.task))
    if per_task and (small := [task for task in tasks if len(candidates.where(task=task)) <= per_task]):
        count = len(candidates.where(task=small[0]))
        raise FieldError(
            "calibration",
            f"found {per_task} episodes to hold out, but task '{small[0]}' has only {count} labeled episodes; expected "
            f"at most {count - 1}, or 0 for one in {CALIBRATION_ONE_IN}. Lower it, or label more episodes",
        )
    others = episodes.select(~np.isin(episodes.first, candidates.first))
    held_out = candidates.split(per_task, seed)[1] if per_task else draw_calibration(candidates, seed, others)
    excluded = set(_episode_keys(held_out))
    return episodes.select(np.array([key not in excluded for key in _episode_keys(episodes)], bool)), held_out


def _calibration_candidates(episodes: EpisodeSet) -> EpisodeSet:
    """Return the policy rollouts, or all episodes if there are none."""
    policy = episodes.where(source_prefix="policy")
    return episodes.select(policy) if len(policy) else episodes


def resolve_calibration(episodes: EpisodeSet, per_task: int) -> int:
    """Return `per_task`; if it is 0 and every task is large enough, the default number."""
    if per_task:
        return per_task
    candidates = _calibration_candidates(episodes)
    counts = [len(candidates.where(task=task)) for task in set(candidates.task)]
    is_large = all(count >= MAX_CALIBRATION * CALIBRATION_ONE_IN for count in counts)
    return MAX_CALIBRATION if is_large else 0


def draw_calibration(episodes: EpisodeSet, seed: int, others: EpisodeSet | None = None) -> EpisodeSet:
    """Draw one in `CALIBRATION_ONE_IN` episodes per task, at most `MAX_CALIBRATION`.

    Where every task is too small, a single episode is drawn. The last success and the last failure are left to train
    on, where there are three or more episodes.

    Args:
        episodes: labeled episodes to draw from.
        seed: of the draw.
        others: further labeled episodes to train on.

    Raises:
        InputError: there is only one episode in all.
    """
    outcomes = np.concatenate([episodes.succeeded, np.zeros(0, bool) if others is None else others.succeeded])
    if len(outcomes) < 2:
        raise FieldError(
            "calibration",
            f"found {len(outcomes)} labeled episode, expected at least 2: one is held out to set the threshold. Label "
            "more episodes",
        )
    rng, chosen = np.random.default_rng(seed), []
    for task in sorted(set(episodes.task)):
        rows = episodes.where(task=task)
        chosen.append(rng.permutation(rows)[: min(MAX_CALIBRATION, len(rows) // CALIBRATION_ONE_IN)])
    index = _spare(np.concatenate(chosen), episodes, outcomes)
    if not len(index):
        order = rng.permutation(len(episodes))
        spare = _spare(order, episodes, outcomes)
        index = (spare if len(spare) else order)[:1]
    return episodes.select(np.sort(index))


def _spare(index: np.ndarray, episodes: EpisodeSet, outcomes: np.ndarray) -> np.ndarray:
    """Those of the drawn episodes without which a success and a failure remain, if there are any."""
    left = {outcome: int((outcomes == outcome).sum()) for outcome in (True, False)}
    kept = []
    for e in index.tolist():
        outcome = bool(episodes.succeeded[e])
        if left[outcome] > 1:
            left[outcome] -= 1
            kept.append(e)
    return np.array(kept, np.int64)


def _episode_keys(episodes: EpisodeSet) -> list[tuple[str, str, int] | int]:
    """Return a key per episode, equal for edited copies of one episode.

    Unique if its layout is unknown.
    """
    rows = zip(episodes.task, episodes.source, episodes.layout.tolist(), episodes.first.tolist(), strict=True)
    return [(task, source, layout) if layout >= 0 else first for task, source, layout, first in rows]


def calibrate(
    judge: TrainableJudge,
    episodes: EpisodeSet,
    stride: int,
    true_negative: float = 0.9,
    real: EpisodeSet | None = None,
) -> Metrics:
    """Set the judge's scales and its threshold from held-out labeled episodes.

    First, raw outputs are scaled to probabilities: for imagined frames on `episodes`, for real frames on `real`, per
    task as far as labels allow (`evaluation.scaling`). Then one threshold is chosen for all tasks: the one with the
    highest true positive rate on imagined replays among those with a true negative rate of at least `true_negative`.
    False positives matter more, because RL exploits them. If no threshold reaches `true_negative`, the one with the
    highest rate is used.

    Args:
        judge: changed in place.
        episodes: imagined replays with their true labels.
        stride: frames between two that the judge sees.
        true_negative: smallest share of true failures to recognize.
        real: real episodes with their labels.

    Returns:
        The threshold, and both rates at it.
    """
    judge.config = replace(judge.config, scales={})
    scales: dict[str, tuple[float, ...]] = {}
    for source, part in (("imagined", episodes), ("foreseen", episodes), ("real", real)):
        if part is None or not len(part) or (source == "foreseen" and part.foreseen is None):
            continue
        inputs = [clip_probabilities(judge, replace(part, foreseen=None), stride)]
        if source == "foreseen":
            inputs.append(_foreseen(part, stride, judge.config.sustain))
        scaling = fit_scaling(np.stack(inputs), part.succeeded, part.task)
        scales |= {f"{source}/{task}" if task else source: scaling.of(task) for task in {"", *part.task}}
    judge.config = replace(judge.config, scales=scales)
    probabilities = clip_probabilities(judge, episodes, stride)
    positive, negative = probabilities[episodes.succeeded], probabilities[~episodes.succeeded]
    candidates = np.linspace(0.05, 0.99, 95)
    true_positives = np.array([(positive >= c).mean() if len(positive) else 1.0 for c in candidates])
    true_negatives = np.array([(negative < c).mean() if len(negative) else 1.0 for c in candidates])
    is_safe = true_negatives >= min(true_negative, true_negatives.max())
    best = np.flatnonzero(is_safe & (true_positives == true_positives[is_safe].max()))
    chosen = int(best[len(best) // 2])
    with torch.no_grad():
        judge.threshold.fill_(float(candidates[chosen]))
    return {
        "threshold": float(candidates[chosen]),
        "calibration_true_positive": float(true_positives[chosen]),
        "calibration_true_negative": float(true_negatives[chosen]),
    }


def _foreseen(episodes: EpisodeSet, stride: int, sustain: int) -> np.ndarray:
    """Return the world model's own success probability of each imagined episode, float [e]."""
    predictions = [clip.foreseen for clip in episode_clips(episodes, stride)]
    return np.array([sustained(each, sustain).max() for each in predictions if each is not None])
