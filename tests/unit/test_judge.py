"""The learned judge: it learns, it finds when success came, its threshold follows labels it has not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgymnast.actions import metaworld_spec
from worldgymnast.episodes.windows import EpisodeSet, concatenate, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.judges.classifier import ClassifierConfig, SuccessClassifier, sustained
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.protocols import Judge
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import origin_of
from worldgymnast.text import SentenceEncoder
from worldgymnast.training.batches import success_batches
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import JudgeTraining, train_judge
from worldgymnast.training.replay import clip_probabilities
from worldgymnast.training.thresholds import calibrate, split_for_calibration, unsolved_after
from worldgymnast.types import Clip, Episode
from worldgymnast.weights import identity
from worldgymnast.worldmodel.sampler import LatentWorldModel

TEXT = SentenceEncoder()


def logged(count: int, seed: int = 0) -> EpisodeSet:
    """Episodes in which a green square appears where the task is done; half of them never succeed."""
    rng = np.random.default_rng(seed)
    episodes = []
    for i in range(count):
        frames = rng.integers(90, 110, (7, 64, 64, 3), dtype=np.uint8)
        success = np.zeros(7, bool)
        if i % 2:
            at = int(rng.integers(2, 6))
            frames[at:, 20:40, 20:40] = [0, 255, 0]
            success[at:] = True
        actions = np.zeros((6, 4), np.float32)
        source = "policy@1" if i >= count // 2 else "expert"
        episodes.append(
            Episode(frames, actions, "open the drawer", "t", 10.0, metaworld_spec(6), success, source, layout=i)
        )
    return from_episodes(episodes)


@pytest.fixture(scope="module")
def judge() -> SuccessClassifier:
    torch.manual_seed(0)
    made = SuccessClassifier(ClassifierConfig(widths=(8, 8, 16)), TEXT)
    batches = success_batches([logged(20)], 32, 0, {})
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    for step in range(40):
        loss, _ = made.loss({**batches(step), "generator": torch.Generator().manual_seed(step)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made


def test_it_is_a_judge_and_tells_success_from_failure_on_new_episodes(judge: SuccessClassifier) -> None:
    assert isinstance(judge, Judge)
    episodes = logged(16, seed=1)
    clips = [Clip(e.frames, e.instruction) for e in (episodes.episode(i) for i in range(16))]
    found = [v.score == 1.0 for v in judge.score(clips)]
    assert found == episodes.succeeded.tolist()


def test_it_finds_when_success_came(judge: SuccessClassifier) -> None:
    episode = logged(2, seed=3).episode(1)
    assert episode.success is not None
    true = int(np.flatnonzero(episode.success)[0])
    (verdict,) = judge.score([Clip(episode.frames, episode.instruction)])
    assert verdict.success_frame is not None
    assert abs(verdict.success_frame - true) <= 1


def test_clips_of_different_lengths_keep_their_order(judge: SuccessClassifier) -> None:
    one, two = logged(2, seed=4).episode(0), logged(2, seed=4).episode(1)
    short = Clip(two.frames[-2:], two.instruction)
    verdicts = judge.score([Clip(two.frames, ""), short, Clip(one.frames, "")])
    alone = [judge.score([clip])[0] for clip in (Clip(two.frames, ""), short, Clip(one.frames, ""))]
    for a, b in zip(verdicts, alone, strict=True):
        assert a.score == b.score
        assert a.probability == pytest.approx(b.probability, abs=1e-5)


def test_calibration_moves_the_threshold_to_where_labels_part(judge: SuccessClassifier) -> None:
    episodes = logged(20, seed=5)
    metrics = calibrate(judge, episodes, 1)
    belief = clip_probabilities(judge, episodes, 1)
    assert metrics["calibration_true_positive"] == metrics["calibration_true_negative"] == 1
    assert ((belief >= metrics["threshold"]) == episodes.succeeded).all()


def test_calibration_gives_up_successes_rather_than_reward_failures(judge: SuccessClassifier) -> None:
    """Labels that contradict the picture: half of what looks like success is called a failure."""
    honest = logged(20, seed=6)
    success = honest.success.copy()
    for e in range(1, 20, 4):
        success[honest.first[e] : honest.first[e] + honest.length[e] + 1] = False
    metrics = calibrate(judge, replace(honest, success=success), 1)
    belief = clip_probabilities(judge, honest, 1)
    refused = (belief[~replace(honest, success=success).succeeded] < metrics["threshold"]).mean()
    assert refused == metrics["calibration_true_negative"] >= 0.6


def test_frames_that_a_world_made_and_real_ones_are_scaled_apart(judge: SuccessClassifier) -> None:
    episodes = logged(40, seed=7)
    faded = replace(episodes, frames=(np.asarray(episodes.frames) // 2 + 64).astype(np.uint8))
    calibrate(judge, faded, 1, real=episodes)
    assert set(judge.config.scales) == {"imagined", "imagined/t", "real", "real/t"}
    clip = Clip(episodes.episode(0).frames, "", "t")
    steps = [np.full(5, belief) for belief in (0.1, 0.5, 0.9)]
    told = [[judge.verdict(s, clip=replace(clip, imagined=m)).probability for s in steps] for m in (False, True)]
    assert not np.allclose(*told)
    assert (np.diff(told) > 0).all()
    unheard = [judge.verdict(s, clip=replace(clip, task="unheard of")).probability for s in steps]
    assert unheard == pytest.approx(told[0], abs=0.05)
    real = [v.score == 1 for v in judge.score([Clip(e.frames, "", "t") for e in map(episodes.episode, range(40))])]
    assert real == episodes.succeeded.tolist()


def test_what_the_world_foresees_is_weighed_by_what_it_is_worth(judge: SuccessClassifier) -> None:
    episodes = logged(40, seed=8)
    blind = replace(episodes, frames=np.zeros_like(np.asarray(episodes.frames)))
    for foreseen, worth in ((episodes.success.astype(float), True), (np.full(len(episodes.success), 0.4), False)):
        calibrate(judge, replace(blind, foreseen=foreseen), 1)
        beliefs = clip_probabilities(judge, replace(blind, foreseen=foreseen), 1)
        assert ((beliefs >= float(judge.threshold)) == episodes.succeeded).all() == worth
    calibrate(judge, replace(episodes, foreseen=1.0 - episodes.success), 1)
    lied_to = clip_probabilities(judge, replace(episodes, foreseen=1.0 - episodes.success), 1)
    assert ((lied_to >= float(judge.threshold)) == episodes.succeeded).all(), "a world that lies is not listened to"


def test_calibration_sets_only_policy_rollouts_aside_and_trains_on_none_of_them() -> None:
    train, aside = split_for_calibration(logged(20), 3, 0)
    assert len(aside) == 3
    assert all(source.startswith("policy") for source in aside.source)
    assert not set(aside.layout) & set(train.layout)
    assert len(train) == 17


def test_an_edited_copy_is_set_aside_with_its_episode() -> None:
    episodes = logged(20)
    copies = replace(episodes, frames=255 - np.asarray(episodes.frames))
    train, aside = split_for_calibration(concatenate([episodes, copies]), 3, 0)
    assert not set(aside.layout) & set(train.layout)
    assert len(aside) == 3
    assert len(train) == 40 - 2 * len(set(aside.layout))


def test_what_is_left_of_an_episode_that_has_not_succeeded_yet() -> None:
    episodes = logged(12)
    left = unsolved_after(episodes, 3)
    assert (left.length == 3).all()
    assert 6 < len(left) < 12
    for i in range(len(left)):
        (whole,) = [e for e in range(12) if episodes.layout[e] == left.layout[i]]
        assert not episodes.episode(whole).success[:4].any()  # type: ignore[index]
        assert (left.episode(i).frames == episodes.episode(whole).frames[3:]).all()
        assert (left.episode(i).actions == episodes.episode(whole).actions[3:]).all()


def test_a_judge_goes_on_from_another_whose_sizes_count(judge: SuccessClassifier, tmp_path: Path) -> None:
    world = LatentWorldModel(debug().world.world, metaworld_spec(6), 10.0).eval()
    still = JudgeTraining(batch=4, fit=FitConfig(steps=1, lr=1e-12, weight_decay=0), calibration=2, stride=1, late=0)
    begun = train_judge(logged(20), world, tmp_path / "begun", still, start=judge)
    assert replace(begun.config, scales={}) == replace(judge.config, scales={}) != still.judge
    for name, value in judge.named_parameters():
        assert torch.allclose(begun.state_dict()[name], value, atol=1e-6), name
    config = json.loads((tmp_path / "begun" / "config.json").read_text())
    assert config["inputs"]["start"] == identity(judge)
    assert config["judge"]["widths"] == [8, 8, 16]
    other = SuccessClassifier(judge.config, TEXT)
    for start in (other, None):
        with pytest.raises(InputError, match="inputs"):
            train_judge(logged(20), world, tmp_path / "begun", still, start=start)


def test_the_file_of_a_judge_records_the_instructions_that_it_has_seen(tmp_path: Path) -> None:
    world = LatentWorldModel(debug().world.world, metaworld_spec(6), 10.0).eval()
    brief = JudgeTraining(debug().judge.judge, batch=4, fit=FitConfig(steps=1), calibration=2, stride=1, late=0)

    def recorded(judge: object) -> set[str]:
        return set((origin_of(judge) or {})["instructions"])

    data = logged(20)
    stale = {"instructions": ["of an unlabelled episode"], "fps": 10.0}
    first = train_judge(data, world, tmp_path / "first", brief, origin=stale)
    sentences = {sentence for task in set(data.task) for sentence in INSTRUCTIONS.get(task, ())}
    assert recorded(first) == sentences | set(data.instruction)
    assert (origin_of(first) or {})["fps"] == 10.0
    more = replace(data, task=("lamp",) * 20, instruction=("switch on the lamp",) * 20)
    second = train_judge(more, world, tmp_path / "second", brief, start=first)
    assert recorded(second) == recorded(first) | {"switch on the lamp"}
    unknown = train_judge(more, world, tmp_path / "third", brief, start=SuccessClassifier(first.config, TEXT))
    assert recorded(unknown) == set(), "those of its start are not known"


def test_labels_that_do_not_match_the_frames_are_refused() -> None:
    whole = logged(2).episode(1)
    assert whole.success is not None
    with pytest.raises(InputError, match="field 'success' has 6 labels, expected 7, one a frame"):
        replace(whole, success=whole.success[:-1])


def test_success_must_last() -> None:
    assert sustained(np.array([0.0, 1.0, 0.0, 0.0, 0.0]), 4).tolist() == [0.25, 0.25]
    assert sustained(np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]), 4).max() == 1
    assert sustained(np.array([0.0, 1.0]), 4).tolist() == [0.5]


def test_success_is_dated_by_the_frame_that_shows_it_not_by_the_window_that_finds_it(judge: SuccessClassifier) -> None:
    verdict = judge.verdict(np.array([0.1, 0.2, 0.1, 0.9, 0.9, 0.9, 0.9]))
    assert verdict.score == 1
    assert verdict.success_frame == 3


def test_episodes_without_labels_are_refused() -> None:
    episodes = logged(2)
    unlabelled = from_episodes(
        [Episode(e.frames, e.actions, e.instruction, e.task, e.fps, e.spec) for e in map(episodes.episode, range(2))]
    )
    with pytest.raises(InputError, match="success labels"):
        success_batches([unlabelled], 4, 0, {})
