"""Full-size policies are finetuned with the settings of their kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from episode_builders import episodes
from tiny_vla import tiny_policy, write_tokenizer

import worldgymnast as wg
from worldgymnast.actions import metaworld_spec
from worldgymnast.cli import memory_plan
from worldgymnast.cli.main import main
from worldgymnast.episodes.lerobot import write
from worldgymnast.policies.flow_chain import SamplerConfig
from worldgymnast.recipes.presets import FINETUNING, finetuning
from worldgymnast.registry import Manifest, save_component
from worldgymnast.training.policy import PolicyTraining

KINDS = {"smolvla": "SmolVLA", "pi0": "Pi0", "pi05": "Pi05"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_policy_has_the_published_settings_and_flags_win(kind: str, tmp_path: Path) -> None:
    policy = tiny_policy(kind, write_tokenizer(tmp_path), SamplerConfig(), metaworld_spec(3))
    config, known = PolicyTraining(), FINETUNING[KINDS[kind]]
    chosen = finetuning(config, policy, ())
    assert chosen == replace(config, batch=known.batch, fit=replace(config.fit, lr=known.lr))
    assert chosen.fit.lr < config.fit.lr
    own = finetuning(config, policy, ("--fit.lr", "--fit.steps"))
    assert (own.fit.lr, own.batch) == (config.fit.lr, known.batch)
    assert finetuning(config, policy, ("--fit.lr", "--batch")) == config


def test_small_policies_keep_their_defaults() -> None:
    assert finetuning(PolicyTraining(), wg.load_policy(wg.starter("policy")), ()) == PolicyTraining()


def test_the_command_says_what_it_uses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "device_bytes", lambda device: 1000)
    write(tmp_path / "data", episodes(2, size=64, spec=metaworld_spec(3), fps=40 / 3))
    policy = tiny_policy("pi0", write_tokenizer(tmp_path), SamplerConfig(), metaworld_spec(3))
    save_component(tmp_path / "policy.safetensors", policy, Manifest())
    words = ["sft", tmp_path / "data", "--begin-with", tmp_path / "policy.safetensors", "--out", tmp_path / "run"]
    words += ["--demonstrations", "1", "--threads", "1"]
    for flags, said in (([], "--fit.lr 2.5e-05 and --batch 32"), (["--batch", "3"], "--fit.lr 2.5e-05 and --batch 3")):
        assert main([*map(str, words), *flags]) == 2
        captured = capsys.readouterr()
        assert f"policy.safetensors: Pi0, trained with {said}" in captured.out
        assert "would run out of memory" in captured.err
