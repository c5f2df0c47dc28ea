"""Judges made of judges: thresholds by task, a cascade, an ensemble.

Each takes care that a failed judgement changes no verdict: where a member failed and its answer could have changed
what the others say, there is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from worldgymnast.configs import Fraction, checked
from worldgymnast.errors import FieldError
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.protocols import Cancelable, ChecksTasks, Judge
from worldgymnast.types import Clip, Verdict
from worldgymnast.weights import fingerprint


def check(judge: Judge, asked: Iterable[tuple[str, str]]) -> None:
    """Lets a judge that is asked elsewhere, or the members that are, look before anything is spent.

    Args:
        judge: any.
        asked: task and instruction of what will be judged.

    Raises:
        InputError: it could not judge that.
    """
    if isinstance(judge, ChecksTasks):
        judge.check(asked)


class _Combined:
    """What all judges made of judges have."""

    members: tuple[Judge, ...]
    settings: tuple[Any, ...]
    """What else may change a verdict, JSON."""

    @property
    def name(self) -> str:
        """The kind, and the members' names."""
        kind = type(self).__name__.lower()
        return f"{kind} of {' and '.join(f'({member.name})' for member in self.members)}"

    @property
    def waits(self) -> bool:
        """Whether one of the members does."""
        return any(member.waits for member in self.members)

    @property
    def identity(self) -> str:
        """First 16 hex digits of a hash over the members and how they are combined."""
        return fingerprint([type(self).__name__, *self.settings], self.members)

    def check(self, asked: Iterable[tuple[str, str]]) -> None:
        """Every member looks."""
        asked = list(asked)
        for member in self.members:
            check(member, asked)

    def cancel(self) -> None:
        """No member that is asked elsewhere asks anything more."""
        for member in self.members:
            if isinstance(member, Cancelable):
                member.cancel()


@checked
class CalibratedConfig:
    """A judge with other thresholds than its own, as `judge calibrate --save` writes it.

    Attributes:
        judge: its file.
        threshold: of its belief in success.
        by_task: thresholds of single tasks.
    """

    judge: str
    threshold: Fraction = 0.5
    by_task: Mapping[str, Fraction] = field(default_factory=dict)


class Calibrated(_Combined):
    """A judge whose belief is held against thresholds by task."""

    def __init__(self, judge: Judge, config: CalibratedConfig):
        self.config, self.members = config, (judge,)
        self.settings = (config.threshold, dict(config.by_task))

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """See `Judge.score`."""
        (judge,) = self.members
        at = [self.config.by_task.get(clip.task, self.config.threshold) for clip in clips]
        if isinstance(judge, SuccessClassifier):
            return judge.score(clips, at)
        return [_held_against(found, threshold) for found, threshold in zip(judge.score(clips), at, strict=True)]


def _held_against(found: Verdict, threshold: float) -> Verdict:
    """The verdict by another threshold; a judge that gives no belief keeps its own."""
    if found.score is None or found.probability is None:
        return found
    if found.probability >= threshold:
        return replace(found, score=1.0)
    return replace(found, score=0.0 if found.score >= 1 else found.score, success_frame=None)


@checked
class CascadeConfig:
    """A cheap judge, and a better one for what it is unsure of.

    Attributes:
        first: the cheap judge's file.
        then: the other's.
        low: below this belief the first judge's verdict stands.
        high: and from this one on.
    """

    first: str
    then: str
    low: Fraction = 0.1
    high: Fraction = 0.9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise FieldError("low", f"found {self.low}, expected at most the {self.high} of field 'high'")


class Cascade(_Combined):
    """Asks the second judge where the first is unsure, or failed.

    Attributes:
        passed_on: clips that the second judge was asked about so far.
    """

    def __init__(self, first: Judge, then: Judge, config: CascadeConfig):
        self.config, self.members, self.passed_on = config, (first, then), 0
        self.settings = (config.low, config.high)

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """See `Judge.score`."""
        first, then = self.members
        found = list(first.score(clips))
        unsure = [i for i, verdict in enumerate(found) if self._unsure(verdict)]
        self.passed_on += len(unsure)
        if unsure:
            for i, better in zip(unsure, then.score([clips[i] for i in unsure]), strict=True):
                frame = better.success_frame
                if frame is None and better.succeeded:
                    frame = found[i].success_frame
                found[i] = replace(better, success_frame=frame, cost=found[i].cost + better.cost)
        return found

    def _unsure(self, verdict: Verdict) -> bool:
        if verdict.score is None:
            return True
        return verdict.probability is None or self.config.low <= verdict.probability < self.config.high


@checked
class EnsembleConfig:
    """Several judges that decide together.

    Attributes:
        judges: their files.
        rule: "mean" holds the mean belief against the threshold; "all" wants every one to say success, for a reward
            that is harder to deceive.
        threshold: of the mean.
    """

    judges: Annotated[tuple[str, ...], Field(min_length=2)]
    rule: Literal["mean", "all"] = "mean"
    threshold: Fraction = 0.5


class Ensemble(_Combined):
    """All judges are asked about every clip."""

    def __init__(self, judges: Sequence[Judge], config: EnsembleConfig):
        self.config, self.members = config, tuple(judges)
        self.settings = (config.rule, config.threshold)

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """See `Judge.score`."""
        found = [judge.score(clips) for judge in self.members]
        return [self._together(verdicts) for verdicts in zip(*found, strict=True)]

    def _together(self, verdicts: Sequence[Verdict]) -> Verdict:
        cost = math.fsum(verdict.cost for verdict in verdicts)
        known = [verdict for verdict in verdicts if verdict.score is not None]
        missing = len(verdicts) - len(known)
        errors = "; ".join(str(verdict.error) for verdict in verdicts if verdict.score is None)
        least, most = (self._succeeds(known, [end] * missing) for end in (0.0, 1.0))
        if not known or least != most:
            return Verdict(None, error=errors, cost=cost)
        belief = math.fsum(map(_belief, known)) / len(known)
        frames = [verdict.success_frame for verdict in known if verdict.success_frame is not None]
        frame = max(frames) if least and frames else None
        return Verdict(float(least), belief, frame, cost=cost)

    def _succeeds(self, known: Sequence[Verdict], unknown: Sequence[float]) -> bool:
        """Whether the members agree on success, those that failed taken at the beliefs `unknown`."""
        if self.config.rule == "all":
            return all(verdict.succeeded for verdict in known) and all(belief == 1 for belief in unknown)
        beliefs = [*map(_belief, known), *unknown]
        return math.fsum(beliefs) / len(beliefs) >= self.config.threshold


def _belief(verdict: Verdict) -> float:
    """The judge's belief in success, or its score where it gives none."""
    return float(verdict.score or 0.0) if verdict.probability is None else verdict.probability
