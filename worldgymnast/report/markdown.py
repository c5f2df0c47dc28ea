"""The tables of a `Report` as Markdown, for docs and papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from worldgymnast.evaluation.agreement import GATE
from worldgymnast.report.offline import NOTHING_REAL
from worldgymnast.report.report import Report, duration
from worldgymnast.report.world import Sheet


def markdown(report: Report) -> str:
    """Write the tables of a report; empty ones are omitted."""
    parts = [f"# {report.title}", f"`{report.command}`, {report.date}"]
    parts += [*_success(report), *_offline(report), *_gap(report), *_tasks(report), *_powered(report), *_gate(report)]
    parts += [*_fidelity(report), *_diagnosis(report), *_cost(report)]
    parts += ["\n".join(f"- {note}" for note in report.notes)] if report.notes else []
    return ("\n\n".join(parts) + "\n").encode(errors="replace").decode()


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    """Put a cell on one line, with Markdown and HTML escaped."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _success(report: Report) -> list[str]:
    if report.table is None:
        return []
    table = report.table
    rows = [(r.task, r.before, r.after, r.difference, "worse" if r.worse else "") for r in table.rows]
    mean = ("**mean over tasks**", table.before, f"**{table.after}**", f"**{table.difference}**", "")
    parts = ["## Real success, 95 % intervals", _table(("task", "before", "after", "difference", ""), [*rows, mean])]
    if len(report.seeds) > 1:
        parts.append(_table(("policy", "difference on its layouts"), report.seeds.items()))
    return parts


def _gap(report: Report) -> list[str]:
    if not report.gap:
        return []
    rows = [(r.when, r.imagined, r.real, r.gap) for r in report.gap]
    head = ("scored", "imagined", "real", "imagined minus real")
    parts = ["## Imagined vs. real success, same policy, same starts", _table(head, rows)]
    return [*parts, *(part for sheet in report.loops for part in _sheet(sheet))]


def _sheet(sheet: Sheet) -> list[str]:
    return [f"### {sheet.title}", _table(sheet.head, sheet.rows), *([sheet.note] if sheet.note else [])]


def _diagnosis(report: Report) -> list[str]:
    if (diagnosis := report.diagnosis) is None:
        return []
    head = ["## Causes of wrong verdicts on imagined rollouts", *diagnosis.sentences]
    return [*head, *(part for sheet in (*diagnosis.sheets, *diagnosis.more) for part in _sheet(sheet))]


def _offline(report: Report) -> list[str]:
    if not report.offline:
        return []
    head = ["## Without a real environment", " ".join([NOTHING_REAL, *report.offline_notes])]
    return [*head, *(part for sheet in report.offline for part in _sheet(sheet))]


def _powered(report: Report) -> list[str]:
    sheet = report.powered
    return [] if sheet is None else [f"## {sheet.title}", _table(sheet.head, sheet.rows), sheet.note]


def _tasks(report: Report) -> list[str]:
    if not report.tasks:
        return []
    steps = [f"step {score.step}" for score in report.tasks[0].scores]
    rows = [(each.task, *each.scores, each.standing) for each in report.tasks]
    return ["## Success by task during training, imagined / real", _table(("task", *steps, "status"), rows)]


def _gate(report: Report) -> list[str]:
    gate = report.gate
    if "imagined_true_positive" not in gate:
        return []

    def row(name: str, prefix: str, suffix: str = "") -> tuple[str, str, str]:
        failures, successes = (_share(gate[f"{prefix}_true_{kind}{suffix}"]) for kind in ("negative", "positive"))
        return name, failures, successes

    tasks = sorted(key.partition("/")[2] for key in gate if key.startswith("imagined_true_positive/"))
    rows = [row("real frames", "real"), row("**imagined replays of the same actions**", "imagined")]
    rows += [row(f"imagined, {task}", "imagined", f"/{task}") for task in tasks]
    title = f"## World model and judge on held-out rollouts of the policy (target {100 * GATE:.0f} % each)"
    return [title, _table(("", "true-negative rate", "true-positive rate"), rows)]


def _fidelity(report: Report) -> list[str]:
    fidelity = report.gate.get("fidelity")
    if not fidelity:
        return []
    steps = [t for t in (1, 5, 10, 20, 30) if t <= len(fidelity["horizon"])]
    intervals = zip(fidelity["psnr"], fidelity["psnr_low"], fidelity["psnr_high"], strict=True)
    imagined = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in intervals]
    rows = [("imagined", *(imagined[t - 1] for t in steps))]
    for name, key in (("first frame copied", "copy"), ("actions of another episode", "shuffled")):
        rows.append((name, *(f"{fidelity[key][t - 1]:.1f}" for t in steps)))
    return ["## PSNR on held-out real actions, dB", _table(("at frame", *map(str, steps)), rows)]


def _cost(report: Report) -> list[str]:
    parts = []
    if report.budget:
        parts += ["## Real episodes", _table(("kind", "episodes"), report.budget.items())]
    if report.stages:
        rows = [(name, duration(seconds)) for name, seconds in report.stages.items()]
        rows.append(("**total**", duration(sum(report.stages.values()))))
        parts += ["## Time", _table(("stage", "time"), rows)]
    return parts


def _share(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{100 * value:.0f} %"
