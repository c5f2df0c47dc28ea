"""Runs judges on rollouts with known outcomes: on the real frames, and on imagined replays.

Judges and world model are used only through their Protocols. Episodes are imagined and judged `rows` at a time, so
memory does not grow with the data. All judges see the same clips.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.success import Outcome
from worldgymnast.evaluation.uncertainty import success_probability
from worldgymnast.measure.gate import truncate
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.training.replay import JUDGE_BATCH, episode_clips, replay
from worldgymnast.types import Verdict


@dataclass
class JudgeRun:
    """Verdicts of one judge on n clips, and the time taken.

    Attributes:
        verdicts: one per clip.
        seconds: wall-clock time for all clips.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def beliefs(self) -> np.ndarray:
        """Success probabilities, float [n]; NaN where the judge failed."""
        return np.array([success_probability(verdict) for verdict in self.verdicts], np.float64)

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcomes by the judge's verdicts; None where it failed."""
        return [verdict.succeeded for verdict in self.verdicts]

    @property
    def errors(self) -> list[str]:
        """Reason of every failed judgment."""
        return [verdict.error or "no reason given" for verdict in self.verdicts if verdict.score is None]

    @property
    def seconds_a_clip(self) -> float:
        """Wall-clock seconds per clip; NaN without clips."""
        return self.seconds / len(self.verdicts) if self.verdicts else float("nan")

    @property
    def cost_a_clip(self) -> float:
        """Cost per clip, including failed ones, in the currency of the judge's prices."""
        return sum(verdict.cost for verdict in self.verdicts) / max(1, len(self.verdicts))


@dataclass(frozen=True)
class Answers:
    """Runs of several judges on n rollouts.

    Attributes:
        truth: bool [n], true outcomes.
        task: n names.
        runs: for every judge, its run on "real" frames and, with a world model, on "imagined" ones.
    """

    truth: np.ndarray
    task: tuple[str, ...]
    runs: tuple[Mapping[str, JudgeRun], ...]


def truncate_labeled(episodes: EpisodeSet, horizon: int) -> EpisodeSet:
    """Return the first `horizon` actions of the labeled episodes; success counts if it comes within them.

    Raises:
        InputError: an episode is shorter.
    """
    labeled = episodes.select(episodes.labelled)
    if horizon > (shortest := int(labeled.length.min())):
        raise FieldError(
            "horizon",
            f"found {horizon}, expected at most {shortest}, the actions of the shortest labeled episode. Lower it",
        )
    return truncate(labeled, horizon)


def undetermined_tasks(real: EpisodeSet) -> list[str]:
    """Return a line for each task in which all rollouts succeed, or all fail."""
    lines, succeeded, tasks = [], real.succeeded, np.array(real.task)
    for name in sorted(set(real.task)):
        outcomes = succeeded[tasks == name]
        if outcomes.any() and not outcomes.all():
            continue
        kind, missing = ("succeed", "true negative rate") if outcomes.all() else ("fail", "recall")
        lines.append(
            f"{name or 'no task'}: all {len(outcomes)} rollouts {kind} within the horizon. Its {missing}, balanced "
            "accuracy, AUROC and thresholds are unknown."
        )
    return lines


def run_judges(
    judges: Sequence[Judge],
    real: EpisodeSet,
    world: WorldModel | None = None,
    *,
    stride: int = 2,
    seed: int = 0,
    rows: int = JUDGE_BATCH,
) -> Answers:
    """Run judges on labeled rollouts of one length and, with a world model, on their imagined replays.

    Args:
        judges: all see the same clips.
        real: the rollouts, see `truncate_labeled`.
        world: imagines the same action sequences from the same first frames; its actions must be convertible.
        stride: frames between two that a judge sees.
        seed: of the imagination.
        rows: clips per call of the world model and of a judge.
    """
    kinds = ("real",) if world is None else ("real", "imagined")
    runs = tuple({kind: JudgeRun() for kind in kinds} for _ in judges)
    with Progress("judging", len(real) * len(kinds) * len(judges)) as progress:
        for i in range(0, len(real), rows):
            part = real.select(np.arange(i, min(i + rows, len(real))))
            for kind in kinds:
                episodes = part if kind == "real" or world is None else replay(world, part, seed=seed + i)
                clips = episode_clips(episodes, stride)
                for judge, by_kind in zip(judges, runs, strict=True):
                    began = time.perf_counter()
                    by_kind[kind].verdicts += judge.score(clips)
                    by_kind[kind].seconds += time.perf_counter() - began
                    progress.advance(len(clips), _failure_note(by_kind))
    return Answers(real.succeeded, real.task, runs)


def _failure_note(by_kind: Mapping[str, JudgeRun]) -> str:
    errors = sum(len(run.errors) for run in by_kind.values())
    return f"{errors} judgments failed" if errors else ""
