"""Statistics that normalize states and actions, in the files of lerobot and openpi."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.files import json_object, read_json_object, short
from worldgymnast.policies.published import OpenField
from worldgymnast.weights import load_weights, save_weights, to_json, write_text

_ENDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
_STEPS = frozenset(
    {
        "rename_observations_processor",
        "to_batch_processor",
        "device_processor",
        "normalizer_processor",
        "unnormalizer_processor",
        "tokenizer_processor",
        "smolvla_new_line_processor",
        "pi0_new_line_processor",
        "pi05_prepare_state_tokenizer_processor_step",
    }
)
"""Steps of lerobot's processors that are reproduced here."""
_RELATIVE = {
    "policy_preprocessor.json": ("relative_actions_processor", "delta_actions_processor"),
    "policy_postprocessor.json": ("absolute_actions_processor",),
}
"""Steps of each processor that convert actions from and to those relative to the state."""
LEROBOT_EPSILON, OPENPI_EPSILON = 1e-8, 1e-6


class Affine(NamedTuple):
    """Normalization (x - offset) / scale of n numbers."""

    offset: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]


def affine(statistics: Mapping[str, Any], mode: str, epsilon: float, where: str) -> Affine:
    """Normalization by statistics.

    Args:
        statistics: numbers by name, such as "mean" and "std".
        mode: "MEAN_STD"; "MIN_MAX", "QUANTILES" or "QUANTILE10" to -1..1; "IDENTITY".
        epsilon: added to a standard deviation or a range.
        where: their source, for messages.

    Raises:
        InputError: the mode is unknown, or numbers are missing or not finite.

    >>> affine({"q01": [0.0], "q99": [4.0]}, "QUANTILES", 0.0, "file")
    Affine(offset=tensor([2.]), scale=tensor([2.]))
    """

    def numbers(name: str) -> Tensor:
        try:
            values = torch.as_tensor(statistics[name], dtype=torch.float32).flatten()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: found no numbers '{name}', which {mode} needs. Copy the file again") from error
        if not len(values) or not bool(torch.isfinite(values).all()):
            raise InputError(f"{where}: '{name}' has no or infinite numbers. Measure the statistics again")
        return values

    if mode == "MEAN_STD":
        return Affine(numbers("mean"), numbers("std") + epsilon)
    if mode == "IDENTITY":
        some = numbers(next(iter(statistics), "mean"))
        return Affine(torch.zeros_like(some), torch.ones_like(some))
    if mode not in _ENDS:
        known = ", ".join(["MEAN_STD", "IDENTITY", *_ENDS])
        raise InputError(f"{where}: normalization {short(mode)} is not supported (supported: {known})")
    low, high = (numbers(name) for name in _ENDS[mode])
    half = (high - low + epsilon) / 2
    return Affine(low + half, half)


def lerobot_statistics(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Statistics of the processors of a lerobot checkpoint, by feature ("action", "observation_state") and name.

    Raises:
        InputError: a processor has a step that is not reproduced here, or the two disagree.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name in _RELATIVE:
        for file in _state_files(folder / name):
            for key, tensor in load_weights(folder / file, is_published=True)[0].items():
                feature, _, statistic = key.rpartition(".")
                known = found.setdefault(feature.replace(".", "_"), {})
                # lerobot reshapes the statistics of images in one of the two processors
                if not torch.equal(known.setdefault(statistic, tensor).flatten(), tensor.flatten()):
                    raise InputError(
                        f"{folder / file}: '{key}' differs from the other processor's. One of them is of another "
                        "data set. Copy the checkpoint again"
                    )
    return found


def _state_files(path: Path) -> list[str]:
    """Names of the files with statistics in a processor's JSON."""
    files = []
    for name, values in _steps(path).items():
        if name not in _STEPS and name not in _RELATIVE[path.name]:
            raise InputError(
                f"{path}: found step {short(name)}, which is not reproduced here, so inputs or actions would be wrong. "
                "Use a checkpoint without it"
            )
        if (file := values.get("state_file")) is not None:
            if not isinstance(file, str) or Path(file).name != file:
                raise InputError(f"{path}: names {short(file)}, expected a file in the same folder. Copy it again")
            files.append(file)
    return files


def _steps(path: Path) -> dict[str, dict[str, Any]]:
    """Steps of a processor by name; none without the file."""
    if not path.is_file():
        return {}
    steps = read_json_object(path).get("steps")
    if not isinstance(steps, list):
        raise InputError(f"{path}: field 'steps': found {short(steps)}, expected a list. Copy the file again")
    return {str(step.get("registry_name")): step for step in (json_object(step, path, "steps") for step in steps)}


def _settings(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Settings of the first of these steps that a processor has."""
    steps = _steps(path)
    step = next((steps[name] for name in names if name in steps), {})
    return json_object(step.get("config") or {}, path, "config")


def processor_modes(folder: Path) -> dict[str, str]:
    """Normalization of each type of feature, as the processors of a lerobot checkpoint apply it; empty if unknown.

    Raises:
        InputError: the two processors disagree.
    """
    found: dict[str, str] = {}
    for file, name in zip(_RELATIVE, ("normalizer_processor", "unnormalizer_processor"), strict=True):
        path = folder / file
        for key, mode in json_object(_settings(path, (name,)).get("norm_map") or {}, path, "norm_map").items():
            if found.setdefault(key, str(mode)) != mode:
                raise InputError(
                    f"{path}: normalizes {key} by {mode}, the other processor by {found[key]}. Correct one"
                )
    return found


def camera_renames(folder: Path) -> dict[str, str]:
    """Names of the data's cameras, by the names that they get in a lerobot checkpoint."""
    path = folder / "policy_preprocessor.json"
    settings = _settings(path, ("rename_observations_processor",))
    return {str(new): old for old, new in json_object(settings.get("rename_map") or {}, path, "rename_map").items()}


def relative_axes(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Action axes that a lerobot checkpoint predicts relative to the state: all but those of excluded joints.

    Args:
        folder: the checkpoint.
        config: its config.json.

    Raises:
        InputError: the axes have no names, or the files contradict one another.
    """
    before, after = (_settings(folder / file, names) for file, names in _RELATIVE.items())
    stated = [bool(entry["enabled"]) for entry in (before, after) if "enabled" in entry]
    if "use_relative_actions" in config:
        stated.append(bool(config["use_relative_actions"]))
    if len(set(stated)) > 1:
        raise InputError(
            f"{folder}: its files disagree whether actions are relative to the state. Actions could be wrong. Set "
            "'relative_axes', [] for none, or copy the checkpoint again"
        )
    if not any(stated):
        return ()
    names = before.get("action_names") or config.get("action_feature_names")
    if not names:
        raise OpenField(
            "relative_axes",
            "which actions are relative to the state: indices, [] for none",
            f"{folder}: predicts actions relative to the state, but its files do not name the axes. Set "
            "'relative_axes' to the indices of those that are relative",
        )
    excluded = before.get("exclude_joints") or config.get("relative_exclude_joints") or ()
    return tuple(
        index for index, name in enumerate(names) if not any(word.lower() in name.lower() for word in excluded)
    )


def openpi_statistics(path: Path) -> dict[str, dict[str, Any]]:
    """Statistics of openpi's `norm_stats.json`, by feature as in `lerobot_statistics`."""
    entries = json_object(read_json_object(path).get("norm_stats"), path, "norm_stats")
    names = {"actions": "action", "state": "observation_state"}
    return {names[key]: json_object(entries[key], path, key) for key in names if key in entries}


def openpi_file(folder: Path, asset: str) -> Path | None:
    """File of statistics in openpi's folder; None without any.

    Raises:
        InputError: there are several and `asset` names none of them.
    """
    files = {file.parent.relative_to(folder / "assets").as_posix(): file for file in _norm_stats(folder)}
    if asset in files:
        return files[asset]
    if asset or len(files) > 1:
        known = ", ".join(sorted(files)) or "none"
        raise OpenField(
            "asset",
            f"which statistics: one of {known}",
            f"{folder / 'assets'}: found no choice of statistics. Set 'asset' to one of: {known}",
        )
    return next(iter(files.values()), None)


def _norm_stats(folder: Path) -> list[Path]:
    return sorted((folder / "assets").rglob("norm_stats.json"))


_FEATURES = {"ACTION": "action", "STATE": "observation.state"}
"""Names of lerobot's features."""


def write_lerobot_statistics(
    folder: Path, scales: Mapping[str, Affine], modes: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Write statistics into the processors of a lerobot checkpoint.

    Args:
        folder: the checkpoint.
        scales: normalization of "ACTION" and perhaps "STATE".
        modes: see `processor_modes`.

    Returns:
        Type and shape of the features by name, as in config.json.

    Raises:
        InputError: a processor is missing, or normalizes nothing.
    """
    features = {_FEATURES[key]: {"type": key, "shape": [len(scales[key].offset)]} for key in scales}
    numbers: dict[str, Tensor] = {}
    for key, scale in scales.items():
        statistics = _numbers(scale, modes[key], f"{folder}: {_FEATURES[key]}")
        numbers |= {f"{_FEATURES[key]}.{name}": values for name, values in statistics.items()}
    for file, name in zip(_RELATIVE, ("normalizer_processor", "unnormalizer_processor"), strict=True):
        path = folder / file
        content = read_json_object(path, "copy it from the checkpoint")
        steps = [json_object(step, path, "steps") for step in content.get("steps") or ()]
        index = next((i for i, step in enumerate(steps) if step.get("registry_name") == name), None)
        if index is None:
            raise InputError(f"{path}: found no step {name}, where statistics belong. Use a checkpoint with it")
        step, norm_map = steps[index], {key: modes[key] for key in scales}
        settings = json_object(step.get("config") or {}, path, "config")
        settings["features"] = json_object(settings.get("features") or {}, path, "features") | features
        settings["norm_map"] = json_object(settings.get("norm_map") or {}, path, "norm_map") | norm_map
        step["config"], step["state_file"] = settings, f"{path.stem}_step_{index}_{name}.safetensors"
        save_weights(folder / step["state_file"], numbers)
        write_text(path, to_json(content | {"steps": steps}))
    return features


def _numbers(scale: Affine, mode: str, where: str) -> dict[str, Tensor]:
    """Statistics that give a normalization; inverse of `affine` with lerobot's epsilon."""
    if mode == "MEAN_STD":
        return {"mean": scale.offset, "std": scale.scale - LEROBOT_EPSILON}
    if mode not in _ENDS:
        raise InputError(f"{where}: normalization {short(mode)} has no statistics. Set another in config.json")
    low, high = _ENDS[mode]
    return {low: scale.offset - scale.scale, high: scale.offset + scale.scale}
