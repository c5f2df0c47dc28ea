"""Judge by the world model's own success head.

It sees no frame and costs nothing, but shares the world model's errors. Combine it with a judge that sees the frames
("judge ensemble --rule all"), so a reward needs both.
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
    """Config of a `ForeseenJudge`.

    Attributes:
        threshold: threshold of the success probability, in [0, 1].
        sustain: looks over which success must last.
    """

    threshold: Fraction = 0.5
    sustain: Annotated[int, Between(1, 2**20)] = 2


class ForeseenJudge:
    """`Judge` that reads `Clip.foreseen`; a clip without it gets no verdict."""

    is_remote = False

    def __init__(self, config: ForeseenConfig):
        self.config = config

    @property
    def name(self) -> str:
        """Name and version of the judge."""
        return "foreseen-v1"

    @property
    def identity(self) -> str:
        """Name and config."""
        return f"{self.name} {self.config}"

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        """One verdict per clip."""
        return [self._verdict(clip.foreseen) for clip in clips]

    def _verdict(self, probability: np.ndarray | None) -> Verdict:
        if probability is None:
            return Verdict(None, error="The world model has no success head. Train one with --world.success-head")
        means = sustained(probability, self.config.sustain)
        if (best := float(means.max())) < self.config.threshold:
            return Verdict(0.0, best)
        return Verdict(1.0, best, int(np.flatnonzero(means >= self.config.threshold)[0]))
