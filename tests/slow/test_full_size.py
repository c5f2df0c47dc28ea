"""The memory of published policies in full size is what the plan counts today; a minute each, and no weights.

OpenVLA takes several minutes, so its numbers are recomputed by hand: add it to `KINDS`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvla_folder
import pytest
import tiny_vla
import torch

from worldgymnast.measure.memory import peak, policy_memory
from worldgymnast.policies.full_size import FULL_SIZES, HORIZON, ROWS, build
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.trainer import TrainerConfig

CONFIG = ReinforceConfig(rows=ROWS, horizon=HORIZON, trainer=TrainerConfig(micro_batch=1))
KINDS = ("SmolVLA", "Pi05")
PARAMETERS = {"OpenVLA": 7.606, "SmolVLA": 0.418, "Pi0": 3.291, "Pi05": 3.407}
"""In 1e9, with the adapters."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_numbers(kind: str, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    if kind == "OpenVLA":
        openvla_folder.write_tokenizer(tokenizer)
    else:
        tiny_vla.write_tokenizer(tmp_path)
    policy = build(kind, str(tokenizer))
    assert sum(p.numel() for p in policy.parameters()) / 1e9 == pytest.approx(PARAMETERS[kind], rel=1e-3)
    world: Any = SimpleNamespace(frame_size=(256, 256), tiling=None, action_spec=policy.action_spec)
    assert all(weight.device == torch.device("meta") for weight in policy.parameters())
    role, stored = policy_memory(policy, world, CONFIG, "cuda"), FULL_SIZES[kind]
    for name in ("weights", "training", "rollout", "update", "stored"):
        assert getattr(role, name) / 1e9 == pytest.approx(getattr(stored, name), rel=0.02, abs=0.006), name
    assert stored.learning == pytest.approx(peak([role]) / 1e9, rel=0.01)
