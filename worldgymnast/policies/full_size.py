"""Published policies in full size: how to build them without weights, and the memory that they take.

The numbers are derived, not measured: `measure.memory` counts tensors without contents, with the dtypes of a GPU.
`tests/slow/test_full_size.py` computes them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from worldgymnast.actions import BRIDGE
from worldgymnast.policies.flow_chain import SamplerConfig
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.policies.openvla_config import OpenVLAConfig
from worldgymnast.policies.openvla_tokens import Statistics
from worldgymnast.policies.pi0 import Pi0, Pi0Config, Pi05, Pi05Config
from worldgymnast.policies.smolvla import SmolVLA, SmolVLAConfig

HORIZON, ROWS = 40, 8
"""Actions per rollout, and rollouts at a time, that the numbers are for; an update takes one rollout at a time."""
RANK = 32
"""Rank of the LoRA adapters."""
CHUNK = 5
"""Actions per look."""


@dataclass(frozen=True)
class FullSize:
    """A published policy with LoRA adapters, 16-bit weights where they are fixed, and recomputed layers.

    Attributes:
        name: name in messages.
        tokenizer: hub name of its tokenizer.
        is_gated: whether the tokenizer needs a license to be accepted.
        weights: GB of all weights.
        training: GB of gradients, AdamW's moments, and the weights of start, best and averaged policy.
        rollout: GB that a look of `ROWS` rollouts adds.
        update: GB that an update of one rollout adds.
        stored: GB of `training` that `--rl.offload` keeps in host memory.
    """

    name: str
    tokenizer: str
    is_gated: bool
    weights: float
    training: float
    rollout: float
    update: float
    stored: float

    @property
    def inference(self) -> float:
        """GB for rollouts alone."""
        return self.weights + self.rollout

    @property
    def learning(self) -> float:
        """GB for reinforcement learning, without world model and judge."""
        return self.weights + self.training + max(self.rollout, self.update)


_GEMMA = "google/paligemma-3b-pt-224"
FULL_SIZES: Mapping[str, FullSize] = {
    "OpenVLA": FullSize("OpenVLA-OFT 7B", "openvla/openvla-7b", False, 15.43, 2.59, 0.45, 1.59, 0.86),
    "SmolVLA": FullSize("SmolVLA", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", False, 1.07, 0.41, 0.17, 1.43, 0.14),
    "Pi0": FullSize("pi0", _GEMMA, True, 7.32, 1.35, 0.61, 11.35, 0.45),
    "Pi05": FullSize("pi0.5", _GEMMA, True, 7.78, 1.40, 0.91, 16.82, 0.47),
}
"""By kind of policy."""


def build(kind: str, tokenizer: str, *, lora: bool = True) -> Any:
    """Build a published policy on the "meta" device, one camera, without state.

    Args:
        kind: "OpenVLA" (OpenVLA-OFT with action tokens), "SmolVLA", "Pi0" or "Pi05".
        tokenizer: a tokenizer for it.
        lora: with LoRA adapters, which alone are trained with the projections; else everything is trained.
    """
    rank = RANK if lora else 0
    with torch.device("meta"):
        if kind == "OpenVLA":
            return OpenVLA(_openvla(tokenizer, rank), BRIDGE)
        sampler = SamplerConfig(steps={"SmolVLA": 10, "Pi0": 4, "Pi05": 5}[kind])
        fields = {"chunk": CHUNK, "tokenizer": tokenizer, "sampler": sampler, "checkpointing": True, "lora_rank": rank}
        fields |= {"fixed": "bfloat16", "trained": "expert"} if lora else {"trained": "all"}
        if kind == "SmolVLA":
            return SmolVLA(SmolVLAConfig(**fields), BRIDGE)
        return Pi0(Pi0Config(**fields), BRIDGE) if kind == "Pi0" else Pi05(Pi05Config(**fields), BRIDGE)


def _openvla(tokenizer: str, rank: int) -> OpenVLAConfig:
    axes = (0.0,) * BRIDGE.dim
    ends = {"low": axes, "high": (1.0,) * BRIDGE.dim, "mask": (True,) * BRIDGE.dim}
    return OpenVLAConfig(
        decoding="parallel",
        attention="bidirectional",
        stop_token=True,
        support="actions",
        crop="center",
        statistics=Statistics(key="bridge_orig", bounds="q99", epsilon=1e-8, **ends),
        chunk=CHUNK,
        tokenizer=tokenizer,
        weights="bfloat16",
        checkpointing=True,
        lora_rank=rank,
    )
