"""Config that SmolVLA, pi0 and pi0.5 share."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from worldgymnast.configs import Between, Count, NonNegative, Once, Positive, Width, checked
from worldgymnast.errors import FieldError
from worldgymnast.policies.flow_chain import SamplerConfig
from worldgymnast.policies.letterbox import Resize
from worldgymnast.policies.prompts import Template
from worldgymnast.policies.trunk import check_camera_names
from worldgymnast.types import IMAGE


@checked
class FlowExpertConfig:
    """Fields that SmolVLA, pi0 and pi0.5 share.

    Attributes:
        horizon: actions that the network predicts.
        chunk: actions that a look returns, the first of them.
        cameras: names of the cameras, in the order of the checkpoint; "image" alone is the whole frame. The original
            code shows missing cameras as black and masks them, which gives the same actions as leaving them out.
        resize: resizing of frames, see `letterbox`.
        tokenizer: folder or hub name of the language model's tokenizer.
        tokenizer_hash: first 16 hex digits of the SHA-256 of its file; "" for any. Another file is refused.
        prompt: format of the prompt, see `prompts`.
        prompt_length: tokens of a padded prompt.
        state_dim: numbers of the robot's state (proprioception) that the policy reads; 0 for none, shown as zeros.
        binned_state: numbers of the state in a "pi05" prompt, with zeros as padding; 0 for no padding. Some versions of
            lerobot pad to 32.
        sampler: the sampler in reinforcement learning. Greedy actions use its number of steps.
        ratio: log-probabilities per look, the sum over the chain ("look"), or of every number ("number").
        counted: numbers of the chain that count in the log-probabilities: those of the executed actions ("executed", as
            in pi-RL), or also those of padding axes and of actions beyond `chunk` ("all"). All together are the density
            of the chain, so the gradient is unbiased. The others alone are drawn too and change later steps; leaving
            them out biases the gradient, and lowers its variance.
        trained: weights that training changes: the action expert and the projections ("expert"), or all ("all").
        fixed: dtype of the vision-language model if training does not change it. The others are float32.
        checkpointing: whether the steps of the flow are recomputed in the backward pass, which saves memory.
        relative_axes: action axes whose prediction is relative to the number of the same index in the state.
        lora_rank: rank of LoRA adapters on the linear layers of language model and expert, which are then trained
            with the projections, instead of the expert; 0 for none.
        lora_alpha: scale of the adapters, times their rank.
        shortest: shortest period of the time features.
        longest: longest period of the time features.
    """

    horizon: Width = 50
    chunk: Width = 50
    cameras: tuple[str, ...] = (IMAGE,)
    resize: Resize = "center"
    tokenizer: str = ""
    tokenizer_hash: str = ""
    prompt: Template = "pi0"
    prompt_length: Positive = 48
    state_dim: Annotated[int, Between(0, 4096)] = 0
    binned_state: Annotated[int, Between(0, 4096)] = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    ratio: Literal["look", "number"] = "look"
    counted: Literal["executed", "all"] = "executed"
    trained: Literal["expert", "all"] = "expert"
    fixed: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    relative_axes: Annotated[tuple[Count, ...], Once] = ()
    lora_rank: Count = 0
    lora_alpha: NonNegative = 16.0
    shortest: Annotated[float, Between(1e-9, 1e9)] = 4e-3
    longest: Annotated[float, Between(1e-9, 1e9)] = 4.0

    def __post_init__(self) -> None:
        check_camera_names(self.cameras)
        if self.chunk > self.horizon:
            raise FieldError("chunk", f"found {self.chunk}, expected at most horizon, {self.horizon}")
        for name, default in (("fixed", "float32"), ("lora_rank", 0)):
            if (found := getattr(self, name)) != default and self.trained == "all":
                raise FieldError(name, f"found {found} with trained 'all', which fixes nothing, expected {default}")
        if self.shortest >= self.longest:
            raise FieldError("shortest", f"found {self.shortest}, expected less than longest, {self.longest}")
        if (last := max(self.relative_axes, default=-1)) >= self.state_dim:
            raise FieldError("relative_axes", f"found {last}, expected indices below state_dim, {self.state_dim}")
