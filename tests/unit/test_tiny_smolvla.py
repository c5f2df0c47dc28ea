"""SmolVLA with small sizes: the published network class, learning from random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_builders import episode

from worldgymnast.actions import ActionSpec, metaworld_spec
from worldgymnast.cli.data_defaults import fit_policy
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.policies.flow_chain import SamplerConfig
from worldgymnast.policies.prompts import MINILM, load_tokenizer, prompt_ids
from worldgymnast.policies.smolvla_network import SmolVLANetwork
from worldgymnast.policies.tiny_smolvla import TinySmolVLA, TinySmolVLAConfig, TinySmolVLASizes
from worldgymnast.protocols import ComponentInfo
from worldgymnast.registry import Manifest, load_policy, make, save_component
from worldgymnast.testing import check_policy, observation
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.types import Observation
from worldgymnast.weights import identity

SPEC: ActionSpec = metaworld_spec(6)


def fresh(seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    return make("policies", TinySmolVLAConfig(**fields), ComponentInfo(action_spec=SPEC))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SMALLER = TinySmolVLASizes(layers=2, vision_layers=1, patch=16)
"""Sizes that learn in seconds."""


def demonstration() -> dict[str, Any]:
    """A batch of 8 different looks, each 4 times with its own actions."""
    image = torch.randint(0, 256, (8, 64, 64, 3), generator=seeded(), dtype=torch.uint8)
    actions = torch.rand(8, 2, 4, generator=seeded(1)) * 1.6 - 0.8
    obs, rows = Observation.of(image, ["open the drawer", "close the door"] * 4), torch.arange(32) % 8
    mask = torch.ones(32, 2, dtype=torch.bool)
    return {"obs": obs.rows(rows), "actions": actions[rows], "mask": mask, "generator": seeded(2)}


def train(policy: TinySmolVLA, batch: dict[str, Any], steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.AdamW(policy.parameters(), lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, metrics = policy.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(metrics["loss"])
    return losses


def test_the_network_is_that_of_smolvla_with_a_few_million_weights() -> None:
    policy = fresh()
    assert type(policy.model) is SmolVLANetwork
    assert 2e6 < sum(weight.numel() for weight in policy.parameters()) < 5e6
    assert all(weight.requires_grad for weight in policy.parameters())


@pytest.mark.parametrize("method", ["flow_sde", "one_step", "flow_noise"])
def test_the_contract_holds(method: Any) -> None:
    check_policy(fresh(sampler=SamplerConfig(method=method, steps=4)))


def test_the_contract_holds_with_state_and_two_cameras() -> None:
    check_policy(fresh(cameras=("front", "wrist"), state_dim=3, ratio="look"), (48, 80), state_size=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ratio_is_exactly_one_before_the_first_update(dtype: torch.dtype) -> None:
    policy = fresh()
    obs = observation(policy)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        chunk = policy.act(obs, temperature=0.5, generator=seeded())
        again = policy.logprobs(obs, chunk)
    assert torch.equal(again.detach(), chunk.logprobs)
    assert chunk.logprobs.shape == (4, 4, 2, 4), "steps, actions, axes"


def test_images_and_words_begin_equally_loud() -> None:
    policy = fresh()
    network: Any = policy.model
    embedded, _ = network._embed(policy.preprocess(observation(policy)))
    for tokens in (embedded[:, :16], embedded[:, 16:19]):
        assert float(tokens.square().mean().sqrt()) == pytest.approx(1, abs=0.1)


def test_one_batch_is_learned_by_heart() -> None:
    policy, batch = fresh(shift=0, jitter=0.0, sizes=SMALLER), demonstration()
    losses = train(policy, batch, 120, 3e-3)
    assert np.mean(losses[-10:]) < 0.15 * np.mean(losses[:10])
    greedy = policy.act(batch["obs"], temperature=0.0, generator=None).actions
    assert float((greedy - batch["actions"]).abs().mean()) < 0.12


def test_words_alone_can_decide_the_action() -> None:
    policy, batch = fresh(shift=0, jitter=0.0, sizes=SMALLER), demonstration()
    image = batch["obs"].image[:1].expand(32, -1, -1, -1)
    batch |= {"obs": Observation.of(image, batch["obs"].instruction), "actions": batch["actions"][:2].repeat(16, 1, 1)}
    train(policy, batch, 60, 3e-3)
    greedy = policy.act(batch["obs"], temperature=0.0, generator=None).actions
    assert float((greedy - batch["actions"]).abs().mean()) < 0.12
    assert float((batch["actions"][0] - batch["actions"][1]).abs().mean()) > 0.3


def test_imitation_augments_images_by_its_generator_and_acting_does_not() -> None:
    policy, batch = fresh(), demonstration()
    inputs = [policy.training_inputs({**batch, "generator": seeded(seed)}).images[0] for seed in (0, 0, 1)]
    assert torch.equal(inputs[0], inputs[1])
    assert not torch.equal(inputs[0], inputs[2])
    plain = fresh(shift=0, jitter=0.0)
    seen = plain.training_inputs(batch).images[0]
    torch.testing.assert_close(seen, policy.preprocess(batch["obs"]).images[0])


def test_every_sentence_is_in_the_vocabulary() -> None:
    tokenizer, config = load_tokenizer(MINILM), TinySmolVLAConfig()
    sentences = [sentence for each in INSTRUCTIONS.values() for sentence in each]
    for sentence in [*sentences, "Zsofia's quokka, 7½ ŵidgets 漢字 🤖"]:
        ids = prompt_ids(tokenizer, "smolvla", sentence)
        assert ids
        assert max(ids) < config.sizes.vocabulary
    assert max(len(prompt_ids(tokenizer, "smolvla", sentence)) for sentence in sentences) <= config.prompt_length
    unknown = tokenizer.token_to_id("[UNK]")
    assert not [s for s in sentences if unknown in prompt_ids(tokenizer, "smolvla", s)]


def test_one_file_contains_it(tmp_path: Path) -> None:
    policy = fresh(sizes=SMALLER)
    save_component(tmp_path / "policy.safetensors", policy, Manifest())
    loaded: Any = load_policy(tmp_path / "policy.safetensors")
    assert type(loaded) is TinySmolVLA
    assert loaded.config == policy.config
    assert identity(loaded) == identity(policy)
    obs = observation(policy)
    actions = [each.act(obs, temperature=0.0, generator=None).actions for each in (policy, loaded)]
    assert torch.equal(*actions)


def test_a_longer_chunk_of_faster_data_lengthens_the_horizon() -> None:
    spec = replace(SPEC, axes=("a", "b", "c", "d"), rate=50.0)
    data = from_episodes([replace(episode(i, spec=spec), fps=50.0) for i in range(2)])
    training = fit_policy(PolicyTraining(TinySmolVLAConfig()), data, ())
    assert training.policy == replace(TinySmolVLAConfig(), chunk=8, horizon=8)
