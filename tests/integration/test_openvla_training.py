"""A tiny OpenVLA-OFT in the published layout is trained by imitation and by reinforcement learning, like any policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_builders import episode
from foreign import Bright, Dimmer, Light
from openvla_folder import BLOCKS, HEADS, write_folder
from torch import Tensor

import worldgymnast as wg
from worldgymnast.actions import BRIDGE
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.registry import load_policy
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.policy import PolicyTraining, train_policy
from worldgymnast.types import Observation

DESCRIPTION: dict[str, Any] = {
    "kind": "OpenVLACheckpoint", "checkpoint": ".", "decoding": "parallel", "attention": "bidirectional",
    "stop_token": True, "support": "actions", "crop": "center", "bounds": "q99", "epsilon": 1e-8, "chunk": 2,
    "tower_heads": [HEADS, HEADS],
    "tower_blocks": [*BLOCKS],
}  # fmt: skip


def described(folder: Path, **changes: Any) -> Path:
    write_folder(folder)
    (folder / "policy.json").write_text(json.dumps({**DESCRIPTION, **changes}))
    return folder


@pytest.fixture
def lamp(tmp_path: Path) -> OpenVLA:
    """OpenVLA with the two axes of the lamp; its first number changes the brightness by up to 30 levels."""
    folder = described(tmp_path / "lamp", action_spec=Light().action_spec.to_dict())
    ends = {"q01": [-3.0, -1.0], "q99": [3.0, 1.0], "mask": [True, True]}
    (folder / "dataset_statistics.json").write_text(json.dumps({"lamp": {"action": ends}}))
    policy = wg.load_policy(folder)
    assert isinstance(policy, OpenVLA)
    return policy


def test_reinforcement_learning_lights_the_lamp(lamp: OpenVLA, tmp_path: Path) -> None:
    light, run = Light(), tmp_path / "run"
    config = wg.ReinforceConfig(
        starts=4, group_size=4, rows=16, evaluate_every=3, save_every=3, resample=0, temperature=1.6,
        trainer=TrainerConfig(lr=5e-3, updates=1, warmup=0),
    )  # fmt: skip
    result = wg.finetune(
        lamp, Dimmer(), Bright(), starts=wg.starts(light, per_task=4), steps=3, horizon=8, out=run, config=config,
        scorer=wg.scorer(light, per_task=4),
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    errors = [row["ratio_error"] for row in rows if "ratio_error" in row]
    assert len(errors) == 3
    assert max(errors) < 1e-4
    assert [row["real_success"] for row in rows if "real_success" in row] == [0.0, 1.0]
    saved = load_policy(run / "policy.safetensors")
    assert isinstance(saved, OpenVLA)
    assert saved.identity == result.policy.identity != lamp.identity


def test_imitation_continues_from_a_published_folder(tmp_path: Path) -> None:
    start = load_policy(described(tmp_path / "checkpoint"))
    assert isinstance(start, OpenVLA)
    shown = replace(episode(0, steps=6, spec=BRIDGE, fps=5.0), task="bowl", instruction="put the bowl on the plate")
    low, high = np.array(start.action_spec.low), np.array(start.action_spec.high)
    actions = np.tile(low + 0.7 * (high - low), (6, 1)).astype(np.float32)
    data = from_episodes([replace(shown, actions=actions)])
    config = PolicyTraining(demonstrations=1, batch=4, fit=FitConfig(steps=40, lr=1e-2, ema=0.5))
    trained = train_policy(data, tmp_path / "sft", config, start=start)
    assert isinstance(trained, OpenVLA)
    obs = Observation.of(torch.from_numpy(shown.frames[:1]), [shown.instruction])
    assert distance(trained, obs, actions[0]) < 0.3 * distance(start, obs, actions[0])


def distance(policy: OpenVLA, obs: Observation, shown: np.ndarray) -> float:
    """Mean distance of the greedy actions from the shown one, in normalized units."""
    statistics = policy.config.statistics
    greedy = policy.act(obs, temperature=0.0, generator=None).actions[0]
    found: Tensor = statistics.normalize(greedy) - statistics.normalize(torch.from_numpy(shown))
    return float(found.abs().mean())
