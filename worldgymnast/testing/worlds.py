"""Contract checks of world models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldgymnast.protocols import WorldModel, predicts_state
from worldgymnast.testing.contract import require, require_identity, require_protocol


def check_world(world: Any) -> None:
    """Check that a world model is reproducible and keeps its state in the returned value.

    Raises:
        ContractError: the world model violates its contract.

    >>> import worldgymnast as wg
    >>> wg.testing.check_world(wg.load_world(wg.starter("world")))
    """
    require_protocol(world, WorldModel)
    require_identity(world)
    name, (height, width) = type(world).__name__, world.frame_size
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    spec = world.action_spec
    actions = torch.from_numpy(rng.uniform(spec.low, spec.high, (2, 4, spec.dim)).astype(np.float32))

    def imagine(state: Any, every: int = 1, seed: int = 0) -> np.ndarray:
        return world.step(state, actions, generator=torch.Generator().manual_seed(seed), every=every)[1].cpu().numpy()

    state = world.start(frames)
    imagined = imagine(state)
    shape = (2, 4, height, width, 3)
    require(
        imagined.shape == shape and imagined.dtype == np.uint8,
        f"{name}.step gives frames {list(imagined.shape)} of {imagined.dtype}, expected {list(shape)} uint8",
        "Judges and policies need uint8 RGB frames, one per action",
        "Return frames [b k h w 3] in 0..255",
    )
    require(
        bool(np.array_equal(imagined, imagine(state))),
        f"{name}.step from the same state and generator gives other frames",
        "A start could not be continued in several ways, and a resumed run would differ",
        "Store no state on the module: put it into WorldState, and draw only from the generator",
    )
    require(
        bool(np.array_equal(imagined[:, 3:], imagine(state, every=4))),
        f"{name}.step(every=4) does not give the last of the 4 frames",
        "Rollouts with keyframes only would be judged on other frames",
        "Imagine every action, and return the last frame of each `every`",
    )
    forked = state.fork(torch.tensor([1, 0]))
    difference = np.abs(imagine(state).astype(int) - imagine(world.start(frames)).astype(int)).max()
    require(
        bool(difference <= 1) and len(imagine(forked)) == 2,
        f"{name}: stepping one state changes another",
        "The rollouts of a group would influence each other",
        "Return a new WorldState, and never modify the given one",
    )
    if predicts_state(world):
        _check_state(world, frames, actions)


def _check_state(world: Any, frames: torch.Tensor, actions: torch.Tensor) -> None:
    """Check the predictions of a world model with a state head."""
    name, known = type(world).__name__, torch.arange(2.0 * world.state_dim).reshape(2, world.state_dim)
    state = world.start(frames, known)
    first = world.predict_state(state)
    require(
        first is not None and bool(torch.allclose(first.cpu(), known, atol=1e-3)),
        f"{name}.predict_state at the start differs from the state that start was given",
        "A policy would begin with a wrong state",
        "Keep the given state in WorldState.extra, and return it until the first step",
    )
    known[1] = torch.nan
    for given in (None, known):
        state, _ = world.step(world.start(frames, given), actions, generator=torch.Generator().manual_seed(0))
        predicted = world.predict_state(state)
        require(
            predicted is not None and predicted.shape == known.shape and bool(torch.isfinite(predicted).all()),
            f"{name}.predict_state without a known start gives {None if predicted is None else list(predicted.shape)}, "
            f"or non-finite numbers",
            "Photographs have no state, so no policy with state could start from them",
            "Estimate the state from the start frame where it is None or NaN",
        )
