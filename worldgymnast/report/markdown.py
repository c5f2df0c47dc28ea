"""The tables of a `Report` as Markdown, for docs and papers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from worldgymnast.report.answers import answers
from worldgymnast.report.formats import duration
from worldgymnast.report.report import Report
from worldgymnast.report.world import Sheet, gate_sheets


def markdown(report: Report) -> str:
    """Write the answers and tables of a report; empty ones are omitted."""
    parts = [f"# {report.title}", f"`{report.command}`, {report.date}"]
    sections = {"changed": _changed, "real": _real, "trust": _trust, "cost": _cost}
    for name, answer in answers(report).items():
        parts += [f"## {answer.title}", " ".join(map(_cell, (answer.sentence, *answer.more))), *sections[name](report)]
    parts += ["\n".join(f"- {note}" for note in report.notes)] if report.notes else []
    return ("\n\n".join(parts) + "\n").encode(errors="replace").decode()


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    """Put a cell on one line, with Markdown and HTML escaped."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _changed(report: Report) -> list[str]:
    return [*_success(report), *_offline(report, "changed")]


def _real(report: Report) -> list[str]:
    return [*_offline(report, "real"), *_optional(report.rates), *_gap(report), *_optional(report.powered)]


def _trust(report: Report) -> list[str]:
    sheets = [*gate_sheets(report.gate), *report.loops]
    if report.diagnosis:
        sheets += [*report.diagnosis.sheets, *report.diagnosis.more]
    tables = [part for sheet in sheets for part in _sheet(sheet)]
    return [*_offline(report, "trust"), *_tasks(report), *_fidelity(report), *tables]


def _success(report: Report) -> list[str]:
    if report.table is None:
        return []
    table = report.table
    rows = [(r.task, r.before, r.after, r.difference, "worse" if r.worse else "") for r in table.rows]
    mean = ("**mean over tasks**", table.before, f"**{table.after}**", f"**{table.difference}**", "")
    parts = ["### Real success, 95 % intervals", _table(("task", "before", "after", "difference", ""), [*rows, mean])]
    if len(report.seeds) > 1:
        parts.append(_table(("policy", "difference on its layouts"), report.seeds.items()))
    return parts


def _gap(report: Report) -> list[str]:
    if not report.gap:
        return []
    rows = [(r.when, r.imagined, r.real, r.gap) for r in report.gap]
    head = ("scored", "imagined", "real", "imagined minus real")
    return ["### Imagined vs. real success, same policy, same starts", _table(head, rows)]


def _sheet(sheet: Sheet) -> list[str]:
    return [f"### {sheet.title}", _table(sheet.head, sheet.rows), *([sheet.note] if sheet.note else [])]


def _offline(report: Report, section: str) -> list[str]:
    return _sheet(report.offline[section]) if section in report.offline else []


def _optional(sheet: Sheet | None) -> list[str]:
    return [] if sheet is None else _sheet(sheet)


def _tasks(report: Report) -> list[str]:
    if not report.tasks:
        return []
    steps = [f"step {score.step}" for score in report.tasks[0].scores]
    rows = [(each.task, *each.scores, each.standing) for each in report.tasks]
    return ["### Success by task during training, imagined / real", _table(("task", *steps, "status"), rows)]


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
    return ["### PSNR on held-out real actions, dB", _table(("at frame", *map(str, steps)), rows)]


def _cost(report: Report) -> list[str]:
    parts = []
    if report.budget:
        parts += ["### Real episodes", _table(("kind", "episodes"), report.budget.items())]
    if report.stages:
        rows = [(name, duration(seconds)) for name, seconds in report.stages.items()]
        rows.append(("**total**", duration(sum(report.stages.values()))))
        parts += ["### Time", _table(("stage", "time"), rows)]
    return parts
