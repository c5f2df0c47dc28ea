"""Validate a LeRobotDataset without decoding frames, for all readers and the check.

Readers stop at the first error; the check prints all of them. Readers accept warnings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldgymnast.episodes.findings import Finding
from worldgymnast.episodes.lerobot_layout import EPISODE_LINES, INFO, Layout
from worldgymnast.episodes.lerobot_range import RANGE, fit_range
from worldgymnast.episodes.lerobot_rows import Rows, call_reporting, rate_error, read_rows, uneven_steps
from worldgymnast.episodes.lerobot_spec import STATS
from worldgymnast.episodes.lerobot_splits import SPLITS
from worldgymnast.episodes.lerobot_tasks import TASK_FILES, read_tasks, tasks_file
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_lines, read_json_object, short, visible

_STATS_LINES = "meta/episodes_stats.jsonl"
STEPS = "time between rows"
PRINTED = (STEPS, RANGE, SPLITS)
"""Fields of the warnings that readers print as well, since they affect what a world model learns."""

_MAX_NAMED = 5


@dataclass
class Survey:
    """The result of a survey.

    Attributes:
        layout: the metadata, with an action range that includes the rows.
        rows: the rows of the readable episodes, sorted by number.
        errors: problems that stop a reader.
        warnings: problems that do not.
    """

    layout: Layout
    rows: list[Rows] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def warn(self, file: Path, what: str, found: str, expected: str, hint: str) -> None:
        """Add a warning."""
        self.warnings.append(Finding("warning", str(file), what, found, expected, hint))


def survey(layout: Layout, read_state: bool = False) -> Survey:
    """Validate metadata and rows.

    Args:
        layout: the metadata.
        read_state: whether to read the state.
    """
    result = Survey(layout)
    _check_numbers(layout, result)
    _check_other_version(layout, result)
    _check_totals(layout, result)
    _check_statistics(layout, result)
    tasks = call_reporting(lambda: read_tasks(layout.root, layout.is_v2), result.errors.append)
    result.rows = read_rows(layout, tasks, result.errors.append, read_state)
    _check_tasks(layout, result)
    error = rate_error(result.rows, layout.fps, layout.root / INFO)
    if error is not None:
        result.errors.append(error)
    _check_times(layout, result)
    _check_unlisted_files(layout, result)
    result.layout, warning = fit_range(layout, result.rows)
    result.warnings += [warning] if warning else []
    if layout.splits.found:
        result.warn(layout.root / INFO, SPLITS, layout.splits.found, "only train", layout.splits.hint)
    if layout.skipped_depth:
        hint = "depth maps are skipped; name them with --image-key to read them"
        result.warn(layout.root / INFO, "cameras", ", ".join(layout.skipped_depth), "color", hint)
    return result


def _check_numbers(layout: Layout, result: Survey) -> None:
    """Check episode numbers: duplicates are errors, gaps are removed episodes."""
    counts = Counter(record.index for record in layout.all_records)
    duplicates = sorted(index for index, count in counts.items() if count > 1)
    if duplicates:
        files = sorted({str(record.meta) for record in layout.all_records if record.index == duplicates[0]})
        result.errors.append(
            InputError(
                f"{files[-1]}: episode_index: found {_enumerate(duplicates)} listed twice ({', '.join(files)}), "
                "expected each number once; move each dataset into a separate folder"
            )
        )
    gaps = sorted(set(range(max(counts) + 1)) - set(counts)) if max(counts) < 10**7 else []
    if gaps:
        hint = "they are skipped; copy meta/ again unless they were removed"
        result.warn(
            layout.root / "meta", "episode_index", f"no episode {_enumerate(gaps)}", f"0 to {max(counts)}", hint
        )


def _enumerate(items: Sequence[object]) -> str:
    more = f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else ""
    return ", ".join(map(str, items[:_MAX_NAMED])) + more


def _check_other_version(layout: Layout, result: Survey) -> None:
    """Check for metadata of the other version."""
    lines = layout.root / EPISODE_LINES
    tables = visible((layout.root / "meta/episodes").glob("*/*.parquet"))
    others = tables if layout.is_v2 else [path for path in (lines,) if path.is_file()]
    if not others:
        return
    is_copy = False
    if not layout.is_v2:
        try:
            lengths = {line.get("episode_index"): line.get("length") for line in read_json_lines(lines)}
            is_copy = lengths == {record.index: record.rows for record in layout.all_records}
        except InputError:
            is_copy = False
    expected = f"the metadata of {layout.version} only, according to {INFO}"
    if is_copy:
        result.warn(others[0], "episodes", "an older list of the same episodes", expected, "remove it")
        return
    result.errors.append(
        InputError(
            f"{others[0]}: found the list of another dataset, expected {expected}; move each dataset into a separate "
            "folder"
        )
    )


def _check_totals(layout: Layout, result: Survey) -> None:
    """Check the totals of info.json against the list of episodes."""
    path = layout.root / INFO
    records = layout.all_records
    counts = {"total_episodes": len(records), "total_frames": sum(record.rows for record in records)}
    for name, count in counts.items():
        total = layout.info.get(name)
        if total == count:
            continue
        if isinstance(total, int | float) and total < count:
            result.errors.append(
                InputError(
                    f"{path}: {name}: found {short(total)}, expected {count} by the list of episodes; correct it if "
                    "all of them belong to this dataset, otherwise move each dataset into a separate folder"
                )
            )
            continue
        hint = "correct it if episodes were removed; otherwise copy meta/ again"
        result.warn(path, name, short(total), f"{count} by the list of episodes", hint)


def _check_statistics(layout: Layout, result: Survey) -> None:
    """Check for statistics, which LeRobot requires."""
    stats, lines = layout.root / STATS, layout.root / _STATS_LINES
    if not stats.is_file() and not lines.is_file():
        hint = "taken from the rows; LeRobot cannot train without: recompute them there, or convert it again"
        result.warn(stats, "statistics", "no such file", "min, max, mean and std of each feature", hint)
    elif stats.is_file():
        call_reporting(lambda: read_json_object(stats), result.errors.append)


def _check_tasks(layout: Layout, result: Survey) -> None:
    """Check for the tasks table, without which task numbers have no sentences."""
    path = tasks_file(layout.root, layout.is_v2)
    if any((layout.root / name).is_file() for name in TASK_FILES):
        return
    if any(rows.has_task_index for rows in result.rows):
        problem = "found no such file, expected the sentences by number, which the rows refer to"
        result.errors.insert(0, InputError(f"{path}: tasks: {problem}; copy the folder again, or convert it again"))
        return
    hint = "LeRobot needs it; convert the dataset again"
    result.warn(path, "tasks", "no such file", "the sentences by number", hint)


def _check_times(layout: Layout, result: Survey) -> None:
    """Check times between rows, missing times, and episodes of one frame."""
    path = layout.root / INFO
    uneven = {rows.record.index: steps for rows in result.rows if (steps := uneven_steps(rows, layout.fps))}
    if uneven:
        low, high = min(low for low, _ in uneven.values()), max(high for _, high in uneven.values())
        affected = f"{len(uneven)} of {len(layout.records)} episodes ({_enumerate(list(uneven))})"
        hint = "rows were dropped or late: frames are those at the rows' times, but an action may span several frames"
        text = f"{low:.3g} to {high:.3g} s in {affected}"
        result.warn(path, STEPS, text, f"{1 / layout.fps:.3g} s throughout", hint)
    if untimed := [rows.record.index for rows in result.rows if not rows.is_timed]:
        text = f"none in {len(untimed)} episodes ({_enumerate(untimed)})"
        hint = f"the times are computed from the order at {layout.fps:g} fps"
        result.warn(path, "timestamp", text, "the time of each row", hint)
    if single := [rows.record.index for rows in result.rows if len(rows.index) == 1]:
        text = f"one frame and no action in {len(single)} episodes ({_enumerate(single)})"
        result.warn(path, "episode length", text, "at least 2 frames", "they have no training pair; remove them")


def _check_unlisted_files(layout: Layout, result: Survey) -> None:
    """Check for data files without listed episodes."""
    used = {record.data.resolve() for record in layout.all_records}
    folder = layout.root / "data"
    files = visible(path for path in folder.rglob("*.parquet")) if folder.is_dir() else []
    if unlisted := [path for path in files if path.resolve() not in used]:
        text = f"{len(unlisted)} ({_enumerate([str(path.relative_to(layout.root)) for path in unlisted])})"
        hint = "they are skipped; copy meta/ again unless their episodes were removed"
        result.warn(folder, "files without a listed episode", text, "none", hint)
