"""The policy with a flow-matching head: its sampler has the right marginals, its path the density it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldgymnast.actions import metaworld_spec
from worldgymnast.policies.flow_vla import FlowVLA, FlowVLAConfig
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Observation

TEXT = SentenceEncoder()
MEAN, SPREAD = 0.1, 0.2


class Exact(FlowVLA):
    """The velocity that carries standard noise to actions of mean 0.1 and standard deviation 0.2."""

    def velocity(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        t = float(time[0])
        gain = (t * SPREAD**2 - (1 - t)) / ((1 - t) ** 2 + (t * SPREAD) ** 2)
        return MEAN + gain * (x - t * MEAN)


def look(rows: int) -> Observation:
    return Observation.of(torch.zeros(rows, 16, 16, 3, dtype=torch.uint8), ["open the drawer"] * rows)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_stochastic_sampler_keeps_the_marginals_of_the_flow(noise: float) -> None:
    policy = Exact(FlowVLAConfig(steps=100, noise=noise, width=8, blocks=1, hidden=8), metaworld_spec(6), TEXT)
    chunk = policy.act(look(2000), temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert isinstance(chunk.sample, Tensor)
    actions = chunk.sample[:, -1]
    assert float(actions.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(actions.std()) == pytest.approx(SPREAD, rel=0.06)


def test_the_path_has_the_density_of_its_gaussian_steps() -> None:
    torch.manual_seed(0)
    policy = FlowVLA(FlowVLAConfig(width=8, blocks=1, hidden=16), metaworld_spec(6), TEXT)
    obs = look(3)
    chunk = policy.act(obs, temperature=0.7, generator=torch.Generator().manual_seed(1))
    assert isinstance(chunk.sample, Tensor)
    assert chunk.logprobs.shape == (3, 4, 2, 4)
    features = policy.features(*policy.preprocess(obs))
    mean, deviation = policy._step(features, chunk.sample[:, 2], 2, 0.7)
    wanted = torch.distributions.Normal(mean, deviation).log_prob(chunk.sample[:, 3])
    torch.testing.assert_close(chunk.logprobs[:, 2], wanted.detach(), atol=1e-4, rtol=1e-4)


def test_imitation_learns_what_is_shown() -> None:
    torch.manual_seed(0)
    policy = FlowVLA(FlowVLAConfig(width=8, blocks=1, hidden=64, jitter=0.0), metaworld_spec(6), TEXT)
    shown = torch.tensor(np.linspace(-0.8, 0.8, 8), dtype=torch.float32).reshape(1, 2, 4).repeat(16, 1, 1)
    optimizer, generator = torch.optim.Adam(policy.parameters(), 3e-3), torch.Generator().manual_seed(0)
    batch = {"obs": look(16), "actions": shown, "mask": torch.ones(16, 2, dtype=torch.bool), "generator": generator}
    for _ in range(250):
        optimizer.zero_grad()
        policy.loss(batch)[0].backward()
        optimizer.step()
    greedy = policy.act(look(1), temperature=0.0, generator=None).actions[0]
    torch.testing.assert_close(greedy, shown[0], atol=0.12, rtol=0)
