"""Other tables of `python -m studies.tables`: diverse training, new scenes, Dyna by round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.report_methods import files_of, paired, read, rows_of
from worldgymnast.evaluation.success import Difference, EpisodeResult, success_table
from worldgymnast.records import is_scene, read_rows
from worldgymnast.report.world import Sheet

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
REMEDIES = {
    "none": "no remedy",
    "replay": "replay of other scenes",
    "anchor": "KL anchor",
    "both": "replay and KL anchor",
}

# ---------------------------------------------------------------- diverse training


def diverse(places: Path) -> list[Sheet]:
    """Make the table of diverse training from the files in a folder."""
    found = {name: files for name in DIVERSE if (files := files_of(places, name))}
    if not found:
        return []
    rows = [
        [DIVERSE[name], *(_in_place(place, files, found.get(_BASE)) for place in PLACES)]
        for name, files in found.items()
    ]
    note = "After the semicolon: difference to RL in the wide world from plain starts, on the same layouts."
    return [Sheet("Diverse training", ["", *PLACES.values()], rows, note)]


def _in_place(place: str, files: Sequence[Path], base: Sequence[Path] | None) -> str:
    rows = [row for file in files for row in read(file, place)]
    if not rows:
        return ""
    others = [row for file in base or files for row in read(file, place)]
    own = str(paired(rows, rows).after)
    return own if not base or files == base else f"{own}; {_short(paired(others, rows).difference)}"


def _short(difference: Difference) -> str:
    """Format points with their interval, without the number of pairs."""
    return str(difference).partition(" (")[0].replace(" points", "")


# ---------------------------------------------------------------- new scenes


def scenes(file: Path) -> list[Sheet]:
    """Make the tables of test-time training: gain in the scene and cost elsewhere, by remedy."""
    found = read_rows(file, is_scene)
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
    note = "Real episodes; this scene sampled, the others greedy on other layouts, the same for every remedy."
    note += " Intervals of the others treat scenes as independent, though they share the policy before."
    names = [row[0] for row in rows]
    lines = [[scene, *(cells.get(name, "") for name in ("", *names))] for scene, cells in each.items()]
    return [
        Sheet("Test-time training on new scenes, and what it forgets", head, rows, note),
        Sheet("Scene by scene", ["scene", "before", *names], lines, "Success in the scene, sampled."),
    ]


def _of_scenes(rows: Sequence[dict[str, Any]], when: str) -> list[EpisodeResult]:
    """Return the episodes in the scenes; each scene counts as a task."""
    return [
        EpisodeResult(f"{row['task']} {row['layout']}", i, 0, success, 0)
        for row in rows
        for i, success in enumerate(row[when])
    ]


def _of_others(rows: Sequence[dict[str, Any]], when: str) -> list[EpisodeResult]:
    """Return the episodes of the other tasks; layouts repeat for every scene."""
    return [
        EpisodeResult(task, i, number, success, 0)
        for number, row in enumerate(rows)
        for i, (task, success) in enumerate(zip(row["tasks"], row[when], strict=True))
    ]


# ---------------------------------------------------------------- Dyna


def dyna(out: Path, evaluations: Path) -> list[Sheet]:
    """Make the table of Dyna by round, and of imitation of the same real episodes."""
    done = sorted((out / "dyna").glob("*/evaluation.json"))
    if not done:
        return []
    before = [row for file in done for row in read(file, "before")]
    rows = [["before", str(paired(before, before).before), "", "", ""]]
    number = 1
    while found := [row for file in done for row in read(file, f"round {number}")]:
        beside = rows_of(evaluations, f"beside-{number}")
        after, with_data = paired(before, found), paired(beside, before) if beside else None
        against = paired(beside, found) if beside else None
        rows.append(
            [
                f"round {number}",
                str(after.after),
                str(after.difference),
                str(with_data.before) if with_data else "",
                str(against.difference) if against else "",
            ]
        )
        number += 1
    head = ["", "Dyna", "minus before", "imitation of the same real episodes", "Dyna minus it"]
    seeds = "1 seed" if len(done) == 1 else f"{len(done)} seeds"
    note = f"{seeds}. Before: RL in the starter world. Imitation continues from it on the successes."
    return [Sheet("Dyna by round", head, rows, note)]
