"""The policy: log-probabilities by one path, tokens and actions, the image matters, imitation learns."""

from __future__ import annotations

import pytest
import torch

from worldgymnast.actions import metaworld_spec
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.protocols import Policy
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import ActionChunk, Observation

SMALL = SmallVLAConfig(width=16, blocks=1, hidden=32)


@pytest.fixture(scope="module")
def text() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture
def policy(text: SentenceEncoder) -> SmallVLA:
    torch.manual_seed(0)
    return SmallVLA(SMALL, metaworld_spec(6), text)


def look(b: int, seed: int = 0) -> Observation:
    image = torch.randint(0, 256, (b, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Observation.of(image, ["open the drawer", "shut the door"] * (b // 2))


def test_it_is_a_policy(policy: SmallVLA) -> None:
    assert isinstance(policy, Policy)
    assert policy.needs == {"image"}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
def test_log_probabilities_recomputed_equal_those_recorded_at_act(policy: SmallVLA, temperature: float) -> None:
    obs = look(6)
    chunk = policy.act(obs, temperature=temperature, generator=torch.Generator().manual_seed(1))
    ratio = (policy.logprobs(obs, chunk) - chunk.logprobs).exp()
    assert torch.equal(ratio, torch.ones_like(ratio))


def test_log_probabilities_do_not_depend_on_the_company(policy: SmallVLA) -> None:
    obs = look(6)
    chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(1))
    alone = Observation.of(obs.image[2:3], [obs.instruction[2]])
    one = ActionChunk(chunk.actions[2:3], chunk.sample[2:3], chunk.logprobs[2:3], 1.0)
    assert torch.allclose(policy.logprobs(alone, one), chunk.logprobs[2:3], atol=2e-5)


def test_tokens_and_actions_are_inverse(policy: SmallVLA) -> None:
    tokens = torch.randint(0, SMALL.bins, (5, 2, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.tokenize(policy.detokenize(tokens)), tokens)
    assert policy.detokenize(torch.zeros(1, 2, 4, dtype=torch.long)).eq(-1).all()
    assert policy.detokenize(torch.full((1, 2, 4), SMALL.bins - 1)).eq(1).all()


def test_sampling_follows_the_distribution(policy: SmallVLA) -> None:
    obs = Observation.of(look(2).image[:1].expand(4000, -1, -1, -1), ["open the drawer"] * 4000)
    expected = policy.distribution(Observation.of(obs.image[:1], ["open the drawer"]), 1.0)[0, 0, 0].exp()
    chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(0))
    found = torch.bincount(chunk.sample[:, 0, 0], minlength=SMALL.bins) / 4000
    assert (found - expected).abs().max() < 0.03


def test_greedy_takes_the_likeliest_token(policy: SmallVLA) -> None:
    obs = look(4)
    chunk = policy.act(obs, temperature=0.0, generator=None)
    assert torch.equal(chunk.sample, policy.distribution(obs, 1.0).argmax(-1))


def test_image_and_sentence_both_matter(policy: SmallVLA) -> None:
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "film" in name:
                p.add_(torch.randn_like(p) * 0.1)
    obs = look(2)
    base = policy.distribution(obs, 1.0)
    assert not torch.allclose(base, policy.distribution(Observation.of(look(2, 5).image, obs.instruction), 1.0))
    assert not torch.allclose(base, policy.distribution(Observation.of(obs.image, obs.instruction[::-1]), 1.0))


def test_imitation_learns_one_batch(policy: SmallVLA) -> None:
    obs = look(8)
    actions = torch.rand(8, 2, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    batch = {"obs": obs, "actions": actions, "mask": torch.ones(8, 2, dtype=torch.bool)}
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss, _ = policy.loss({**batch, "generator": torch.Generator().manual_seed(step)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.75 * losses[0]
