"""Read the JSON files of a run folder: metrics, summaries, outcomes.

Killed processes, full disks and hardware faults leave truncated lines, zero bytes and flipped bits. Damaged parts that
are not essential are skipped with a note; other damage raises a one-line error. Stored content hashes are verified.
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
"""Field with the hash of the other fields."""
COPIED = "copied"
"""Field that is true in rows of a policy that equals an evaluated one: nothing was evaluated for them."""
UNPLAYED = "imagined.json"
"""File with outcomes of layouts that were imagined only."""
DECISIONS = "decisions.json"
"""File that lists the rounds that replaced the kept policy, with reasons."""
OFFLINE = "offline.json"
"""File with what is known of a training without a real environment."""
RESULTS: Mapping[str, str] = {
    "evaluation.json": "real outcomes by policy: rows with task, layout, seed, success (null if unknown), frames, and "
    "success of the same start imagined",
    UNPLAYED: "outcomes of layouts that were imagined only, by policy (`--imagined`)",
    "gate.json": "world model and judge on held-out rollouts, before RL",
    "stages.json": "seconds of each stage",
    "seconds.json": "seconds per episode by policy (best-of)",
    "gallery.json": "videos of the last scoring, imagined and real: name, task, instruction, layout, verdict of the "
    "judge, its probability, real success",
    OFFLINE: "what is known of a training without a real environment",
    DECISIONS: "rounds that replaced the kept policy, with reasons (dyna)",
    "predictions.json": "quality of the predicted outcomes of held-out episodes, before and after (dyna --from)",
    "outcomes.json": "imagined and real outcomes of every policy (agree)",
    "diagnosis.json": "wrong verdicts by cause (diagnose)",
}
"""Files of results in a run folder; those of every run are in `worldgymnast.run`."""
RERUN = "remove it, then rerun the same command"
_MAX_STEP = 2**53


# ---------------------------------------------------------------- metrics


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics file by step, null as NaN.

    Empty without a file.

    An invalid line is skipped with a note on stderr. An unterminated last line, as a kill leaves it, is skipped
    silently. If a step was logged twice, the later row counts.
    """
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(_lines(file), 1):
        if (row := _metrics_row(line)) is not None:
            rows[int(row["step"])] = row
        elif line.strip(b"\0 \r\t"):
            _print_once(f"{file}: line {number} skipped: not a row of metrics")
    return [rows[step] for step in sorted(rows)]


@functools.cache
def _print_once(line: str) -> None:
    """Print a line on stderr, once per process."""
    print(line, file=sys.stderr)


def metrics_before(file: Path, step: int) -> bytes:
    """The lines of the steps before `step`, without invalid ones."""
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
    """Parse a line of metrics: an object with an integer step.

    All other values numbers or null.
    """
    try:
        row = parse_json(line, "metrics")
    except InputError:
        return None
    if not isinstance(row, dict) or not is_count(row.get("step"), _MAX_STEP):
        return None
    if not all(value is None or is_number(value) for value in row.values()):
        return None
    return {name: value if _is_finite(value) else math.nan for name, value in row.items()}


def _is_finite(value: Any) -> bool:
    return value is not None and abs(value) <= sys.float_info.max


# ---------------------------------------------------------------- files with a hash


def with_hash(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the hash of its content added."""
    return {**value, HASH: _hash(value)}


def read_hashed(file: Path, hint: str) -> dict[str, Any]:
    """Read a JSON object and verify its hash, if any.

    Returns it without the hash.

    Raises:
        InputError: not a JSON object, or the hash does not match; the message ends in `hint`.
    """
    value = read_json_object(file, hint)
    expected = value.pop(HASH, None)
    if expected is not None and _hash(value) != expected:
        raise InputError(f"{file}: damaged: the content does not match its {HASH}; {hint}")
    return value


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(value), sort_keys=True).encode()).hexdigest()


def read_state(file: Path, step: int) -> tuple[dict[str, Any], str | None]:
    """The state of a checkpoint and its recorded hash, or None.

    Raises:
        InputError: the file is not a state of that step.
    """
    hint = "an earlier checkpoint is used, if there is one"
    content = read_json_object(file, hint)
    if not is_count(content.get("step")) or content["step"] != step:
        raise InputError(f"{file}: field 'step': found {short(content.get('step'))}, expected {step}; {hint}")
    expected = content.get(HASH)
    if expected is not None and not isinstance(expected, str):
        raise InputError(f"{file}: field '{HASH}': found {short(expected)}, expected text; {hint}")
    return json_object(content.get("state"), file, "state", hint), expected


# ---------------------------------------------------------------- outcomes


def read_outcomes(file: Path) -> dict[str, list[Row]]:
    """Rows of episodes by policy or environment; empty without a file.

    Raises:
        InputError: the file or one of its rows is not the output of an evaluation.
    """
    if not file.exists():
        return {}
    outcomes = read_json_object(file, RERUN)
    for name, rows in outcomes.items():
        check_rows(rows, f"{file}: '{short(name)}'", is_outcome)
    return outcomes


def read_rows(file: Path, is_valid: Callable[[Any], bool] = lambda _: True) -> list[Row]:
    """A list of rows; empty without a file.

    Raises:
        InputError: the file is not a list of objects, or `is_valid` is false for one of them.
    """
    if not file.exists():
        return []
    rows = read_json(file, RERUN)
    check_rows(rows, file, is_valid)
    return rows


def check_rows(rows: Any, where: str | Path, is_valid: Callable[[Any], bool]) -> None:
    """Raise `InputError` unless `rows` is a list of valid objects."""
    if not isinstance(rows, list):
        raise InputError(f"{where}: found {short(rows)}, expected a list of rows; {RERUN}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not is_valid(row):
            raise InputError(f"{where}: row {number}: found {short(row)}, expected the row of an episode; {RERUN}")


def is_outcome(row: Row) -> bool:
    """Whether a row describes an episode and its outcome."""
    return (
        isinstance(row.get("task"), str)
        and is_count(row.get("layout"))
        and is_count(row.get("seed"))
        and is_verdict(row.get("success", 0))
        and is_verdict(row.get("imagined"))
        and is_count(row.get("frames", 0))
    )


def is_scene(row: Row) -> bool:
    """Whether a row has the outcomes of one test-time training."""
    lists: list[Any] = [row.get(name) for name in ("scene_before", "scene_after", "tasks", "before", "after")]
    if not all(isinstance(values, list) for values in lists):
        return False
    scene_before, scene_after, tasks, before, after = lists
    has_names = isinstance(row.get("task"), str) and isinstance(row.get("remedy"), str) and is_count(row.get("layout"))
    has_verdicts = all(map(is_verdict, [*scene_before, *scene_after, *before, *after]))
    has_equal_lengths = len(scene_before) == len(scene_after) and len(tasks) == len(before) == len(after)
    return has_names and has_verdicts and has_equal_lengths and all(isinstance(task, str) for task in tasks)


def read_seconds(file: Path) -> dict[str, float]:
    """Durations in seconds by name.

    Empty with a note if the file is damaged.
    """
    if not file.exists():
        return {}
    try:
        durations = read_json_object(file, "its times are omitted")
    except InputError as error:
        print(error, file=sys.stderr)
        return {}
    return {name: value for name, value in durations.items() if is_number(value) and 0 <= value < math.inf}


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; empty without a file."""
    return json_object(read_json(file, RERUN), file, hint=RERUN) if file.exists() else {}


def is_verdict(value: Any) -> bool:
    """Whether a value is an outcome: true, false, or null for unknown."""
    return value is None or isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a JSON number.

    >>> is_number(1.5), is_number(True), is_number("1.5")
    (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any, limit: int = 2**63 - 1) -> bool:
    """Whether a value is an integer from 0 to `limit`.

    >>> is_count(3), is_count(-1), is_count(True)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit
