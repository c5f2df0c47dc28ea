"""Reader of published OpenVLA and OpenVLA-OFT checkpoints, from a folder or the hub.

No code of the checkpoint runs. Its files state sizes, statistics and preprocessing, which are read or checked. They do
not state how actions are decoded, so an `OpenVLACheckpoint` says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from worldgymnast.actions import BRIDGE, ActionSpec, ActionSpecMismatch, libero_spec
from worldgymnast.configs import Count, JsonObject, Layers, NonNegative, Width, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import json_object, read_json_object, short
from worldgymnast.policies.lora import merge_adapter
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.policies.openvla_config import Crop, Decoding, OpenVLAConfig
from worldgymnast.policies.openvla_files import checkpoint_folder, extra_tensors, read_tensors
from worldgymnast.policies.openvla_language import Attention
from worldgymnast.policies.openvla_prompt import PromptTokenizer
from worldgymnast.policies.openvla_sizes import (
    TOWERS,
    check_settings,
    is_unused,
    language_config,
    read_processor,
    tower_config,
)
from worldgymnast.policies.openvla_tokens import Statistics
from worldgymnast.policies.published import adapter_folder
from worldgymnast.types import IMAGE
from worldgymnast.weights import check_finite, check_shapes, shapes_of

_STATE = "proprio_projector."


@checked(kw_only=True)
class OpenVLACheckpoint:
    """Description of a published checkpoint: its place, and what its files leave open.

    Attributes:
        checkpoint: folder, relative to that of the description, or name on the hub.
        decoding: see `OpenVLAConfig`, like all fields without a description here.
        attention: direction of the attention.
        stop_token: whether the stop token follows the slots.
        support: ids of the softmax.
        crop: recipe of the frames.
        chunk: actions per look.
        bounds: which of its statistics normalized the actions: "q99" for most data, "minmax" for ALOHA.
        epsilon: added to a range; 0 in OpenVLA, 1e-8 in OpenVLA-OFT, SimpleVLA-RL and RLinf.
        key: entry of the statistics; "" for the only one.
        head: kind of head.
        noise: noise of the regression head.
        cameras: cameras in the policy's order.
        weights: dtype of the weights.
        adapter: folder of a LoRA adapter to merge, relative to the description or the checkpoint; "" for none. Training
            of OpenVLA-OFT leaves its adapter beside weights into which it is already merged.
        checkpointing: whether layers are recomputed in the backward pass.
        lora_rank: see `OpenVLAConfig`; the new adapter begins without effect.
        lora_alpha: scale of the adapter.
        tokenizer: tokenizer.json, relative to the checkpoint.
        tower_heads: attention heads of both vision towers.
        tower_blocks: blocks of both vision towers, the last of which has no effect.
        action_spec: meaning of the actions, as JSON; by default that of Bridge or LIBERO if the key says so.
        self_test: refuse a checkpoint whose output does not change when the image does (`worldgymnast.sight`).
    """

    checkpoint: str
    decoding: Decoding
    attention: Attention
    stop_token: bool
    support: Literal["actions", "vocabulary"]
    crop: Crop
    chunk: Width
    bounds: Literal["q99", "minmax"]
    epsilon: NonNegative
    key: str = ""
    head: Literal["tokens", "l1"] = "tokens"
    noise: NonNegative = 0.0
    cameras: tuple[str, ...] = (IMAGE,)
    weights: Literal["float32", "bfloat16"] = "float32"
    adapter: str = ""
    checkpointing: bool = False
    lora_rank: Count = 0
    lora_alpha: NonNegative = 16.0
    tokenizer: str = "tokenizer.json"
    tower_heads: tuple[Width, Width] = (16, 16)
    tower_blocks: tuple[Layers, Layers] = (24, 27)
    action_spec: JsonObject | None = None
    self_test: bool = True

    def load(self, base: Path = Path()) -> OpenVLA:
        """Load the policy on the CPU.

        Args:
            base: folder that `checkpoint` is relative to.

        Raises:
            InputError: a file is missing or damaged, describes another architecture or contradicts the description;
                or tensors are missing, left over or misshapen.
        """
        folder = checkpoint_folder(self.checkpoint, base)
        settings = read_json_object(folder / "config.json")
        check_settings(settings, folder / "config.json")
        processor = read_processor(folder)
        tensors = read_tensors(folder)
        if (adapter := adapter_folder(self.adapter, folder, base)) is not None:
            merge_adapter(tensors, adapter)
        tensors |= self._extras(folder, tensors, adapter)
        dino, siglip = (
            tower_config(tensors, prefix, heads, blocks, folder)
            for prefix, heads, blocks in zip(TOWERS, self.tower_heads, self.tower_blocks, strict=True)
        )
        statistics = self.statistics(folder, settings, has_state=any(name.startswith(_STATE) for name in tensors))
        tokenizer = PromptTokenizer(folder / self.tokenizer)
        config = OpenVLAConfig(
            decoding=self.decoding,
            attention=self.attention,
            stop_token=self.stop_token,
            support=self.support,
            crop=self.crop,
            statistics=statistics,
            chunk=self.chunk,
            head=self.head,
            noise=self.noise,
            cameras=self.cameras,
            tokenizer=str(tokenizer.path.resolve()),
            tokenizer_hash=tokenizer.hash,
            weights=self.weights,
            checkpointing=self.checkpointing,
            **processor,
            dino=dino,
            siglip=siglip,
            language=language_config(settings, folder / "config.json"),
        )
        policy = _fill(config, self._spec(statistics), tokenizer, tensors, folder)
        policy.adapt(self.lora_rank, self.lora_alpha)
        return policy

    def _extras(self, folder: Path, tensors: Mapping[str, Tensor], adapter: Path | None) -> dict[str, Tensor]:
        """Tensors of the regression head and of the state's projector, by their names in the policy.

        Those beside the adapter, which were trained with it, come before those of the checkpoint.
        """

        def part(name: str) -> dict[str, Tensor]:
            trained = extra_tensors(adapter, name) if adapter is not None else {}
            return trained or extra_tensors(folder, name)

        for other in ("noisy_action_projector", "vision_backbone"):
            if extra_tensors(folder, other):
                raise InputError(
                    f"{folder}: found {other}--*_checkpoint.pt, the part of a policy with a diffusion head or FiLM. "
                    "Such policies are not supported. Use one with action tokens or a regression head"
                )
        head = {f"action_head.{name}": value for name, value in part("action_head").items()}
        if (self.head == "l1") != bool(head):
            found = "an" if head else "no"
            raise InputError(
                f"{folder}: found {found} action_head--*_checkpoint.pt, but the description has head '{self.head}'. "
                f"Set head to '{'l1' if head else 'tokens'}', or use another checkpoint"
            )
        state = {f"{_STATE}{name}": value for name, value in part("proprio_projector").items()}
        if state and any(name.startswith(_STATE) for name in tensors):
            raise InputError(f"{folder}: found {_STATE}* in a file of its own and in the model. Remove one")
        return head | state

    def statistics(self, folder: Path, settings: Mapping[str, Any], *, has_state: bool) -> Statistics:
        """Ranges of the training data, in the files of a checkpoint."""
        path = folder / "dataset_statistics.json"
        where = path if path.is_file() else folder / "config.json"
        if where != path and settings.get("norm_stats") is None:
            raise InputError(
                f"{folder}: found no {path.name}, and no 'norm_stats' in config.json, so there are no statistics. "
                f"Actions would have no scale. Copy {path.name} from the checkpoint"
            )
        known = read_json_object(path) if path.is_file() else json_object(settings.get("norm_stats"), where)
        if self.key not in known and (self.key or len(known) != 1):
            found = f"no key '{self.key}'" if self.key else f"{len(known)} keys and no choice among them"
            raise InputError(
                f"{where}: found {found}. Actions would have no scale. Set 'key' to one of: {_list(known)}"
            )
        key = self.key or next(iter(known))
        entry = json_object(known[key], where, key)
        low, high = self._ends(json_object(entry.get("action"), where, f"{key}.action"), f"{where}: {key}.action")
        state_low, state_high = (), ()
        if has_state:
            state = json_object(entry.get("proprio"), where, f"{key}.proprio")
            state_low, state_high = self._ends(state, f"{where}: {key}.proprio")
        return Statistics(
            key=key,
            bounds=self.bounds,
            epsilon=self.epsilon,
            low=low,
            high=high,
            mask=_mask(entry["action"].get("mask"), len(low), f"{where}: {key}.action"),
            state_low=state_low,
            state_high=state_high,
        )

    def _ends(self, entry: Mapping[str, Any], where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        ends = []
        for name in ("q01", "q99") if self.bounds == "q99" else ("min", "max"):
            values = entry.get(name)
            if not isinstance(values, list) or not all(isinstance(x, int | float) for x in values):
                raise InputError(
                    f"{where}: field '{name}': found {short(values)}, expected numbers. Set other 'bounds'"
                )
            ends.append(tuple(map(float, values)))
        return ends[0], ends[1]

    def _spec(self, statistics: Statistics) -> ActionSpec:
        """Action spec of the description, or the one that the key implies, with the bounds of the statistics."""
        if self.action_spec is not None:
            try:
                return ActionSpec.from_dict(self.action_spec)
            except ActionSpecMismatch as error:
                raise FieldError("action_spec", str(error), type(self).__name__) from error
        if statistics.key.startswith("libero"):
            return libero_spec(1, "open_1")
        if not statistics.key.startswith("bridge"):
            raise InputError(
                f"statistics '{statistics.key}' name no known robot, so the meaning of the actions is unknown. Set "
                "'action_spec'"
            )
        ends = zip(statistics.low, statistics.high, statistics.mask, BRIDGE.low, BRIDGE.high, strict=False)
        low, high = zip(*((a, b) if is_scaled else (c, d) for a, b, is_scaled, c, d in ends), strict=True)
        return replace(BRIDGE, low=low, high=high)


def _mask(found: Any, axes: int, where: str) -> tuple[bool, ...]:
    """Which axes are normalized; all without a mask."""
    if found is None:
        return (True,) * axes
    if not isinstance(found, list) or not all(isinstance(x, bool) for x in found):
        raise InputError(f"{where}: field 'mask': found {short(found)}, expected true or false per axis")
    return tuple(found)


def _fill(
    config: OpenVLAConfig, spec: ActionSpec, tokenizer: PromptTokenizer, tensors: dict[str, Tensor], folder: Path
) -> OpenVLA:
    """Policy with the given tensors, without initializing weights first."""
    with torch.device("meta"):
        policy = OpenVLA(config, spec, tokenizer)
    expected = shapes_of(policy.state_dict())
    used = {
        name: value
        for name, value in tensors.items()
        if name in expected or not is_unused(name, config.dino, config.siglip)
    }
    check_shapes(expected, shapes_of(used), "OpenVLA", folder)
    check_finite(folder, used, is_published=True)
    policy.fill(used)
    return policy


def _list(names: Mapping[str, Any]) -> str:
    shown = [short(name) for name in list(names)[:8]]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
