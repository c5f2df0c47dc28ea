"""The files of a run folder as the report needs them: right in type and shape, or one line that says which is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.files import json_object, short
from worldgymnast.records import (
    AGAIN,
    is_number,
    is_verdict,
    is_whole,
    read_metrics,
    read_object,
    read_rows,
    read_sealed,
)

FIDELITY = ("horizon", "psnr", "psnr_low", "psnr_high", "copy", "shuffled")


def metrics_of(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl, null as NaN; lines that are none are passed over."""
    return read_metrics(run / "metrics.jsonl")


def config_of(run: Path) -> dict[str, Any]:
    """The run's config; empty where there is none."""
    return read_object(run / "config.json")


def inside(value: Any, *names: str) -> dict[str, Any]:
    """The object under these names; empty where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def summary_of(run: Path) -> dict[str, Any]:
    """The summary of a finished run; empty where there is none."""
    file = run / "summary.json"
    return read_sealed(file, AGAIN) if file.exists() else {}


def command_of(folders: Sequence[Path]) -> str:
    """The first command line that is noted in one of the folders."""
    for folder in folders:
        file = folder / "command.txt"
        if file.is_file() and (lines := file.read_text(errors="replace").splitlines()):
            return lines[0]
    return ""


def versions_of(folders: Sequence[Path]) -> dict[str, str]:
    """The first versions of software that are noted in one of the folders."""
    for folder in folders:
        if found := read_object(folder / "versions.json"):
            return {name: str(version) for name, version in found.items()}
    return {}


def gate_of(run: Path) -> dict[str, Any]:
    """What the gate found: rates, null as NaN, and "fidelity", lists of numbers that are equally long.

    Raises:
        InputError: one is something else.
    """
    file = run / "gate.json"
    found = read_object(file)
    curves = found.pop("fidelity", None)
    gate: dict[str, Any] = {}
    for name, value in found.items():
        if value is not None and not is_number(value):
            raise InputError(f"{file}: field '{name}': found {short(value)}, expected a number; {AGAIN}")
        gate[name] = math.nan if value is None else float(value)
    kinds = ("imagined_true_positive", "imagined_true_negative", "real_true_positive", "real_true_negative")
    if gate and not all(kind in gate for kind in kinds):
        raise InputError(f"{file}: found {short(sorted(gate))}, expected {', '.join(kinds)}; {AGAIN}")
    return gate | ({"fidelity": _fidelity(file, curves)} if curves else {})


def _fidelity(file: Path, curves: Any) -> dict[str, list[float]]:
    lists = {name: json_object(curves, file, "fidelity").get(name) for name in FIDELITY}
    lengths = {len(one) if isinstance(one, list) else -1 for one in lists.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise InputError(f"{file}: field 'fidelity': found {short(curves)}, expected lists of one length; {AGAIN}")
    made = {}
    for name, one in lists.items():
        assert isinstance(one, list)
        if not all(value is None or is_number(value) for value in one):
            raise InputError(f"{file}: field 'fidelity.{name}': found {short(one)}, expected numbers; {AGAIN}")
        made[name] = [math.nan if value is None else float(value) for value in one]
    return made


def gallery_of(run: Path) -> list[dict[str, Any]]:
    """What is known of the videos of a run; none where there are none."""
    return read_rows(run / "gallery.json", _is_shown)


def _is_shown(row: dict[str, Any]) -> bool:
    """Whether a row describes a pair of videos, in files of this folder."""
    name, fps = row.get("name"), row.get("fps")
    words = all(isinstance(row.get(key), str) for key in ("name", "task", "instruction"))
    numbers = all(row.get(key) is None or is_number(row[key]) for key in ("verdict", "probability"))
    return (
        words
        and Path(str(name)).name == name
        and isinstance(fps, int | float)
        and 0 < fps <= 10_000
        and numbers
        and is_verdict(row.get("real_success"))
        and (row.get("layout") is None or is_whole(row["layout"]))
    )


def budget_of(summary: Mapping[str, Any]) -> dict[str, int]:
    """Real episodes by kind that went into the starter."""
    return {kind: count for kind, count in inside(summary, "starter_budget").items() if is_whole(count)}
