"""The numbers of a `Report` as Markdown, for docs and papers: what the page shows without its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from worldgymnast.evaluation.agreement import GATE
from worldgymnast.report.report import Report, duration
from worldgymnast.report.world import Sheet


def markdown(report: Report) -> str:
    """The tables of a report; what is empty is left out."""
    parts = [f"# {report.title}", f"`{report.command}`, {report.date}"]
    parts += [*_success(report), *_gap(report), *_tasks(report), *_powered(report), *_gate(report)]
    parts += [*_fidelity(report), *_diagnosis(report), *_cost(report)]
    parts += ["\n".join(f"- {note}" for note in report.notes)] if report.notes else []
    return ("\n\n".join(parts) + "\n").encode(errors="replace").decode()


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    """A cell in one line, without what would end it or begin HTML."""
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
    parts = ["## Imagined against real, the same policy on the same starts", _table(head, rows)]
    return [*parts, *(part for sheet in report.loops for part in _sheet(sheet))]


def _sheet(sheet: Sheet) -> list[str]:
    return [f"### {sheet.title}", _table(sheet.head, sheet.rows), *([sheet.note] if sheet.note else [])]


def _diagnosis(report: Report) -> list[str]:
    if (found := report.diagnosis) is None:
        return []
    words = ["## What costs imagined rollouts their right verdicts", *found.sentences]
    return [*words, *(part for sheet in (*found.sheets, *found.more) for part in _sheet(sheet))]


def _powered(report: Report) -> list[str]:
    shown = report.powered
    return [] if shown is None else [f"## {shown.title}", _table(shown.head, shown.rows), shown.note]


def _tasks(report: Report) -> list[str]:
    if not report.tasks:
        return []
    steps = [f"step {score.step}" for score in report.tasks[0].scores]
    rows = [(each.task, *each.scores, each.standing) for each in report.tasks]
    return ["## Task by task while it was trained, imagined / real", _table(("task", *steps, ""), rows)]


def _gate(report: Report) -> list[str]:
    found = report.gate
    if "imagined_true_positive" not in found:
        return []

    def row(name: str, prefix: str, suffix: str = "") -> tuple[str, str, str]:
        failures, successes = (_share(found[f"{prefix}_true_{kind}{suffix}"]) for kind in ("negative", "positive"))
        return name, failures, successes

    tasks = sorted(key.partition("/")[2] for key in found if key.startswith("imagined_true_positive/"))
    rows = [row("real frames", "real"), row("**imagined replays of the same actions**", "imagined")]
    rows += [row(f"imagined, {task}", "imagined", f"/{task}") for task in tasks]
    title = f"## World and judge on held-out rollouts of the policy ({100 * GATE:.0f} % of each is asked for)"
    return [title, _table(("", "true failures known", "true successes known"), rows)]


def _fidelity(report: Report) -> list[str]:
    found = report.gate.get("fidelity")
    if not found:
        return []
    steps = [t for t in (1, 5, 10, 20, 30) if t <= len(found["horizon"])]
    intervals = zip(found["psnr"], found["psnr_low"], found["psnr_high"], strict=True)
    shown = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in intervals]
    rows = [("imagined", *(shown[t - 1] for t in steps))]
    for name, key in (("copy of the first frame", "copy"), ("another episode's actions", "shuffled")):
        rows.append((name, *(f"{found[key][t - 1]:.1f}" for t in steps)))
    return ["## PSNR on held-out real actions, dB", _table(("at frame", *map(str, steps)), rows)]


def _cost(report: Report) -> list[str]:
    parts = []
    if report.budget:
        parts += ["## Real-robot budget, episodes", _table(("kind", "episodes"), report.budget.items())]
    if report.stages:
        rows = [(name, duration(seconds)) for name, seconds in report.stages.items()]
        rows.append(("**in all**", duration(sum(report.stages.values()))))
        parts += ["## Time", _table(("stage", "time"), rows)]
    return parts


def _share(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{100 * value:.0f} %"
