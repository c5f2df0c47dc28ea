"""Tiny SmolVLA, pi0 and pi0.5 are trained by imitation and by reinforcement learning, like any policy."""

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
from tiny_vla import KINDS, tiny_policy, write_tokenizer

import worldgymnast as wg
from worldgymnast.actions import libero_spec, metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.policies.flow_chain import Method, SamplerConfig
from worldgymnast.registry import load_policy
from worldgymnast.rl.trainer import TrainerConfig
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.policy import PolicyTraining, train_policy
from worldgymnast.types import Observation


@pytest.mark.parametrize(
    ("kind", "method", "scale"), [("pi0", "flow_sde", 0.4), ("pi05", "one_step", 3.0), ("smolvla", "flow_noise", 3.0)]
)
def test_reinforcement_learning_lights_the_lamp(kind: str, method: Method, scale: float, tmp_path: Path) -> None:
    sampler, light, run = SamplerConfig(method=method, steps=3), Light(), tmp_path / "run"
    policy = tiny_policy(
        kind, write_tokenizer(tmp_path), sampler, light.action_spec, horizon=4, chunk=2, prompt_length=20
    )
    policy.action_scale.copy_(torch.tensor([scale, 1.0]))  # of the brightness, in ten levels
    config = wg.ReinforceConfig(
        starts=4, group_size=8, rows=32, evaluate_every=5, save_every=5, resample=0, temperature=1.0,
        trainer=TrainerConfig(lr=5e-3, updates=1, warmup=0),
    )  # fmt: skip
    result = wg.finetune(
        policy, Dimmer(), Bright(), starts=wg.starts(light, per_task=4), steps=5, horizon=8, out=run, config=config,
        scorer=wg.scorer(light, per_task=4),
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    errors = [row["ratio_error"] for row in rows if "ratio_error" in row]
    assert errors
    assert max(errors) < 1e-3
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert rewards[0] < 0.7
    assert rewards[-1] > rewards[0] + 0.3
    saved: Any = wg.load_policy(run / "policy.safetensors")
    assert saved.identity == result.policy.identity != policy.identity
    assert backbone(saved, policy)


def backbone(one: Any, other: Any) -> bool:
    """Whether two policies have the same vision-language model."""
    names = [name for name, _ in one.named_parameters() if name.startswith(one.backbone)]
    return bool(names) and all(torch.equal(one.get_parameter(name), other.get_parameter(name)) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_imitation_continues_from_a_policy(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    changed, spec = {"action": 8, "expert_width": 48, "expert_hidden": 96}, libero_spec(1)
    start = tiny_policy(kind, write_tokenizer(tmp_path), SamplerConfig(steps=5), spec, changed, prompt_length=40)
    shown = replace(episode(0, steps=6, spec=spec, fps=20.0), task="bowl", instruction="put the bowl on the plate")
    actions = np.tile(np.linspace(-0.6, 0.6, 7, dtype=np.float32), (6, 1))
    data = from_episodes([replace(shown, actions=actions)])
    config = PolicyTraining(demonstrations=1, batch=8, fit=FitConfig(steps=80, lr=8e-3, ema=0.9))
    trained = train_policy(data, tmp_path / "sft", config, start=start)
    obs = Observation.of(torch.from_numpy(shown.frames[:1]), [shown.instruction])
    first = [policy.act(obs, temperature=0.0, generator=None).actions[0, 0].numpy() for policy in (start, trained)]
    before, after = (float(np.abs(action - actions[0]).mean()) for action in first)
    assert after < 0.4 * before
    assert backbone(trained, start)


def test_sft_trains_a_small_smolvla_from_scratch(tmp_path: Path) -> None:
    shown = [
        replace(
            episode(i, size=64, spec=metaworld_spec(6), fps=80 / 6), instruction="open it", task="t", source="expert"
        )
        for i in range(2)
    ]
    lerobot.write(tmp_path / "data", shown)
    small = ("--policy.sizes.layers", "2", "--policy.sizes.vision-layers", "1", "--policy.sampler.steps", "2")
    words = ["--demonstrations", "1", "--batch", "4", "--fit.steps", "2", *small, "--out", str(tmp_path / "run")]
    assert main(["sft", "tiny-smolvla", str(tmp_path / "data"), *words]) == 0
    trained: Any = load_policy(tmp_path / "run" / "policy.safetensors")
    assert type(trained).__name__ == "TinySmolVLA"
    assert (trained.config.sizes.layers, trained.config.sampler.steps, trained.chunk) == (2, 2, 2)
    assert main(["sft", "tiny-smolvl", "--out", str(tmp_path / "other")]) == 2
