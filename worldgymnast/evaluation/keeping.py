"""Which scored step of a training is kept: the rule, and the sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from worldgymnast.evaluation.sequential import PairedEvidence
from worldgymnast.evaluation.task_trust import Scoring, pairs, probability_below

EVIDENCE = 1.0
"""For a step, against the start policy: the pairs speak for it rather than against it. Training mostly helps, and more
would be paid for with gain (docs/log.md); a loop that replaces a policy which is good already asks for 5."""

CERTAINTY = 0.95
"""Probability of a loss in any task from which on a step is not kept."""


@dataclass(frozen=True)
class Choice:
    """The step that is kept, and what was said of the others.

    Attributes:
        step: updates that the kept policy has had; that of the first scoring is the start policy.
        real: mean real success at its scoring.
        start: mean real success of the start policy.
        change: pairs of the kept policy against the start policy.
        refused: steps that were not better than the start policy by this rule, and why.
    """

    step: int
    real: float
    start: float
    change: PairedEvidence
    refused: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        refused = "".join(f"; step {step} was refused: {why}" for step, why in self.refused)
        if not self.change.count:
            return f"kept the start policy, {self.start:.0%} of the scored starts for real{refused}"
        found = f"{self.change.wins} starts won, {self.change.losses} lost, evidence {self.change.better:.2g} to 1"
        return f"kept step {self.step}: {self.real:.0%} real success, {self.start:.0%} before ({found}){refused}"


def choose(history: Sequence[Scoring], evidence: float = EVIDENCE) -> Choice:
    """The scored step with the highest mean real success among those that may replace the start policy.

    A step may replace it where both hold, on the starts that all scorings share:

    1. No task is lost: in none does the probability that real success is below the start policy's reach
       `CERTAINTY`, by the pairs of that step alone and corrected for the number of tasks (Bonferroni). Earlier
       steps do not count: their scorings are of the same starts, and the policy may have recovered since.
    2. Over all tasks the anytime-valid paired test (`sequential.evidence`) gives it at least `evidence`. A step that is
       no better than the start policy passes with probability at most 1/`evidence`.

    Among such steps the highest mean is taken without another test, a tie goes to the later step: choosing among a few
    steps on 48 starts loses a point or two, while a test between them would keep an early step that later ones beat.
    Without any such step the start policy is kept. The choice after a scoring is either the step scored last or the
    choice before it, so one copy of the weights is enough.

    Args:
        history: the scorings in the order of their steps, at least one; the first is the start policy's.
        evidence: at least 1; 5 where the start policy is good already.

    Raises:
        ValueError: there is no scoring.
    """
    if not history:
        raise ValueError("keeping: found no scoring, expected at least one")
    start = history[0]
    kept, best, change, refused = start, -math.inf, PairedEvidence(0, 0), []
    for scoring in history[1:]:
        by_task = pairs(start, scoring)
        whole = sum(by_task.values(), PairedEvidence(0, 0))
        limit = 1 - (1 - CERTAINTY) / len(by_task)
        lost = [task for task, each in by_task.items() if probability_below(0.5, each.wins, each.losses) >= limit]
        if why := _refusal(lost, by_task, whole, evidence):
            refused.append((scoring.step, why))
        elif scoring.mean_real() >= best:
            kept, best, change = scoring, scoring.mean_real(), whole
    return Choice(kept.step, kept.mean_real(), start.mean_real(), change, tuple(refused))


def _refusal(lost: Sequence[str], by_task: dict[str, PairedEvidence], whole: PairedEvidence, evidence: float) -> str:
    """Why a step may not replace the start policy; "" where it may."""
    if lost:
        told = (f"{task or 'the task'} ({by_task[task].wins} won, {by_task[task].losses} lost)" for task in lost)
        return f"it loses {', '.join(told)}"
    if not whole.count:
        return "no start of its scoring was scored before training"
    if whole.better < evidence:
        return f"{whole.wins} starts won and {whole.losses} lost are evidence {whole.better:.2g}, below {evidence:.2g}"
    return ""
