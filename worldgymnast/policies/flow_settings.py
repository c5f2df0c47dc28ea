"""Content of config.json of published SmolVLA, pi0 and pi0.5 checkpoints, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError
from worldgymnast.files import json_object, read_json_object, short
from worldgymnast.policies.flow_layouts import Kind
from worldgymnast.policies.flow_statistics import camera_renames, processor_modes
from worldgymnast.policies.published import OpenField

_EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "n_obs_steps": (1,),
    "adapt_to_pi_aloha": (False,),
    "use_delta_joint_actions_aloha": (False,),
    "use_visual_memory": (False,),
    "use_proprioceptive_memory": (False,),
    "add_image_special_tokens": (False,),
    "attention_mode": ("cross_attn",),
    "paligemma_variant": ("gemma_2b",),
    "action_expert_variant": ("gemma_300m",),
}
"""Supported values of fields of config.json."""
_EMPTY = "empty_camera"


@dataclass(frozen=True)
class Settings:
    """Content of config.json: lerobot's if it has a "type", else openpi's."""

    folder: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Read config.json; raises InputError for unsupported variants."""
        path = folder / "config.json"
        values = read_json_object(path)
        if "type" not in values and "action_horizon" not in values:
            raise InputError(f"{path}: found neither 'type' (lerobot) nor 'action_horizon' (openpi), expected one")
        for name, expected in _EXPECTED.items():
            if name in values and values[name] not in expected:
                raise InputError(
                    f"{path}: field '{name}': found {short(values[name])}, expected {short(expected[0])}. Other "
                    "variants are not supported"
                )
        return cls(folder, values)

    @property
    def is_lerobot(self) -> bool:
        """Whether lerobot wrote the checkpoint, not openpi."""
        return "type" in self.values

    def integer(self, name: str, default: int) -> int:
        """Field that is an integer of 1 or more."""
        value = self.values.get(name, default)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{self.folder / 'config.json'}: field '{name}': found {short(value)}, expected 1 or more")
        return value

    def check_kind(self, kind: Kind) -> None:
        """Raise InputError if config.json names another kind than the tensors belong to."""
        named = self.values.get("type", kind)
        if named != kind:
            raise InputError(
                f"{self.folder}: config.json names {short(named)}, but the weights are those of {kind}. They do not "
                "belong together. Copy the checkpoint again"
            )

    def check_sizes(self, sizes: Any) -> None:
        """Raise InputError if config.json contradicts the sizes of the tensors."""
        square = [sizes.image, sizes.image]
        expected = {
            "num_vlm_layers": sizes.layers,
            "max_action_dim": sizes.action,
            "action_dim": sizes.action,
            "resize_imgs_with_padding": square,
            "image_resolution": square,
        }
        depth = self.values.get("num_expert_layers", -1)
        if isinstance(depth, int) and depth > 0:
            expected["num_expert_layers"] = sizes.layers
        for name, value in expected.items():
            if (found := self.values.get(name, value)) != value:
                raise InputError(
                    f"{self.folder / 'config.json'}: field '{name}': found {short(found)}, but the weights have "
                    f"{short(value)}. They do not belong together. Copy the checkpoint again"
                )

    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras in config.json, in order."""
        renames = camera_renames(self.folder)
        keys = [key for key, type_ in self._features() if type_ == "VISUAL" and _EMPTY not in key]
        names = [renames.get(key, key).removeprefix("observation.").removeprefix("images.") for key in keys]
        if not (shown := tuple(names)):
            raise OpenField(
                "cameras",
                "your cameras, in the order of the checkpoint",
                f"{self.folder / 'config.json'}: names no cameras. Set 'cameras' to yours, in the order of the "
                "checkpoint (pi0: base, left wrist, right wrist)",
            )
        return shown

    def _features(self) -> list[tuple[str, str]]:
        """Name and type of every input in config.json."""
        path = self.folder / "config.json"
        features = json_object(self.values.get("input_features") or {}, path, "input_features")
        return [
            (name, str(json_object(value, path, f"input_features.{name}").get("type")))
            for name, value in features.items()
        ]

    @property
    def horizon(self) -> int:
        """Actions that the network predicts."""
        return self.integer("chunk_size" if self.is_lerobot else "action_horizon", 50)

    @property
    def chunk(self) -> int:
        """Actions per look."""
        return self.integer("n_action_steps", self.horizon)

    @property
    def has_state(self) -> bool:
        """Whether config.json names a state among the inputs."""
        return any(type_ == "STATE" for _, type_ in self._features())

    def modes(self, kind: Kind) -> dict[str, str]:
        """Normalization of "ACTION" and "STATE"."""
        path = self.folder / "config.json"
        default = "QUANTILES" if kind == "pi05" else "MEAN_STD"
        found = json_object(self.values.get("normalization_mapping") or {}, path, "normalization_mapping")
        if (mode := found.get("VISUAL", "IDENTITY")) != "IDENTITY":
            raise InputError(f"{path}: images are normalized by {short(mode)}, expected IDENTITY. It is not supported")
        for name, applied in processor_modes(self.folder).items():
            if found.setdefault(name, applied) != applied:
                raise InputError(
                    f"{path}: field 'normalization_mapping.{name}': found {short(found[name])}, but the processors "
                    f"have {applied}. Actions would be wrong. Correct one of them"
                )
        return {name: str(found.get(name, default)) for name in ("ACTION", "STATE")}
