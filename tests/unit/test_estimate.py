"""How long a finetuning will take, from a few seconds of each of its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worldgymnast.recipes.estimate import Pace, said
from worldgymnast.rl.reinforce import ReinforceConfig

PACE = Pace(imagined=0.001, learned=0.01, acted=0.01, laid_out=0.1)


def test_more_of_anything_takes_longer() -> None:
    base = ReinforceConfig(steps=10, evaluate_starts=0)
    seconds = PACE.finetuning(base, 2, 6, 2)
    assert PACE.finetuning(replace(base, steps=20), 2, 6, 2) == pytest.approx(2 * seconds)
    scored = replace(base, evaluate_starts=8)
    longer = PACE.finetuning(scored, 2, 6, 2) - seconds
    assert longer == pytest.approx(PACE.evaluation(3 * 8 * 6, base.horizon, 2)), "scored at steps 0, 8 and 10"
    assert PACE.finetuning(scored, 2, 6, 4) < PACE.finetuning(scored, 2, 6, 2)


def test_a_duration_is_said_in_words() -> None:
    assert said(5) == "about 1 minute"
    assert said(61 * 60) == "about 61 minutes"
