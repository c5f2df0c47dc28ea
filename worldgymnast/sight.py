"""Self-test of a policy: its output must change when the image does.

A checkpoint whose vision weights are missing, misnamed or cut off from the rest still moves the robot, always in the
same way. Training it in a world model would cost days before this is noticed.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.protocols import Actor
from worldgymnast.types import STATE, Observation

_SENTENCE = "lift it"
_SIDE = 64
_ROUNDING = 1e-6
"""Largest change by rounding, relative to the size of the numbers."""


def sight_change(actor: Actor, state_size: int | None = None) -> float:
    """Largest change of an actor's output over a black, a white and a shuffled image, relative to its size.

    One pass of three rows at temperature 0. Actions count and, where the actor gives them, log-probabilities, since
    action tokens of two images can be equal.

    Args:
        actor: the actor; all its cameras show the same image.
        state_size: numbers of proprioception, shown as zeros; None for those in the config.

    Returns:
        0 for a blind actor; not finite if an output is not.

    >>> import worldgymnast as wg
    >>> sight_change(wg.load_policy(wg.starter("policy"))) > 0.01
    True
    """
    images = _images()
    width = getattr(getattr(actor, "config", None), "state_dim", 0) if state_size is None else state_size
    state = torch.zeros(len(images), width) if STATE in actor.needs else None
    shown = dict.fromkeys(actor.cameras, images)
    obs = Observation(shown, [_SENTENCE] * len(images), state, shown)
    with torch.no_grad():
        chunk = actor.act(obs, temperature=0.0, generator=torch.Generator().manual_seed(0))
    outputs: list[Any] = [chunk.actions, chunk.logprobs]
    return max(_change(output) for output in outputs if isinstance(output, Tensor))


def check_sight(actor: Actor, name: str, fix: str = "", state_size: int | None = None) -> None:
    """Refuse an actor whose output does not change when the image does.

    Args:
        actor: the actor.
        name: names it in the message.
        fix: last sentence of the message.
        state_size: see `sight_change`.

    Raises:
        InputError: the output is the same for a black, a white and a shuffled image, or is not finite.
    """
    change = sight_change(actor, state_size)
    if change > _ROUNDING and change < float("inf"):
        return
    advice = fix or "Check its vision weights, and which cameras it reads"
    if change <= _ROUNDING:
        raise InputError(
            f"{name}: found the same output for a black, a white and a shuffled image, so the policy is blind. It "
            f"would learn nothing about the scene. {advice}"
        )
    raise InputError(f"{name}: found an output that is not finite for a black, a white or a shuffled image. {advice}")


def _images() -> UInt8[Tensor, "3 h w 3"]:
    """Black, white, and shuffled pixels of all colors."""
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randint(0, 256, (_SIDE, _SIDE, 3), generator=generator, dtype=torch.uint8)
    return torch.stack([torch.zeros_like(shuffled), torch.full_like(shuffled, 255), shuffled])


def _change(output: Float[Tensor, "3 ..."]) -> float:
    values = output.detach().double().reshape(len(output), -1)
    size = max(1.0, float(values.abs().max()))
    return float((values[1:] - values[:1]).abs().max()) / size
