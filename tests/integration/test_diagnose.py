"""The recall split, on worlds and judges whose faults are planted, so that the right answer is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_builders import SPEC, episode
from lamp import SIZE, BrightJudge, Lamp, lamp_episode
from torch import Tensor

from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.uncertainty import JitterConfig, imagine_clips
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.measure.diagnosis import diagnose, examine
from worldgymnast.measure.world import judge_outcomes
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.protocols import RoundTrip
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, save_component
from worldgymnast.report.collect import collect
from worldgymnast.report.diagnosis import sheets
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import render
from worldgymnast.types import Clip, Episode, Verdict
from worldgymnast.weights import to_json, write_text
from worldgymnast.worldmodel.sampler import LatentWorldModel


class Lens(Lamp):
    """A lamp whose frames are encoded and decoded; `dims` levels are lost on the way, in imagination too."""

    def __init__(self, dims: int = 0, fades: float = 0.0):
        super().__init__(fades)
        self.dims = dims

    def round_trip(self, frames: Tensor) -> Tensor:
        return (frames.int() - self.dims).clamp(0, 255).byte()

    def step(self, *args: object, **words: object) -> tuple[object, Tensor]:
        state, frames = super().step(*args, **words)
        return state, self.round_trip(frames)


class Partial(BrightJudge):
    """Fails on every clip whose first pixel is odd."""

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        own = super().score(clips)
        both = zip(own, clips, strict=True)
        return [v if c.frames[0, 0, 0, 0] % 2 == 0 else Verdict(None, error="outage") for v, c in both]


class Strict(BrightJudge):
    """Calls only a frame brighter than 140 a success."""

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        said = zip(super().score(clips), clips, strict=True)
        return [replace(v, score=float(c.frames[-1].mean() > 140)) for v, c in said]


def lit(index: int, steps: int, policy: str) -> Episode:
    """An episode of the true lamp; about half of them end brighter than 128."""
    rng, own = np.random.default_rng(index), lamp_episode(index, steps)
    frames = imagine_clips(Lamp(), rng.integers(88, 168, (1, SIZE, SIZE, 3), dtype=np.uint8), own.actions[None], 0)[0]
    success = (np.arange(steps + 1) == steps) & (frames[-1].mean() > 128)
    return replace(own, frames=frames, success=success, source=policy)


@pytest.fixture(scope="module")
def lamps() -> EpisodeSet:
    """Rollouts of two policies in two tasks, of which "never" has no success."""
    named = [lit(i, 8 + i % 3, ("one", "two")[i % 2]) for i in range(24)]
    lost = [e for e in named if not e.succeeded][:6]
    return from_episodes([*named, *(replace(e, task="never") for e in lost)])


# ---------------------------------------------------------------- planted faults


def test_a_world_that_is_right_costs_nothing(lamps: EpisodeSet) -> None:
    found = diagnose(Lens(), BrightJudge(), lamps, stride=2, rows=7)
    json.dumps(found, allow_nan=False)
    every = found["all"]
    assert (every["episodes"], every["successes"] + every["failures"]) == (30, 30)
    assert found["sources"] == ["real", "round_trip", "imagined"]
    for one in every["sources"].values():
        assert one["auroc"]["value"] == one["known"]["value"] == one["refused"]["value"] == 1
        assert one["strict"]["known"]["value"] == 1
    assert every["missed"]["own"]["wrong"]["successes"] == every["claimed"]["strict"]["wrong"]["successes"] == 0
    assert every["fidelity"]["frames"] == [1, 5, 10]
    assert every["fidelity"]["episodes"] == [30, 30, int((lamps.length == 10).sum())]
    assert every["fidelity"]["sharpness"]["imagined"]["mean"] == [1, 1, 1]
    assert every["fidelity"]["psnr"]["imagined"]["mean"] == [60, 60, 60]
    assert found["imagined_frames_per_second"] > 0
    assert [row["fault"] for row in found["rows"]] == [""] * 30


def test_each_fault_is_laid_at_the_right_door(lamps: EpisodeSet) -> None:
    def missed(world: Lamp, judge: BrightJudge) -> dict[str, int]:
        own = diagnose(world, judge, lamps)["all"]["missed"]["own"]
        return {name: own[name]["successes"] for name in ("wrong", "judge", "round_trip", "dynamics")}

    blind, dim, slow = (
        missed(Lens(), Strict()),
        missed(Lens(dims=12), BrightJudge()),
        missed(Lens(fades=-2), BrightJudge()),
    )
    assert blind["judge"] == blind["wrong"] > 3
    assert dim["round_trip"] == dim["wrong"] > 3
    assert slow["dynamics"] == slow["wrong"] > 3


def test_a_foreign_world_has_no_round_trip(lamps: EpisodeSet) -> None:
    assert isinstance(Lens(), RoundTrip)
    assert not isinstance(Lamp(), RoundTrip)
    found = diagnose(Lamp(fades=-2), BrightJudge(), lamps)
    assert found["sources"] == ["real", "imagined"]
    own = found["all"]["missed"]["own"]
    assert own["round_trip"] is own["dynamics"] is None
    assert own["world"]["successes"] == own["wrong"]["successes"] > 3
    assert set(found["all"]["fidelity"]["sharpness"]) == {"real", "imagined"}
    assert {row["fault"] for row in found["rows"]} == {"", "world"}


def test_tasks_and_policies_have_their_own_numbers(lamps: EpisodeSet) -> None:
    found = diagnose(Lamp(fades=3), BrightJudge(), lamps)
    assert list(found["tasks"]) == ["lamp", "never"]
    assert list(found["policies"]) == ["one", "two"]
    never = found["tasks"]["never"]
    assert (never["successes"], never["sources"]["real"]["auroc"]["value"]) == (0, None)
    assert never["sources"]["imagined"]["refused"]["count"] == 6
    assert never["missed"]["own"]["wrong"]["count"] == 0
    assert never["missed"]["strict"]["wrong"]["value"] is None
    parts = [found["policies"][name]["tasks"].get(task) for name in ("one", "two") for task in ("lamp", "never")]
    assert sum(part["episodes"] for part in parts if part) == 30
    claimed = found["all"]["claimed"]["own"]
    assert claimed["world"]["successes"] == claimed["wrong"]["successes"] > 3
    assert sum(bin["successes"]["count"] for bin in found["all"]["bins"]["imagined"]) == 30


def test_clips_on_which_the_judge_fails_count_for_nothing(lamps: EpisodeSet) -> None:
    found = diagnose(Lens(), Partial(), lamps)
    odd = sum(int(lamps.frames[first][0, 0, 0]) % 2 for first in lamps.first)
    real = found["all"]["sources"]["real"]
    assert 0 < odd < 30
    assert real["known"]["errors"] + real["refused"]["errors"] == odd
    assert real["known"]["value"] == real["auroc"]["value"] == 1
    split_errors = [found["all"][kind]["own"]["wrong"]["errors"] for kind in ("missed", "claimed")]
    assert sum(split_errors) == odd
    assert sum(row["fault"] is None for row in found["rows"]) == odd
    assert {row["real"]["error"] for row in found["rows"] if row["fault"] is None} == {"outage"}


def test_it_knows_what_eval_world_knows(lamps: EpisodeSet) -> None:
    gate = judge_outcomes(Lamp(fades=2), BrightJudge(), lamps, horizon=8, stride=2, jitter=JitterConfig(0)).gate()
    found = diagnose(Lamp(fades=2), BrightJudge(), lamps, horizon=8, stride=2, rows=7)["all"]["sources"]
    for source in ("real", "imagined"):
        assert found[source]["known"]["value"] == gate[f"{source}_true_positive"]
        assert found[source]["refused"]["value"] == gate[f"{source}_true_negative"]


def test_only_what_happens_within_the_horizon_counts(lamps: EpisodeSet) -> None:
    late = replace(lamps, success=np.zeros_like(lamps.success))
    late.success[late.first + 5] = True
    early, whole = (diagnose(Lamp(), BrightJudge(), late, horizon=n)["all"]["successes"] for n in (4, 5))
    assert (early, whole) == (0, 30)


def test_unlabelled_episodes_are_left_out(lamps: EpisodeSet) -> None:
    some = replace(lamps, labelled=np.arange(30) % 2 == 0)
    found = diagnose(Lamp(), BrightJudge(), some)
    assert [row["episode"] for row in found["rows"]] == list(range(0, 30, 2))
    with pytest.raises(InputError, match=r"data: none of 30 episodes has both a success label and an action"):
        diagnose(Lamp(), BrightJudge(), replace(lamps, labelled=np.zeros(30, bool)))


def test_strips_show_missed_successes_around_the_first_one(lamps: EpisodeSet) -> None:
    found = examine(Lens(fades=-2), Strict(), lamps, rows=7, strips=5)
    rows = found.numbers["rows"]
    causes = [row["fault"] for row in rows if row["success"] and row["fault"]]
    assert {strip.fault for strip in found.strips} == {"dynamics", "judge"}
    assert causes.count("dynamics") < 5 < len(causes)  # what the world lost comes first, and all of it
    assert [strip.fault for strip in found.strips] == ["dynamics"] * causes.count("dynamics") + ["judge"] * (
        5 - causes.count("dynamics")
    )
    assert len(found.strips) == 5
    for strip in found.strips:
        own = lamps.episode(strip.episode)
        assert rows[strip.episode]["fault"] == strip.fault
        assert np.flatnonzero(own.success)[0] == strip.success_frame
        assert np.array_equal(strip.frames["real"], own.frames[strip.times])
        assert strip.success_frame in strip.times
        assert strip.beliefs["imagined"] == rows[strip.episode]["imagined"]["belief"]
    assert not examine(Lens(), BrightJudge(), lamps).strips


# ---------------------------------------------------------------- the real world model


@pytest.mark.parametrize("detail", [0.0, 0.1])
def test_the_round_trip_is_what_perfect_dynamics_would_show(detail: float) -> None:
    torch.manual_seed(0)
    config = replace(debug().world.world, detail=detail)
    world = LatentWorldModel(config, SPEC, 10.0).eval()
    clips = torch.from_numpy(np.stack([episode(i, steps=9, size=64).frames for i in range(2)]))
    made = world.round_trip(clips)
    assert made.shape == clips.shape
    state = world.start(clips[:, 0])
    with world._autocast():
        latents = world.autoencoder.encode(clips).float()
    assert (made.int() - world._decode(state, latents).int()).abs().max() <= 1  # decoded in other batches
    still = world.round_trip(clips[:, :1].expand(-1, 9, -1, -1, -1))
    if detail:  # a scene that does not change gets back all that the autoencoder lost
        assert torch.equal(still, clips[:, :1].expand(-1, 9, -1, -1, -1))
    else:
        with world._autocast():
            alone = world.autoencoder.decode(world.autoencoder.encode(clips[:, 3]))
        assert (made[:, 3].int() - alone.int()).abs().max() <= 1


# ---------------------------------------------------------------- the command and the report


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world and judge, and data with labels and without."""
    folder, recipe, spec = tmp_path_factory.mktemp("diagnose"), debug(), metaworld_spec(6)
    torch.manual_seed(0)
    save_component(folder / "world.safetensors", LatentWorldModel(recipe.world.world, spec, 13.3), Manifest())
    save_component(folder / "judge.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    for name, own in (("policy", spec), ("slow", replace(spec, rate=5.0))):
        save_component(folder / f"{name}.safetensors", SmallVLA(recipe.policy.policy, own), Manifest())
    made = [episode(i, steps=6, size=64, spec=spec, fps=80 / 6) for i in range(6)]
    for name, wanted in (("one", made), ("two", made[:3]), ("plain", [replace(e, success=None) for e in made])):
        with lerobot.LeRobotWriter(folder / name, spec, 80 / 6, (64, 64)) as writer:
            for one in wanted:
                writer.add(one)
    return folder


def run(folder: Path, *words: object) -> int:
    parts = ("--world", folder / "world.safetensors", "--judge", folder / "judge.safetensors", "--threads", 1)
    return main([str(word) for word in ("diagnose", *words, *parts)])


def test_the_command_writes_numbers_strips_and_a_page(
    held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(held_out, held_out / "one", held_out / "two", "--out", out, "--strips", 2) == 0
    said = capsys.readouterr().out
    for title in ("Missed successes by cause", "Fidelity by frame", "prediction of real success"):
        assert title in said
    found = json.loads((out / "diagnosis.json").read_text())
    assert list(found["policies"]) == ["one", "two"]
    assert found["all"]["episodes"] == 6  # three of the nine have no label
    assert found["horizon"] == 24
    assert len(list((out / "diagnosis").glob("*.png"))) == len(found["strips"]) <= 2
    page = (out / "report.html").read_text()
    assert "Causes of wrong verdicts on imagined rollouts" in page
    assert page.count('class="strip"') == len(found["strips"])
    assert page.count("<section") == page.count("</section>")
    assert run(held_out, held_out / "one", "--out", out, "--strips", 0, "--by", "folder") == 0  # again, in its place
    assert list(json.loads((out / "diagnosis.json").read_text())["policies"]) == ["one"]


def test_the_command_lets_the_policy_act(held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, policy = tmp_path / "out", held_out / "policy.safetensors"
    assert run(held_out, held_out / "one", "--policy", policy, "--temperature", 1, "--horizon", 5, "--out", out) == 0
    title = "Success of the policy policy.safetensors, recorded and imagined"
    said = " ".join(capsys.readouterr().out.split())
    assert title in said
    assert "With the policy acting, " in said
    assert "first 5 of up to 6 actions; later successes count as failures" in said
    pairs = json.loads((out / "diagnosis.json").read_text())["recorded"]["pairs"]
    assert len(pairs) == 4, "two of the six have no label"
    assert title in (out / "report.html").read_text()


def test_a_policy_that_reads_the_state_acts_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, spec = debug(), metaworld_spec(6)
    config = replace(recipe.world.world, state_dim=3)
    save_component(tmp_path / "world.safetensors", LatentWorldModel(config, spec, 13.3), Manifest())
    save_component(tmp_path / "judge.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    reader = SmallVLA(replace(recipe.policy.policy, state_dim=3), spec)
    save_component(tmp_path / "policy.safetensors", reader, Manifest())
    names = ("x", "y", "z")
    made = [episode(i, steps=6, size=64, spec=spec, fps=80 / 6) for i in range(4)]
    lerobot.write(
        tmp_path / "data",
        [
            replace(
                one, success=np.arange(7) > 5 - i, state=np.full((7, 3), i, np.float32), state_names=names, source=""
            )
            for i, one in enumerate(made)
        ],
    )
    assert run(tmp_path, tmp_path / "data", "--policy", tmp_path / "policy.safetensors") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 of 4 episodes do not record who acted and how; assumed" in said
    assert "With the policy acting, " in said


def test_the_command_refuses(held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for words, expected in (
        ((), "DATA, --outcomes: both are missing"),
        ((held_out / "plain",), "field 'success': no episode has a label"),
        ((held_out / "one", "--trained"), "--trained: --held-out is missing"),
        ((held_out / "one", held_out / "two", "--policy", "p"), "--policy: found 2 data sets, expected one"),
        ((held_out / "one", "--policy", held_out / "slow.safetensors"), "rate"),
        ((held_out / "one", "--policy", held_out / "none.safetensors"), "none.safetensors: found no file"),
        ((held_out / "one", "--policy", held_out / "policy.safetensors", "--execute", 9), "--execute: found 9"),
        ((held_out / "one", "--out", tmp_path / "mine"), "expected an empty folder or a run"),
        ((held_out / "one", "--outcomes", held_out / "one" / "meta" / "info.json"), "found no episodes with"),
    ):
        assert run(held_out, *words) == 2
        assert expected in capsys.readouterr().err


def test_a_foreign_world_has_a_page_too(lamps: EpisodeSet, tmp_path: Path) -> None:
    found = diagnose(Lamp(fades=-2), BrightJudge(), lamps)
    write_text(tmp_path / "diagnosis.json", to_json(found))
    page = collect(tmp_path)
    assert page.diagnosis is not None
    assert "world model " in page.diagnosis.sentences[0]
    assert [bars.parts for bars in page.diagnosis.bars] == [["detected", "missed: judge", "missed: world model"]] * 2
    for text in (render(page), markdown(page)):
        assert "reconstruction" not in text.replace("reconstructions of these", "")
    tables = {sheet.title: sheet for sheet in sheets(found)}
    never = next(row for row in tables["AUROC of the judge's probability"].rows if row[0] == "never")
    assert never == ["never", "0 of 6", "unknown", "unknown"]


@pytest.mark.parametrize(
    "damage", [{"all": 3}, {"sources": ["real", "magic"]}, {"strips": [{"file": "../secret.png"}]}, {"tasks": None}]
)
def test_a_damaged_file_is_one_line(lamps: EpisodeSet, tmp_path: Path, damage: dict[str, object]) -> None:
    found = diagnose(Lamp(), BrightJudge(), lamps.select([0, 1]))
    write_text(tmp_path / "diagnosis.json", to_json(found | damage))
    with pytest.raises(InputError, match=r"diagnosis\.json: .*; remove it and run diagnose again"):
        collect(tmp_path)
