"""The JSON files of a run folder, read back: metrics, summaries, outcomes.

A process that is killed, a full disk or a bad cable leaves half lines, zero bytes and flipped bits. What can be passed
over is passed over and said; anything else is one line. Files with a hash of their content are checked against it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.files import json_object, parse_json, read_json, read_json_object, short

Row = dict[str, Any]
HASH = "sha256"
"""The field that holds the hash of the others."""
UNPLAYED = "imagined.json"
"""In a run folder: outcomes of layouts that were imagined and not played."""
DECISIONS = "decisions.json"
"""In a run folder: which rounds replaced the policy that is kept, and why."""
AGAIN = "remove it and run the same command again"
_LARGEST_STEP = 2**53


# ---------------------------------------------------------------- metrics


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics file by step, null as NaN; none where there is no file.

    A line that is no row is passed over with a note on stderr; so is a last line without an end, without a note: a
    kill leaves one. Of a step that was logged twice the later row counts.
    """
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(_lines(file), 1):
        if (row := _metrics_row(line)) is not None:
            rows[int(row["step"])] = row
        elif line.strip(b"\0 \r\t"):
            _note(f"{file}: line {number} passed over: found no row of metrics")
    return [rows[step] for step in sorted(rows)]


@functools.cache
def _note(line: str) -> None:
    """Says it on stderr, once in a process."""
    print(line, file=sys.stderr)


def metrics_before(file: Path, step: int) -> bytes:
    """The lines of the steps before `step`, without those that are no rows."""
    rows = [(line, _metrics_row(line)) for line in _lines(file)]
    return b"".join(line + b"\n" for line, row in rows if row is not None and row["step"] < step)


def _lines(file: Path) -> list[bytes]:
    """The complete lines of a file."""
    if not file.is_file():
        return []
    try:
        return file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions and the disk") from error


def _metrics_row(line: bytes) -> dict[str, float] | None:
    """A line of metrics: an object with a whole step, everything else a number or null."""
    try:
        row = parse_json(line, "metrics")
    except InputError:
        return None
    if not isinstance(row, dict) or not is_whole(row.get("step"), _LARGEST_STEP):
        return None
    if not all(value is None or is_number(value) for value in row.values()):
        return None
    return {name: value if _is_finite(value) else math.nan for name, value in row.items()}


def _is_finite(value: Any) -> bool:
    return value is not None and abs(value) <= sys.float_info.max


# ---------------------------------------------------------------- files with a hash


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the hash of its content beside it."""
    return {**value, HASH: _hash(value)}


def read_sealed(file: Path, hint: str) -> dict[str, Any]:
    """A JSON object without its hash, which is checked where there is one.

    Raises:
        InputError: it is no JSON object, or not the one that was written; the message ends in `hint`.
    """
    found = read_json_object(file, hint)
    expected = found.pop(HASH, None)
    if expected is not None and _hash(found) != expected:
        raise InputError(f"{file}: damaged: its content is not what was written; {hint}")
    return found


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(value), sort_keys=True).encode()).hexdigest()


def read_state(file: Path, step: int) -> tuple[dict[str, Any], str | None]:
    """The state of the checkpoint of a step, and the hash that it and its tensors should have, where there is one.

    Raises:
        InputError: it is no state, or that of another step.
    """
    hint = "an earlier checkpoint is used where there is one"
    saved = read_json_object(file, hint)
    if not is_whole(saved.get("step")) or saved["step"] != step:
        raise InputError(f"{file}: field 'step': found {short(saved.get('step'))}, expected {step}; {hint}")
    expected = saved.get(HASH)
    if expected is not None and not isinstance(expected, str):
        raise InputError(f"{file}: field '{HASH}': found {short(expected)}, expected text; {hint}")
    return json_object(saved.get("state"), file, "state", hint), expected


# ---------------------------------------------------------------- outcomes


def read_outcomes(file: Path) -> dict[str, list[Row]]:
    """Rows of episodes by policy or place; none where there is no file.

    Raises:
        InputError: the file, or a row in it, is not what an evaluation writes.
    """
    if not file.exists():
        return {}
    found = read_json_object(file, AGAIN)
    for name, rows in found.items():
        check_rows(rows, f"{file}: '{short(name)}'", is_outcome)
    return found


def read_rows(file: Path, is_right: Callable[[Any], bool] = lambda _: True) -> list[Row]:
    """A list of rows; none where there is no file.

    Raises:
        InputError: the file holds no list of objects, or `is_right` is false for one.
    """
    if not file.exists():
        return []
    rows = read_json(file, AGAIN)
    check_rows(rows, file, is_right)
    return rows


def check_rows(rows: Any, where: str | Path, is_right: Callable[[Any], bool]) -> None:
    """Raise `InputError` unless `rows` is a list of objects for which `is_right` holds."""
    if not isinstance(rows, list):
        raise InputError(f"{where}: found {short(rows)}, expected a list of rows; {AGAIN}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not is_right(row):
            raise InputError(f"{where}: row {number}: found {short(row)}, expected the row of an episode; {AGAIN}")


def is_outcome(row: Row) -> bool:
    """Whether a row says where an episode took place and how it ended."""
    return (
        isinstance(row.get("task"), str)
        and is_whole(row.get("layout"))
        and is_whole(row.get("seed"))
        and is_verdict(row.get("success", 0))
        and is_verdict(row.get("imagined"))
        and is_whole(row.get("frames", 0))
    )


def is_scene(row: Row) -> bool:
    """Whether a row holds the outcomes of one test-time training: in its scene and in those of other tasks."""
    lists: list[Any] = [row.get(name) for name in ("scene_before", "scene_after", "tasks", "before", "after")]
    if not all(isinstance(one, list) for one in lists):
        return False
    own_before, own_after, tasks, before, after = lists
    places = isinstance(row.get("task"), str) and isinstance(row.get("remedy"), str) and is_whole(row.get("layout"))
    known = all(map(is_verdict, [*own_before, *own_after, *before, *after]))
    equal = len(own_before) == len(own_after) and len(tasks) == len(before) == len(after)
    return places and known and equal and all(isinstance(task, str) for task in tasks)


def read_seconds(file: Path) -> dict[str, float]:
    """Seconds by name; a file that is damaged counts as none, with a note: they are for reading only."""
    if not file.exists():
        return {}
    try:
        found = read_json_object(file, "its times are left out")
    except InputError as error:
        print(error, file=sys.stderr)
        return {}
    return {name: value for name, value in found.items() if is_number(value) and 0 <= value < math.inf}


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file."""
    return json_object(read_json(file, AGAIN), file, hint=AGAIN) if file.exists() else {}


def is_verdict(value: Any) -> bool:
    """Whether it is an outcome: true, false, or null where it is unknown."""
    return value is None or isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any, most: int = 2**63 - 1) -> bool:
    """Whether it is a whole number from 0 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
