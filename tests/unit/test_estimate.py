"""How long a finetuning will take, from a few seconds of each of its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worldgymnast.measure.real import ScoringConfig
from worldgymnast.recipes.estimate import Pace, format_duration
from worldgymnast.rl.reinforce import ReinforceConfig

PACE = Pace(imagined=0.001, learned=0.01, acted=0.01, laid_out=0.1)


def test_more_of_anything_takes_longer() -> None:
    base, few, more = ReinforceConfig(steps=10), ScoringConfig(per_task=1), ScoringConfig(per_task=9)
    seconds = PACE.finetuning(base, few, 2, 6)
    steps = PACE.finetuning(replace(base, steps=16), few, 2, 6) - seconds
    assert steps == pytest.approx(0.6 * (seconds - PACE.evaluation(3 * 6, base.horizon, 2))), "scored thrice in both"
    longer = PACE.finetuning(base, more, 2, 6) - seconds
    assert longer == pytest.approx(PACE.evaluation(3 * 8 * 6, base.horizon, 2)), "scored at steps 0, 8 and 10"
    assert PACE.finetuning(base, replace(more, workers=4), 2, 6) < PACE.finetuning(base, more, 2, 6)


def test_a_duration_is_said_in_words() -> None:
    assert format_duration(5) == "about 1 minute"
    assert format_duration(61 * 60) == "about 61 minutes"
