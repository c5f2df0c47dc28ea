"""Trust per task: which tasks' imagined successes are real, told from the scorings of a training.

A scoring rolls the same starts out imagined and real. An imagined success is a *claim*; it is confirmed where the same
start succeeds for real, and denied where it does not. Counts of earlier scorings are discounted, so the newest weigh
most. Two probabilities follow, each from a uniform prior (Beta posterior):

- that fewer than half of a task's claims are real;
- that the task's real success is below the start policy's on the same starts, from the pairs that disagree.

A task whose claims fail, or whose real success is lost, is *held*: its rollouts give no reward, and the policy is held
to an anchor on them, until a later scoring redeems it. A new training, as after a change of the world, begins with
trust in every task.

Left out: how sure a judge was, and dependence between scorings on the same starts, which discounting makes up for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy import special

from worldgymnast.configs import Fraction, checked
from worldgymnast.evaluation.sequential import PairedEvidence
from worldgymnast.evaluation.success import Outcome
from worldgymnast.types import Metrics, Rollout

Reason = Literal["claims", "loss"]
"""Why a task is held: its claims fail, or its real success is lost."""


@checked
class TrustConfig:
    """When a task loses its reward, and when it gets it back.

    Attributes:
        enabled: whether tasks are held at all; without real scorings none is.
        real_share: smallest share of a task's claims that should be real.
        certainty: probability of failing claims, or of lost success, from which on a task is held.
        redeemed: probability below which it is trusted again.
        memory: weight of a scoring beside the one after it, in [0, 1].
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
        step: updates that the policy has had.
        starts: n keys; equal keys of two scorings are the same start.
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
        """From rollouts of the same starts, in the same order.

        A start is known by its task and layout; those without a layout by their place among their equals.
        """
        seen: Counter[str] = Counter()
        keys = []
        for rollout in real:
            key = f"{rollout.start.task}/{rollout.start.layout}"
            keys.append(f"{key}/{seen[key]}")
            seen[key] += 1
        tasks = tuple(rollout.start.task for rollout in real)
        outcomes = [tuple(rollout.verdict.succeeded for rollout in each) for each in (imagined, real)]
        if len(outcomes[0]) != len(outcomes[1]):
            raise ValueError(f"scoring: found {len(imagined)} imagined and {len(real)} real rollouts, expected pairs")
        return cls(step, tuple(keys), tasks, outcomes[0], outcomes[1])

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; `from_json` reads it back."""
        names = ("starts", "tasks", "imagined", "real")
        return {"step": self.step} | {name: list(getattr(self, name)) for name in names}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Scoring:
        """What `to_json` wrote."""
        rest = (tuple(found[name]) for name in ("starts", "tasks", "imagined", "real"))
        return cls(int(found["step"]), *rest)

    def successes(self, task: str) -> int:
        """Real successes of a task."""
        return sum(bool(won) for won, name in zip(self.real, self.tasks, strict=True) if name == task)

    def mean_real(self) -> float:
        """Share of real successes among the known outcomes; NaN where none is known."""
        return _share(self.real)

    def metrics(self) -> Metrics:
        """Imagined and real success and their gap of every task; nothing where there is one task alone."""
        names, found = sorted(set(self.tasks)), Metrics()
        for name in names if len(names) > 1 else []:
            rows = [i for i, task in enumerate(self.tasks) if task == name]
            dreamt, truly = (_share([each[i] for i in rows]) for each in (self.imagined, self.real))
            pairs = [(self.imagined[i], self.real[i]) for i in rows]
            known = [(x, y) for x, y in pairs if x is not None and y is not None]
            found[f"imagined_success/{name}"], found[f"real_success/{name}"] = dreamt, truly
            found[f"gap/{name}"] = _share([x for x, _ in known]) - _share([y for _, y in known])
        return found


def _share(outcomes: Sequence[Outcome]) -> float:
    known = [bool(won) for won in outcomes if won is not None]
    return sum(known) / len(known) if known else float("nan")


def pairs(before: Scoring, after: Scoring) -> dict[str, PairedEvidence]:
    """Real outcomes of `after` against those of `before` on the starts that both have, by task."""
    first = dict(zip(before.starts, before.real, strict=True))
    found = {task: PairedEvidence(0, 0) for task in sorted(set(after.tasks))}
    for key, task, won in zip(after.starts, after.tasks, after.real, strict=True):
        if key in first:
            found[task] += PairedEvidence.of([first[key]], [won])
    return found


def probability_below(share: float, successes: float, failures: float) -> float:
    """Posterior probability that a rate lies below `share`, from a uniform prior; counts may be discounted.

    >>> probability_below(0.5, 0, 4), probability_below(0.5, 3, 3)
    (0.96875, 0.5)
    """
    return float(special.betainc(1 + successes, 1 + failures, share))


@dataclass(frozen=True)
class Standing:
    """What the scorings so far say of one task; counts are discounted.

    Attributes:
        confirmed: imagined successes that are real.
        denied: imagined successes that are none for real.
        missed: imagined failures that are real successes.
        wins: starts on which the policy succeeded for real and the start policy did not.
        losses: starts on which only the start policy did.
        held: why the task is held now, or None.
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
        """Probability that fewer claims than `real_share` are real; 0 where that does no harm.

        That is where the world misses as many successes as it makes up, so that it is no optimist, or where real
        success has grown since the start policy all the same.
        """
        if self.denied <= self.missed or self.wins > self.losses:
            return 0.0
        return probability_below(self.real_share, self.confirmed, self.denied)

    @property
    def lost(self) -> float:
        """Probability that real success is below the start policy's."""
        return probability_below(0.5, self.wins, self.losses)

    def after(self, confirmed: int, denied: int, missed: int, change: PairedEvidence, memory: float) -> Standing:
        """With the counts of the next scoring."""
        new = {"confirmed": confirmed, "denied": denied, "missed": missed}
        new |= {"wins": change.wins, "losses": change.losses}
        return replace(self, **{name: memory * getattr(self, name) + count for name, count in new.items()})

    def decided(self, step: int, config: TrustConfig) -> Standing:
        """Held or trusted, after the counts of `step`."""
        doubts: dict[Reason, float] = {"claims": self.claims_fail, "loss": self.lost}
        worst = max(doubts, key=lambda reason: doubts[reason])
        if self.held is not None:
            return self if doubts[worst] >= config.redeemed else replace(self, held=None, since=None)
        return replace(self, held=worst, since=step) if doubts[worst] >= config.certainty else self

    def __str__(self) -> str:
        if self.held == "loss":
            return f"real success is lost: {self.losses:g} starts lost, {self.wins:g} won against the start policy"
        return f"{self.confirmed:g} of {self.confirmed + self.denied:g} imagined successes are real"


def standings(history: Sequence[Scoring], config: TrustConfig) -> list[dict[str, Standing]]:
    """Where every task stands after each scoring, in the order of their steps; the first is the start policy's.

    A task is held from the scoring on at which the probability that its claims fail, or that its real success is lost,
    reaches `certainty`, and trusted again where both are below `redeemed`. Counts are discounted by `memory` a scoring.
    The first scoring counts, and holds nothing: a policy that has not been trained yet has lost nothing.
    """
    found: list[dict[str, Standing]] = []
    now: dict[str, Standing] = {}
    for scoring in history:
        changes = pairs(history[0], scoring)
        for task in sorted(set(scoring.tasks)):
            before = now.get(task, Standing(real_share=config.real_share))
            after = before.after(*_claims(scoring, task), changes[task], config.memory)
            now[task] = after if scoring is history[0] else after.decided(scoring.step, config)
        found.append(dict(now))
    return found


def _claims(scoring: Scoring, task: str) -> tuple[int, int, int]:
    """Confirmed, denied and missed successes of a task in one scoring."""
    outcomes = zip(scoring.tasks, scoring.imagined, scoring.real, strict=True)
    both = Counter((x, y) for name, x, y in outcomes if name == task)
    return both[True, True], both[True, False], both[False, True]


def trust_metrics(found: Mapping[str, Standing]) -> Metrics:
    """What is logged of every task; one task alone without its name.

    Returns:
        `trust/TASK`, 1 minus the probability that its claims fail; `lost/TASK`, the probability that its real success
        is below the start policy's; `held/TASK`, 1 where it is held, else 0.
    """
    logged = Metrics()
    for task, standing in sorted(found.items()):
        end = f"/{task}" if len(found) > 1 else ""
        logged[f"trust{end}"] = 1 - standing.claims_fail
        logged[f"lost{end}"] = standing.lost
        logged[f"held{end}"] = float(standing.held is not None)
    return logged
