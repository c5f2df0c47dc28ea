"""Everything that can be said of a LeRobotDataset without decoding a picture, once for every reader and the check.

An error stops a reader; the check prints all of them. A warning is something that readers accept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldgymnast.episodes.findings import Finding
from worldgymnast.episodes.lerobot_layout import EPISODE_LINES, INFO, Layout
from worldgymnast.episodes.lerobot_range import RANGE, fit_range
from worldgymnast.episodes.lerobot_rows import Rows, misfit, read_rows, tried, uneven
from worldgymnast.episodes.lerobot_spec import STATS
from worldgymnast.episodes.lerobot_splits import SPLITS
from worldgymnast.episodes.lerobot_tasks import TASK_FILES, read_tasks, tasks_file
from worldgymnast.errors import InputError
from worldgymnast.files import read_json_lines, read_json_object, short, visible

_STATS_LINES = "meta/episodes_stats.jsonl"
STEPS = "time between rows"
SAID = (STEPS, RANGE, SPLITS)
"""The fields of the warnings that readers print, too: what a world learns from such rows is not what they say."""

_NAMED = 5


@dataclass
class Survey:
    """What was found.

    Attributes:
        layout: the metadata, with a range of the actions that holds the rows.
        rows: the rows of the episodes that can be read, by number.
        errors: what stops a reader.
        warnings: what a person should know.
    """

    layout: Layout
    rows: list[Rows] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def warn(self, file: Path, what: str, found: str, expected: str, hint: str) -> None:
        """Notes a warning."""
        self.warnings.append(Finding("warning", str(file), what, found, expected, hint))


def survey(found: Layout, state: bool = False) -> Survey:
    """Looks through metadata and rows; `state` reads the state, too."""
    made = Survey(found)
    _episodes(found, made)
    _other_version(found, made)
    _totals(found, made)
    _statistics(found, made)
    tasks = tried(lambda: read_tasks(found.root, found.old), made.errors.append)
    made.rows = read_rows(found, tasks, made.errors.append, state)
    _tasks(found, made)
    wrong = misfit(made.rows, found.fps, found.root / INFO)
    if wrong is not None:
        made.errors.append(wrong)
    _times(found, made)
    _unlisted(found, made)
    made.layout, warning = fit_range(found, made.rows)
    made.warnings += [warning] if warning else []
    if found.splits.found:
        made.warn(found.root / INFO, SPLITS, found.splits.found, "train alone", found.splits.hint)
    if found.depth:
        hint = "depth maps are left out; name them with --image-key"
        made.warn(found.root / INFO, "cameras", ", ".join(found.depth), "color", hint)
    return made


def _episodes(found: Layout, made: Survey) -> None:
    """Episode numbers: each once; gaps are episodes that were removed."""
    counts = Counter(record.index for record in found.listed)
    twice = sorted(index for index, count in counts.items() if count > 1)
    if twice:
        files = sorted({str(record.meta) for record in found.listed if record.index == twice[0]})
        made.errors.append(
            InputError(
                f"{files[-1]}: episode_index: found {_some(twice)} listed twice ({', '.join(files)}), expected each "
                "number once; several data sets lie in one folder: give each a folder of its own"
            )
        )
    gaps = sorted(set(range(max(counts) + 1)) - set(counts)) if max(counts) < 10**7 else []
    if gaps:
        hint = "they are left out; copy meta/ again unless they were removed"
        made.warn(found.root / "meta", "episode_index", f"no episode {_some(gaps)}", f"0 to {max(counts)}", hint)


def _some(numbers: Sequence[object]) -> str:
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return ", ".join(map(str, numbers[:_NAMED])) + more


def _other_version(found: Layout, made: Survey) -> None:
    """Metadata of the other version beside those that are read: an old copy of the same episodes, or another set."""
    lines = found.root / EPISODE_LINES
    tables = visible((found.root / "meta/episodes").glob("*/*.parquet"))
    other = tables[:1] if found.old else [lines] * lines.is_file()
    if not other:
        return
    same = False
    if not found.old:
        try:
            said = {line.get("episode_index"): line.get("length") for line in read_json_lines(lines)}
            same = said == {record.index: record.rows for record in found.listed}
        except InputError:
            same = False
    expected = f"the metadata of {found.version} alone, as {INFO} says"
    if same:
        made.warn(other[0], "episodes", "an older list of the same episodes", expected, "remove it")
        return
    made.errors.append(
        InputError(
            f"{other[0]}: found the list of another data set, expected {expected}; several data sets lie in one "
            "folder: give each a folder of its own"
        )
    )


def _totals(found: Layout, made: Survey) -> None:
    """The totals of info.json: fewer episodes than they say were removed; more came from elsewhere."""
    path = found.root / INFO
    counts = {"total_episodes": len(found.listed), "total_frames": sum(record.rows for record in found.listed)}
    for name, count in counts.items():
        said = found.info.get(name)
        if said == count:
            continue
        if isinstance(said, int | float) and said < count:
            made.errors.append(
                InputError(
                    f"{path}: {name}: found {short(said)}, expected {count} by the episodes' list; if all of them "
                    "belong to this data set correct it, otherwise give each data set a folder of its own"
                )
            )
            continue
        hint = "correct it if episodes were removed; otherwise copy meta/ again"
        made.warn(path, name, short(said), f"{count} by the episodes' list", hint)


def _statistics(found: Layout, made: Survey) -> None:
    """Statistics, which LeRobot needs; a foreign data set's range was read off them."""
    stats, lines = found.root / STATS, found.root / _STATS_LINES
    if not stats.is_file() and not lines.is_file():
        hint = "taken from the rows; LeRobot cannot train without: recompute them there, or convert it again"
        made.warn(stats, "statistics", "no such file", "min, max, mean and std a feature", hint)
    elif stats.is_file():
        tried(lambda: read_json_object(stats), made.errors.append)


def _tasks(found: Layout, made: Survey) -> None:
    """A missing table of tasks: rows that name them by number have no sentence then."""
    path = tasks_file(found.root, found.old)
    if any((found.root / name).is_file() for name in TASK_FILES):
        return
    if any(one.is_numbered for one in made.rows):
        said = "found no such file, expected the sentences by number, which the rows name"
        made.errors.insert(0, InputError(f"{path}: tasks: {said}; copy the folder again, or convert it again"))
        return
    made.warn(path, "tasks", "no such file", "the sentences by number", "LeRobot needs it; convert the data set again")


def _times(found: Layout, made: Survey) -> None:
    """Times between rows, and rows without any."""
    path = found.root / INFO
    odd = {one.record.index: steps for one in made.rows if (steps := uneven(one, found.fps))}
    if odd:
        low, high = min(low for low, _ in odd.values()), max(high for _, high in odd.values())
        text = f"{low:.3g} to {high:.3g} s in {len(odd)} of {len(found.records)} episodes ({_some(list(odd))})"
        hint = "rows were dropped or late: frames are those at the rows' times, but an action may span several frames"
        made.warn(path, STEPS, text, f"{1 / found.fps:.3g} s throughout", hint)
    if untimed := [one.record.index for one in made.rows if not one.is_timed]:
        text = f"none in {len(untimed)} episodes ({_some(untimed)})"
        hint = f"taken as row by row at {found.fps:g} fps"
        made.warn(path, "timestamp", text, "the time of each row", hint)
    if short_ones := [one.record.index for one in made.rows if len(one.index) == 1]:
        text = f"one frame and no action in {len(short_ones)} episodes ({_some(short_ones)})"
        made.warn(path, "episode length", text, "at least 2 frames", "nothing can be learned from them; remove them")


def _unlisted(found: Layout, made: Survey) -> None:
    """Data files that no episode is listed in."""
    used = {record.data.resolve() for record in found.listed}
    folder = found.root / "data"
    files = visible(path for path in folder.rglob("*.parquet")) if folder.is_dir() else []
    if rest := [path for path in files if path.resolve() not in used]:
        text = f"{len(rest)} ({_some([str(path.relative_to(found.root)) for path in rest])})"
        hint = "they are left out; copy meta/ again unless their episodes were removed"
        made.warn(folder, "files without a listed episode", text, "none", hint)
