"""Tiny checkpoints of SmolVLA, pi0 and pi0.5 (tests/data/vla), and a tokenizer of single characters."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import nn

from worldgymnast.actions import ActionSpec, libero_spec
from worldgymnast.policies.flow_chain import SamplerConfig
from worldgymnast.policies.pi0 import Pi0, Pi0Config, Pi05, Pi05Config
from worldgymnast.policies.pi0_network import Pi0Sizes
from worldgymnast.policies.smolvla import SmolVLA, SmolVLAConfig
from worldgymnast.policies.smolvla_network import SmolVLASizes

DATA = Path(__file__).parents[1] / "data" / "vla"
KINDS = ("pi0", "pi05", "smolvla")
_UNUSED = "lm_head.weight"

SMOLVLA = SmolVLASizes(
    vocabulary=200,
    width=32,
    hidden=48,
    layers=4,
    heads=4,
    kv_heads=2,
    head=8,
    expert_width=24,
    expert_hidden=256,
    vision_width=16,
    vision_hidden=24,
    vision_layers=2,
    vision_heads=2,
    image=64,
    shuffle=2,
)
PI0 = Pi0Sizes(
    vocabulary=300,
    width=24,
    hidden=48,
    layers=2,
    head=4,
    expert_width=16,
    expert_hidden=32,
    vision_width=24,
    vision_hidden=40,
    vision_layers=2,
    vision_heads=2,
    image=56,
)
_CONFIGS: dict[str, Any] = {
    "smolvla": (SmolVLA, SmolVLAConfig, SMOLVLA),
    "pi0": (Pi0, Pi0Config, PI0),
    "pi05": (Pi05, Pi05Config, PI0),
}


def with_weights(network: nn.Module, kind: str) -> nn.Module:
    """Load the weights of a tiny checkpoint."""
    stored = load_file(DATA / kind / "share_model.safetensors")
    plain = {name.removeprefix("model."): tensor.float() for name, tensor in stored.items()}
    network.load_state_dict({name: tensor for name, tensor in plain.items() if not name.endswith(_UNUSED)})
    return network


def write_tokenizer(folder: Path) -> str:
    """Write a tokenizer of single characters; return its folder."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *string.printable]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def tiny_policy(
    kind: str,
    tokenizer: str,
    sampler: SamplerConfig | None = None,
    spec: ActionSpec | None = None,
    changed: dict[str, int] | None = None,
    **fields: Any,
) -> Any:
    """Policy with the weights of a tiny checkpoint, LIBERO's actions by default.

    With `changed` sizes its weights are random.
    """
    policy_type, config_type, sizes = _CONFIGS[kind]
    sizes = replace(sizes, **(changed or {}))
    settings = {"horizon": 4, "chunk": 4, "sampler": sampler or SamplerConfig(steps=4), **fields}
    policy = policy_type(config_type(sizes=sizes, tokenizer=tokenizer, **settings), spec or libero_spec(1))
    if not changed:
        with_weights(policy.model, kind)
    return policy.eval()
