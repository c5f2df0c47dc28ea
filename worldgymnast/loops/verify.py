"""Successes imagined again: what is a success by one draw of the world and none by the next gives no reward.

The same start and actions are imagined again with other noise, or a little disturbed, and judged again (verification of
successes, as in RAW-Dream). It needs a world that draws its futures; one that always imagines the same future has to be
disturbed (`JitterConfig.pixels`, `JitterConfig.actions`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldgymnast.evaluation.uncertainty import JitterConfig, imagined_again, looks
from worldgymnast.loops.gather import Verify
from worldgymnast.types import Clip, Judge, Rollout, WorldModel

_SEEDS = 2**32


def rollout_flips(world: WorldModel, judge: Judge, stride: int, config: JitterConfig, rows: int) -> Verify:
    """For imagined rollouts of one length: which were judged successes and are none in any of their futures, bool [r].

    A future whose judge fails flips nothing.

    Args:
        world: the world model that imagined them.
        judge: the judge.
        stride: frames between two that the judge sees: the policy's chunk.
        config: the futures; each costs as much imagination as the successes themselves, and is judged.
        rows: rollouts imagined side by side.
    """

    def flips(rollouts: Sequence[Rollout], seed: int) -> np.ndarray:
        found = np.zeros(len(rollouts), bool)
        claimed = [i for i, rollout in enumerate(rollouts) if rollout.verdict.succeeded]
        for first in range(0, len(claimed), rows):
            part = claimed[first : first + rows]
            starts = [rollouts[i].start for i in part]
            frames = np.stack([rollouts[i].frames[0] for i in part])
            actions = np.stack([rollouts[i].chunks.actions.flatten(0, 1).numpy() for i in part])
            for future in imagined_again(world, frames, actions, config, (seed + first) % _SEEDS):
                seen = looks(future.shape[1], stride)
                clips = [Clip(c[seen], s.instruction, s.task) for c, s in zip(future, starts, strict=True)]
                found[part] |= [verdict.succeeded is False for verdict in judge.score(clips)]
        return found

    return flips
