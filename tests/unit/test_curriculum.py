"""The curriculum: tasks that sometimes succeed are practised, by what the run's own log says."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from worldgymnast.actions import metaworld_spec
from worldgymnast.episodes import windows
from worldgymnast.errors import InputError
from worldgymnast.rl.collect import CollectConfig, StepGroups
from worldgymnast.rl.curriculum import LearnableStarts, task_probabilities
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, MixedStarts
from worldgymnast.types import IMAGE, ActionChunk, Episode, Rollout, RolloutGroup, Start, Verdict

FRAME = np.zeros((4, 4, 3), np.uint8)


def starts(*tasks: str) -> list[Start]:
    return [Start(FRAME, task, task) for task in tasks]


def test_half_done_tasks_weigh_most_and_none_is_given_up() -> None:
    rows = [{"success/never": 0.0, "success/half": 0.5, "success/always": 1.0}] * 3
    never, half, always, new = task_probabilities(rows, ["never", "half", "always", "new"])
    assert half == new
    assert never == always > 0
    assert half == pytest.approx(never / 0.15)


def test_the_newest_rates_count() -> None:
    rows = [{"success/a": 1.0}] * 5 + [{"success/a": 0.5}, {"other": 1.0}, {"success/a": 0.4}, {"success/a": 0.6}]
    assert task_probabilities(rows, ["a", "b"]) == pytest.approx([0.5, 0.5])
    assert task_probabilities([{"success/a": float("nan")}], ["a", "b"]) == pytest.approx([0.5, 0.5])


def test_draws_follow_the_weights_and_nothing_else() -> None:
    log: list[dict[str, float]] = []
    sample = LearnableStarts(FixedStarts(starts("a", "b", "c")), lambda: log)
    even = [s.task for s in sample(np.random.default_rng(0), 300)]
    assert min(even.count(task) for task in "abc") > 70
    log.append({"success/a": 0.5, "success/b": 0.0, "success/c": 1.0})
    drawn = [s.task for s in sample(np.random.default_rng(0), 300)]
    assert drawn.count("a") > 200
    assert min(drawn.count(task) for task in "bc") > 10
    assert drawn == [s.task for s in sample(np.random.default_rng(0), 300)]


def test_two_sources_give_half_each() -> None:
    sample = MixedStarts(FixedStarts(starts("a")), FixedStarts(starts("b")))
    rng = np.random.default_rng(0)
    counts = [[s.task for s in sample(rng, 5)].count("a") for _ in range(40)]
    assert set(counts) == {2, 3}
    assert [s.task for s in sample(rng, 4)] == ["a", "a", "b", "b"]


def test_successes_are_logged_by_task() -> None:
    def group(task: str, scores: Sequence[float | None]) -> RolloutGroup:
        (start,) = starts(task)
        chunk = ActionChunk(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, dtype=torch.int64), torch.zeros(1, 2, 4), 1.0)
        one = Rollout(start, {IMAGE: FRAME[None]}, chunk, FRAME[None], Verdict(None), 1)
        return RolloutGroup(start, [one.with_verdict(Verdict(score), 1) for score in scores])

    groups = [group("a", [1.0, 0.5]), group("b", [None, 1.0]), group("a", [1.0, 1.0]), group("c", [None])]
    found = StepGroups(groups, seconds_imagine=1.0)
    rewards = {k: v for k, v in found.metrics().items() if k.startswith("success/")}
    assert rewards == {"success/a": 0.75, "success/b": 1.0}


def test_it_waits_for_the_step_before() -> None:
    with pytest.raises(InputError, match="'curriculum', 'ahead'"):
        CollectConfig(curriculum=True, ahead=1)


def logged(task: str, first_success: int | None, number: int = 0, fps: float = 10.0) -> Episode:
    """20 actions whose frames say their own index, and which episode they are from."""
    frames = np.zeros((21, 4, 4, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(21)[:, None, None], number
    success = np.arange(21) >= (99 if first_success is None else first_success)
    return Episode(frames, np.zeros((20, 4), np.float32), task, task, fps, metaworld_spec(6), success)


def test_the_middle_is_shortly_before_a_success() -> None:
    episodes = windows.from_episodes(
        [logged("a", 15, 1), logged("a", None, 2), logged("b", 4, 3), logged("c", None, 4)]
    )
    drawn = EpisodeStarts(episodes, ("a", "b", "c"), 1.0)(np.random.default_rng(0), 600)
    seen = {task: {tuple(s.frame[0, 0, :2].tolist()) for s in drawn if s.task == task} for task in "abc"}
    assert seen["a"] == {(index, 1) for index in range(3, 14)}, "2 to 12 actions are left, in the one that succeeds"
    assert seen["b"] == {(index, 3) for index in range(3)}
    assert seen["c"] == {(index, 4) for index in range(10)}, "of what never succeeds, the first half"
    fast = EpisodeStarts(windows.from_episodes([logged("a", 19, fps=20.0)]), ("a",), 1.0)(np.random.default_rng(0), 600)
    assert {int(s.frame[0, 0, 0]) for s in fast} == set(range(1, 17)), "0.15 to 0.9 seconds, where these are more"
    begun = EpisodeStarts(episodes, ("a", "b"), 0.0)(np.random.default_rng(0), 60)
    assert {int(s.frame[0, 0, 0]) for s in begun} == {0}
    assert {int(s.frame[0, 0, 1]) for s in begun} == {1, 2, 3}
