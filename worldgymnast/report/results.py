"""The tables of `reproduce tables`, read from its files: methods, mismatch, diverse training, new scenes, Dyna."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldgymnast.evaluation.success import Difference, EpisodeResult, SuccessTable, success_table
from worldgymnast.report.world import Sheet

METHODS = {
    "sft": "SFT",
    "sft-everything": "SFT on everything",
    "iter-sft": "Iter-SFT",
    "rl-simulator": "RL in the simulator",
    "rl-world": "RL in the world model",
}
OURS = "rl-world"
PLACES = {
    "clean": "clean scenes",
    "distractors": "among distractors",
    "paraphrases": "unheard sentences",
    "tasks": "further tasks",
}
DIVERSE = {
    "sft": "SFT",
    "rl-world": "RL in the starter world",
    "wide": "RL in the wide world",
    "distractors": "+ distractors",
    "language": "+ language",
    "tasks": "+ tasks",
}
_BASE = "wide"
REMEDIES = {"none": "no remedy", "replay": "replay of other scenes", "anchor": "KL anchor"}
_WORTH = "Against RL in the world model: difference of mean real success over the tasks, on the same layouts."


def sheets(evaluations: Path) -> list[Sheet]:
    """The tables of the cells whose real evaluations lie in that folder."""
    ours = _rows(evaluations, OURS)
    made: list[Sheet] = []
    if ours:
        rows = [_row(name, found, ours) for method, name in METHODS.items() if (found := _rows(evaluations, method))]
        head = ["", "real success", "RL in the world model, minus it", "tasks where RL in the world model is worse"]
        made.append(Sheet("Methods", head, rows, _WORTH))
        made.append(_tasks(evaluations, ours))
        if mismatched := _mismatches(evaluations, ours):
            made.append(mismatched)
    return made


def _row(name: str, rows: Sequence[EpisodeResult], ours: Sequence[EpisodeResult]) -> list[str]:
    table = _paired(rows, ours)
    if rows == ours:
        return [name, str(table.before), "", ""]
    worse = ", ".join(row.task for row in table.rows if row.worse)
    return [name, str(table.before), str(table.difference), worse]


def _tasks(evaluations: Path, ours: Sequence[EpisodeResult]) -> Sheet:
    """Real success by task, a column a method."""
    tables = {name: _paired(rows, ours) for method, name in METHODS.items() if (rows := _rows(evaluations, method))}
    first = next(iter(tables.values()))
    lines = [[row.task, *(str(table.rows[i].before) for table in tables.values())] for i, row in enumerate(first.rows)]
    return Sheet("By task", ["task", *tables], lines, "Wilson intervals, all seeds together.")


def _mismatches(evaluations: Path, ours: Sequence[EpisodeResult]) -> Sheet | None:
    """RL in simulators that are ever more wrong."""
    rows = []
    for file in sorted(evaluations.glob("rl-simulator-mismatch-*.json")):
        found = _read(file)
        rows.append([file.stem.rpartition("-")[2], *_row("", found, _same(ours, found))[1:]])
    head = ["mismatch", "real success", "RL in the world model, minus it", "tasks where it is worse"]
    said = "One seed each; at 0 the simulator is the real environment, without randomisation."
    return Sheet("RL in the simulator, by its mismatch", head, rows, said) if rows else None


def _paired(rows: Sequence[EpisodeResult], ours: Sequence[EpisodeResult]) -> SuccessTable:
    return success_table(_same(rows, ours), _same(ours, rows))


def _same(rows: Sequence[EpisodeResult], others: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """The episodes whose task, layout and seed are among the others'."""
    there = {(r.task, r.layout, r.seed) for r in others}
    return [r for r in rows if (r.task, r.layout, r.seed) in there]


def _rows(evaluations: Path, method: str) -> list[EpisodeResult]:
    """Every episode of a method's cells, seed after seed."""
    return [row for file in _files(evaluations, method) for row in _read(file)]


def _files(folder: Path, name: str) -> list[Path]:
    """The files of a name's cells, seed after seed."""
    return [f for f in sorted(folder.glob(f"{name}-*.json")) if f.stem.removeprefix(f"{name}-").isdigit()]


def _read(file: Path, key: str = "policy") -> list[EpisodeResult]:
    rows: list[dict[str, Any]] = json.loads(file.read_text()).get(key, [])
    return [EpisodeResult(r["task"], r["layout"], r["seed"], r["success"], 0) for r in rows]


# ---------------------------------------------------------------- diverse training


def diverse(places: Path) -> list[Sheet]:
    """What policies do that were trained from diverse starts, in every place; the files lie in that folder."""
    found = {name: files for name in DIVERSE if (files := _files(places, name))}
    if not found:
        return []
    rows = [[DIVERSE[name], *(_in_place(place, files, found.get(_BASE)) for place in PLACES)]
            for name, files in found.items()]  # fmt: skip
    note = "After the semicolon: minus RL in the wide world from plain starts, on the same layouts."
    return [Sheet("Diverse training", ["", *PLACES.values()], rows, note)]


def _in_place(place: str, files: Sequence[Path], base: Sequence[Path] | None) -> str:
    rows = [row for file in files for row in _read(file, place)]
    if not rows:
        return ""
    others = [row for file in base or files for row in _read(file, place)]
    own = str(_paired(rows, rows).after)
    return own if not base or files == base else f"{own}; {_short(_paired(others, rows).difference)}"


def _short(difference: Difference) -> str:
    """Points with their interval, without the number of pairs."""
    return str(difference).partition(" (")[0].replace(" points", "")


# ---------------------------------------------------------------- new scenes


def scenes(file: Path) -> list[Sheet]:
    """What test-time training wins in its scene and costs elsewhere, by remedy."""
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    rows, each = [], dict[str, dict[str, str]]()
    for remedy, name in REMEDIES.items():
        own = [row for row in found if row["remedy"] == remedy]
        if not own:
            continue
        scene = success_table(_of_scenes(own, "scene_before"), _of_scenes(own, "scene_after"))
        other = success_table(_of_others(own, "before"), _of_others(own, "after"))
        worse = ", ".join(row.task for row in other.rows if row.worse)
        own_scene = [str(scene.before), str(scene.after), _short(scene.difference)]
        rows.append([name, *own_scene, _short(other.difference), worse])
        for row in scene.rows:
            each.setdefault(row.task, {"": str(row.before)})[name] = str(row.after)
    if not rows:
        return []
    head = ["", "this scene before", "after", "difference", "all other tasks, after minus before", "worse tasks"]
    said = "Real episodes; this scene sampled, the others greedy on layouts of their own, the same for every remedy."
    said += " Intervals of the others take the scenes for independent, though the policy before is the same in each."
    names = [row[0] for row in rows]
    lines = [[scene, *(cells.get(name, "") for name in ("", *names))] for scene, cells in each.items()]
    return [
        Sheet("Test-time training on new scenes, and what it forgets", head, rows, said),
        Sheet("Scene by scene", ["scene", "before", *names], lines, "Success in the scene, sampled."),
    ]


def _of_scenes(rows: Sequence[dict[str, Any]], when: str) -> list[EpisodeResult]:
    """Episodes in the scenes, each scene a task of its own."""
    return [
        EpisodeResult(f"{row['task']} {row['layout']}", i, 0, success, 0)
        for row in rows
        for i, success in enumerate(row[when])
    ]


def _of_others(rows: Sequence[dict[str, Any]], when: str) -> list[EpisodeResult]:
    """Episodes of the other tasks; the same layouts come again with every scene."""
    return [
        EpisodeResult(task, i, number, success, 0)
        for number, row in enumerate(rows)
        for i, (task, success) in enumerate(zip(row["tasks"], row[when], strict=True))
    ]


# ---------------------------------------------------------------- Dyna


def dyna(out: Path, evaluations: Path) -> list[Sheet]:
    """Dyna by round, and imitation of the same real episodes; OUT/dyna/SEED and OUT/EVALUATIONS."""
    done = sorted((out / "dyna").glob("*/evaluation.json"))
    if not done:
        return []
    before = [row for file in done for row in _read(file, "before")]
    rows = [["before", str(_paired(before, before).before), "", "", ""]]
    number = 1
    while found := [row for file in done for row in _read(file, f"round {number}")]:
        beside = _rows(evaluations, f"beside-{number}")
        after, with_data = _paired(before, found), _paired(beside, before) if beside else None
        against = _paired(beside, found) if beside else None
        rows.append([
            f"round {number}",
            str(after.after),
            str(after.difference),
            str(with_data.before) if with_data else "",
            str(against.difference) if against else "",
        ])  # fmt: skip
        number += 1
    head = ["", "Dyna", "minus before", "imitation of the same real episodes", "Dyna minus it"]
    note = f"{len(done)} seeds. Before: RL in the starter world. Imitation goes on from there, too, on the successes."
    return [Sheet("Dyna by round", head, rows, note)]
