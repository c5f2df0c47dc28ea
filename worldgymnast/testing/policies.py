"""Contract checks of policies."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from worldgymnast import sight
from worldgymnast.errors import InputError
from worldgymnast.protocols import Actor, Policy
from worldgymnast.registry import Manifest, class_of, load_policy, save_component, weights_into
from worldgymnast.testing.contract import SENTENCES, ContractError, require, require_identity, require_protocol
from worldgymnast.types import ActionChunk, Observation
from worldgymnast.weights import identity

_ROWS = 4
"""Batch size; above one to detect swapped axes."""
_ROUNDING = 1e-3
"""Tolerance of log-probabilities of the same chunk, in nats."""


def observation(
    actor: Actor, frame_size: tuple[int, int] = (64, 64), state_size: int = 0, seed: int = 0
) -> Observation:
    """Random observation of 4 rows for an actor.

    Args:
        actor: the actor, whose cameras are used.
        frame_size: height and width of the frames.
        state_size: numbers of proprioception; 0 for none.
        seed: random seed.

    >>> import worldgymnast as wg
    >>> observation(wg.load_policy(wg.starter("policy"))).image.shape
    torch.Size([4, 64, 64, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (_ROWS, *frame_size, 3)
    images = {name: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for name in actor.cameras}
    state = torch.randn(_ROWS, state_size, generator=generator) if state_size else None
    return Observation(images, [SENTENCES[i % 2] for i in range(_ROWS)], state, images)


def check_sight(actor: Any, state_size: int = 0) -> None:
    """Check that the output of a policy changes when the image does.

    Published checkpoints are tested so when they are loaded. One pass of a black, a white and a shuffled image.

    Args:
        actor: the policy, or any other actor.
        state_size: numbers of proprioception that it needs; 0 for none.

    Raises:
        ContractError: the actor is blind, or its output is not finite.

    >>> import worldgymnast as wg
    >>> wg.testing.check_sight(wg.load_policy(wg.starter("policy")))
    """
    try:
        sight.check_sight(actor, type(actor).__name__, state_size=state_size)
    except InputError as error:
        raise ContractError(str(error)) from error


def check_policy(policy: Any, frame_size: tuple[int, int] = (64, 64), state_size: int = 0) -> None:
    """Check that a policy can be rolled out, trained by reinforcement learning, saved and resumed.

    Args:
        policy: the policy; its weights stay unchanged.
        frame_size: height and width of its frames.
        state_size: numbers of proprioception that it needs; 0 for none.

    Raises:
        ContractError: the policy violates its contract.

    >>> import worldgymnast as wg
    >>> wg.testing.check_policy(wg.load_policy(wg.starter("policy")))
    """
    require_protocol(policy, Policy)
    require_identity(policy)
    obs = observation(policy, frame_size, state_size)
    chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(0))
    _check_chunk(policy, chunk)
    _check_draws(policy, obs, chunk)
    _check_logprobs(policy, obs, chunk)
    _check_training(policy, obs, chunk)
    _check_saving(policy)


def _check_chunk(policy: Policy, chunk: ActionChunk) -> None:
    name, shape = type(policy).__name__, (_ROWS, policy.chunk, policy.action_spec.dim)
    require(
        tuple(chunk.actions.shape) == shape and chunk.actions.dtype == torch.float32,
        f"{name}.act gives {chunk.actions.dtype} actions {list(chunk.actions.shape)}, expected float32 {list(shape)}",
        "Environments execute arrays [rows, chunk, action]",
        "Return actions [b k a], with k = chunk and a = action_spec.dim",
    )
    require(
        not (chunk.logprobs.requires_grad or chunk.actions.requires_grad),
        f"{name}.act gives tensors with a gradient",
        "Every rollout would keep its autograd graph, and the second update would fail",
        "Decorate act with torch.no_grad()",
    )
    require(
        len(chunk.logprobs) == _ROWS and bool(torch.isfinite(chunk.logprobs).all()),
        f"{name}.act gives log-probabilities {list(chunk.logprobs.shape)}, or non-finite ones",
        "The update could not compute the probability ratio",
        "Return finite log-probabilities [b ...]",
    )


def _same(one: ActionChunk, other: ActionChunk) -> bool:
    return bool(torch.allclose(one.actions, other.actions, atol=1e-5))


def _check_draws(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name = type(policy).__name__
    again = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(0))
    require(
        _same(chunk, again),
        f"{name}.act with the same generator gives other actions",
        "A resumed run would differ from an uninterrupted one",
        "Draw every random number from the given generator",
    )
    other = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(1))
    require(
        not _same(chunk, other),
        f"{name}.act at temperature 1 gives the same actions from another generator",
        "All rollouts of a group would be equal, so there would be no learning signal",
        "Sample if the temperature is above 0",
    )
    greedy = [policy.act(obs, temperature=0.0, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    require(
        _same(*greedy),
        f"{name}.act at temperature 0 depends on the generator",
        "Evaluations would not be reproducible",
        "Return the most likely action if the temperature is 0",
    )


def _check_logprobs(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name, fresh = type(policy).__name__, policy.logprobs(obs, chunk)
    difference = np.inf
    if fresh.shape == chunk.logprobs.shape:
        difference = float((fresh.detach().cpu() - chunk.logprobs.cpu()).abs().max())
    require(
        difference <= _ROUNDING,
        f"{name}.logprobs differs from the log-probabilities of act by {difference:.2g} nats",
        "The ratio would not be 1 before the first update, so the first gradient would be wrong",
        "Score chunk.sample by the same path as act, at chunk.temperature, with dropout off",
    )
    require(
        fresh.requires_grad,
        f"{name}.logprobs has no gradient",
        "The policy would not learn",
        "Compute it without torch.no_grad(), from parameters that require a gradient",
    )
    rows = torch.tensor([2, 0])
    part = policy.logprobs(obs.rows(rows), chunk.rows(rows)).detach()
    difference = float((part - fresh.detach()[rows.to(fresh.device)]).abs().max())
    require(
        difference <= _ROUNDING,
        f"{name}.logprobs of two rows differs from the same rows of a batch by {difference:.2g} nats",
        "Micro-batches would change the update",
        "Keep rows independent (no batch normalization), with the batch first in every tensor of chunk.sample",
    )


def _check_training(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name = type(policy).__name__
    trained, state = copy.deepcopy(policy), {k: v.detach().clone() for k, v in policy.trainable_state().items()}
    parameters = [weight for weight in trained.parameters() if weight.requires_grad]
    require(
        bool(parameters),
        f"{name} has no parameter that requires a gradient",
        "It cannot be trained",
        "Unfreeze some parameters",
    )
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    (-trained.logprobs(obs, chunk).mean()).backward()
    optimizer.step()
    require(
        identity(trained) != identity(policy),
        f"{name}.identity is unchanged after an update",
        "A run could not distinguish the trained policy from the initial one",
        "Compute it from the weights (worldgymnast.weights.module_identity)",
    )
    trained.load_trainable(state)
    difference = float((trained.logprobs(obs, chunk) - policy.logprobs(obs, chunk)).detach().abs().max())
    require(
        difference <= _ROUNDING,
        f"{name}.load_trainable(trainable_state()) does not restore the policy: {difference:.2g} nats off",
        "The best step could not be restored, and checkpoints would lose weights",
        "Return every tensor that training changes, and restore all of them",
    )


def _check_saving(policy: Policy) -> None:
    name = type(policy).__name__
    is_registered = class_of("policies", name) is type(policy)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        save_component(path, policy, Manifest())
        restored = copy.deepcopy(policy)
        for weight in restored.parameters():
            nn.init.zeros_(weight)
        weights_into(restored, path)
        copies = [restored, load_policy(path)] if is_registered else [restored]
    for each in copies:
        require(
            identity(each) == identity(policy),
            f"{name} has another identity after saving and loading",
            "A run could not be resumed, and the file would contain another policy",
            "Put every weight into state_dict(), and build only from the config in from_config",
        )
