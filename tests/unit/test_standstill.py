"""Episodes that end with one action in front of one picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_support import rollout

from worldgymnast.measure.real import stands_still, warn_of_standstill
from worldgymnast.types import Rollout, Verdict

LOOKS, CHUNK, AXES = 12, 2, 3
random = np.random.default_rng(0)


def ending(still: int, *, moving_picture: bool = False, changing_action: bool = False) -> Rollout:
    """A failed rollout that stands still in its last looks."""
    frames = random.integers(0, 256, (LOOKS * CHUNK + 1, 8, 8, 3), dtype=np.uint8)
    actions = random.uniform(-1, 1, (LOOKS * CHUNK, AXES)).astype(np.float32)
    first = (LOOKS - still) * CHUNK
    if not moving_picture:
        frames[first:] = frames[first]
    if not changing_action:
        actions[first:] = np.tile(actions[first : first + CHUNK], (still, 1))
    return replace(rollout(frames, actions, CHUNK), verdict=Verdict(0.0))


def test_the_same_actions_in_front_of_the_same_pictures() -> None:
    assert stands_still(ending(6))
    assert not stands_still(ending(4))
    assert not stands_still(ending(6, moving_picture=True))
    assert not stands_still(ending(6, changing_action=True))
    assert not stands_still(ending(2), looks=LOOKS + 1)


def test_failures_are_counted_and_successes_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    still = [ending(6), ending(7), ending(8)]
    assert warn_of_standstill([*still, *[ending(2) for _ in range(10)]])
    assert "warning: 3 of 13 failed episodes end in a standstill" in capsys.readouterr().out
    succeeded = [replace(each, verdict=Verdict(1.0)) for each in still]
    assert not warn_of_standstill([*succeeded, *[ending(2) for _ in range(10)]])
    assert not warn_of_standstill([])
    assert capsys.readouterr().out == ""
