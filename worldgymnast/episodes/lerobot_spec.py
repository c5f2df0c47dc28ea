"""What the actions of a LeRobotDataset mean: its own spec, or names and statistics in a foreign one."""

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

_MOST_AXES = 10_000
_WORDS = {
    "frame": ("base", "end_effector", "unknown"),
    "rotation": ("none", "rpy", "unknown"),
    "gripper": get_args(Gripper),
    "motion": get_args(Motion),
    "space": get_args(Space),
}


def positive(value: Any, name: str, path: Path) -> float:
    """`value`, which must be a finite number above 0; raises InputError that names the field."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < 2**1023:
        expected = "more than 0" if number else "a number more than 0"
        raise InputError(f"{path}: field '{name}': found {short(value)}, expected {expected}; correct it")
    return float(value)


def action_key(features: dict[str, Any]) -> str:
    """Name of the action's feature and column: "action", or "actions" as openpi writes it."""
    return "actions" if "action" not in features and "actions" in features else "action"


def own_place(info: dict[str, Any]) -> str | None:
    """The field of `info` with what this project wrote about the actions; None in a foreign data set.

    It is the action's feature, which LeRobot keeps when it edits a data set; until format 2 it was the top of the file.
    """
    key = action_key(info["features"])
    if OWN in info:
        return OWN
    return f"features.{key}.{OWN}" if OWN in info["features"].get(key, ()) else None


def _own_block(info: dict[str, Any]) -> Any:
    return info.get(OWN, info["features"].get(action_key(info["features"]), {}).get(OWN))


def own_fps(info: dict[str, Any], path: Path) -> float | None:
    """Frames per second of robot time where this project wrote a fraction, which LeRobot does not take; else None."""
    block = _own_block(info)
    given = block.get("fps") if isinstance(block, dict) else None
    return None if given is None else positive(given, f"{own_place(info)}.fps", path)


def read_spec(root: Path, info: dict[str, Any], version: str, fps: float, most: int) -> ActionSpec:
    """The data set's action spec: the one this project wrote, or one from names and statistics.

    Args:
        root: the data set.
        info: its `meta/info.json`.
        version: of the format.
        fps: frames per second.
        most: rows that a data file may hold.

    Raises:
        InputError: `info` or the statistics do not say what is needed; names the file and the field.
    """
    path = root / INFO
    key = action_key(info["features"])
    if key not in info["features"]:
        raise InputError(
            f"{path}: field 'features.action' is missing, found {sorted(info['features'])[:8]}, expected the shape and "
            f"names of the actions; {_renaming(info['features'])}"
        )
    feature = info["features"][key]
    shape, names = feature.get("shape"), feature.get("names")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or not 0 < shape[0] <= _MOST_AXES:
        raise InputError(
            f"{path}: field 'features.{key}.shape': found {short(shape)}, expected [number of axes], at most "
            f"{_MOST_AXES}; correct it"
        )
    width = shape[0]
    if (place := own_place(info)) is not None:
        block = dict(json_object(_own_block(info), path, place))
        block["action_spec"] = data = dict(json_object(block.get("action_spec"), path, f"{place}.action_spec"))
        if data.get("unit") == UNKNOWN and "low" not in data and "high" not in data:
            names_said = axis_names(data.get("axes"), width)
            low, high = recorded_range(root, version, names_said, key) or _range_of_rows(root, width, key, most)
            data |= {"low": low, "high": high}
        spec = _own_spec(data, path, f"{place}.action_spec")
        axes = f"the {spec.dim} axes of {place}.action_spec; correct the one that is wrong"
        if width != spec.dim:
            raise InputError(f"{path}: field 'features.action.shape': found {shape}, expected {axes}")
        if isinstance(names, list) and len(names) != spec.dim:
            raise InputError(f"{path}: field 'features.action.names': found {short(names)}, expected {axes}")
        return spec
    axes = axis_names(names, width)
    low, high = recorded_range(root, version, axes, key) or _range_of_rows(root, width, key, most)
    if not len(low) == len(high) == width:
        raise InputError(f"{root / STATS}: field 'action': found {len(low)} numbers, expected {width} as in {INFO}")
    return foreign_spec(axes, low, high, fps)


def _renaming(features: dict[str, Any]) -> str:
    """What to do where no feature is called action."""
    alike = [name for name in features if "action" in name.lower()]
    if not alike:
        return "copy the file again"
    return f"rename {alike[0]} to action, here, in {STATS} and in the data files' columns"


def _own_spec(data: dict[str, Any], path: Path, name: str) -> ActionSpec:
    """The spec this project wrote; raises InputError where it says what no action can mean."""

    def require(good: bool, key: str, found: Any, expected: str) -> None:
        if not good:
            raise InputError(f"{path}: field '{name}.{key}': found {short(found)}, expected {expected}; correct it")

    def numeric(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023

    for key, words in _WORDS.items():
        require(data.get(key, words[0]) in words, key, data.get(key), f"one of {', '.join(words)}")
    axes, unit, low, high = (data.get(key) for key in ("axes", "unit", "low", "high"))
    require(isinstance(unit, str) and bool(unit.strip()), "unit", unit, "what 1.0 means, such as 'm+rad'")
    require(isinstance(axes, list) and all(isinstance(axis, str) for axis in axes), "axes", axes, "a list of names")
    for key, bound in (("low", low), ("high", high)):
        require(isinstance(bound, list) and all(map(numeric, bound)), key, bound, "a list of finite numbers")
    if data.get("rate") is not None:
        positive(data["rate"], f"{name}.rate", path)
    try:
        spec = ActionSpec.from_dict(data)
    except (TypeError, ActionSpecMismatch) as error:
        raise InputError(f"{path}: field '{name}' is no action spec ({error}); write it again") from error
    for axis, least, most in zip(spec.axes, spec.low, spec.high, strict=True):
        require(least <= most, "low", least, f"at most {most}, the 'high' of axis '{axis}'")
    return spec


def axis_names(names: Any, width: int) -> tuple[str, ...]:
    """Axis names, from a list, {"motors": [...]}, lists by arm, or {"x": 0, ...}; numbered where there are none."""
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
    """The smallest and largest value of each action axis by the data set's statistics; None where they do not say.

    Raises:
        InputError: the statistics hold something else than finite numbers.
    """
    path = stats_file(root, version)
    if path.suffix == ".jsonl":
        lines = [json_object(line.get("stats", {}), path, "stats") for line in read_json_lines(path)]
        parts = [line.get(key) for line in lines]
    else:
        parts = [read_json_object(path).get(key)] if path.is_file() else []
    found = [part for part in map(_by_statistic, parts) if part is not None]
    if not found or len(found) < len(parts):
        return None
    try:
        lows, highs = (np.array([_numbers(part[name], axes) for part in found], float) for name in ("min", "max"))
        bad = np.argwhere(lows > highs)
        low, high = lows.min(axis=0), highs.max(axis=0)
        finite = bool(np.isfinite(np.array([low, high], float)).all())
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: field 'action': min and max are no numbers ({error}); copy the file again"
        ) from error
    if len(bad):
        raise _reversed(path, key, axes, bad[0], lows, highs)
    if not finite:
        raise InputError(
            f"{path}: field 'action': min or max is NaN or infinite, expected finite numbers (they are the actions' "
            "range); remove the episodes with such actions and recompute the statistics"
        )
    return low.tolist(), high.tolist()


def stats_file(root: Path, version: str) -> Path:
    """The file with the statistics: those of each episode (v2.1), or those of all."""
    per_episode = root / "meta/episodes_stats.jsonl"
    return per_episode if version.startswith("v2.") and per_episode.is_file() else root / STATS


def _reversed(
    path: Path, key: str, axes: Sequence[str], bad: np.ndarray, lows: np.ndarray, highs: np.ndarray
) -> InputError:
    """The error of a minimum above the maximum, at the place `bad` (part, axis)."""
    line = f"line {bad[0] + 1}: " if path.suffix == ".jsonl" else ""
    axis = axes[bad[1]] if bad[1] < len(axes) else str(bad[1])
    return InputError(
        f"{path}: {line}field '{key}': found min {lows[tuple(bad)]:.6g} above max {highs[tuple(bad)]:.6g} on axis "
        f"'{axis}', expected the actions' range; recompute the statistics, or remove the file"
    )


def _by_statistic(part: Any) -> dict[str, Any] | None:
    """{"min": ..., "max": ...} of a feature, also where they are listed by motor; None where there is none."""
    if not isinstance(part, dict):
        return None
    if "min" in part and "max" in part:
        return part
    if part and all(isinstance(value, dict) and "min" in value and "max" in value for value in part.values()):
        return {name: {motor: value[name] for motor, value in part.items()} for name in ("min", "max")}
    return None


def _numbers(value: Any, axes: Sequence[str]) -> np.ndarray:
    """float64 [n] of numbers in lists, lists of lists, or objects by motor, which come in the order of `axes`."""
    if isinstance(value, dict):
        order = axes if set(value) == set(axes) else list(value)
        value = [value[name] for name in order]
    if not isinstance(value, list):
        return np.array([value], float)
    return np.concatenate([_numbers(entry, axes) for entry in value]) if value else np.zeros(0)


def _range_of_rows(root: Path, width: int, key: str, most: int) -> tuple[list[float], list[float]]:
    """The smallest and largest value of each action axis, off the rows themselves."""
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for path in visible((root / "data").rglob("*.parquet")):
        rows = vectors(read_table(path, [key], most=most), key, path, width)
        if len(rows):
            low, high = np.fmin(low, np.fmin.reduce(rows)), np.fmax(high, np.fmax.reduce(rows))
    if not np.isfinite([low, high]).all():
        raise InputError(
            f"{root / STATS}: no statistics for 'action', and no rows with finite numbers in {root / 'data'}, expected "
            "its min and max (they are its range); recompute the data set's statistics with LeRobot"
        )
    return low.tolist(), high.tolist()
