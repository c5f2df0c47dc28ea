"""Composite judges: thresholds per task, a cascade, an ensemble.

A failed judgment never changes a verdict: if a member failed and its answer could change the result, there is no
verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from worldgymnast.configs import Fraction, checked
from worldgymnast.errors import FieldError
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.protocols import Cancelable, ChecksTasks, Judge
from worldgymnast.types import Clip, Verdict
from worldgymnast.weights import fingerprint


def check(judge: Judge, tasks: Iterable[tuple[str, str]]) -> None:
    """Preflight check of remote judges, before any paid request.

    Args:
        judge: any judge.
        tasks: task and instruction of every clip to judge.

    Raises:
        InputError: the judge cannot judge one of them.
    """
    if isinstance(judge, ChecksTasks):
        judge.check(tasks)


class _CompositeJudge:
    """Common members of judges that consist of other judges."""

    kind: ClassVar[str]
    """Name of the combination in the judge's name and identity."""
    members: tuple[Judge, ...]
    settings: tuple[Any, ...]
    """Further settings that can change a verdict, as JSON values."""

    @property
    def name(self) -> str:
        """Kind of the combination, and names of the members."""
        return f"{self.kind.lower()} of {' and '.join(f'({member.name})' for member in self.members)}"

    @property
    def is_remote(self) -> bool:
        """Whether any member is remote."""
        return any(member.is_remote for member in self.members)

    @property
    def identity(self) -> str:
        """Hash, 16 hex digits, of the members and how they are combined."""
        return fingerprint([self.kind, *self.settings], self.members)

    def check(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Check every member."""
        tasks = list(tasks)
        for member in self.members:
            check(member, tasks)

    def cancel(self) -> None:
        """Cancel the requests of every member."""
        for member in self.members:
            if isinstance(member, Cancelable):
                member.cancel()


@checked
class CalibratedConfig:
    """Config of a `CalibratedJudge`, written by `judge calibrate --save`.

    Attributes:
        judge: file of the judge.
        threshold: threshold of the success probability.
        by_task: thresholds of individual tasks.
    """

    judge: str
    threshold: Fraction = 0.5
    by_task: Mapping[str, Fraction] = field(default_factory=dict)


class CalibratedJudge(_CompositeJudge):
    """A judge with other thresholds, by task."""

    kind = "Calibrated"

    def __init__(self, judge: Judge, config: CalibratedConfig):
        self.config, self.members = config, (judge,)
        self.settings = (config.threshold, dict(config.by_task))

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip, by the threshold of its task."""
        (judge,) = self.members
        thresholds = [self.config.by_task.get(clip.task, self.config.threshold) for clip in clips]
        if isinstance(judge, SuccessClassifier):
            return judge.score(clips, thresholds)
        verdicts = zip(judge.score(clips), thresholds, strict=True)
        return [_apply_threshold(verdict, threshold) for verdict, threshold in verdicts]


def _apply_threshold(verdict: Verdict, threshold: float) -> Verdict:
    """Verdict by another threshold; one without a probability stays."""
    if verdict.score is None or verdict.probability is None:
        return verdict
    if verdict.probability >= threshold:
        return replace(verdict, score=1.0)
    return replace(verdict, score=0.0 if verdict.score >= 1 else verdict.score, success_frame=None)


@checked
class CascadeConfig:
    """Config of a `Cascade`: a cheap judge, and a better one for uncertain verdicts.

    Attributes:
        first: file of the cheap judge.
        then: file of the better judge.
        low: the first judge's verdict is final below this probability.
        high: the first judge's verdict is final from this probability on.
    """

    first: str
    then: str
    low: Fraction = 0.1
    high: Fraction = 0.9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise FieldError("low", f"found {self.low}, expected at most the {self.high} of field 'high'")


class Cascade(_CompositeJudge):
    """Asks the second judge if the first is uncertain or failed.

    Attributes:
        passed_on: number of clips sent to the second judge so far.
    """

    kind = "Cascade"

    def __init__(self, first: Judge, then: Judge, config: CascadeConfig):
        self.config, self.members, self.passed_on = config, (first, then), 0
        self.settings = (config.low, config.high)

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip, of the first judge or of the second."""
        first, second = self.members
        verdicts = list(first.score(clips))
        uncertain = [i for i, verdict in enumerate(verdicts) if self._is_uncertain(verdict)]
        self.passed_on += len(uncertain)
        if uncertain:
            for i, better in zip(uncertain, second.score([clips[i] for i in uncertain]), strict=True):
                frame = better.success_frame
                if frame is None and better.succeeded:
                    frame = verdicts[i].success_frame
                verdicts[i] = replace(better, success_frame=frame, cost=verdicts[i].cost + better.cost)
        return verdicts

    def _is_uncertain(self, verdict: Verdict) -> bool:
        if verdict.score is None:
            return True
        return verdict.probability is None or self.config.low <= verdict.probability < self.config.high


@checked
class EnsembleConfig:
    """Config of an `Ensemble`.

    Attributes:
        judges: files of the judges.
        rule: "mean" compares the mean probability with the threshold; "all" requires success from every judge, which
            makes reward hacking harder.
        threshold: threshold of the mean probability.
    """

    judges: Annotated[tuple[str, ...], Field(min_length=2)]
    rule: Literal["mean", "all"] = "mean"
    threshold: Fraction = 0.5


class Ensemble(_CompositeJudge):
    """Combines the verdicts of all members on every clip."""

    kind = "Ensemble"

    def __init__(self, judges: Sequence[Judge], config: EnsembleConfig):
        self.config, self.members = config, tuple(judges)
        self.settings = (config.rule, config.threshold)

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip, combined from all members."""
        columns = [judge.score(clips) for judge in self.members]
        return [self._combine(verdicts) for verdicts in zip(*columns, strict=True)]

    def _combine(self, verdicts: Sequence[Verdict]) -> Verdict:
        cost = math.fsum(verdict.cost for verdict in verdicts)
        known = [verdict for verdict in verdicts if verdict.score is not None]
        missing = len(verdicts) - len(known)
        errors = "; ".join(str(verdict.error) for verdict in verdicts if verdict.score is None)
        least, most = (self._is_success(known, [bound] * missing) for bound in (0.0, 1.0))
        if not known or least != most:
            return Verdict(None, error=errors, cost=cost)
        probability = math.fsum(map(_probability, known)) / len(known)
        frames = [verdict.success_frame for verdict in known if verdict.success_frame is not None]
        frame = max(frames) if least and frames else None
        return Verdict(float(least), probability, frame, cost=cost)

    def _is_success(self, known: Sequence[Verdict], assumed: Sequence[float]) -> bool:
        """Whether the result is success, given assumed probabilities of the failed members."""
        if self.config.rule == "all":
            return all(verdict.succeeded for verdict in known) and all(probability == 1 for probability in assumed)
        probabilities = [*map(_probability, known), *assumed]
        return math.fsum(probabilities) / len(probabilities) >= self.config.threshold


def _probability(verdict: Verdict) -> float:
    """Success probability of a verdict, or its score without one."""
    return float(verdict.score or 0.0) if verdict.probability is None else verdict.probability
