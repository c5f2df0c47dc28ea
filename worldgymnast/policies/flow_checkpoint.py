"""Reader of published SmolVLA, pi0 and pi0.5 checkpoints in the layouts of lerobot and openpi.

No code of the checkpoint runs. What its files leave open, above all the meaning of the actions, a `FlowCheckpoint`
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from worldgymnast.actions import ActionSpec, ActionSpecMismatch
from worldgymnast.configs import Count, JsonObject, NonNegative, Once, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.policies.flow_chain import NoiseNet, SamplerConfig
from worldgymnast.policies.flow_expert import FlowExpert
from worldgymnast.policies.flow_layouts import (
    Kind,
    kind_of,
    network_name,
    network_tensors,
    sizes_of,
    split_statistics,
)
from worldgymnast.policies.flow_settings import Settings
from worldgymnast.policies.flow_statistics import (
    LEROBOT_EPSILON,
    OPENPI_EPSILON,
    Affine,
    affine,
    lerobot_statistics,
    openpi_file,
    openpi_statistics,
    relative_axes,
)
from worldgymnast.policies.lora import merge_adapter
from worldgymnast.policies.openvla_files import checkpoint_folder, read_tensors
from worldgymnast.policies.pi0 import Pi0, Pi0Config, Pi05, Pi05Config
from worldgymnast.policies.prompts import tokenizer_hash
from worldgymnast.policies.published import OpenField, adapter_folder
from worldgymnast.policies.smolvla import SmolVLA, SmolVLAConfig
from worldgymnast.weights import check_finite, check_shapes, shapes_of

_KINDS: Mapping[str, tuple[type[FlowExpert], type[Any]]] = {
    "smolvla": (SmolVLA, SmolVLAConfig),
    "pi0": (Pi0, Pi0Config),
    "pi05": (Pi05, Pi05Config),
}
_PERIODS = (("min_period", 4e-3), ("max_period", 4.0))
_SEED = 0


def read_settings(folder: Path) -> Settings:
    """Content of config.json.

    Raises:
        InputError: the checkpoint is one of JAX, or of an unsupported variant.
    """
    if (folder / "params").is_dir() and not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: found params/, a JAX checkpoint of openpi, expected its PyTorch form. Convert it with "
            "openpi's examples/convert_jax_model_to_pytorch.py"
        )
    return Settings.read(folder)


@dataclass(frozen=True)
class Files:
    """Content of a checkpoint's files.

    Attributes:
        settings: config.json.
        kind: kind of network.
        tensors: the weights that have an effect, by their names in the network.
        statistics: statistics that were stored among the weights.
    """

    settings: Settings
    kind: Kind
    tensors: dict[str, Tensor]
    statistics: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def read(cls, settings: Settings, tensors: Mapping[str, Tensor], adapter: Path | None = None) -> Files:
        """Sort the published tensors, and merge an adapter.

        Raises:
            InputError: they are those of another network than config.json names, or the adapter does not fit.
        """
        weights, statistics = split_statistics(tensors)
        weights = network_tensors(weights, settings.folder)
        kind = kind_of(weights, settings.folder)
        settings.check_kind(kind)
        if adapter is not None:
            merge_adapter(weights, adapter, network_name)
        return cls(settings, kind, weights, statistics)


@checked(kw_only=True)
class FlowCheckpoint:
    """Description of a published checkpoint: its place, and what its files leave open.

    Attributes:
        checkpoint: folder, relative to that of the description, or name on the hub.
        action_spec: meaning of the actions, as JSON.
        tokenizer: folder with the language model's tokenizer.json, relative to the description, or hub name; "" for the
            name in config.json, if there is one.
        cameras: cameras in the checkpoint's order; empty for the names in config.json. The first ones suffice.
        chunk: actions per look; 0 for n_action_steps of lerobot, or all.
        reads_state: whether the state is shown; it is not if the checkpoint has no statistics of it.
        prompt: prompt of pi0.5: with the state ("pi05"), or the instruction alone ("pi0", openpi's discrete_state_input
            = False). openpi's files do not say it.
        binned_state: see `FlowExpertConfig`.
        statistics: another norm_stats.json in openpi's format, relative to the description; "" for the checkpoint's.
        asset: folder of the statistics within openpi's assets; "" for the only one.
        adapter: folder of a LoRA adapter to merge, relative to the description or the checkpoint; "" for none.
        head: width of an attention head; 0 for that of the published model.
        vision_heads: heads of the vision tower; 0 for those of the published model.
        sampler: the sampler in reinforcement learning; None for "flow_sde" with the checkpoint's number of steps.
        ratio: see `FlowExpertConfig`.
        counted: see `FlowExpertConfig`.
        trained: see `FlowExpertConfig`.
        fixed: see `FlowExpertConfig`.
        checkpointing: see `FlowExpertConfig`.
        relative_axes: see `FlowExpertConfig`; None for what lerobot's files say. openpi's do not say whether its
            DeltaActions was used, so there it must be given.
        lora_rank: see `FlowExpertConfig`; the new adapters begin without effect.
        lora_alpha: see `FlowExpertConfig`.
        self_test: refuse a checkpoint whose output does not change when the image does (`worldgymnast.sight`).
    """

    checkpoint: str
    action_spec: JsonObject
    tokenizer: str = ""
    cameras: tuple[str, ...] = ()
    chunk: Count = 0
    reads_state: bool = True
    prompt: Literal["", "pi0", "pi05"] = ""
    binned_state: Count = 0
    statistics: str = ""
    asset: str = ""
    adapter: str = ""
    head: Count = 0
    vision_heads: Count = 0
    sampler: SamplerConfig | None = None
    ratio: Literal["look", "number"] = "look"
    counted: Literal["executed", "all"] = "executed"
    trained: Literal["expert", "all"] = "expert"
    fixed: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    relative_axes: Annotated[tuple[Count, ...], Once] | None = None
    lora_rank: Count = 0
    lora_alpha: NonNegative = 16.0
    self_test: bool = True

    def load(self, base: Path = Path()) -> FlowExpert:
        """Load the policy on the CPU.

        Args:
            base: folder that paths are relative to.

        Raises:
            InputError: a file is missing or damaged, describes another architecture or contradicts the description;
                or tensors are missing, left over or misshapen.
        """
        folder = checkpoint_folder(self.checkpoint, base)
        settings = read_settings(folder)
        files = Files.read(settings, read_tensors(folder), adapter_folder(self.adapter, folder, base))
        spec = self._spec()
        scales = self.scales(files, spec.dim, base)
        policy = _fill(files, self.config(files, base, scales), spec, scales)
        policy.adapt(self.lora_rank, self.lora_alpha)
        return policy

    def _spec(self) -> ActionSpec:
        try:
            return ActionSpec.from_dict(self.action_spec)
        except ActionSpecMismatch as error:
            raise FieldError("action_spec", str(error), type(self).__name__) from error

    def config(self, files: Files, base: Path, scales: Mapping[str, Affine]) -> Any:
        """Config of the policy, by config.json and the description.

        Args:
            files: the checkpoint.
            base: folder that paths are relative to.
            scales: see `scales`.
        """
        settings, kind, state = files.settings, files.kind, scales.get("state")
        sizes = self.check_sizes(files)
        steps = settings.integer("num_steps" if kind == "smolvla" else "num_inference_steps", 10)
        length = settings.integer("tokenizer_max_length", 200 if kind == "pi05" else 48)
        tokenizer = self.language(settings, base)
        shortest, longest = (float(settings.values.get(name, default)) for name, default in _PERIODS)
        values: dict[str, Any] = {"resize": "antialiased"} if not settings.is_lerobot else {}
        if kind == "pi05":
            values["prompt"] = self.template(settings)
        return _KINDS[kind][1](
            sizes=sizes,
            horizon=settings.horizon,
            chunk=self.chunk or settings.chunk,
            cameras=self.cameras or settings.cameras(),
            tokenizer=tokenizer,
            tokenizer_hash=_file_hash(tokenizer),
            prompt_length=length,
            state_dim=0 if state is None else len(state.offset),
            binned_state=self.binned_state,
            sampler=self.sampler or SamplerConfig(steps=steps),
            ratio=self.ratio,
            counted=self.counted,
            trained=self.trained,
            fixed=self.fixed,
            checkpointing=self.checkpointing,
            relative_axes=self.relative(settings),
            shortest=shortest,
            longest=longest,
            **values,
        )

    def check_sizes(self, files: Files) -> Any:
        """Sizes of the network, which config.json must not contradict."""
        settings = files.settings
        every = settings.integer("self_attn_every_n_layers", 2)
        sizes = sizes_of(files.kind, files.tensors, settings.folder, self.head, self.vision_heads, every)
        settings.check_sizes(sizes)
        return sizes

    def template(self, settings: Settings) -> str:
        """Prompt of pi0.5."""
        if not self.prompt and not settings.is_lerobot:
            raise OpenField(
                "prompt",
                "whether the prompt contains the state: pi05 or pi0",
                f"{settings.folder}: openpi's files do not say whether the prompt of pi0.5 contains the state "
                "(discrete_state_input). Actions could be wrong unnoticed. Set 'prompt' to \"pi05\" with it, or to "
                '"pi0" without it, as for pi05_libero',
            )
        return self.prompt or "pi05"

    def relative(self, settings: Settings) -> tuple[int, ...]:
        """Action axes that are relative to the state."""
        if self.relative_axes is not None:
            return self.relative_axes
        if settings.is_lerobot:
            return relative_axes(settings.folder, settings.values)
        raise OpenField(
            "relative_axes",
            "which actions are relative to the state: indices, [] for none",
            f"{settings.folder}: openpi's files do not say whether actions were relative to the state in training "
            "(DeltaActions, as in pi0_libero). Actions could be wrong unnoticed. Set 'relative_axes' to the indices of "
            "those axes, or to [] for none",
        )

    def language(self, settings: Settings, base: Path) -> str:
        """Folder or hub name of the tokenizer."""
        if self.tokenizer and (base / self.tokenizer).exists():
            return str((base / self.tokenizer).resolve())
        if name := self.tokenizer or settings.values.get("vlm_model_name") or "":
            return str(name)
        raise OpenField(
            "tokenizer",
            "PaliGemma's tokenizer: a folder or google/paligemma-3b-pt-224",
            f"{settings.folder}: contains no tokenizer, so no instruction can be read. Set 'tokenizer' to a folder "
            "with PaliGemma's tokenizer.json, or to its name on the hub, google/paligemma-3b-pt-224",
        )

    def scales(self, files: Files, width: int, base: Path) -> dict[str, Affine]:
        """Normalization of "action", and of "state" if it is read.

        Args:
            files: the checkpoint.
            width: number of action axes; 0 for those of the statistics.
            base: folder that paths are relative to.
        """
        settings, kind = files.settings, files.kind
        file = base / self.statistics if self.statistics else openpi_file(settings.folder, self.asset)
        is_lerobot = settings.is_lerobot and not self.statistics
        if is_lerobot:
            found = files.statistics or lerobot_statistics(settings.folder)
        else:
            found = openpi_statistics(file) if file is not None else {}
        if "action" not in found:
            raise OpenField(
                "statistics",
                "the scale of the actions, as in base models: a norm_stats.json",
                f"{settings.folder}: has no statistics of actions, like the base models of lerobot, so actions have no "
                "scale. Set 'statistics' to a norm_stats.json of your data, which import-policy --statistics DATA "
                "measures, or use a finetuned checkpoint",
            )
        modes = settings.modes(kind) if is_lerobot else dict.fromkeys(("ACTION", "STATE"), _OPENPI_MODES[kind])
        epsilon = LEROBOT_EPSILON if is_lerobot else OPENPI_EPSILON
        scales = {"action": affine(found["action"], modes["ACTION"], epsilon, f"{settings.folder}: action")}
        if width:
            scales["action"] = _cut(scales["action"], width, settings.folder, is_lerobot=is_lerobot)
        is_shown = self.reads_state and not (kind == "pi05" and self.prompt == "pi0")
        if is_shown and "observation_state" in found:
            where = f"{settings.folder}: observation.state"
            scales["state"] = affine(found["observation_state"], modes["STATE"], epsilon, where)
        elif is_shown and settings.has_state:
            raise OpenField(
                "reads_state",
                "the scale of the state: false shows zeros",
                f"{settings.folder}: reads the state, but has no statistics of it, so it has no scale. Set "
                "'reads_state' to false to show zeros, or 'statistics' to a norm_stats.json with the state",
            )
        return scales


_OPENPI_MODES: Mapping[str, str] = {"pi0": "MEAN_STD", "pi05": "QUANTILES", "smolvla": "MEAN_STD"}


def _cut(scale: Affine, width: int, folder: Path, *, is_lerobot: bool) -> Affine:
    """The first `width` numbers; openpi can store padding axes."""
    found = len(scale.offset)
    if found < width or (is_lerobot and found != width):
        raise InputError(
            f"{folder}: has statistics of {found} action axes, but 'action_spec' has {width}. Actions would be wrong. "
            "Name the axes of the checkpoint's data in 'action_spec'"
        )
    return Affine(scale.offset[:width], scale.scale[:width])


def _file_hash(tokenizer: str) -> str:
    path = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
    return tokenizer_hash(path) if path.is_file() else ""


def _fill(files: Files, config: Any, spec: ActionSpec, scales: Mapping[str, Affine]) -> FlowExpert:
    """Policy with the given tensors, without initializing weights first."""
    folder = files.settings.folder
    policy_type: Any = _KINDS[files.kind][0]
    with torch.device("meta"):
        policy: FlowExpert = policy_type(config, spec)
    known = {f"model.{name}": tensor for name, tensor in files.tensors.items()}
    known |= {f"{name}_{part}": value for name in scales for part, value in scales[name]._asdict().items()}
    if "state" not in scales:
        known |= {"state_offset": torch.zeros(0), "state_scale": torch.ones(0)}
    if config.sampler.method == "flow_noise":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            noise = NoiseNet(config.sizes.expert_width, config.sizes.action)
        known |= {f"noise_net.{name}": tensor for name, tensor in noise.state_dict().items()}
    check_shapes(shapes_of(policy.state_dict()), shapes_of(known), policy_type.__name__, folder)
    check_finite(folder, known, is_published=True)
    policy.fill(known)
    return policy
