"""Judges made of judges: who is asked about what, and that a failed member changes no verdict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgymnast.endpoint import EndpointConfig
from worldgymnast.errors import InputError
from worldgymnast.judges.classifier import ClassifierConfig, SuccessClassifier
from worldgymnast.judges.combined import (
    CalibratedConfig,
    CalibratedJudge,
    Cascade,
    CascadeConfig,
    Ensemble,
    EnsembleConfig,
    check,
)
from worldgymnast.judges.vlm import VLMConfig
from worldgymnast.protocols import Judge
from worldgymnast.registry import Manifest, load_judge, save_component, save_judge
from worldgymnast.types import Clip, Verdict


class Grey:
    """Believes in success as much as the last frame is bright; fails on what it is told to."""

    def __init__(self, name: str = "grey", gain: float = 1.0, fails: Sequence[int] = (), is_remote: bool = False):
        self.name, self.gain, self.fails, self.is_remote = name, gain, fails, is_remote
        self.identity = f"{name}{gain}"
        self.asked: list[int] = []

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        found = []
        for clip in clips:
            level = int(clip.frames[-1, 0, 0, 0])
            self.asked.append(level)
            p = min(1.0, self.gain * level / 100)
            frame = 1 if p >= 0.5 else None
            said = Verdict(float(p >= 0.5), p, frame, cost=1.0)
            found.append(Verdict(None, error="out", cost=1.0) if level in self.fails else said)
        return found


def clips(*levels: int, task: str = "t") -> list[Clip]:
    return [Clip(np.full((2, 8, 8, 3), level, np.uint8), "open it", task) for level in levels]


def scores(judge: Judge, *levels: int) -> list[float | None]:
    return [v.score for v in judge.score(clips(*levels))]


def test_a_threshold_by_task_holds_for_that_task_alone() -> None:
    judge = CalibratedJudge(Grey(), CalibratedConfig("", 0.5, {"drawer": 0.8}))
    assert scores(judge, 40, 60, 90) == [0, 1, 1]
    assert [v.score for v in judge.score(clips(40, 60, 90, task="drawer"))] == [0, 0, 1]
    assert [v.success_frame for v in judge.score(clips(60, 90, task="drawer"))] == [None, 1]
    assert scores(CalibratedJudge(Grey(fails=[60]), CalibratedConfig("", 0.5)), 60) == [None]


def test_a_learned_judge_dates_success_by_the_threshold_of_the_task() -> None:
    torch.manual_seed(0)
    learned = SuccessClassifier(ClassifierConfig(widths=(8, 8, 16), sustain=1)).eval()
    rng = np.random.default_rng(0)
    clip = Clip(rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8), "open it", "drawer")
    belief = learned.probabilities(clip.frames[None], ["open it"])[0]
    at = float(np.sort(belief)[-2])
    (found,) = CalibratedJudge(learned, CalibratedConfig("", 1.0, {"drawer": at})).score([clip])
    assert found.score == 1
    assert found.success_frame == int(np.flatnonzero(belief >= at)[0])


def test_a_cascade_asks_the_second_judge_only_where_the_first_is_unsure_or_failed() -> None:
    first, then = Grey("cheap", fails=[90]), Grey("dear", 0.5)
    judge = Cascade(first, then, CascadeConfig("", "", 0.3, 0.8))
    verdicts = judge.score(clips(10, 30, 60, 80, 90))
    assert then.asked == [30, 60, 90]
    assert judge.passed_on == 3
    assert [v.score for v in verdicts] == [0, 0, 0, 1, 0]
    assert [v.cost for v in verdicts] == [1, 2, 2, 1, 2]
    assert scores(Cascade(Grey(), Grey(fails=[60]), CascadeConfig("", "", 0.3, 0.8)), 10, 60) == [0, None]


@pytest.mark.parametrize("rule", ["mean", "all"])
def test_an_ensemble_has_a_verdict_only_where_no_missing_member_could_change_it(rule: str) -> None:
    config = EnsembleConfig(("a", "b", "c"), rule, 0.5)  # type: ignore[arg-type]
    for levels, failed in itertools.product(itertools.product((5, 45, 95), repeat=3), range(3)):
        gains = [level / 50 for level in levels]
        whole = Ensemble([Grey("j", g) for g in gains], config)
        broken = Ensemble([Grey("j", g, fails=[50] if i == failed else ()) for i, g in enumerate(gains)], config)
        other = Ensemble([Grey("j", g if i != failed else (0 if g > 1 else 2)) for i, g in enumerate(gains)], config)
        (found,), (true,), (changed,) = (scores(judge, 50) for judge in (broken, whole, other))
        assert found in (None, true), levels
        if true != changed:
            assert found is None, (levels, failed)


def test_an_ensemble_of_all_is_harder_to_please_than_the_mean() -> None:
    members = [Grey("a", 1.5), Grey("b", 0.7)]
    assert scores(Ensemble(members, EnsembleConfig(("", ""), "mean")), 60) == [1]
    assert scores(Ensemble(members, EnsembleConfig(("", ""), "all")), 60) == [0]


def test_names_identities_and_waiting_come_from_the_members() -> None:
    judge = Cascade(Grey("cheap"), Grey("dear", is_remote=True), CascadeConfig("", ""))
    assert isinstance(judge, Judge)
    assert judge.name == "cascade of (cheap) and (dear)"
    assert judge.is_remote
    assert not Ensemble([Grey(), Grey()], EnsembleConfig(("", ""))).is_remote
    assert judge.identity == Cascade(Grey("cheap"), Grey("dear"), CascadeConfig("x", "y")).identity
    assert judge.identity != Cascade(Grey("cheap"), Grey("dear"), CascadeConfig("", "", low=0.2)).identity
    assert judge.identity != Cascade(Grey("cheap", 2.0), Grey("dear"), CascadeConfig("", "")).identity


def test_files_are_looked_for_beside_the_description_and_every_member_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "judges"
    folder.mkdir()
    save_component(tmp_path / "learned.safetensors", SuccessClassifier(ClassifierConfig(widths=(8, 8, 16))), Manifest())
    save_judge(folder / "calibrated.json", CalibratedConfig("../learned.safetensors", 0.7, {"t": 0.9}))
    partial = VLMConfig(EndpointConfig("m", "http://127.0.0.1:9/v1", attempts=1), rubric="partial-v1")
    save_judge(folder / "vlm.json", partial)
    save_judge(folder / "cascade.json", CascadeConfig("calibrated.json", "vlm.json"))
    judge = load_judge(folder / "cascade.json")
    assert isinstance(judge, Cascade)
    assert isinstance(judge.members[0], CalibratedJudge)
    assert isinstance(judge.members[0].members[0], SuccessClassifier)
    with pytest.raises(InputError, match="field 'criteria': found none for 'drawer-open'"):
        check(judge, [("drawer-open", "open the drawer")])
    check(judge.members[0], [("drawer-open", "open the drawer")])
