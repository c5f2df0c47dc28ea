"""Verifies judged successes by imagining them again.

The same start and actions are imagined again with fresh noise, or slightly disturbed, and judged again (verification of
successes, as in RAW-Dream). A success in only some of the futures gives no reward. A deterministic world model always
imagines the same future, so its inputs must be disturbed (`JitterConfig.pixels`, `JitterConfig.actions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from worldgymnast.evaluation.uncertainty import JitterConfig, disturb
from worldgymnast.rl.collect import Verify
from worldgymnast.surrogates.imagination import Surrogate
from worldgymnast.types import IMAGE, Rollout

_SEEDS = 2**32


def rollout_flips(surrogate: Surrogate, config: JitterConfig, rows: int) -> Verify:
    """Make a function that marks judged successes that any new future turns into a failure.

    It takes imagined rollouts of one length and a seed, and returns bool [r]. A future whose judge fails marks nothing.

    Args:
        surrogate: where the rollouts were imagined and judged.
        config: the futures; each costs as much imagination and judging as the successes themselves.
        rows: most rollouts imagined in parallel.
    """

    def flips(rollouts: Sequence[Rollout], seed: int) -> np.ndarray:
        flipped = np.zeros(len(rollouts), bool)
        claimed = [i for i, rollout in enumerate(rollouts) if rollout.verdict.succeeded]
        for first in range(0, len(claimed), rows):
            part = claimed[first : first + rows]
            for future in range(config.futures):
                draws = [(seed + first) % _SEEDS, future]
                again = _imagine_again([rollouts[i] for i in part], surrogate, config, draws)
                judged = surrogate.verdict_source.begin(again)()
                flipped[part] |= [rollout.verdict.succeeded is False for rollout in judged]
        return flipped

    return flips


def _imagine_again(
    rollouts: Sequence[Rollout], surrogate: Surrogate, config: JitterConfig, draws: Sequence[int]
) -> list[Rollout]:
    """Imagine the same starts and actions again with the noise of `draws`, without verdicts."""
    chunks = np.stack([rollout.chunks.actions.numpy() for rollout in rollouts])  # [r n k a]
    rng, generator = np.random.default_rng(draws), torch.Generator()
    generator.manual_seed(int(rng.integers(2**62)))
    first = np.stack([rollout.start.frame for rollout in rollouts])
    flat = chunks.reshape(len(chunks), -1, chunks.shape[-1])
    first, flat = disturb(surrogate.action_spec, first, flat, config, rng)
    starts = [replace(r.start, frame=frame) for r, frame in zip(rollouts, first, strict=True)]
    if not config.pixels:
        starts = [rollout.start for rollout in rollouts]  # rollouts of one start share a frame, which is encoded once
    env = surrogate(len(rollouts), generator)
    observed, info = env.reset(options={"starts": starts})
    images, frames = list[dict[str, np.ndarray]](), [observed[IMAGE][:, None]]
    for chunk in np.moveaxis(flat.reshape(chunks.shape), 1, 0):
        images.append({name: observed[name] for name in rollouts[0].images})
        observed, _, _, _, info = env.step(chunk)
        frames.append(np.asarray(info["frames"]))
    observed_images = {name: np.stack([look[name] for look in images], 1) for name in images[0]}
    all_frames = np.concatenate(frames, 1)
    foreseen = info.get("foreseen", [None] * len(rollouts))
    return [
        replace(
            rollout,
            images={name: looks[i] for name, looks in observed_images.items()},
            frames=all_frames[i],
            foreseen=foreseen[i],
            success=None,
        )
        for i, rollout in enumerate(rollouts)
    ]
