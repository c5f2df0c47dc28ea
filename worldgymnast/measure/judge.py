"""Asking judges what they make of rollouts whose outcome is known: on the real frames, and imagined again.

Judges and world are seen through their Protocols alone. Episodes are imagined and judged `rows` at a time and their
frames forgotten, so that memory does not grow with the data, and several judges see the very same clips.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import FieldError
from worldgymnast.evaluation.success import Outcome
from worldgymnast.evaluation.uncertainty import belief
from worldgymnast.measure.gate import cut
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.training.replay import PIECE, clips, replay
from worldgymnast.types import Verdict


@dataclass
class Said:
    """What one judge said of n clips, and what it took.

    Attributes:
        verdicts: one a clip.
        seconds: of wall clock, all clips together.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def beliefs(self) -> np.ndarray:
        """Float [n] in [0, 1], NaN where it failed."""
        return np.array([belief(verdict) for verdict in self.verdicts], np.float64)

    @property
    def outcomes(self) -> list[Outcome]:
        """Success or failure, None where it failed."""
        return [verdict.succeeded for verdict in self.verdicts]

    @property
    def errors(self) -> list[str]:
        """Why it failed, once a failure."""
        return [verdict.error or "no reason given" for verdict in self.verdicts if verdict.score is None]

    @property
    def seconds_a_clip(self) -> float:
        """Wall clock a clip; NaN where there was none."""
        return self.seconds / len(self.verdicts) if self.verdicts else float("nan")

    @property
    def cost_a_clip(self) -> float:
        """What was paid a clip, failed ones included, in the currency of the judge's prices."""
        return sum(verdict.cost for verdict in self.verdicts) / max(1, len(self.verdicts))


@dataclass(frozen=True)
class Answers:
    """What judges said of n rollouts.

    Attributes:
        truth: bool [n], whether the real rollout succeeded.
        task: n names.
        said: of every judge, what it said of the "real" frames and, where there was a world, of the "imagined" ones.
    """

    truth: np.ndarray
    task: tuple[str, ...]
    said: tuple[Mapping[str, Said], ...]


def first_actions(episodes: EpisodeSet, horizon: int) -> EpisodeSet:
    """The first `horizon` actions of the labelled episodes; they succeeded if they did so by then.

    Raises:
        InputError: one is shorter.
    """
    labelled = episodes.select(episodes.labelled)
    if horizon > (shortest := int(labelled.length.min())):
        raise FieldError(
            "horizon",
            f"found {horizon}, expected at most {shortest}, the actions of the shortest labelled episode; lower it",
        )
    return cut(labelled, horizon)


def unknowns(real: EpisodeSet) -> list[str]:
    """What nothing will be known about, one line for each task of which all rollouts succeed, or all fail."""
    found, succeeded, tasks = [], real.succeeded, np.array(real.task)
    for name in sorted(set(real.task)):
        own = succeeded[tasks == name]
        if own.all() or not own.any():
            kind, lost = ("succeed", "how many failures are refused") if own.all() else ("fail", "recall")
            found.append(
                f"{name or 'no task'}: all {len(own)} rollouts {kind} within the horizon: {lost}, balanced accuracy, "
                "AUROC and thresholds stay unknown for it"
            )
    return found


def ask(
    judges: Sequence[Judge],
    real: EpisodeSet,
    world: WorldModel | None = None,
    *,
    stride: int = 2,
    seed: int = 0,
    rows: int = PIECE,
) -> Answers:
    """Judges labelled rollouts of one length and, with a world, their imagined replays.

    Args:
        judges: all see the same clips.
        real: the rollouts, see `first_actions`.
        world: imagines the same action sequences from the same first frames; its actions must be convertible.
        stride: a judge sees every that many frames.
        seed: of the imagination.
        rows: clips that are imagined, and given to a judge, in one call.
    """
    kinds = ("real",) if world is None else ("real", "imagined")
    said = tuple({kind: Said() for kind in kinds} for _ in judges)
    with Progress("judging", len(real) * len(kinds) * len(judges)) as progress:
        for i in range(0, len(real), rows):
            part = real.select(np.arange(i, min(i + rows, len(real))))
            for kind in kinds:
                seen = part if kind == "real" or world is None else replay(world, part, seed=seed + i)
                shown = clips(seen, stride)
                for judge, answers in zip(judges, said, strict=True):
                    began = time.perf_counter()
                    answers[kind].verdicts += judge.score(shown)
                    answers[kind].seconds += time.perf_counter() - began
                    progress.advance(len(shown), _failures(answers))
    return Answers(real.succeeded, real.task, said)


def _failures(said: Mapping[str, Said]) -> str:
    errors = sum(len(one.errors) for one in said.values())
    return f"{errors} judgements failed" if errors else ""
