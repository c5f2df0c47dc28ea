"""Held-out sizes that follow the data, and the least number of labels of a judge."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from episode_builders import SPEC, episode

from worldgymnast.actions import BRIDGE
from worldgymnast.cli.inputs import choose_held_out, held_out_or_default, hold_out_each
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.training.judge import require_both_outcomes
from worldgymnast.training.thresholds import split_for_calibration

HERE = [Path("data")]


def tasks_of(sizes: dict[str, int], spec=BRIDGE) -> EpisodeSet:
    names = [name for name, count in sizes.items() for _ in range(count)]
    return from_episodes([replace(episode(i, spec=spec), task=name) for i, name in enumerate(names)])


def test_auto_follows_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    episodes = tasks_of({"one": 1, "two": 2, "three": 3, "nine": 9, "ten": 10})
    (rest,), (held,) = hold_out_each(HERE, [episodes], "auto")
    assert Counter(held.task) == {"three": 1, "nine": 1, "ten": 2}
    assert len(rest) + len(held) == len(episodes)
    assert not set(rest.first) & set(held.first)
    said = capsys.readouterr().out
    assert "data: 4 of 25 episodes are held out (a fifth of each task; none of 2 of 5 tasks" in said
    (again,) = choose_held_out(HERE, [episodes], "auto", trained=False)
    assert again.first.tolist() == held.first.tolist()
    (trained,) = choose_held_out(HERE, [episodes], "auto", trained=True)
    assert trained.first.tolist() == rest.first.tolist()


def test_a_set_is_split_alike_alone_and_beside_others() -> None:
    a, b = tasks_of({"x": 10}), tasks_of({"x": 5, "y": 7})
    _, together = hold_out_each([Path("a"), Path("b")], [a, b], 2)
    _, (alone,) = hold_out_each([Path("b")], [b], 2)
    assert together[1].first.tolist() == alone.first.tolist()


def test_a_given_number_still_refuses() -> None:
    with pytest.raises(InputError, match=r"--held-out: cannot hold out 3 of 2 episodes of task 'two'.*auto: 0"):
        hold_out_each(HERE, [tasks_of({"two": 2, "ten": 10})], 3)
    with pytest.raises(InputError, match="no task has 3 episodes"):
        choose_held_out(HERE, [tasks_of({"two": 2})], "auto", trained=False)


def test_defaults() -> None:
    assert held_out_or_default(None, tasks_of({"x": 4})) == "auto"
    assert held_out_or_default(None, tasks_of({"x": 4}, SPEC)) == 0  # Meta-World, as before
    assert held_out_or_default(0, tasks_of({"x": 4})) == 0


def labeled(outcomes: str, source: str = "") -> EpisodeSet:
    """Episodes of successes (+) and failures (-)."""
    made = []
    for i, outcome in enumerate(outcomes):
        one = episode(i)
        success = np.zeros(len(one.frames), bool)
        success[-1] = outcome == "+"
        made.append(replace(one, task="t", success=success, source=source, layout=None))
    return from_episodes(made)


@pytest.mark.parametrize("outcomes", ["++-", "+--", "+-+-", "+-------", "-+++++++", "+---------------"])
def test_a_success_and_a_failure_are_left_to_train_on(outcomes: str) -> None:
    for seed in range(20):
        train, held = split_for_calibration(labeled(outcomes), 0, seed)
        assert len(held) >= 1
        assert len(train) + len(held) == len(outcomes)
        assert set(train.succeeded.tolist()) == {True, False}


def test_the_least_is_said() -> None:
    with pytest.raises(InputError, match="found 2 labelled episodes, expected at least 3: a success and a failure"):
        require_both_outcomes(labeled("+-"))
    require_both_outcomes(labeled("+--"))
