"""Measures how well a world model predicts the robot's state, on held-out episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from worldgymnast.actions import converter
from worldgymnast.episodes.windows import EpisodeSet, placeholder_names
from worldgymnast.errors import InputError
from worldgymnast.evaluation.fidelity import by_horizon
from worldgymnast.measure.world import sample_clips
from worldgymnast.progress import track
from worldgymnast.protocols import PredictsState, WorldModel
from worldgymnast.weights import mean_and_deviation

WORLD, ESTIMATED, HELD = "world", "estimated", "held"
"""Predictions that are compared: with the true state at the start, with an estimated one, and the start's kept."""


def state_fidelity(
    world: WorldModel, episodes: EpisodeSet, *, starts: int = 1, length: int = 30, seed: int = 0, rows: int = 32
) -> Mapping[str, Any]:
    """Compare predicted states of imagined replays with the logged ones, by frame ahead and by axis.

    Args:
        world: a world model that predicts the state.
        episodes: with states, each at least `length` actions long.
        starts: start frames per episode.
        length: frames imagined after each start.
        seed: of the imagination and the bootstrap over episodes.
        rows: clips imagined in parallel.

    Returns:
        "horizon" [t], "axes" (s names), "deviation" [s] (of the data, in raw units). For "world" (the state at the
        start is known), "estimated" (it is not) and "held" (the state stays as at the start): "overall", a `Curve` of
        the mean absolute error over axes in deviations of the data, and "raw" float [t s] in the units of the data.

    Raises:
        InputError: the world model predicts no state, or the data have none of the same width.
    """
    if not isinstance(world, PredictsState) or not world.state_dim or episodes.state_dim != world.state_dim:
        predicted = world.state_dim if isinstance(world, PredictsState) else 0
        raise InputError(
            f"state: the world model predicts {predicted} numbers, the data have {episodes.state_dim}. Give data of "
            "the robot that it was trained on"
        )
    assert episodes.state is not None
    deviation = mean_and_deviation(episodes.state[episodes.rows])[1].numpy()
    clips, _ = sample_clips(episodes, starts, length)
    convert = converter(episodes.spec, world.action_spec)
    errors: dict[str, list[np.ndarray]] = {}
    parts = [slice(i, i + rows) for i in range(0, len(clips), rows)]
    for number, part in enumerate(track("imagining states", parts)):
        frames = clips.first[part, None] + np.arange(length + 1)
        truth = episodes.state[frames]
        first = torch.from_numpy(np.asarray(episodes.frames[frames[:, 0]]))
        actions = torch.from_numpy(convert(episodes.actions[frames[:, :-1]]))
        known = torch.from_numpy(truth[:, 0])
        for name, state in ((WORLD, known), (ESTIMATED, torch.full_like(known, torch.nan))):
            errors.setdefault(name, []).append(np.abs(_predict(world, first, state, actions, seed + number) - truth))
        errors.setdefault(HELD, []).append(np.abs(truth[:, :1] - truth))
    names = episodes.state_names or placeholder_names(episodes.state_dim)
    results: dict[str, Any] = {
        "horizon": np.arange(length + 1.0),
        "axes": list(names),
        "deviation": deviation,
        "episodes": len(episodes),
    }
    for name, each in errors.items():
        error = np.concatenate(each).reshape(len(episodes), starts, length + 1, -1).mean(1)
        results[name] = {"overall": by_horizon((error / deviation).mean(-1), seed), "raw": error.mean(0)}
    return results


def _predict(world: Any, first: torch.Tensor, known: torch.Tensor, actions: torch.Tensor, seed: int) -> np.ndarray:
    """Predicted states float [n t+1 s], the start's first."""
    generator = torch.Generator().manual_seed(seed)
    state = world.start(first, known)
    states = [world.predict_state(state)]
    for action in actions.split(1, 1):
        state, _ = world.step(state, action, generator=generator)
        states.append(world.predict_state(state))
    return torch.stack(states, 1).float().cpu().numpy()
