from dataclasses import replace

import numpy as np
import pytest
import torch
from episode_builders import assert_identical, episode, episodes

from worldgymnast.actions import BRIDGE, ActionSpecMismatch
from worldgymnast.episodes.clips import ClipSampler
from worldgymnast.episodes.shares import balanced_weights
from worldgymnast.episodes.windows import concatenate, from_episodes
from worldgymnast.errors import InputError


def same(left, right) -> bool:
    return all(
        torch.equal(getattr(left, name), getattr(right, name))
        for name in ("frames", "actions", "mask", "success", "labelled", "episode", "offset", "origin")
    )


def test_a_set_gives_its_episodes_back():
    whole = episodes(7)
    held = from_episodes(whole)
    assert len(held) == 7
    for index, expected in enumerate(whole):
        assert_identical(held.episode(index), expected)
    assert held.succeeded.tolist() == [bool(e.succeeded) for e in whole]


def test_selecting_shares_the_frames():
    held = from_episodes(episodes(7))
    part = held.select([5, 2])
    assert part.frames is held.frames
    assert_identical(part.episode(0), held.episode(5))
    mask = held.select(np.arange(7) % 2 == 0)
    assert mask.task == ("task-0",) * 4
    assert held.where(task="task-1").tolist() == [1, 3, 5]
    assert held.where(source_prefix="policy").tolist() == [1, 4]


def test_split_is_disjoint_even_per_task_and_reproducible():
    held = from_episodes(episodes(12))
    train, aside = held.split(2, seed=3)
    assert len(train) == 8
    assert sorted(aside.task) == ["task-0"] * 2 + ["task-1"] * 2
    assert not set(train.first) & set(aside.first)
    assert (held.split(2, seed=3)[1].first == aside.first).all()
    assert len(held.split(0.5, seed=0)[1]) == 6
    with pytest.raises(InputError, match="found 6 of task"):
        held.split(6, seed=0)


def test_concatenate_keeps_episodes_and_refuses_mismatches():
    left, right = from_episodes(episodes(3)), from_episodes(episodes(5))
    both = concatenate([left, right.select([4, 0])])
    assert len(both) == 5
    assert_identical(both.episode(3), right.episode(4))
    assert concatenate([left.select([0]), left.select([2])]).frames is left.frames
    with pytest.raises(InputError, match=r"\[16, 16\].*\[32, 32\]"):
        concatenate([left, from_episodes(episodes(2, size=16))])
    with pytest.raises(ActionSpecMismatch, match=r"m\+rad.*3cm"):
        concatenate([left, from_episodes(episodes(2, spec=BRIDGE))])


def test_sampler_is_a_pure_function_of_seed_and_step():
    held = from_episodes(episodes(6))
    sampler = ClipSampler(held, length=3, batch=16, seed=1)
    late = sampler(40)
    assert same(late, ClipSampler(held, length=3, batch=16, seed=1)(40))
    assert not same(late, sampler(41))
    assert not same(late, ClipSampler(held, length=3, batch=16, seed=2)(40))


def test_clips_are_the_episodes_frames_and_actions():
    held = from_episodes(episodes(6))
    batch = ClipSampler(held, length=3, batch=32, seed=0)(0)
    assert batch.frames.dtype == torch.uint8
    assert batch.frames.shape == (32, 4, 32, 32, 3)
    assert batch.mask.all()
    for i in range(32):
        source, offset = held.episode(int(batch.episode[i])), int(batch.offset[i])
        assert np.array_equal(batch.frames[i], source.frames[offset : offset + 4])
        assert np.array_equal(batch.actions[i], source.actions[offset : offset + 3])
        assert batch.instruction[i] == source.instruction


def test_short_episodes_are_padded_and_masked():
    held = from_episodes([episode(1, steps=2)])
    batch = ClipSampler(held, length=5, batch=4, seed=0)(0)
    assert batch.mask.tolist() == [[True, True, False, False, False]] * 4
    assert (batch.actions[:, 2:] == 0).all()
    assert (batch.frames[:, 3:] == batch.frames[:, 2:3]).all()


def test_overrun_reaches_the_last_action():
    held = from_episodes([episode(1, steps=6)])
    inside = ClipSampler(held, length=4, batch=200, seed=0)(0)
    beyond = ClipSampler(held, length=4, batch=200, seed=0, overrun=True)(0)
    assert set(inside.offset.tolist()) == {0, 1, 2}
    assert set(beyond.offset.tolist()) == set(range(6))
    assert beyond.mask.sum(1).tolist() == [min(4, 6 - o) for o in beyond.offset.tolist()]


def test_mixture_weights_and_their_errors():
    left, right = from_episodes(episodes(3)), from_episodes(episodes(5))
    batch = ClipSampler([(left, 3.0), (right, 1.0)], length=3, batch=400, seed=0)(0)
    assert 0.15 < (batch.origin == 1).float().mean() < 0.35
    chosen = ClipSampler(left, 3, 50, 0, weights=np.array([0.0, 1.0, 0.0]))(0)
    assert set(chosen.episode.tolist()) == {1}
    with pytest.raises(InputError, match="found 2 weights, expected 3"):
        ClipSampler(left, 3, 50, 0, weights=np.ones(2))
    with pytest.raises(InputError, match="0 episodes"):
        ClipSampler(left.select([]), 3, 50, 0)


def test_balanced_weights_give_each_outcome_of_a_task_half() -> None:
    made = [episode(i) for i in range(9)]
    labels = [np.full(len(e.frames), i in (0, 6, 7)) for i, e in enumerate(made)]
    episodes = from_episodes([replace(e, task="a" if i < 6 else "b", success=labels[i]) for i, e in enumerate(made)])
    found = balanced_weights(episodes)
    assert found[0] == pytest.approx(found[1:6].sum())
    assert found[6:8].sum() == pytest.approx(found[8])
    assert found[:6].sum() == pytest.approx(episodes.length[:6].sum()), "a task stays as likely as it was"
    weighted = balanced_weights(episodes, np.array([2.0, 1, 1, 1, 1, 1, 1, 0, 1]))
    assert weighted[7] == 0
    lost = episodes.select([1, 2, 8])
    assert (balanced_weights(lost) == lost.length).all()
