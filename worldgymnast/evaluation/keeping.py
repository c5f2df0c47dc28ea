"""Chooses which evaluated step of a training to keep, and explains the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from worldgymnast.evaluation.sequential import PairedEvidence
from worldgymnast.evaluation.task_trust import Scoring, paired_evidence, probability_below

EVIDENCE = 1.0
"""Evidence needed to replace the start policy: with 1, more pairs favor the step than not. Training mostly helps, and a
higher value costs gain (docs/log.md). A loop that replaces an already good policy uses 5."""

CERTAINTY = 0.95
"""Probability of a loss in any task at which a step is rejected."""


@dataclass(frozen=True)
class Choice:
    """The step to keep, and why others were rejected.

    Attributes:
        step: number of updates of the kept policy; that of the first evaluation is the start policy.
        real: mean real success at its evaluation.
        start: mean real success of the start policy.
        change: pairs of the kept policy against the start policy.
        refused: rejected steps, each with the reason.
    """

    step: int
    real: float
    start: float
    change: PairedEvidence
    refused: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        refused = "".join(f"; step {step} was rejected: {why}" for step, why in self.refused)
        if not self.change.count:
            return f"kept the start policy: {self.start:.0%} real success{refused}"
        pairs = f"{self.change.wins} starts won, {self.change.losses} lost, evidence {self.change.better:.2g} to 1"
        return f"kept step {self.step}: {self.real:.0%} real success, {self.start:.0%} before ({pairs}){refused}"


def choose_step(history: Sequence[Scoring], evidence: float = EVIDENCE) -> Choice:
    """Choose the evaluated step with the highest mean real success that may replace the start policy.

    A step may replace it if both conditions hold, on the starts shared by all evaluations:

    1. No task is lost: in no task does the probability that real success is below the start policy's reach
       `CERTAINTY`, by the pairs of that step alone, with a Bonferroni correction for the number of tasks. Earlier
       steps do not count: they were evaluated on the same starts, and the policy may have recovered since.
    2. Over all tasks, the anytime-valid paired test (`sequential.evidence`) gives at least `evidence`. A step that is
       no better than the start policy passes with probability at most 1/`evidence`.

    Among such steps the one with the highest mean is chosen, the later one in a tie, without another test. Choosing
    among a few steps on 48 starts loses a point or two. A test between them would keep an early step that later ones
    beat. Without any such step, the start policy is kept. The choice after an evaluation is either the newest step or
    the previous choice, so one copy of the weights is enough.

    Args:
        history: at least one evaluation, in the order of steps; the first is of the start policy.
        evidence: at least 1; use 5 if the start policy is already good.

    Raises:
        ValueError: `history` is empty.
    """
    if not history:
        raise ValueError("history is empty, expected at least one evaluation")
    start = history[0]
    kept, best, change, refused = start, -math.inf, PairedEvidence(0, 0), []
    for scoring in history[1:]:
        by_task = paired_evidence(start, scoring)
        total = sum(by_task.values(), PairedEvidence(0, 0))
        limit = 1 - (1 - CERTAINTY) / len(by_task)
        lost = [task for task, each in by_task.items() if probability_below(0.5, each.wins, each.losses) >= limit]
        if why := _refusal(lost, by_task, total, evidence):
            refused.append((scoring.step, why))
        elif scoring.mean_real() >= best:
            kept, best, change = scoring, scoring.mean_real(), total
    return Choice(kept.step, kept.mean_real(), start.mean_real(), change, tuple(refused))


def _refusal(lost: Sequence[str], by_task: dict[str, PairedEvidence], total: PairedEvidence, evidence: float) -> str:
    """Return why a step may not replace the start policy, or ""."""
    if lost:
        counts = (f"{task or 'the task'} ({by_task[task].wins} won, {by_task[task].losses} lost)" for task in lost)
        return f"it loses {', '.join(counts)}"
    if not total.count:
        return "none of its starts was evaluated before training"
    if total.better < evidence:
        return f"{total.wins} starts won and {total.losses} lost are evidence {total.better:.2g}, below {evidence:.2g}"
    return ""
