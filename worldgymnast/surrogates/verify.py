"""Successes imagined again: what is a success by one draw of the world and none by the next gives no reward.

The same start and actions are imagined again with other noise, or a little disturbed, and judged again (verification of
successes, as in RAW-Dream). It needs a world that draws its futures; one that always imagines the same future has to be
disturbed (`JitterConfig.pixels`, `JitterConfig.actions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from worldgymnast.evaluation.uncertainty import JitterConfig, disturbed
from worldgymnast.rl.collect import Verify
from worldgymnast.surrogates.imagination import Surrogate
from worldgymnast.types import IMAGE, Rollout

_SEEDS = 2**32


def rollout_flips(surrogate: Surrogate, config: JitterConfig, rows: int) -> Verify:
    """For imagined rollouts of one length: which were judged successes and are none in any of their futures, bool [r].

    A future whose judge fails flips nothing.

    Args:
        surrogate: where they were imagined, and how they were judged.
        config: the futures; each costs as much imagination as the successes themselves, and is judged.
        rows: rollouts imagined side by side.
    """

    def flips(rollouts: Sequence[Rollout], seed: int) -> np.ndarray:
        found = np.zeros(len(rollouts), bool)
        claimed = [i for i, rollout in enumerate(rollouts) if rollout.verdict.succeeded]
        for first in range(0, len(claimed), rows):
            part = claimed[first : first + rows]
            for future in range(config.futures):
                draws = [(seed + first) % _SEEDS, future]
                again = _imagined_again([rollouts[i] for i in part], surrogate, config, draws)
                judged = surrogate.judging.begin(again)()
                found[part] |= [rollout.verdict.succeeded is False for rollout in judged]
        return found

    return flips


def _imagined_again(
    rollouts: Sequence[Rollout], surrogate: Surrogate, config: JitterConfig, draws: Sequence[int]
) -> list[Rollout]:
    """The same starts and actions, imagined with the noise of `draws`; not judged yet."""
    chunks = np.stack([rollout.chunks.actions.numpy() for rollout in rollouts])  # [r n k a]
    rng, generator = np.random.default_rng(draws), torch.Generator()
    generator.manual_seed(int(rng.integers(2**62)))
    frames = np.stack([rollout.start.frame for rollout in rollouts])
    flat = chunks.reshape(len(chunks), -1, chunks.shape[-1])
    frames, flat = disturbed(surrogate.action_spec, frames, flat, config, rng)
    starts = [replace(r.start, frame=frame) for r, frame in zip(rollouts, frames, strict=True)]
    if not config.pixels:
        starts = [rollout.start for rollout in rollouts]  # rollouts of one start share its frame, which is encoded once
    env = surrogate(len(rollouts), generator)
    observed, info = env.reset(options={"starts": starts})
    images, shown = list[dict[str, np.ndarray]](), [observed[IMAGE][:, None]]
    for chunk in np.moveaxis(flat.reshape(chunks.shape), 1, 0):
        images.append({name: observed[name] for name in rollouts[0].images})
        observed, _, _, _, info = env.step(chunk)
        shown.append(np.asarray(info["frames"]))
    seen = {name: np.stack([look[name] for look in images], 1) for name in images[0]}
    every = np.concatenate(shown, 1)
    foreseen = info.get("foreseen", [None] * len(rollouts))
    return [
        replace(
            rollout,
            images={name: one[i] for name, one in seen.items()},
            frames=every[i],
            foreseen=foreseen[i],
            success=None,
        )
        for i, rollout in enumerate(rollouts)
    ]
