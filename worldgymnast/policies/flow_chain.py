"""Stochastic sampling of a flow, with the log-probability of every step.

Time runs from 1 (noise) to 0 (actions), and the velocity is noise minus actions, as in openpi. Three samplers:

- "flow_sde": every step adds noise and corrects the drift, so the marginals stay those of the flow (Flow-GRPO, Liu et
  al. 2025, arXiv 2505.05470; pi-RL, arXiv 2510.25889).
- "one_step": one step of each row, drawn uniformly, is such a stochastic step; the others follow the flow. Scoring a
  sample takes one evaluation of the network. The other steps, before and after it, depend on the weights too, but are
  treated as part of the environment, as in RLinf: the gradient is biased.
- "flow_noise": every step adds noise of a learned standard deviation (ReinFlow, arXiv 2505.22094).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldgymnast.configs import Between, Layers, checked
from worldgymnast.errors import FieldError

Method = Literal["flow_sde", "one_step", "flow_noise"]
_Deviation = Annotated[float, Between(1e-4, 10)]
ALL_STEPS = -1
"""Stochastic step of a sample whose steps are all stochastic."""


@checked
class SamplerConfig:
    """The sampler of a flow policy.

    Attributes:
        method: which steps are stochastic, and how; see the module.
        steps: Euler steps from noise to actions, K.
        noise: noise scale a of "flow_sde" and "one_step" at temperature 1.
        low: smallest standard deviation of "flow_noise" at temperature 1.
        high: largest standard deviation of "flow_noise" at temperature 1.
    """

    method: Method = "flow_sde"
    steps: Layers = 10
    noise: _Deviation = 0.5
    low: _Deviation = 0.08
    high: _Deviation = 0.16

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise FieldError("low", f"found {self.low}, expected less than high, {self.high}")
        if self.method == "flow_sde" and self.steps == 1:
            raise FieldError("steps", "found 1, expected 2 or more for flow_sde")


class Gaussian(NamedTuple):
    """Distribution of the next point of a chain: mean [b k a] and standard deviation, 0 where it is the mean."""

    mean: Float[Tensor, "b k a"]
    deviation: Float[Tensor, "b _ _"]

    def logprob(self, x: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Log-density of every number of `x`; 0 where the standard deviation is 0."""
        deviation = self.deviation.expand_as(self.mean)
        safe = torch.where(deviation > 0, deviation, 1.0)
        z = (x - self.mean) / safe
        return torch.where(deviation > 0, -0.5 * z**2 - safe.log() - math.log(math.sqrt(2 * math.pi)), 0.0)


Transition = Callable[[Tensor, Tensor, Tensor], Gaussian]
"""Distribution of the next point, given the point [b k a], the index [b] of the step and its noise level [b]."""


def times(index: Int[Tensor, " b"], steps: int) -> Float[Tensor, " b"]:
    """Time at the beginning of a step.

    >>> times(torch.tensor([0, 1, 4]), 4).tolist()
    [1.0, 0.75, 0.0]
    """
    return torch.linspace(1, 0, steps + 1, device=index.device)[index]


def flow_step(x: Tensor, velocity: Tensor, index: Int[Tensor, " b"], steps: int, drift: Tensor | float = 0.0) -> Tensor:
    """Point after one step: the predicted actions and noise, mixed at the next time.

    Args:
        x: the point [b k a].
        velocity: at `x`.
        index: index of the step.
        steps: number of steps.
        drift: correction of a stochastic step, [b 1 1].
    """
    time = times(index, steps)[:, None, None]
    after = time - 1 / steps
    actions, noise = x - time * velocity, x + (1 - time) * velocity
    return actions * (1 - after) + noise * (after - drift)


def sde_step(x: Tensor, velocity: Tensor, index: Int[Tensor, " b"], steps: int, noise: Float[Tensor, " b"]) -> Gaussian:
    """Stochastic step with the marginals of the flow; noise scale 0 gives a step of the flow.

    With sigma^2 = noise^2 t / (1 - t) the drift is corrected by sigma^2 / (2 t K). At t = 1 the next time stands in the
    denominator.
    """
    time = times(index, steps)
    left = torch.where(index == 0, 1 / steps, 1 - time)
    sigma = noise * (time / left).sqrt()
    drift = sigma**2 / (2 * time * steps)
    mean = flow_step(x, velocity, index, steps, drift[:, None, None])
    return Gaussian(mean, (sigma / math.sqrt(steps))[:, None, None])


class NoiseNet(nn.Module):
    """Standard deviation of "flow_noise" steps, from the last hidden state of the expert.

    Args:
        width: channels of the hidden state.
        action: width of an action.
        hidden: widths of the two hidden layers.
    """

    def __init__(self, width: int, action: int, hidden: tuple[int, int] = (128, 64)):
        super().__init__()
        widths = (width, *hidden, action)
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])

    def forward(self, hidden: Float[Tensor, "b k w"], low: float, high: float) -> Float[Tensor, "b k a"]:
        """Standard deviations between `low` and `high`; their logarithm is bounded by a tanh."""
        x = hidden
        for layer in self.layers:
            x = layer(x).tanh()
        return torch.exp(math.log(low) + math.log(high / low) * (x.float() + 1) / 2)


def stochastic_steps(step: Int[Tensor, " b"], steps: int) -> Bool[Tensor, "b s"]:
    """Which steps of each row are stochastic.

    >>> stochastic_steps(torch.tensor([ALL_STEPS, 1]), 3).int().tolist()
    [[1, 1, 1], [0, 1, 0]]
    """
    return (step[:, None] == ALL_STEPS) | (step[:, None] == torch.arange(steps, device=step.device))


def sample_chain(
    transition: Transition, noise: Float[Tensor, "s1 b k a"], step: Int[Tensor, " b"], temperature: float
) -> tuple[Float[Tensor, "b s1 k a"], Float[Tensor, "b s k a"]]:
    """Draw a chain; return it with the log-density of every number.

    Args:
        transition: the policy's step.
        noise: standard normal numbers; the first are the beginning of the chain.
        step: stochastic step of each row, or `ALL_STEPS`.
        temperature: factor of the noise; with 0 the chain follows the flow, and every log-density is 0.
    """
    steps = len(noise) - 1
    levels = stochastic_steps(step, steps) * temperature
    chain, logprobs = [noise[0]], []
    for index in range(steps):
        gaussian = transition(chain[-1], torch.full_like(step, index), levels[:, index])
        chain.append(gaussian.mean + gaussian.deviation * noise[index + 1])
        logprobs.append(gaussian.logprob(chain[-1]))
    return torch.stack(chain, 1), torch.stack(logprobs, 1)


def chain_logprobs(
    transition: Transition, chain: Float[Tensor, "b s1 k a"], step: Int[Tensor, " b"], temperature: float
) -> Float[Tensor, "b s k a"]:
    """Log-density of every number of a chain, differentiable; 0 at steps that are not stochastic."""
    steps = chain.shape[1] - 1
    levels = stochastic_steps(step, steps) * temperature
    logprobs = []
    for index in range(steps):
        gaussian = transition(chain[:, index], torch.full_like(step, index), levels[:, index])
        logprobs.append(gaussian.logprob(chain[:, index + 1]))
    return torch.stack(logprobs, 1)


def one_step_logprobs(
    transition: Transition, chain: Float[Tensor, "b s1 k a"], step: Int[Tensor, " b"], temperature: float
) -> Float[Tensor, "b 1 k a"]:
    """Log-density of the one stochastic step of each row, by one evaluation of the network."""
    rows = torch.arange(len(chain), device=chain.device)
    gaussian = transition(chain[rows, step], step, torch.full_like(step, 1, dtype=torch.float32) * temperature)
    return gaussian.logprob(chain[rows, step + 1])[:, None]
