"""The robot's state as a policy reads it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from worldgymnast.errors import InputError


def checked_state(state: Tensor | None, width: int) -> Float[Tensor, "b s"]:
    """Return the state of an observation, float32 [b s].

    Args:
        state: the state, or None.
        width: numbers that the policy reads.

    Raises:
        InputError: there is no state, or one of another width.

    >>> checked_state(None, 6)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    worldgymnast.errors.InputError: policy needs a state of 6 numbers, found none. For a call of `act`, give ...
    """
    if state is None or state.shape[-1] != width:
        found = "none" if state is None else f"one of {state.shape[-1]} numbers"
        raise InputError(
            f"policy needs a state of {width} numbers, found {found}. For a call of `act`, give Observation(images, "
            f"[instruction], state), state float32 [1 {width}]; for a training, a world model and data with this state"
        )
    return state
