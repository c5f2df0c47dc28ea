"""Dyna: its budget of real episodes, and which rounds are kept."""

from collections.abc import Sequence

import numpy as np
import pytest

from worldgymnast.actions import metaworld_spec
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.sequential import PairedEvidence
from worldgymnast.recipes.dyna import DynaConfig, decide
from worldgymnast.rl.reinforce import ReinforceConfig, evaluation_steps
from worldgymnast.types import Episode


def test_the_budget_holds_scorings_and_recordings() -> None:
    config = DynaConfig()
    assert evaluation_steps(config.finetune.rl) == [0, 6, 12]
    assert evaluation_steps(ReinforceConfig(steps=5, evaluate_every=2)) == [0, 2, 4, 5]
    assert config.scored == 3 * 4 * 6
    assert config.tested == 3 * 96
    assert config.per_temperature == (300 - 144 - 72) // 12
    assert config.rounds * (config.scored + 12 * config.per_temperature) + config.tested <= config.budget


@pytest.mark.parametrize("budget", [0, 2 * 72, 2 * 72 + 23 + 3 * 96])
def test_a_budget_that_does_not_reach_is_refused(budget: int) -> None:
    with pytest.raises(InputError, match=f"found {budget} real episodes for 2 rounds, .* expected at least 456"):
        DynaConfig(budget=budget)
    assert DynaConfig(budget=456).per_temperature == 1


def played(outcomes: Sequence[bool], task: str = "drawer-open", length: int = 4) -> list[Episode]:
    """Episodes that succeed at their last frame, or never."""
    spec, frames = metaworld_spec(4), np.zeros((length + 1, 8, 8, 3), np.uint8)
    ends = [np.arange(length + 1) >= (length if won else length + 1) for won in outcomes]
    return [Episode(frames, np.zeros((length, 4), np.float32), "open", task, 20.0, spec, end) for end in ends]


def test_a_round_is_kept_only_if_the_pairs_say_so() -> None:
    old = from_episodes(played([True] * 10 + [False] * 20))
    better = from_episodes(played([True] * 20 + [False] * 10))
    alike = from_episodes(played([True] * 8 + [False] * 4 + [True] * 5 + [False] * 13))
    found = decide(1, old, better, 24, 0.2)
    assert found.is_replaced
    assert found.evidence == PairedEvidence(10, 0, 20)
    assert "Round 1: its policy replaces the previous one (10 wins, 0 losses, 20 ties" in str(found)
    assert not decide(1, old, alike, 24, 0.2).is_replaced
    assert not decide(1, better, old, 24, 0.2).is_replaced
    assert decide(1, old, better, 3, 0.2).evidence == PairedEvidence(0, 0, 30)  # all succeed at the fourth action
    with pytest.raises(InputError, match="round 1: 30 test episodes of the kept policy and 20 of the new one"):
        decide(1, old, from_episodes(played([True] * 20)), 24, 0.2)


def test_a_round_that_loses_a_task_is_not_kept() -> None:
    old = from_episodes([*played([True] * 10), *played([False] * 40, "door-close")])
    new = from_episodes([*played([False] * 10), *played([True] * 40, "door-close")])
    found = decide(2, old, new, 24, 0.2)
    assert found.evidence.is_better()
    assert not found.is_replaced
    assert "the previous policy is kept" in str(found)
    assert "significantly worse: drawer-open" in str(found)
