"""judge calibrate, judge compare and the gate, with judges and worlds whose faults are planted."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_builders import SPEC, episode
from lamp import SIZE, BrightJudge, Lamp, lamp_episode

from worldgymnast.cli.main import main
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.calibration import measure
from worldgymnast.evaluation.success import numbers
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.measure.gate import gate, gate_rates, truncate
from worldgymnast.measure.judge import run_judges, truncate_labeled, undetermined_tasks
from worldgymnast.measure.world import judge_outcomes
from worldgymnast.protocols import Judge
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, load_learned_judge, save_component
from worldgymnast.report.judge import JudgeResult, diagram, sheets
from worldgymnast.training.replay import clip_probabilities, replay
from worldgymnast.types import Clip, Episode, Verdict
from worldgymnast.worldmodel.sampler import LatentWorldModel

HORIZON = 8
COMMANDS = "worldgymnast.cli.commands.judge_evaluation"
TASKS = ("dim", "dusk")


class Spy:
    """`BrightJudge` that remembers what it was shown, is paid, and fails on every `fails`-th clip."""

    name = identity = "spy-v1"
    is_remote = True

    def __init__(self, fails: int = 0):
        self.fails = fails
        self.calls: list[Sequence[Clip]] = []

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        before = sum(len(call) for call in self.calls)
        self.calls.append(clips)
        out = Verdict(None, error="the endpoint is down", cost=0.5)
        return [
            out if self.fails and (before + i) % self.fails == 0 else replace(verdict, cost=0.5)
            for i, verdict in enumerate(BrightJudge().score(clips))
        ]


@functools.cache
def rollouts() -> list[Episode]:
    """40 rollouts of the lamp, two tasks in turn; of each, every other one succeeds, at its last frame."""
    made: dict[bool, list[Episode]] = {True: [], False: []}
    for index in itertools.count():
        one = lamp_episode(index, steps=HORIZON)
        made[bool(one.succeeded)].append(one)
        if min(map(len, made.values())) == 20:
            break
    pairs = [replace(e, task=TASKS[i % 2]) for i in range(20) for e in (made[True][i], made[False][i])]
    return [pairs[i] for i in np.random.default_rng(0).permutation(40)]


@pytest.fixture(scope="module")
def lamps() -> EpisodeSet:
    """The rollouts, and a short one without labels."""
    return from_episodes([*rollouts(), replace(lamp_episode(40, steps=3), success=None)])


# ---------------------------------------------------------------- asking


def test_a_right_world_changes_no_verdict_and_a_fading_one_lies(lamps: EpisodeSet) -> None:
    real = truncate_labeled(lamps, HORIZON)
    assert len(real) == 40
    answers = run_judges([BrightJudge()], real, Lamp())
    (said,) = answers.runs
    assert list(said) == ["real", "imagined"]
    assert said["real"].outcomes == answers.truth.tolist() == said["imagined"].outcomes
    assert np.array_equal(said["real"].beliefs, said["imagined"].beliefs)
    (lied,) = run_judges([BrightJudge()], real, Lamp(fades=3)).runs
    assert lied["real"].outcomes == answers.truth.tolist()
    assert sum(map(bool, lied["imagined"].outcomes)) > answers.truth.sum() + 3
    assert list(run_judges([BrightJudge()], real).runs[0]) == ["real"]


def test_the_outcome_is_that_of_the_horizon(lamps: EpisodeSet) -> None:
    """These succeed at their last frame, if at all."""
    assert truncate_labeled(lamps, HORIZON).succeeded.any()
    assert not truncate_labeled(lamps, HORIZON - 1).succeeded.any()
    with pytest.raises(InputError, match="found 9, expected at most 8, the actions of the shortest labeled"):
        truncate_labeled(lamps, HORIZON + 1)


def test_judges_are_asked_in_pieces_and_see_the_same_clips(lamps: EpisodeSet) -> None:
    one, two = Spy(), Spy(fails=3)
    answers = run_judges([one, two], truncate_labeled(lamps, HORIZON), Lamp(), stride=4, rows=16)
    assert [len(call) for call in one.calls] == [16, 16, 16, 16, 8, 8]
    for a, b in zip([c for call in one.calls for c in call], [c for call in two.calls for c in call], strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert len(a.frames) == HORIZON // 4 + 1
    assert [c.task for c in one.calls[0]] == list(answers.task[:16])
    assert (one.calls[0][3].frames == lamps.episode(3).frames[::4]).all()
    first, second = answers.runs
    assert first["real"].cost_a_clip == 0.5
    assert first["imagined"].seconds_a_clip > 0
    assert (len(first["real"].errors), len(second["real"].errors) + len(second["imagined"].errors)) == (0, 27)
    assert set(second["real"].errors) == {"the endpoint is down"}
    assert [math.isnan(b) for b in second["real"].beliefs] == [o is None for o in second["real"].outcomes]
    assert second["real"].outcomes.count(None) == len(second["real"].errors)


def test_in_pieces_or_at_once_is_the_same(lamps: EpisodeSet) -> None:
    real = truncate_labeled(lamps, HORIZON)
    (pieces,), (whole,) = (run_judges([BrightJudge()], real, Lamp(fades=2), rows=rows).runs for rows in (7, 64))
    assert np.array_equal(pieces["imagined"].beliefs, whole["imagined"].beliefs)


def test_what_stays_unknown_is_said(lamps: EpisodeSet) -> None:
    real = truncate_labeled(lamps, HORIZON)
    assert undetermined_tasks(real) == []
    won = real.select(real.succeeded)
    only = replace(won, task=tuple("easy" for _ in won.task))
    (line,) = undetermined_tasks(only)
    assert line.startswith(f"easy: all {len(won)} rollouts succeed within the horizon. Its true negative rate")
    assert "recall" in undetermined_tasks(truncate_labeled(lamps, HORIZON - 1))[0]


# ---------------------------------------------------------------- the gate


def test_the_gate_takes_any_judge_and_an_outage_is_no_failure(lamps: EpisodeSet) -> None:
    real = truncate_labeled(lamps, HORIZON)
    spy = Spy()
    found = gate(Lamp(), spy, real, horizon=HORIZON, stride=2, seed=0)
    assert found["real_balanced_accuracy"] == found["imagined_balanced_accuracy"] == 1
    assert {clip.task for call in spy.calls for clip in call} == set(TASKS)
    spy = Spy()
    judge_outcomes(Lamp(), spy, real, horizon=HORIZON, stride=2, jitter=JitterConfig(0))
    assert [clip.task for clip in spy.calls[0]] == list(real.task[:32])
    broken = gate(Lamp(), Spy(fails=3), real, horizon=HORIZON, stride=2, seed=0)
    assert broken["imagined_true_positive"] == broken["imagined_true_negative"] == 1


def test_the_gate_of_a_classifier_is_its_belief_against_its_threshold() -> None:
    torch.manual_seed(0)
    recipe = debug()
    world, judge = LatentWorldModel(recipe.world.world, SPEC, 10.0).eval(), SuccessClassifier(recipe.judge.judge).eval()
    held = [replace(episode(i, steps=8, size=64), success=np.arange(9) > 8 - 4 * (i % 2)) for i in range(40)]
    episodes = from_episodes(held)
    sets = {"real": episodes, "imagined": replay(world, episodes, seed=0)}
    beliefs = {name: clip_probabilities(judge, part, 2) for name, part in sets.items()}
    judge.threshold.fill_(float(np.median(beliefs["imagined"])))
    verdicts = {name: (belief >= float(judge.threshold)).tolist() for name, belief in beliefs.items()}
    expected = gate_rates(verdicts, episodes.succeeded.tolist(), episodes.task)
    assert gate(world, judge, episodes, horizon=8, stride=2, seed=0) == pytest.approx(expected, nan_ok=True)
    assert 0 < expected["imagined_true_positive"] < 1
    assert truncate(episodes, 8).succeeded.sum() == 20


# ---------------------------------------------------------------- the tables and the picture


def test_tables_numbers_and_picture_also_where_nothing_is_known(lamps: EpisodeSet) -> None:
    real = truncate_labeled(lamps, HORIZON)
    for judge in (BrightJudge(), Spy(fails=1)):
        answers = run_judges([judge], real, Lamp(fades=3))
        found = {
            kind: JudgeResult(
                measure(s.beliefs, s.outcomes, answers.truth, answers.task), s.seconds_a_clip, s.cost_a_clip
            )
            for kind, s in answers.runs[0].items()
        }
        for sheet in sheets(found):
            assert all(len(row) == len(sheet.head) for row in sheet.rows), sheet.title
        json.dumps(numbers(found), allow_nan=False)
        assert diagram(found, "a judge").startswith(b"\x89PNG")
    assert "unknown" in str(sheets(found))


# ---------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained world and judge of 64 pixels, and data of the lamp: labelled, plain, and of successes only."""
    path, recipe = tmp_path_factory.mktemp("judge"), debug()
    save_component(path / "world.safetensors", LatentWorldModel(recipe.world.world, SPEC, 80 / 3), Manifest())
    for name in ("judge", "other"):
        save_component(path / f"{name}.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    made = rollouts()
    sets = {
        "labelled": made,
        "plain": [replace(e, success=None) for e in made[:2]],
        "won": [e for e in made if e.succeeded],
    }
    for name, episodes in sets.items():
        lerobot.write(path / name, episodes)
    lerobot.write(path / "large", [episode(i, steps=HORIZON, size=64) for i in range(1, 3)])
    return path


Planted = Callable[..., None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Planted:
    """Puts judges in the place of those in the files, and a world."""

    def put(world: Lamp | None = None, **judges: Judge) -> None:
        monkeypatch.setattr(f"{COMMANDS}.load_judge_with_ledger", lambda path, _: judges[path.stem])
        if world is not None:
            monkeypatch.setattr(f"{COMMANDS}.load_world", lambda *_: world)

    return put


def run(folder: Path, *words: object, data: str = "labelled") -> int:
    common = ["--data", folder / data, "--horizon", HORIZON, "--threads", 1]
    return main([str(word) for word in ("judge", *words, *common)])


def test_calibrate_says_usable_and_writes_everything(
    folder: Path, tmp_path: Path, plant: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(Lamp(), judge=BrightJudge())
    files = {name: tmp_path / "out" / name for name in ("found.json", "found.png", "saved.json", "found.md")}
    words = ["calibrate", folder / "judge.safetensors", "--world", folder / "world.safetensors"]
    asked = ["--plot", files["found.png"], "--save", files["saved.json"]]
    assert run(folder, *words, "--out", files["found.json"], *asked) == 0
    said = capsys.readouterr().out
    conclusion = "usable: balanced accuracy 1.000 [1.000, 1.000] on imagined replays reaches --usable 0.8"
    assert said.splitlines()[-1] == conclusion
    for title in ("Verdicts on real frames", "Thresholds on imagined replays", "Reliability", "Time and cost"):
        assert title in said
    found = json.loads(files["found.json"].read_text())
    assert found["usable"] is True
    assert found["imagined"]["measured"]["calibrations"]["dusk"]["worth"]["balanced_accuracy"]["value"] == 1
    assert files["found.png"].read_bytes().startswith(b"\x89PNG")
    saved = json.loads(files["saved.json"].read_text())
    assert saved["kind"] == "CalibratedConfig"
    assert (files["saved.json"].parent / saved["judge"]).resolve() == (folder / "judge.safetensors").resolve()
    assert not Path(saved["judge"]).is_absolute()
    assert 0.4 < saved["threshold"] < 0.6  # the judge turns at 0.5
    assert set(saved["by_task"]) == set(TASKS)
    assert run(folder, *words, "--out", files["found.md"]) == 0
    page = files["found.md"].read_text()
    assert "| task | succeeded | precision |" in page
    assert page.endswith(f"{conclusion}\n")


def test_thresholds_are_saved_by_task_where_labels_suffice(folder: Path, tmp_path: Path, plant: Planted) -> None:
    class TwoScales(BrightJudge):
        """Believes half as much in one task."""

        def score(self, clips: Sequence[Clip]) -> list[Verdict]:
            found = super().score(clips)
            halves = [0.5 if clip.task == "dusk" else 1 for clip in clips]
            return [replace(v, probability=h * (v.probability or 0)) for v, h in zip(found, halves, strict=True)]

    plant(judge=TwoScales())
    assert run(folder, "calibrate", folder / "judge.safetensors", "--save", tmp_path / "saved.json") == 0
    by_task = json.loads((tmp_path / "saved.json").read_text())["by_task"]
    assert by_task == {"dim": pytest.approx(0.5, abs=0.06), "dusk": pytest.approx(0.25, abs=0.03)}
    lerobot.write(tmp_path / "few", rollouts()[:38])  # one task has nine of a kind left, or both
    saved = ["calibrate", folder / "judge.safetensors", "--save", tmp_path / "few.json"]
    assert run(tmp_path, *saved, data="few") == 0
    kinds = Counter((e.task, e.succeeded) for e in rollouts()[:38])
    expected = [t for t in TASKS if min(kinds[t, True], kinds[t, False]) == 10]
    assert list(json.loads((tmp_path / "few.json").read_text())["by_task"]) == expected
    assert len(expected) < 2


@pytest.mark.parametrize(
    ("judge", "world", "usable", "expected"),
    [
        (BrightJudge(), Lamp(fades=8), 0.9, r"not usable: balanced accuracy 0\.\d{3} \[.*\] on imagined replays is"),
        (Spy(fails=5), None, 0.8, r"not usable: 8 of 40 judgements on real frames failed \(limit 10%\)$"),
        (Spy(fails=1), None, 0.0, r"not usable: 40 of 40 judgements .* failed .*; balanced accuracy .* is unknown"),
        (Spy(fails=20), None, 0.8, r"usable: balanced accuracy 1\.000 \[1\.000, 1\.000\] on real frames reaches"),
    ],
)
def test_what_is_usable(
    folder: Path,
    plant: Planted,
    capsys: pytest.CaptureFixture[str],
    judge: Judge,
    world: Lamp | None,
    usable: float,
    expected: str,
) -> None:
    plant(world, judge=judge)
    given = ["--world", folder / "world.safetensors"] if world else []
    code = run(folder, "calibrate", folder / "judge.safetensors", "--usable", usable, *given)
    said = capsys.readouterr().out
    assert code == int(expected.startswith("not"))
    assert re.match(expected, said.splitlines()[-1]), said.splitlines()[-1]
    if isinstance(judge, Spy):
        assert "judgements failed. First error: the endpoint is down" in said


def test_compare_pairs_the_same_clips(
    folder: Path, tmp_path: Path, plant: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    class Blind(BrightJudge):
        def score(self, clips: Sequence[Clip]) -> list[Verdict]:
            return [Verdict(0.0, 0.1) for _ in clips]

    plant(Lamp(), judge=Blind(), other=BrightJudge())
    both = ("compare", folder / "judge.safetensors", folder / "other.safetensors")
    assert run(folder, *both, "--world", folder / "world.safetensors", "--out", tmp_path / "found.json") == 0
    said = capsys.readouterr().out
    assert "Balanced accuracy on imagined replays" in said
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    assert sorted(found["imagined"]) == ["all", "dim", "dusk"]
    row = found["real"]["all"]
    assert (row["first"]["balanced_accuracy"]["value"], row["second"]["balanced_accuracy"]["value"]) == (0.5, 1)
    assert row["difference"]["mean"] == 0.5
    assert row["difference"]["n"] == 40
    assert row["difference"]["p_value"] == pytest.approx(2 * 0.5**20)


def test_a_real_classifier_and_a_real_world(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("calibrate", folder / "judge.safetensors", "--world", folder / "world.safetensors", "--usable", 0)
    code = run(folder, *words, data="large")
    said = capsys.readouterr().out
    assert "Verdicts on imagined replays" in said
    assert code == said.splitlines()[-1].startswith("not usable")


def test_what_is_wrong_is_said_before_any_judging(
    folder: Path, plant: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    spy = Spy()
    plant(judge=spy)
    judge, world = folder / "judge.safetensors", ("--world", folder / "world.safetensors")
    other = folder / "other.json"
    for words, data, expected in (
        (("--out", other, "--save", other), "labelled", f"--out: {other} is also the file of --save"),
        (("--out", "/proc/x.md"), "labelled", "--out: cannot write /proc/x.md"),
        (("--out", "x.html"), "labelled", "--out: found x.html, expected a file that ends in .md or .json"),
        (("--plot", "x.jpg"), "labelled", "--plot: found x.jpg, expected a file that ends in .png"),
        (("--save", "x.md"), "labelled", "--save: found x.md, expected a file that ends in .json"),
        (("--usable", 1.5), "labelled", "--usable: found 1.5, expected 0 to 1"),
        (("--stride", 0), "labelled", "--stride: found 0, expected 1 or more"),
        ((), "plain", f"{folder / 'plain'}: field 'success': no episode has a label"),
        ((), "nothing", str(folder / "nothing")),
        (world, "labelled", f"frames: found {SIZE}x{SIZE} pixels, expected 64x64 as in the world model"),
        (("--world", folder / "no.safetensors"), "labelled", str(folder / "no.safetensors")),
        (("--world", judge), "labelled", "found a judge (SuccessClassifier), expected a world model"),
        (("--save", "x.json"), "won", "--save: the data have only successes"),
    ):
        assert run(folder, "calibrate", judge, *words, data=data) == 2, words
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert expected in lines[0]
    words = ["judge", "calibrate", judge, "--data", folder / "labelled", "--threads", 1]
    assert main([str(word) for word in words]) == 2
    assert "--horizon: found 24, expected at most 8" in capsys.readouterr().err
    assert spy.calls == []
    described = folder / "described.json"
    described.write_text("a judge's description")
    for flag in ("--save", "--out"):
        assert run(folder, "calibrate", described, flag, folder / "plain" / ".." / described.name, data="labelled") == 2
        assert "is also the file of JUDGE" in capsys.readouterr().err
        assert described.read_text() == "a judge's description"
    assert run(folder, "calibrate", judge, data="won") == 1
    said = capsys.readouterr().out
    assert "rollouts succeed within the horizon. Its true negative rate" in said
    assert said.splitlines()[-1].startswith("not usable: balanced accuracy on real frames is unknown")


def test_a_judge_looks_before_anything_is_spent(
    folder: Path, plant: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    class Picky(Spy):
        def check(self, asked: Iterable[tuple[str, str]]) -> None:
            tasks = sorted({task for task, _ in asked})
            raise InputError(f"field 'rubrics': found none for {tasks}, expected one")

    spy = Picky()
    plant(judge=spy)
    assert run(folder, "calibrate", folder / "judge.safetensors") == 2
    assert "found none for ['dim', 'dusk']" in capsys.readouterr().err
    assert spy.calls == []


def test_a_saved_judge_is_one_that_can_be_compared(folder: Path, tmp_path: Path) -> None:
    judge, saved = folder / "judge.safetensors", tmp_path / "saved.json"
    run(folder, "calibrate", folder / "judge.safetensors", "--save", saved)
    found = json.loads(saved.read_text())
    assert run(folder, "compare", judge, saved, "--out", tmp_path / "found.json") == 0
    lamps = lerobot.read(folder / "labelled")
    beliefs, tasks = clip_probabilities(load_learned_judge(judge), lamps, 2), lamps.task
    limits = [found["by_task"].get(task, found["threshold"]) for task in tasks]
    known = (beliefs >= limits)[lamps.succeeded].mean()
    compared = json.loads((tmp_path / "found.json").read_text())["real"]["all"]["second"]
    assert compared["known"]["value"] == pytest.approx(known)


def test_a_judge_that_is_no_judge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "calibrate", folder / "world.safetensors") == 2
    assert "expected a judge" in capsys.readouterr().err
    assert run(folder, "compare", folder / "judge.safetensors", folder / "nothing.safetensors") == 2
    assert str(folder / "nothing.safetensors") in capsys.readouterr().err
