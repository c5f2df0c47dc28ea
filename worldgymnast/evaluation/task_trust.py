"""Trust per task: whether imagined successes of a task are real, from the evaluations during a training.

An evaluation (`Scoring`) rolls out the same starts imagined and real. An imagined success is a *claim*. It is confirmed
if the same start succeeds for real, and denied otherwise. Counts of earlier evaluations are discounted, so the newest
weigh most. Two probabilities follow, each from a uniform prior (Beta posterior):

- that fewer than half of a task's claims are real;
- that the task's real success is below the start policy's on the same starts, from the pairs that disagree.

A task whose claims fail, or whose real success drops, is *held*. Its rollouts give no reward, and the policy is pulled
toward an anchor on them, until a later evaluation clears it. A new training, for example after retraining the world
model, starts with trust in every task.

Not included: the judge's confidence, and the dependence between evaluations on the same starts, which discounting
partly compensates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from worldgymnast.configs import Fraction, checked
from worldgymnast.evaluation.sequential import PairedEvidence
from worldgymnast.evaluation.success import Outcome
from worldgymnast.types import Metrics, Rollout

Reason = Literal["claims", "loss"]
"""Why a task is held: its claims fail, or its real success dropped."""


@checked
class TrustConfig:
    """When a task loses its reward, and when it regains it.

    Attributes:
        enabled: hold tasks; without real evaluations, no task is held.
        real_share: smallest share of a task's claims that should be real.
        certainty: probability of failing claims, or of lost success, at which a task is held.
        redeemed: probability below which a task is trusted again.
        memory: weight of an evaluation relative to the next one, in [0, 1].
    """

    enabled: bool = True
    real_share: Fraction = 0.5
    certainty: Fraction = 0.9
    redeemed: Fraction = 0.75
    memory: Fraction = 0.5


@dataclass(frozen=True)
class Scoring:
    """Outcomes of one policy on n starts, imagined and real.

    Attributes:
        step: number of updates of the policy.
        starts: n keys; equal keys in two evaluations mean the same start.
        tasks: n task names.
        imagined: n outcomes in imagination.
        real: n real outcomes.
    """

    step: int
    starts: tuple[str, ...]
    tasks: tuple[str, ...]
    imagined: tuple[Outcome, ...]
    real: tuple[Outcome, ...]

    @classmethod
    def of(cls, step: int, imagined: Sequence[Rollout], real: Sequence[Rollout]) -> Scoring:
        """Make it from rollouts of the same starts, in the same order.

        The key of a start is its task, its layout, and its number among equals.

        Raises:
            ValueError: the numbers of rollouts differ.
        """
        counts: Counter[str] = Counter()
        keys = []
        for rollout in real:
            key = f"{rollout.start.task}/{rollout.start.layout}"
            keys.append(f"{key}/{counts[key]}")
            counts[key] += 1
        tasks = tuple(rollout.start.task for rollout in real)
        outcomes = [tuple(rollout.verdict.succeeded for rollout in each) for each in (imagined, real)]
        if len(outcomes[0]) != len(outcomes[1]):
            raise ValueError(f"got {len(imagined)} imagined and {len(real)} real rollouts, expected pairs")
        return cls(step, tuple(keys), tasks, outcomes[0], outcomes[1])

    def to_json(self) -> dict[str, Any]:
        """Return JSON for a checkpoint; `from_json` reads it back."""
        names = ("starts", "tasks", "imagined", "real")
        return {"step": self.step} | {name: list(getattr(self, name)) for name in names}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Scoring:
        """Read the output of `to_json`."""
        columns = (tuple(row[name]) for name in ("starts", "tasks", "imagined", "real"))
        return cls(int(row["step"]), *columns)

    def successes(self, task: str) -> int:
        """Count the real successes of a task."""
        return sum(bool(won) for won, name in zip(self.real, self.tasks, strict=True) if name == task)

    def mean_real(self) -> float:
        """Return the share of real successes among the known outcomes; NaN if none is known."""
        return _share(self.real)

    def metrics(self) -> Metrics:
        """Return imagined and real success and their gap for every task.

        Empty with a single task.
        """
        names, metrics = sorted(set(self.tasks)), Metrics()
        if len(names) < 2:
            return metrics
        for name in names:
            rows = [i for i, task in enumerate(self.tasks) if task == name]
            pairs = [(self.imagined[i], self.real[i]) for i in rows]
            known = [(x, y) for x, y in pairs if x is not None and y is not None]
            metrics[f"imagined_success/{name}"] = _share([x for x, _ in pairs])
            metrics[f"real_success/{name}"] = _share([y for _, y in pairs])
            metrics[f"gap/{name}"] = _share([x for x, _ in known]) - _share([y for _, y in known])
        return metrics


def _share(outcomes: Sequence[Outcome]) -> float:
    known = [bool(won) for won in outcomes if won is not None]
    return sum(known) / len(known) if known else float("nan")


def paired_evidence(before: Scoring, after: Scoring) -> dict[str, PairedEvidence]:
    """Compare real outcomes of `after` with `before` on their common starts, by task."""
    first = dict(zip(before.starts, before.real, strict=True))
    by_task = {task: PairedEvidence(0, 0) for task in sorted(set(after.tasks))}
    for key, task, won in zip(after.starts, after.tasks, after.real, strict=True):
        if key in first:
            by_task[task] += PairedEvidence.of([first[key]], [won])
    return by_task


def probability_below(share: float, successes: float, failures: float) -> float:
    """Return the posterior probability that a rate is below `share`, from a uniform prior.

    Counts may be fractional.

    >>> probability_below(0.5, 0, 4), probability_below(0.5, 3, 3)
    (0.96875, 0.5)
    """
    from scipy import special

    return float(special.betainc(1 + successes, 1 + failures, share))


@dataclass(frozen=True)
class Standing:
    """Discounted counts of one task over the evaluations so far, and whether it is held.

    Attributes:
        confirmed: imagined successes that are real successes.
        denied: imagined successes that are real failures.
        missed: imagined failures that are real successes.
        wins: starts on which only the policy succeeded for real.
        losses: starts on which only the start policy succeeded for real.
        held: why the task is held, or None.
        since: step at which it was held, or None.
        real_share: see `TrustConfig`.
    """

    confirmed: float = 0.0
    denied: float = 0.0
    missed: float = 0.0
    wins: float = 0.0
    losses: float = 0.0
    held: Reason | None = None
    since: int | None = None
    real_share: float = 0.5

    @property
    def claims_fail(self) -> float:
        """Probability that the share of real claims is below `real_share`; 0 if that is harmless.

        It is harmless if the world model misses as many successes as it invents, so it is not optimistic, or if real
        success has risen since the start policy.
        """
        if self.denied <= self.missed or self.wins > self.losses:
            return 0.0
        return probability_below(self.real_share, self.confirmed, self.denied)

    @property
    def lost(self) -> float:
        """Probability that real success is below the start policy's."""
        return probability_below(0.5, self.wins, self.losses)

    def updated(self, confirmed: int, denied: int, missed: int, change: PairedEvidence, memory: float) -> Standing:
        """Return the standing with the counts of the next evaluation."""
        new = {"confirmed": confirmed, "denied": denied, "missed": missed}
        new |= {"wins": change.wins, "losses": change.losses}
        return replace(self, **{name: memory * getattr(self, name) + count for name, count in new.items()})

    def decide(self, step: int, config: TrustConfig) -> Standing:
        """Hold or release the task, after the counts of `step`."""
        probabilities: dict[Reason, float] = {"claims": self.claims_fail, "loss": self.lost}
        worst = max(probabilities, key=lambda reason: probabilities[reason])
        if self.held is not None:
            return self if probabilities[worst] >= config.redeemed else replace(self, held=None, since=None)
        return replace(self, held=worst, since=step) if probabilities[worst] >= config.certainty else self

    def __str__(self) -> str:
        if self.held == "loss":
            return f"real success dropped: {self.losses:g} starts lost, {self.wins:g} won against the start policy"
        return f"{self.confirmed:g} of {self.confirmed + self.denied:g} imagined successes are real"


def standings(history: Sequence[Scoring], config: TrustConfig) -> list[dict[str, Standing]]:
    """Return the standing of every task after each evaluation, ordered by step; the first is of the start policy.

    A task is held once the probability that its claims fail, or that its real success dropped, reaches `certainty`. It
    is trusted again when both are below `redeemed`. Counts are discounted by `memory` per evaluation. The first
    evaluation counts but holds no task, because an untrained policy has lost nothing.
    """
    result: list[dict[str, Standing]] = []
    now: dict[str, Standing] = {}
    for scoring in history:
        changes = paired_evidence(history[0], scoring)
        for task in sorted(set(scoring.tasks)):
            before = now.get(task, Standing(real_share=config.real_share))
            after = before.updated(*_claims(scoring, task), changes[task], config.memory)
            now[task] = after if scoring is history[0] else after.decide(scoring.step, config)
        result.append(dict(now))
    return result


def _claims(scoring: Scoring, task: str) -> tuple[int, int, int]:
    """Count confirmed, denied and missed successes of a task in one evaluation."""
    outcomes = zip(scoring.tasks, scoring.imagined, scoring.real, strict=True)
    both = Counter((x, y) for name, x, y in outcomes if name == task)
    return both[True, True], both[True, False], both[False, True]


def trust_metrics(by_task: Mapping[str, Standing]) -> Metrics:
    """Return the metrics to log for every task; a single task has no name in them.

    Returns:
        `trust/TASK`, 1 minus the probability that its claims fail; `lost/TASK`, the probability that its real success
        is below the start policy's; `held/TASK`, 1 if it is held, else 0.
    """
    metrics = Metrics()
    for task, standing in sorted(by_task.items()):
        suffix = f"/{task}" if len(by_task) > 1 else ""
        metrics[f"trust{suffix}"] = 1 - standing.claims_fail
        metrics[f"lost{suffix}"] = standing.lost
        metrics[f"held{suffix}"] = float(standing.held is not None)
    return metrics
