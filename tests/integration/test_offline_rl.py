"""RL of any robot's policy where there is no real environment, and what the report then shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lamp import BrightJudge, Lamp, lamp_episode
from test_field_commands import Said, arm, flags, mine, says  # noqa: F401 - fixtures
from trainable import Trainable

from worldgymnast.cli.main import main
from worldgymnast.cli.offline import NOTICE
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.files import read_json_object
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.measure.offline import ROLLOUTS, References, measure_offline
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, save_component
from worldgymnast.report.offline import DO_NOT_USE, NOTHING_REAL
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import ActionChunk, Observation
from worldgymnast.video import png
from worldgymnast.worldmodel.sampler import LatentWorldModel


@pytest.fixture(scope="module")
def others(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # noqa: F811
    """Untrained components of the arm of the data: policy, world and judge."""
    folder, recipe, spec = tmp_path_factory.mktemp("others"), debug(), formats.read(mine, size=64).spec
    shape = replace(recipe.world.world.transformer, action_dim=spec.dim)
    world = LatentWorldModel(replace(recipe.world.world, transformer=shape), spec, 30.0)
    save_component(folder / "policy.safetensors", SmallVLA(recipe.policy.policy, spec), Manifest())
    save_component(folder / "world.safetensors", world, Manifest())
    origin = {"action_spec": spec.to_dict()}
    save_component(folder / "judge.safetensors", SuccessClassifier(recipe.judge.judge), Manifest(origin=origin))
    return {name: folder / f"{name}.safetensors" for name in ("policy", "world", "judge")}


BRIEF = ["--rl.steps", 1, "--rl.starts", 2, "--rl.group-size", 2, "--rl.horizon", 4, "--rl.rows", 32, "--threads", 1]


def test_rl_without_an_environment_says_so_and_shows_what_is_known(
    mine: Path,  # noqa: F811
    others: dict[str, Path],
    says: Said,  # noqa: F811
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    words = ["rl", "debug", "--data", mine, *flags(others, "policy", "world", "judge"), "--out", out, *BRIEF]
    said = says(*words)
    assert said.splitlines()[0] == NOTICE
    assert NOTHING_REAL in said
    assert said.index("RL in it teaches nothing") < said.index("imagined rollouts"), "an untrained world model"
    assert DO_NOT_USE in said
    assert "may have been trained on the real episodes" in said
    page = (out / "report.html").read_text()
    for text in (NOTHING_REAL, "Without a real environment", "Real episodes that show a gain of 10 points",
                 "outside the data", "judge: true failures refused", "imagined frame 1: PSNR"):  # fmt: skip
        assert text in page, text
    known = read_json_object(out / "offline.json")
    assert known["rollouts"] >= ROLLOUTS
    assert known["episodes"] == 5, "one of six has a single frame"
    assert known["labelled"] == 5
    assert known["seen_by"] == ["world model", "judge"]
    assert json.loads((out / "config.json").read_text())["scoring"] is None
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= rows[0]["outside_rate"] <= 1
    stamp = (out / "offline.json").stat().st_mtime_ns
    assert "Nothing was scored" in says(*words), "a finished run is shown again"
    assert (out / "offline.json").stat().st_mtime_ns == stamp
    says("report", out, "--markdown", tmp_path / "page.md")
    assert NOTHING_REAL in (tmp_path / "page.md").read_text()


def test_held_out_episodes_measure_and_do_not_train(
    mine: Path,  # noqa: F811
    others: dict[str, Path],
    says: Said,  # noqa: F811
    tmp_path: Path,
) -> None:
    words = ["rl", "debug", "--data", mine, *flags(others, "policy", "world", "judge"), *BRIEF]
    says(*words, "--held-out", 2, "--out", tmp_path / "held")
    known = read_json_object(tmp_path / "held" / "offline.json")
    assert known["episodes"] <= 4
    assert known["seen_by"] == ["judge"]
    other = arm(tmp_path / "other", lens=(9, 8, 12, 7), marks=False)
    said = says(*words, "--test", other, "--out", tmp_path / "test")
    known = read_json_object(tmp_path / "test" / "offline.json")
    assert (known["episodes"], known["labelled"], known["judge"], known["seen_by"]) == (4, 0, None, [])
    assert "worldgymnast label DATA" in said
    assert "--data is missing" in says("rl", "debug", "--test", other, code=2)
    assert "both are given" in says(*words, "--test", other, "--held-out", 1, code=2)


def test_flags_of_real_scoring_are_refused_without_an_environment(
    mine: Path,  # noqa: F811
    others: dict[str, Path],
    says: Said,  # noqa: F811
    tmp_path: Path,
) -> None:
    words = ["rl", "debug", "--data", mine, *flags(others, "policy", "world", "judge"), "--out", tmp_path / "run"]
    assert "--scoring.per-task: has no effect without" in says(*words, "--scoring.per-task", 1, code=2)
    assert not (tmp_path / "run" / "config.json").exists()


def test_data_of_another_rate_are_refused_with_both_rates_and_the_fix(
    others: dict[str, Path],
    says: Said,  # noqa: F811
    tmp_path: Path,
) -> None:
    every = flags(others, "policy", "world", "judge")
    fast = arm(tmp_path / "fast", fps=60)
    line = says("rl", "debug", "--data", fast, *every, "--out", tmp_path / "run", *BRIEF, code=2)
    assert f"{fast}: 60 actions per second, but 30 in {others['world']}" in line
    assert "Add --fps 30 to read every 2nd frame" in line
    slow = arm(tmp_path / "slow", fps=20)
    line = says("rl", "debug", "--data", slow, *every, "--out", tmp_path / "run", *BRIEF, code=2)
    assert "30 is no integer fraction of 20" in line


# ---------------------------------------------------------------- the numbers, in a world that is known


class Push(Trainable):
    """Pushes all pixels up or down."""

    chunk = 2
    action_spec = Lamp().action_spec

    def __init__(self, up: float):
        super().__init__()
        self.up = up

    def act(self, obs: Observation, *, temperature: float, generator: torch.Generator | None) -> ActionChunk:
        noise = torch.randn(len(obs), 2, 4, generator=generator)
        actions = (self.up + 0.2 * noise).clamp(-1, 1)
        return ActionChunk(actions, actions, torch.zeros(len(obs)), temperature)

    def logprobs(self, obs: Observation, chunk: ActionChunk) -> torch.Tensor:
        return chunk.logprobs


@pytest.fixture(scope="module")
def references() -> References:
    data = from_episodes([lamp_episode(i) for i in range(60)])
    return References(from_episodes([lamp_episode(i) for i in range(100, 140)]), data)


def measured(before: float, after: float, references: References | None, world: Lamp | None = None) -> dict:
    surrogate = Imagination(world or Lamp(), BrightJudge(), 2, 8, 2)
    starts = [lamp_episode(i).start() for i in range(200, 232)]
    return measure_offline(
        (Push(before), Push(after)), surrogate, starts, references, horizon=8, temperature=1.0, rows=8
    )


def test_in_a_perfect_world_everything_is_right(references: References) -> None:
    known = measured(0.0, 0.4, references)
    assert known["fidelity"]["psnr"]["world"]["mean"][-1] == 60.0
    assert known["judge"]["imagined"]["known"]["value"] == 1.0
    assert known["judge"]["imagined"]["refused"]["value"] == 1.0
    assert known["judge"]["successes"] + known["judge"]["failures"] == known["episodes"] == 32
    assert known["imagined"]["after"]["value"] > known["imagined"]["before"]["value"]
    assert known["needed"]["before"] == known["imagined"]["before"]["value"]
    assert known["needed"]["paired"] <= known["needed"]["independent"]
    corrected = known["needed"]["corrected"]
    assert corrected["before"] == pytest.approx(known["needed"]["before"]), "the judge errs on no replay"
    assert corrected["low"] <= corrected["before"] < corrected["high"]
    assert corrected["unpaired"] == known["needed"]["unpaired"]


def test_a_wrong_world_and_a_policy_outside_the_data_show(references: References) -> None:
    known = measured(0.0, 1.0, references, Lamp(fades=20))
    assert known["fidelity"]["psnr"]["world"]["mean"][-1] < 30
    assert known["judge"]["imagined"]["refused"]["value"] < 0.7 < known["judge"]["real"]["refused"]["value"]
    assert known["outside"]["after"]["value"] > 0.9, "it always pushes as hard as the data hardly ever"
    assert known["outside"]["after"]["value"] >= known["outside"]["before"]["value"]


def test_imagined_success_is_corrected_for_the_errors_on_replays(references: References) -> None:
    known = measured(0.3, 0.4, references, Lamp(fades=1))
    corrected, judged = known["needed"]["corrected"], known["needed"]["before"]
    rates = [known["judge"]["imagined"][name]["value"] for name in ("known", "refused")]
    assert rates[1] < 1, "the fading lamp turns failures into successes"
    assert corrected["before"] == pytest.approx((judged + rates[1] - 1) / (sum(rates) - 1))
    assert corrected["low"] < corrected["before"] < judged
    assert corrected["unpaired"] != known["needed"]["unpaired"]


def test_without_data_or_labels(references: References) -> None:
    known = measured(0.0, 0.4, None)
    assert "fidelity" not in known
    assert known["outside"]["before"] is None
    few = references.data.select(np.arange(2))
    unlabelled = References(few, few)
    object.__setattr__(unlabelled.test, "labelled", np.zeros(2, bool))
    known = measured(0.0, 0.4, unlabelled)
    assert known["judge"] is None
    assert known["needed"]["corrected"] is None
    assert known["labelled"] == 0
    assert known["outside"]["before"] is None, "two episodes are too few to compare with"


def test_a_success_that_cannot_rise_by_ten_points() -> None:
    known = measured(1.0, 1.0, None)
    assert known["needed"]["before"] == 1.0
    assert known["needed"]["paired"] is None


def test_unscored_stays_valid_and_is_the_same(
    mine: Path,  # noqa: F811
    others: dict[str, Path],
    tmp_path: Path,
) -> None:
    words = ["rl", "debug", "--data", mine, *flags(others, "policy", "world", "judge"), *BRIEF]
    for name, more in (("one", []), ("two", ["--unscored"])):
        assert main([str(word) for word in [*words, *more, "--out", tmp_path / name]]) == 0
    assert (tmp_path / "one" / "offline.json").read_text() == (tmp_path / "two" / "offline.json").read_text()


# ---------------------------------------------------------------- other commands


def test_iter_sft_and_adapt_of_another_robot(
    mine: Path,  # noqa: F811
    others: dict[str, Path],
    says: Said,  # noqa: F811
    tmp_path: Path,
) -> None:
    every = flags(others, "policy", "world", "judge")
    brief = ["--rounds", 1, "--starts", 2, "--group-size", 2, "--horizon", 4, "--fit.steps", 1, "--threads", 1]
    line = says("iter-sft", "--data", mine, *every, "--out", tmp_path / "sft", *brief, "--scoring.per-task", 1, code=2)
    assert "--scoring.per-task: has no effect" in line
    code = main([str(w) for w in ["iter-sft", "--data", mine, *every, "--out", tmp_path / "sft", *brief]])
    assert code in (0, 2), "an untrained judge may see no success to imitate"
    picture = tmp_path / "scene.png"
    picture.write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    words = ["adapt", "--frame", picture, "--instruction", "pick the cube", *every, "--out", tmp_path / "adapt"]
    brief = ["--rl.steps", 1, "--rl.starts", 1, "--rl.group-size", 2, "--rl.horizon", 4, "--trials", 2, "--threads", 1]
    said = says(*words, *brief)
    assert "--data: omitted, so the frame is not compared" in said
    assert "This scene, imagined, sampled" in said
    assert "--replay: --data is missing" in says(*words, *brief, "--replay", 0.5, code=2)
    assert "the real environment is Meta-World" in says(*words, *brief, "--real", 1, code=2)


def test_a_part_of_the_chunk_and_seconds_on_the_command_line(
    mine: Path,  # noqa: F811
    others: dict[str, Path],
    says: Said,  # noqa: F811
    tmp_path: Path,
) -> None:
    words = ["rl", "debug", "--data", mine, *flags(others, "policy", "world", "judge"), "--out", tmp_path / "run"]
    brief = ["--rl.steps", 1, "--rl.starts", 1, "--rl.group-size", 2, "--rl.execute", 1, "--threads", 1]
    said = says(*words, *brief, "--rl.horizon", "0.1s")
    assert "--rl.horizon: 0.1s is 3 actions (0.1 s) at 30 per second" in said
    config = json.loads((tmp_path / "run" / "config.json").read_text())["rl"]
    assert (config["horizon"], config["execute"]) == (3, 1)
    assert "--rl.execute: found 9, expected at most" in says(*words, *brief, "--rl.execute", 9, code=2)


def test_a_judge_of_another_rate_is_refused(
    mine: Path,  # noqa: F811
    others: dict[str, Path],
    says: Said,  # noqa: F811
    tmp_path: Path,
) -> None:
    judge = tmp_path / "judge.safetensors"
    origin = {"fps": 10.0, "action_spec": formats.read(mine, size=64).spec.to_dict()}
    save_component(judge, SuccessClassifier(debug().judge.judge), Manifest(origin=origin))
    words = [
        "rl",
        "debug",
        "--data",
        mine,
        *flags(others, "policy", "world"),
        "--judge",
        judge,
        "--out",
        tmp_path / "x",
    ]
    line = says(*words, code=2)
    assert f"{judge}: 10 actions per second, but 30 in {others['world']}" in line
