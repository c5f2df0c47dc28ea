"""The world's own opinion as a judge, in training and in a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_builders import episode
from lamp import SIZE, BrightJudge, Lamp, Seer, lamp_episode
from small_worlds import SPEC

from worldgymnast.cli.main import main
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.judges.combined import Ensemble, EnsembleConfig
from worldgymnast.measure.diagnosis import diagnose
from worldgymnast.protocols import Judge, PredictsSuccess, WorldModel
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import load_judge
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.world import train_world
from worldgymnast.types import Clip


def test_the_worlds_own_opinion_is_a_judge_and_a_member_of_others(tmp_path: Path) -> None:
    assert main(["judge", "foreseen", "--threshold", "0.6", "--out", str(tmp_path / "own.json")]) == 0
    judge = load_judge(tmp_path / "own.json")
    assert isinstance(judge, Judge)
    frames = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    beliefs = [np.array([0.0, 0.9, 0.1, 0.1]), np.array([0.0, 0.2, 0.8, 0.9])]
    flickers, lasts = judge.score([Clip(frames, "", imagined=True, foreseen=belief) for belief in beliefs])
    assert (flickers.score, lasts.score, lasts.success_frame) == (0, 1, 2)
    (silent,) = judge.score([Clip(frames, "")])
    assert silent.score is None
    assert "--world.success-head" in str(silent.error)
    both = Ensemble([judge, BrightJudge()], EnsembleConfig(("a", "b"), rule="all"))
    bright = np.full_like(frames, 200)
    for shown, belief, expected in ((bright, 1, 1), (frames, 1, 0), (bright, 0, 0)):
        assert both.score([Clip(shown, "", imagined=True, foreseen=beliefs[belief])])[0].score == expected


def test_a_world_that_has_learned_from_no_label_says_nothing(tmp_path: Path) -> None:
    training = replace(debug().world, fit=FitConfig(steps=1), autoencoder=FitConfig(steps=1))
    made = [replace(episode(i, size=64, spec=SPEC), success=None) for i in range(2)]
    assert training.world.success_head
    assert train_world(from_episodes(made), tmp_path / "silent", training).success_head is None
    labelled = [replace(e, success=np.arange(len(e.frames)) > 2) for e in made]
    assert train_world(from_episodes(labelled), tmp_path / "knows", training).success_head is not None


@pytest.mark.parametrize("world", [Lamp(), Seer()])
def test_a_diagnosis_shows_the_judge_what_the_world_foresaw_and_nothing_of_a_world_that_foresees_nothing(
    world: WorldModel,
) -> None:
    asked: list[Clip] = []

    class Noting(BrightJudge):
        def score(self, clips: Sequence[Clip]) -> list[Any]:
            asked.extend(clips)
            return super().score(clips)

    diagnose(world, Noting(), from_episodes([lamp_episode(i, steps) for i, steps in enumerate((8, 5))]), stride=3)
    assert [clip.imagined for clip in asked] == [False, False, True, True]
    for clip in asked:
        told = clip.imagined and isinstance(world, PredictsSuccess)
        assert (clip.foreseen is not None) == told
        assert clip.foreseen is None or np.isfinite(clip.foreseen).all()
