"""The world model's own opinion as a judge: what its success head holds of what it imagined.

It sees no frame and costs nothing. It shares the world model's faults, so it is a second opinion: together with a
judge that looks at the frames ("judge ensemble --rule all") a reward needs both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from worldgymnast.configs import Between, Fraction, checked
from worldgymnast.judges.sustained import sustained
from worldgymnast.types import Clip, Verdict


@checked
class ForeseenConfig:
    """A `ForeseenJudge`.

    Attributes:
        threshold: of the world model's belief in success, in [0, 1].
        sustain: looks over which it must last.
    """

    threshold: Fraction = 0.5
    sustain: Annotated[int, Between(1, 2**20)] = 2


class ForeseenJudge:
    """A `Judge` that reads `Clip.foreseen`; a clip of a world model without a success head has no verdict."""

    waits = False

    def __init__(self, config: ForeseenConfig):
        self.config = config

    @property
    def name(self) -> str:
        """See `Judge.name`."""
        return "foreseen-v1"

    @property
    def identity(self) -> str:
        """What tells it from another."""
        return f"{self.name} {self.config}"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """See `Judge.score`."""
        return [self._verdict(clip.foreseen) for clip in clips]

    def _verdict(self, belief: np.ndarray | None) -> Verdict:
        if belief is None:
            return Verdict(None, error="the world model has no success head; train one with --world.success-head")
        steady = sustained(belief, self.config.sustain)
        if (best := float(steady.max())) < self.config.threshold:
            return Verdict(0.0, best)
        return Verdict(1.0, best, int(np.flatnonzero(steady >= self.config.threshold)[0]))
