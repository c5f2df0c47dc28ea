"""Rolls out a policy in a world model from the first frames of its own recorded episodes.

Replays of recorded actions say whether a world model follows them. They do not say whether it is kind to the policy:
the actions after a missed grasp are others than those after a good one, and give the outcome away. Here the policy acts
on imagined frames, as in reinforcement learning, and the share of successes is compared with the recorded one. No real
environment is needed.
"""

from __future__ import annotations

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import Episode
from worldgymnast.measure.gate import truncate
from worldgymnast.protocols import Actor
from worldgymnast.surrogates.imagination import Surrogate, score_in


def imagine_recorded(
    policy: Actor,
    surrogate: Surrogate,
    episodes: EpisodeSet,
    *,
    horizon: int,
    temperature: float = 0.0,
    rows: int = 32,
    seed: int = 0,
    name: str = "policy",
) -> list[Episode]:
    """Imagine the policy's episodes from their first frames, beside the recorded outcomes.

    Args:
        policy: the policy that recorded the episodes.
        surrogate: world model and judge, such as `Imagination.of(policy, world, judge, horizon)`.
        episodes: real rollouts of the policy; those without a label are ignored.
        horizon: actions of a rollout; a recorded success counts if it comes within them.
        temperature: of sampling; that of the recording.
        rows: rollouts in parallel.
        seed: of every draw.
        name: of the policy in the result.

    Raises:
        InputError: no episode is labelled.
    """
    usable = np.flatnonzero(episodes.labelled & (episodes.length > 0))
    if not len(usable):
        raise InputError("data: no episode has a success label, so there is nothing to compare with. Label them")
    real = truncate(episodes.select(usable), horizon)
    starts = [real.episode(e).start() for e in range(len(real))]
    label = "imagining the recorded episodes"
    imagined = score_in(surrogate, policy, starts, rows=rows, temperature=temperature, seed=seed, label=label)
    return [
        Episode(name, task, e, rollout.verdict.succeeded, bool(succeeded))
        for e, (task, rollout, succeeded) in enumerate(zip(real.kinds, imagined, real.succeeded, strict=True))
    ]
