"""Config of OpenVLA and OpenVLA-OFT."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from worldgymnast.configs import Count, NonNegative, Width, checked
from worldgymnast.errors import FieldError
from worldgymnast.policies.openvla_language import Attention, LanguageConfig
from worldgymnast.policies.openvla_tokens import Statistics
from worldgymnast.policies.openvla_vision import CENTERED, IMAGENET, TowerConfig
from worldgymnast.policies.trunk import check_camera_names
from worldgymnast.types import IMAGE

_Color = tuple[float, float, float]
_Colors = tuple[_Color, _Color]

Crop = Literal["none", "center", "jpeg_lanczos_center"]
Decoding = Literal["autoregressive", "parallel"]


@checked(kw_only=True)
class OpenVLAConfig:
    """Config of an `OpenVLA`; fields without a default are not in a published checkpoint's files.

    Attributes:
        decoding: one token after the other (OpenVLA), or all at once (OpenVLA-OFT).
        attention: direction of the language model's attention; "bidirectional" needs parallel decoding.
        stop_token: whether the stop token follows the slots of parallel decoding.
        support: ids that sampling and the softmax range over: those of the action bins, or the whole vocabulary.
        crop: what happens to a frame before it is resized to 224 pixels: nothing; the central 90 % as TensorFlow cuts
            it (SimpleVLA-RL, World-Gymnast); or that after a JPEG and a Lanczos resize (OpenVLA-OFT's evaluation).
        statistics: ranges of the training data.
        chunk: actions per look, k.
        head: action tokens, or the regression head of OpenVLA-OFT.
        noise: standard deviation of normalized actions around the regression head at temperature 1; 0 makes it
            deterministic, which reinforcement learning cannot train.
        cameras: cameras in the order in which the policy reads them; "image" alone is the whole frame.
        tokenizer: path of tokenizer.json.
        tokenizer_hash: start of its SHA-256; "" skips the check.
        weights: dtype of the weights.
        means: mean color of the images of both towers, in 0..1.
        stds: standard deviation of the same. Published OpenVLA has those of ImageNet rounded to bfloat16.
        checkpointing: recompute the layers of towers and language model in the backward pass, which saves memory.
        lora_rank: rank of a LoRA adapter, which alone is trained, on every linear layer of towers, projector and
            language model; 0 for none, and all weights are trained. OpenVLA uses 32.
        lora_alpha: scale of the adapter, times its rank.
        dino: size of the first vision tower.
        siglip: size of the second vision tower.
        language: size of the language model.
    """

    decoding: Decoding
    attention: Attention
    stop_token: bool
    support: Literal["actions", "vocabulary"]
    crop: Crop
    statistics: Statistics
    chunk: Width
    head: Literal["tokens", "l1"] = "tokens"
    noise: NonNegative = 0.0
    cameras: tuple[str, ...] = (IMAGE,)
    tokenizer: str = ""
    tokenizer_hash: str = ""
    weights: Literal["float32", "bfloat16"] = "float32"
    means: _Colors = (IMAGENET[0], CENTERED[0])
    stds: _Colors = (IMAGENET[1], CENTERED[1])
    checkpointing: bool = False
    lora_rank: Count = 0
    lora_alpha: NonNegative = 16.0
    dino: TowerConfig = field(default_factory=lambda: TowerConfig(1024, 23, 16, 4096, 5, True))
    siglip: TowerConfig = field(default_factory=lambda: TowerConfig(1152, 26, 16, 4304))
    language: LanguageConfig = field(default_factory=LanguageConfig)

    def __post_init__(self) -> None:
        check_camera_names(self.cameras)
        if self.decoding == "autoregressive":
            if self.attention != "causal":
                raise FieldError("attention", "found bidirectional, expected causal with autoregressive decoding")
            if self.stop_token:
                raise FieldError("stop_token", "found true, expected false with autoregressive decoding")
            if self.head == "l1":
                raise FieldError("head", "found l1, expected tokens with autoregressive decoding")
        if min(map(min, self.stds)) <= 0:
            raise FieldError("stds", f"found {self.stds}, expected numbers above 0")
        if self.noise and self.head != "l1":
            raise FieldError("noise", f"found {self.noise}, expected 0 for a policy with action tokens")

    @property
    def state_dim(self) -> int:
        """Numbers of the robot's state that the policy reads; 0 for none."""
        return len(self.statistics.state_low)
