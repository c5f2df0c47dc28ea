"""Action spec of a LeRobotDataset, stored or derived from statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from worldgymnast.actions import UNKNOWN, ActionSpec, ActionSpecMismatch, Gripper, Motion, Space, foreign_spec
from worldgymnast.episodes.parquet import read_table, vectors
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, read_json_lines, read_json_object, short, visible

INFO = "meta/info.json"
STATS = "meta/stats.json"
OWN = "worldgymnast"

_MAX_AXES = 10_000
_CHOICES = {
    "frame": ("base", "end_effector", "unknown"),
    "rotation": ("none", "rpy", "axis_angle", "unknown"),
    "gripper": get_args(Gripper),
    "motion": get_args(Motion),
    "space": get_args(Space),
}


def positive(value: Any, name: str, path: Path) -> float:
    """The value as a positive finite number; raises InputError otherwise."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < 2**1023:
        expected = "more than 0" if is_number else "a number more than 0"
        raise InputError(f"{path}: field '{name}': found {short(value)}, expected {expected}; correct it")
    return float(value)


def action_key(features: dict[str, Any]) -> str:
    """Name of the action feature: "action", or "actions" by openpi."""
    return "actions" if "action" not in features and "actions" in features else "action"


def own_field(info: dict[str, Any]) -> str | None:
    """Name of this project's own field in `info`.

    None in a foreign dataset.

    It is part of the action's feature, which LeRobot preserves in edits; before format 2 it was at the top level.
    """
    key = action_key(info["features"])
    if OWN in info:
        return OWN
    return f"features.{key}.{OWN}" if OWN in info["features"].get(key, ()) else None


def _own_block(info: dict[str, Any]) -> Any:
    return info.get(OWN, info["features"].get(action_key(info["features"]), {}).get(OWN))


def own_fps(info: dict[str, Any], path: Path) -> float | None:
    """Fractional frames per second of robot time, which LeRobot cannot store.

    None if not set.
    """
    block = _own_block(info)
    value = block.get("fps") if isinstance(block, dict) else None
    return None if value is None else positive(value, f"{own_field(info)}.fps", path)


def read_spec(root: Path, info: dict[str, Any], version: str, fps: float, max_rows: int) -> ActionSpec:
    """The action spec of a dataset, stored or derived from statistics.

    Args:
        root: the dataset.
        info: content of `meta/info.json`.
        version: version of the format.
        fps: frames per second.
        max_rows: maximum number of rows in a data file.

    Raises:
        InputError: `info` or the statistics are incomplete or invalid; names the file and the field.
    """
    path = root / INFO
    key = action_key(info["features"])
    if key not in info["features"]:
        raise InputError(
            f"{path}: field 'features.action' is missing, found {sorted(info['features'])[:8]}, expected the shape and "
            f"names of the actions; {_rename_hint(info['features'])}"
        )
    feature = info["features"][key]
    shape, names = feature.get("shape"), feature.get("names")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or not 0 < shape[0] <= _MAX_AXES:
        raise InputError(
            f"{path}: field 'features.{key}.shape': found {short(shape)}, expected [number of axes], at most "
            f"{_MAX_AXES}; correct it"
        )
    width = shape[0]
    if (field := own_field(info)) is not None:
        block = dict(json_object(_own_block(info), path, field))
        block["action_spec"] = data = dict(json_object(block.get("action_spec"), path, f"{field}.action_spec"))
        if data.get("unit") == UNKNOWN and "low" not in data and "high" not in data:
            own_axes = axis_names(data.get("axes"), width)
            low, high = recorded_range(root, version, own_axes, key) or _range_of_rows(root, width, key, max_rows)
            data |= {"low": low, "high": high}
        spec = _own_spec(data, path, f"{field}.action_spec")
        expected = f"the {spec.dim} axes of {field}.action_spec; correct the wrong one"
        if width != spec.dim:
            raise InputError(f"{path}: field 'features.action.shape': found {shape}, expected {expected}")
        if isinstance(names, list) and len(names) != spec.dim:
            raise InputError(f"{path}: field 'features.action.names': found {short(names)}, expected {expected}")
        return spec
    axes = axis_names(names, width)
    low, high = recorded_range(root, version, axes, key) or _range_of_rows(root, width, key, max_rows)
    if not len(low) == len(high) == width:
        raise InputError(f"{root / STATS}: field 'action': found {len(low)} numbers, expected {width} as in {INFO}")
    return foreign_spec(axes, low, high, fps)


def _rename_hint(features: dict[str, Any]) -> str:
    """The fix if no feature is named action."""
    similar = [name for name in features if "action" in name.lower()]
    if not similar:
        return "copy the file again"
    return f"rename {similar[0]} to action, here, in {STATS} and in the data files' columns"


def _own_spec(data: dict[str, Any], path: Path, name: str) -> ActionSpec:
    """Parse a spec written by this project.

    Raises InputError if it is invalid.
    """

    def require(is_valid: bool, key: str, value: Any, expected: str) -> None:
        if not is_valid:
            raise InputError(f"{path}: field '{name}.{key}': found {short(value)}, expected {expected}; correct it")

    def is_numeric(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023

    for key, choices in _CHOICES.items():
        require(data.get(key, choices[0]) in choices, key, data.get(key), f"one of {', '.join(choices)}")
    axes, unit, low, high = (data.get(key) for key in ("axes", "unit", "low", "high"))
    require(isinstance(unit, str) and bool(unit.strip()), "unit", unit, "the meaning of 1.0, such as 'm+rad'")
    require(isinstance(axes, list) and all(isinstance(axis, str) for axis in axes), "axes", axes, "a list of names")
    for key, bound in (("low", low), ("high", high)):
        require(isinstance(bound, list) and all(map(is_numeric, bound)), key, bound, "a list of finite numbers")
    if data.get("rate") is not None:
        positive(data["rate"], f"{name}.rate", path)
    try:
        spec = ActionSpec.from_dict(data)
    except (TypeError, ActionSpecMismatch) as error:
        raise InputError(f"{path}: field '{name}' is not a valid action spec ({error}); write it again") from error
    for axis, minimum, maximum in zip(spec.axes, spec.low, spec.high, strict=True):
        require(minimum <= maximum, "low", minimum, f"at most {maximum}, the 'high' of axis '{axis}'")
    return spec


def axis_names(names: Any, width: int) -> tuple[str, ...]:
    """Axis names from any of the forms that LeRobot datasets use.

    Numbered otherwise.

    >>> axis_names({"motors": ["shoulder", "elbow"]}, 2), axis_names(None, 2)
    (('shoulder', 'elbow'), ('a0', 'a1'))
    """
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        if not lists and all(isinstance(value, int) for value in names.values()):
            lists = [sorted(names, key=lambda name: names[name])]
        names = [name for part in lists for name in part]
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    if isinstance(names, list) and len(names) == width:
        return tuple(str(name) for name in names)
    return tuple(f"a{index}" for index in range(width))


def recorded_range(root: Path, version: str, axes: Sequence[str], key: str) -> tuple[list[float], list[float]] | None:
    """Minimum and maximum of each action axis from the statistics.

    None if missing.

    Raises:
        InputError: the statistics are not finite numbers.
    """
    path = stats_file(root, version)
    if path.suffix == ".jsonl":
        lines = [json_object(line.get("stats", {}), path, "stats") for line in read_json_lines(path)]
        parts = [line.get(key) for line in lines]
    else:
        parts = [read_json_object(path).get(key)] if path.is_file() else []
    stats = [part for part in map(_by_statistic, parts) if part is not None]
    if not stats or len(stats) < len(parts):
        return None
    try:
        lows, highs = (np.array([_numbers(part[name], axes) for part in stats], float) for name in ("min", "max"))
        reversed_at = np.argwhere(lows > highs)
        low, high = lows.min(axis=0), highs.max(axis=0)
        is_finite = bool(np.isfinite(np.array([low, high], float)).all())
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: field 'action': min and max are not numeric ({error}); copy the file again"
        ) from error
    if len(reversed_at):
        raise _reversed_range(path, key, axes, reversed_at[0], lows, highs)
    if not is_finite:
        raise InputError(
            f"{path}: field 'action': min or max is NaN or infinite, expected finite numbers (they are the actions' "
            "range); remove the episodes with such actions and recompute the statistics"
        )
    return low.tolist(), high.tolist()


def stats_file(root: Path, version: str) -> Path:
    """The file with the statistics: per episode (v2.1), or of the dataset."""
    per_episode = root / "meta/episodes_stats.jsonl"
    return per_episode if version.startswith("v2.") and per_episode.is_file() else root / STATS


def _reversed_range(
    path: Path, key: str, axes: Sequence[str], index: np.ndarray, lows: np.ndarray, highs: np.ndarray
) -> InputError:
    """The error of a minimum above the maximum at `index` (part, axis)."""
    line = f"line {index[0] + 1}: " if path.suffix == ".jsonl" else ""
    axis = axes[index[1]] if index[1] < len(axes) else str(index[1])
    return InputError(
        f"{path}: {line}field '{key}': found min {lows[tuple(index)]:.6g} above max {highs[tuple(index)]:.6g} on axis "
        f"'{axis}', expected the actions' range; recompute the statistics, or remove the file"
    )


def _by_statistic(part: Any) -> dict[str, Any] | None:
    """{"min": ..., "max": ...} of a feature, also if grouped by motor.

    None otherwise.
    """
    if not isinstance(part, dict):
        return None
    if "min" in part and "max" in part:
        return part
    if part and all(isinstance(value, dict) and "min" in value and "max" in value for value in part.values()):
        return {name: {motor: value[name] for motor, value in part.items()} for name in ("min", "max")}
    return None


def _numbers(value: Any, axes: Sequence[str]) -> np.ndarray:
    """Flatten nested lists or objects by motor to float64 [n]."""
    if isinstance(value, dict):
        order = axes if set(value) == set(axes) else list(value)
        value = [value[name] for name in order]
    if not isinstance(value, list):
        return np.array([value], float)
    return np.concatenate([_numbers(entry, axes) for entry in value]) if value else np.zeros(0)


def _range_of_rows(root: Path, width: int, key: str, max_rows: int) -> tuple[list[float], list[float]]:
    """Minimum and maximum of each action axis over the rows."""
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for path in visible((root / "data").rglob("*.parquet")):
        rows = vectors(read_table(path, [key], max_rows=max_rows), key, path, width)
        if len(rows):
            low, high = np.fmin(low, np.fmin.reduce(rows)), np.fmax(high, np.fmax.reduce(rows))
    if not np.isfinite([low, high]).all():
        raise InputError(
            f"{root / STATS}: no statistics for 'action', and no rows with finite numbers in {root / 'data'}, expected "
            "its min and max (they are its range); recompute the dataset's statistics with LeRobot"
        )
    return low.tolist(), high.tolist()
