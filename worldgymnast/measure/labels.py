"""Labels of episodes by a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from worldgymnast.episodes.labels import Label, keys_of
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.uncertainty import look_indices
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge
from worldgymnast.training.replay import JUDGE_BATCH, episode_clips
from worldgymnast.types import Verdict


def judge_labels(
    judge: Judge,
    episodes: EpisodeSet,
    numbers: Sequence[int],
    labeller: str,
    stride: int = 2,
    rows: int = JUDGE_BATCH,
) -> Iterator[tuple[Label, Verdict]]:
    """Ask a judge about real episodes; yield each label as soon as its batch is scored.

    Args:
        judge: any judge.
        episodes: the episodes; their own labels are not looked at.
        numbers: number of each episode in the dataset.
        labeller: name of the judge in the labels.
        stride: frames between two that the judge sees.
        rows: clips per call of the judge.

    Yields:
        The label, without `success` where the judge failed, and the verdict.
    """
    keys = keys_of(episodes)
    with Progress(f"{labeller}: judging", len(episodes)) as progress:
        for i in range(0, len(episodes), rows):
            positions = range(i, min(i + rows, len(episodes)))
            verdicts = judge.score(episode_clips(episodes.select(np.array(positions)), stride))
            for position, verdict in zip(positions, verdicts, strict=True):
                seen = look_indices(int(episodes.length[position]) + 1, stride)
                yield _label(verdict, seen, Label(numbers[position], keys[position], labeller, None)), verdict
            progress.advance(len(positions))


def _label(verdict: Verdict, seen: np.ndarray, blank: Label) -> Label:
    frame = verdict.success_frame
    is_known = verdict.succeeded and frame is not None and 0 <= frame < len(seen)
    return Label(
        blank.episode,
        blank.key,
        blank.labeller,
        verdict.succeeded,
        int(seen[frame]) if is_known and frame is not None else None,
        None if verdict.probability is None else float(verdict.probability),
        (verdict.error or "no reason given") if verdict.score is None else "",
    )
