"""The four questions of a report, each answered in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worldgymnast.evaluation.agreement import GATE
from worldgymnast.evaluation.success import Difference, SuccessTable
from worldgymnast.report.formats import duration, interval, p_value, percent, points
from worldgymnast.report.offline import DO_NOT_USE, JUDGE, NOTHING_REAL

if TYPE_CHECKING:
    from worldgymnast.report.report import GapRow, Report

TITLES: Mapping[str, str] = {
    "changed": "What changed",
    "real": "Was it real?",
    "trust": "Can the world model be trusted?",
    "cost": "What did it cost?",
}
"""Headings of the sections, in their order."""
_MAX_NAMES = 3
_UNMEASURED = (
    "Unknown: no two policies were run for real on the same scenes. Run `worldgymnast evaluate` with both policies."
)
_ALONE = "Only one policy was run: `worldgymnast evaluate` with a second one compares both on the same layouts."
_UNFINISHED = "The comparison is unfinished: only 'before' has been evaluated. Rerun the same command to finish it."
_UNCOMPARED = (
    "Unknown: the world model was not compared with real episodes. Run `worldgymnast diagnose` on labelled episodes."
)


@dataclass(frozen=True)
class Answer:
    """One section's heading, its answer, and further sentences."""

    title: str
    sentence: str
    more: Sequence[str] = ()
    is_warning: bool = False


def answers(report: Report) -> dict[str, Answer]:
    """Answer the questions that a report has something about, by section, in the order of `TITLES`."""
    found = {"changed": _changed(report), "real": _real(report), "trust": _trust(report), "cost": _cost(report)}
    warned = {"changed", "trust"} if report.offline_doubts else set[str]()
    return {name: Answer(TITLES[name], lines[0], lines[1:], name in warned) for name, lines in found.items() if lines}


def _is_training(report: Report) -> bool:
    """Whether a report is about policies, and not about a world model or judge alone."""
    parts = (report.table, report.rates, report.offline, report.gap, report.curves, report.tasks, report.powered)
    return any(parts)


# ---------------------------------------------------------------- what changed


def _changed(report: Report) -> list[str]:
    if report.table is not None:
        return [_success(report.table), *_by_task(report.table)]
    if "changed" in report.offline:
        before, after, change = report.offline["changed"].rows[0][1:4]
        sentence = f"In the world model, judged success went from {before} to {after}: {change}."
        return [DO_NOT_USE, sentence] if report.offline_doubts else [sentence]
    if scored := _scored(report):
        first, last = scored[0], scored[-1]
        what = _name_of_rate(last)
        sentence = f"{what} on the starts that were scored: {percent(_rate(first))} at {first.when}"
        sentence += f", {percent(_rate(last))} at {last.when}." if last is not first else "."
        return [sentence]
    if report.curves:
        return ["Nothing was scored yet: the curves below show how the training went."]
    return []


def _success(table: SuccessTable) -> str:
    before, after = percent(table.before.value), percent(table.after.value)
    count = len(table.rows)
    where = f"on average over {count} tasks" if count != 1 else f"on the task {table.rows[0].task}"
    if math.isnan(table.difference.mean):
        return (
            f"Unknown: real success was {before} before and {after} after, {where}, but a task has no paired episode."
        )
    if table.difference.low > 0:
        return f"Real success rose from {before} to {after}, {where}."
    if table.difference.high < 0:
        return f"Real success fell from {before} to {after}, {where}."
    return f"No clear change: real success was {before} before and {after} after, {where}."


def _by_task(table: SuccessTable) -> list[str]:
    if len(table.rows) < 2:
        return []
    worse = [row.task for row in table.rows if row.worse]
    better = [row.task for row in table.rows if row.difference.low > 0 and not row.worse]
    unclear = [row.task for row in table.rows if row.task not in {*worse, *better}]
    groups = (("better", better), ("worse", worse), ("without clear change", unclear))
    return ["By task: " + ", ".join(f"{_listed(tasks)} {name}" for name, tasks in groups if tasks) + "."]


def _listed(names: Sequence[str]) -> str:
    """Count names, and list them if they are few.

    >>> _listed(["open", "close"])
    '2 (open, close)'
    """
    return f"{len(names)} ({', '.join(names)})" if len(names) <= _MAX_NAMES else str(len(names))


def _scored(report: Report) -> list[GapRow]:
    """Return the scorings on the same starts: those of the training, or of an evaluation alone."""
    known = [row for row in report.gap if not math.isnan(_rate(row))]
    return [row for row in known if row.is_training] or known


def _rate(row: GapRow) -> float:
    """Return the real success of a scoring, or the imagined one if nothing was real."""
    return row.imagined.value if math.isnan(row.real.value) else row.real.value


def _name_of_rate(row: GapRow) -> str:
    return "Imagined success" if math.isnan(row.real.value) else "Real success"


# ---------------------------------------------------------------- was it real


def _real(report: Report) -> list[str]:
    if not (_is_training(report) or report.gallery):
        return []
    gap = [_gap(row) for row in report.gap[-1:] if not math.isnan(row.gap.mean)]
    if report.table is not None:
        return [_verdict(report.table.difference), *gap]
    if report.offline:
        return [NOTHING_REAL, *report.offline_notes]
    if report.rates is not None:
        where, success = report.rates.rows[-1]
        return [f"Real success, {where}: {success}. {_UNFINISHED if report.is_unfinished else _ALONE}", *gap]
    if any(not math.isnan(row.real.value) for row in report.gap):
        only = "Only the starts that were scored during training were run for real: no separate evaluation confirms it."
        return [only, *gap]
    return [_UNMEASURED]


def _verdict(difference: Difference) -> str:
    """Interpret the interval of the paired difference."""
    if math.isnan(difference.mean):
        return "Unknown: a task has no episode with known outcomes before and after."
    evidence = f"{points(difference.mean)} points {interval(difference)} in {difference.n} real paired episodes"
    chance = p_value(difference.p_value)
    if difference.low > 0:
        return f"Yes: {evidence}, more than chance explains ({chance})."
    if difference.high < 0:
        return f"Yes, the loss is real: {evidence} ({chance})."
    return f"Inconclusive: {evidence} can be chance, because the interval contains zero ({chance})."


def _gap(row: GapRow) -> str:
    sides = f"{percent(row.imagined.value)} of imagined and {percent(row.real.value)} of real episodes succeeded"
    size = f"{points(row.gap.mean)} points {interval(row.gap)}"
    if row.gap.low > 0:
        return f"The world model and its judge are too optimistic ({row.when}): {sides}, a gap of {size}."
    if row.gap.high < 0:
        return f"The world model and its judge are too pessimistic ({row.when}): {sides}, a gap of {size}."
    return f"Imagined and real success do not differ clearly ({row.when}): {sides}, a gap of {size}."


# ---------------------------------------------------------------- trust


def _trust(report: Report) -> list[str]:
    known = ["No. " + " ".join(report.offline_doubts)] if report.offline_doubts else []
    known += [*_agreement(report), *_gate(report), *_diagnosis(report), *_offline(report)]
    known += [*_held(report), *report.warnings]
    if known:
        return known
    return [_UNCOMPARED] if _is_training(report) else []


def _gate(report: Report) -> list[str]:
    if "imagined_true_positive" not in report.gate:
        return []
    positive, negative = (report.gate[f"imagined_true_{kind}"] for kind in ("positive", "negative"))
    if math.isnan(positive) or math.isnan(negative):
        return ["Unknown: the held-out rollouts before RL do not have both successes and failures."]
    shares = f"{percent(positive)} of true successes and {percent(negative)} of true failures"
    verdict = "Yes, by the check before RL" if min(positive, negative) >= GATE else "Not fully"
    return [f"{verdict}: replayed in the world model, {shares} are judged correctly (target {100 * GATE:.0f} % each)."]


def _agreement(report: Report) -> list[str]:
    found = [_agrees("", report.agreement)] if report.agreement else []
    loops = report.diagnosis.agreement if report.diagnosis else {}
    return [*found, *(_agrees(f" ({name})", loop) for name, loop in loops.items())]


def _agrees(name: str, loop: Mapping[str, Any]) -> str:
    """Say whether imagined and real outcomes agree more often than by chance."""
    both, neither, count = int(loop["both"]), int(loop["neither"]), int(loop["count"])
    low = loop["phi"]["low"]
    what = f"imagined and real outcome of the same episode{name} agree in {both + neither} of {count}"
    if not count or low is None or math.isnan(low):
        return f"Unknown: {what}, which does not show whether one predicts the other."
    if low <= 0:
        return f"No: {what}, no more often than by chance."
    share = percent((both + neither) / count)
    verdict = "Yes" if (both + neither) / count >= GATE else "Partly"
    return f"{verdict}: {what} ({share}), more often than by chance."


def _diagnosis(report: Report) -> list[str]:
    return list(report.diagnosis.sentences) if report.diagnosis else []


def _offline(report: Report) -> list[str]:
    if "trust" not in report.offline:
        return []
    judged = [row[1] for row in report.offline["trust"].rows if row[0].startswith(JUDGE)]
    if not judged:
        return ["Partly known: imagined frames were compared with real ones, but the judge with no real outcome."]
    known, known_imagined, refused, refused_imagined = judged
    return [
        f"True successes that the judge recognizes: {known} on real frames, {known_imagined} on imagined replays.",
        f"True failures that it refuses: {refused} on real frames, {refused_imagined} on imagined replays.",
    ]


def _held(report: Report) -> list[str]:
    held = [row.task for row in report.tasks if row.standing.startswith("on hold")]
    if not any(row.standing for row in report.tasks):
        return []
    if not held:
        return ["At the end of training, no task is on hold."]
    return [f"Tasks on hold at the end of training, without reward: {_listed(held)}."]


# ---------------------------------------------------------------- cost


def _cost(report: Report) -> list[str]:
    episodes, seconds = sum(report.budget.values()), sum(report.stages.values())
    if not (report.budget or report.stages):
        return ["Unknown: the run folder has no times yet.", *report.costs] if _is_training(report) else []
    parts = [f"{episodes:,} real episode{'s' if episodes != 1 else ''}"] if report.budget else ["No real episodes"]
    parts += [f"{duration(seconds)} of computing"] if report.stages else []
    return [f"{' and '.join(parts)}.", *report.costs]
