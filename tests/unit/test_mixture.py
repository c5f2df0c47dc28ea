"""Mixtures of datasets by shares, and one-line errors for incompatible ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from episode_builders import assert_identical, episode, episodes

from worldgymnast.actions import BRIDGE, WORLDGYM, ActionSpecMismatch, converter
from worldgymnast.episodes.frame_view import FrameView
from worldgymnast.episodes.shares import share_weights
from worldgymnast.episodes.windows import concatenate, data_hash, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.training.batches import frame_batches, latent_batches


def test_sets_are_joined_without_copying_and_read_as_one() -> None:
    left, right = from_episodes(episodes(3)), from_episodes(episodes(6)).select([5, 2, 3])
    both = concatenate([left, right])
    assert isinstance(both.frames, FrameView)
    whole = from_episodes([part.episode(i) for part in (left, right) for i in range(3)])
    for index in range(6):
        assert_identical(both.episode(index), whole.episode(index))
    assert data_hash(both) == data_hash(whole)
    edited = whole.frames.copy()
    edited[whole.first[2]] ^= 1
    others = [replace(whole, frames=edited), replace(whole, instruction=("another", *whole.instruction[1:]))]
    assert len({data_hash(each) for each in (whole, *others)}) == 3, "other frames or words are other data"
    assert both.frames.shape == whole.frames.shape
    assert np.array_equal(np.asarray(both.frames), whole.frames)
    rows = np.random.default_rng(0).integers(0, len(whole.frames), (4, 3))
    assert np.array_equal(both.frames[rows], whole.frames[rows])
    assert np.array_equal(both.frames[-1], whole.frames[-1])
    assert_identical(concatenate([both, left]).episode(7), left.episode(1))
    for step in range(3):
        assert torch.equal(frame_batches(both, 9, 1)(step)["frames"], frame_batches(whole, 9, 1)(step)["frames"])


def test_shares_determine_each_set_s_part_of_a_batch() -> None:
    sets = [from_episodes(episodes(2)), from_episodes(episodes(9))]
    both, weights = concatenate(sets), share_weights(sets, (3.0, 1.0))
    border = int(both.first[2])
    latents = np.arange(len(both.frames), dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)
    clips = latent_batches(both, latents, 2, 400, 0, torch.device("cpu"), weights)
    assert 0.68 < float((clips(5)["latents"][:, 0, 0, 0, 0] < border).float().mean()) < 0.82
    assert torch.equal(clips(5)["latents"], clips(5)["latents"])
    assert not torch.equal(clips(5)["latents"], clips(6)["latents"])
    black = from_episodes([episode(1)])
    black.frames[:] = 0
    pair = [black, from_episodes(episodes(9))]
    frames = frame_batches(concatenate(pair), 400, 0, share_weights(pair, (3, 1)))(0)["frames"]
    assert 0.68 < float((frames.flatten(1).amax(1) == 0).float().mean()) < 0.82
    assert share_weights(sets, ()) is None


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 2.0, 3.0), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_shares_are_one_positive_number_per_set(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="for 2 datasets, expected one positive number for each"):
        share_weights([from_episodes(episodes(2))] * 2, shares)


def test_actions_are_converted_to_one_spec_and_stay_zero_at_the_end() -> None:
    held = from_episodes(episodes(3, spec=BRIDGE))
    there = held.with_action_spec(WORLDGYM)
    assert there.spec == WORLDGYM
    assert there.frames is held.frames
    assert np.allclose(there.episode(1).actions, converter(BRIDGE, WORLDGYM)(held.episode(1).actions))
    assert not there.actions[there.first + there.length].any()
    assert held.with_action_spec(BRIDGE) is held
    with pytest.raises(ActionSpecMismatch, match=r"found .*3cm.*; expected .*m\+rad"):
        from_episodes(episodes(2)).with_action_spec(BRIDGE)
