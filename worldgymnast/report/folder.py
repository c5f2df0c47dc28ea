"""Validated reading of the files of a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.files import json_object, short
from worldgymnast.records import (
    RERUN,
    is_count,
    is_number,
    is_verdict,
    read_hashed,
    read_metrics,
    read_object,
    read_rows,
)

FIDELITY = ("horizon", "psnr", "psnr_low", "psnr_high", "copy", "shuffled")


def metrics_of(run: Path) -> list[dict[str, float]]:
    """Read the rows of metrics.jsonl, with null as NaN."""
    return read_metrics(run / "metrics.jsonl")


def config_of(run: Path) -> dict[str, Any]:
    """Read the run's config; empty if there is none."""
    return read_object(run / "config.json")


def inside(value: Any, *names: str) -> dict[str, Any]:
    """Return the object under these nested keys; empty if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def summary_of(run: Path) -> dict[str, Any]:
    """Read the summary of a finished run; empty if there is none."""
    file = run / "summary.json"
    return read_hashed(file, RERUN) if file.exists() else {}


def command_of(folders: Sequence[Path]) -> str:
    """Return the first command line recorded in one of the folders."""
    for folder in folders:
        file = folder / "command.txt"
        if file.is_file() and (lines := file.read_text(errors="replace").splitlines()):
            return lines[0]
    return ""


def versions_of(folders: Sequence[Path]) -> dict[str, str]:
    """Return the first software versions recorded in one of the folders."""
    for folder in folders:
        if versions := read_object(folder / "versions.json"):
            return {name: str(version) for name, version in versions.items()}
    return {}


def gate_of(run: Path) -> dict[str, Any]:
    """Read the rates of the gate, and "fidelity" as lists.

    Raises:
        InputError: a value has another type, or one is missing.
    """
    file = run / "gate.json"
    values = read_object(file)
    curves = values.pop("fidelity", None)
    gate: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None and not is_number(value):
            raise InputError(f"{file}: field '{name}': found {short(value)}, expected a number; {RERUN}")
        gate[name] = math.nan if value is None else float(value)
    kinds = ("imagined_true_positive", "imagined_true_negative", "real_true_positive", "real_true_negative")
    if gate and not all(kind in gate for kind in kinds):
        raise InputError(f"{file}: found {short(sorted(gate))}, expected {', '.join(kinds)}; {RERUN}")
    return gate | ({"fidelity": _fidelity(file, curves)} if curves else {})


def _fidelity(file: Path, curves: Any) -> dict[str, list[float]]:
    lists = {name: json_object(curves, file, "fidelity").get(name) for name in FIDELITY}
    lengths = {len(one) if isinstance(one, list) else -1 for one in lists.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise InputError(f"{file}: field 'fidelity': found {short(curves)}, expected lists of one length; {RERUN}")
    fidelity = {}
    for name, one in lists.items():
        assert isinstance(one, list)
        if not all(value is None or is_number(value) for value in one):
            raise InputError(f"{file}: field 'fidelity.{name}': found {short(one)}, expected numbers; {RERUN}")
        fidelity[name] = [math.nan if value is None else float(value) for value in one]
    return fidelity


def gallery_of(run: Path) -> list[dict[str, Any]]:
    """Read the descriptions of a run's videos."""
    return read_rows(run / "gallery.json", _is_pair)


def _is_pair(row: dict[str, Any]) -> bool:
    """Return whether a row describes a pair of videos in this folder."""
    name, fps = row.get("name"), row.get("fps")
    has_texts = all(isinstance(row.get(key), str) for key in ("name", "task", "instruction"))
    has_numbers = all(row.get(key) is None or is_number(row[key]) for key in ("verdict", "probability"))
    return (
        has_texts
        and Path(str(name)).name == name
        and isinstance(fps, int | float)
        and 0 < fps <= 10_000
        and has_numbers
        and is_verdict(row.get("real_success"))
        and (row.get("layout") is None or is_count(row["layout"]))
    )


def budget_of(summary: Mapping[str, Any]) -> dict[str, int]:
    """Return the real episodes by kind that trained the starter components."""
    return {kind: count for kind, count in inside(summary, "starter_budget").items() if is_count(count)}
