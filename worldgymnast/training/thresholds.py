"""Which labelled episodes a judge learns from, which set its threshold, and that threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.scaling import fit_scaling
from worldgymnast.judges.sustained import sustained
from worldgymnast.protocols import TrainableJudge
from worldgymnast.training.replay import clip_probabilities, clips
from worldgymnast.types import Metrics

MOST_ASIDE, SHARE_ASIDE = 20, 4
"""Episodes of a task that are set aside where the data decide: one in `SHARE_ASIDE`, at most `MOST_ASIDE`."""


def unsolved_at(episodes: EpisodeSet, frame: int) -> EpisodeSet:
    """What is left, from `frame` on, of the episodes that had not succeeded by then."""
    solved = [episodes.success[first : first + frame + 1].any() for first in episodes.first]
    left = episodes.select((episodes.length > frame) & ~np.array(solved, bool))
    return replace(left, first=left.first + frame, length=left.length - frame)


def split_for_calibration(episodes: EpisodeSet, per_task: int, seed: int) -> tuple[EpisodeSet, EpisodeSet]:
    """Sets `per_task` policy rollouts of each task aside; where there are none, any episodes.

    Edited copies of an episode (with distractors, say) are set aside with it, so that none is trained on.

    Args:
        episodes: labelled ones.
        per_task: how many; 0 for `few_of_each`.
        seed: which.

    Raises:
        InputError: nothing would be left to train on.
    """
    policy = episodes.where(source_prefix="policy")
    drawn = episodes.select(policy) if len(policy) else episodes
    if per_task and (few := [task for task in sorted(set(drawn.task)) if len(drawn.where(task=task)) <= per_task]):
        count = len(drawn.where(task=few[0]))
        raise FieldError(
            "calibration",
            f"found {per_task} to set aside, but only {count} labelled episodes of task "
            f"'{few[0]}'; expected at most {count - 1}, or 0 for one in {SHARE_ASIDE}. Lower it, or label more",
        )
    aside = drawn.split(per_task, seed)[1] if per_task else few_of_each(drawn, seed)
    chosen = set(_takes(aside))
    return episodes.select(np.array([take not in chosen for take in _takes(episodes)], bool)), aside


def calibration_of(episodes: EpisodeSet, per_task: int) -> int:
    """`per_task`, or where it is 0 and every task is large enough, the number that `few_of_each` comes to."""
    policy = episodes.where(source_prefix="policy")
    drawn = episodes.select(policy) if len(policy) else episodes
    large = all(len(drawn.where(task=task)) >= MOST_ASIDE * SHARE_ASIDE for task in set(drawn.task))
    return per_task or (MOST_ASIDE if large else 0)


def few_of_each(episodes: EpisodeSet, seed: int) -> EpisodeSet:
    """One in `SHARE_ASIDE` of each task's episodes, at most `MOST_ASIDE`; one in all where tasks are too small.

    Raises:
        InputError: there is only one episode.
    """
    if len(episodes) < 2:
        raise FieldError(
            "calibration",
            f"found {len(episodes)} labelled episode, of which 1 must be set aside for the "
            "threshold; expected at least 2. Label more episodes",
        )
    rng, chosen = np.random.default_rng(seed), []
    for task in sorted(set(episodes.task)):
        own = episodes.where(task=task)
        chosen.append(rng.permutation(own)[: min(MOST_ASIDE, len(own) // SHARE_ASIDE)])
    index = np.concatenate(chosen)
    return episodes.select(np.sort(index if len(index) else rng.permutation(len(episodes))[:1]))


def _takes(episodes: EpisodeSet) -> list[tuple[str, str, int] | int]:
    """Which real episode each one is, or is an edited copy of; where nobody knows its layout, itself."""
    known = zip(episodes.task, episodes.source, episodes.layout.tolist(), episodes.first.tolist(), strict=True)
    return [(task, source, layout) if layout >= 0 else first for task, source, layout, first in known]


def calibrate(
    judge: TrainableJudge,
    episodes: EpisodeSet,
    stride: int,
    true_negative: float = 0.9,
    real: EpisodeSet | None = None,
) -> Metrics:
    """Sets the judge's scales and its threshold, on labelled episodes that it was not trained on.

    Beliefs become probabilities first, those of imagined frames on `episodes` and those of real ones on `real`, task by
    task as far as labels allow (`evaluation.scaling`). The threshold of these probabilities is one for all: that which
    knows most imagined successes among those safe enough. Safe means that at least `true_negative` of the true failures
    are called failures: RL climbs whatever a judge wrongly calls a success. Where no threshold is that safe, the safest
    is taken.

    Args:
        judge: is changed in place.
        episodes: imagined replays with their true labels.
        stride: the judge sees every that many frames.
        true_negative: see above.
        real: real episodes with their labels.
    """
    judge.config = replace(judge.config, scales={})
    scales: dict[str, tuple[float, ...]] = {}
    for source, part in (("imagined", episodes), ("foreseen", episodes), ("real", real)):
        if part is None or not len(part) or (source == "foreseen" and part.foreseen is None):
            continue
        own = [clip_probabilities(judge, replace(part, foreseen=None), stride)]
        foreseen = [_foreseen(part, stride, judge.config.sustain)] if source == "foreseen" else []
        found = fit_scaling(np.stack(own + foreseen), part.succeeded, part.task)
        scales |= {f"{source}/{task}" if task else source: found.of(task) for task in {"", *part.task}}
    judge.config = replace(judge.config, scales=scales)
    best = clip_probabilities(judge, episodes, stride)
    won, lost = best[episodes.succeeded], best[~episodes.succeeded]
    candidates = np.linspace(0.05, 0.99, 95)
    caught = np.array([(won >= c).mean() if len(won) else 1.0 for c in candidates])
    refused = np.array([(lost < c).mean() if len(lost) else 1.0 for c in candidates])
    safe = refused >= min(true_negative, refused.max())
    top = np.flatnonzero(safe & (caught == caught[safe].max()))
    chosen = int(top[len(top) // 2])
    with torch.no_grad():
        judge.threshold.fill_(float(candidates[chosen]))
    return {
        "threshold": float(candidates[chosen]),
        "calibration_true_positive": float(caught[chosen]),
        "calibration_true_negative": float(refused[chosen]),
    }


def _foreseen(episodes: EpisodeSet, stride: int, sustain: int) -> np.ndarray:
    """How likely the world model itself holds the success of each imagined episode, float [e]."""
    seen = [clip.foreseen for clip in clips(episodes, stride)]
    return np.array([sustained(own, sustain).max() for own in seen if own is not None])
