"""Gradients by the stochastic samplers of a flow, against those of a flow whose mean is known exactly."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from worldgymnast.policies.flow_chain import (
    ALL_STEPS,
    Gaussian,
    Transition,
    chain_logprobs,
    flow_step,
    sample_chain,
    sde_step,
)

STEPS, ROWS = 3, 200_000
WEIGHT = torch.tensor([[0.5, 0.8], [0.3, 0.4]])
BIAS = torch.tensor([-0.6, 0.9])
"""Of the velocity, on an axis that is executed and one of padding."""


def transition(weight: Tensor, bias: Tensor, method: str) -> Transition:
    def step(x: Tensor, index: Tensor, level: Tensor) -> Gaussian:
        velocity = x @ weight.T + bias
        if method == "flow_noise":
            return Gaussian(flow_step(x, velocity, index, STEPS), 0.3 * level[:, None, None])
        return sde_step(x, velocity, index, STEPS, 0.5 * level)

    return step


def parameters() -> tuple[Tensor, Tensor]:
    return WEIGHT.clone().requires_grad_(), BIAS.clone().requires_grad_()


@functools.cache
def exact(method: str, step: int) -> Tensor:
    """Gradient of the mean of the executed number: the mean of a linear chain follows the means of its steps."""
    weight, bias = parameters()
    move, x = transition(weight, bias, method), torch.zeros(1, 1, 2)
    for index in range(STEPS):
        level = torch.tensor([float(step in (ALL_STEPS, index))])
        x = move(x, torch.tensor([index]), level).mean
    x[0, 0, 0].backward()
    assert weight.grad is not None
    assert bias.grad is not None
    return torch.cat([weight.grad.flatten(), bias.grad])


@functools.cache
def estimated(method: str, step: int, counted: int) -> Tensor:
    """Policy gradient of the same, from the log-density of the first `counted` axes."""
    weight, bias = parameters()
    move, steps = transition(weight, bias, method), torch.full((ROWS,), step)
    noise = torch.randn(STEPS + 1, ROWS, 1, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chain, _ = sample_chain(move, noise, steps, 1.0)
    reward = chain[:, -1, 0, 0]
    density = chain_logprobs(move, chain, steps, 1.0)[..., :counted].sum((1, 2, 3))
    ((reward - reward.mean()) * density).mean().backward()
    assert weight.grad is not None
    assert bias.grad is not None
    return torch.cat([weight.grad.flatten(), bias.grad])


METHODS = ("flow_sde", "flow_noise")


@pytest.mark.parametrize("method", METHODS)
def test_the_density_of_the_whole_chain_gives_the_exact_gradient(method: str) -> None:
    assert exact(method, ALL_STEPS).abs().max() > 0.5
    torch.testing.assert_close(estimated(method, ALL_STEPS, 2), exact(method, ALL_STEPS), atol=0.03, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_executed_numbers_alone_give_a_biased_gradient(method: str) -> None:
    """Noise on the padding reaches the executed axis one step later, but its cause gets no gradient."""
    found, wanted = estimated(method, ALL_STEPS, 1), exact(method, ALL_STEPS)
    assert not found[[2, 3, 5]].any(), "the velocity of the padding axis"
    assert wanted[[2, 3, 5]].abs().max() > 0.1
    agreement = torch.nn.functional.cosine_similarity(found, wanted, dim=0)
    assert 0.5 < agreement < 0.98, "but it points the right way"


@pytest.mark.parametrize("step", range(STEPS))
def test_one_stochastic_step_gives_a_biased_gradient(step: int) -> None:
    """The other steps depend on the weights too, those before it as well as those after it."""
    found, wanted = estimated("flow_sde", step, 2), exact("flow_sde", step)
    assert (found - wanted).abs().max() > 0.1
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) > 0.5
