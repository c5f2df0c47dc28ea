"""Dyna: its budget of real episodes, and its rounds end to end with tiny everything."""

from dataclasses import replace
from pathlib import Path

import pytest

from worldgymnast.cli import main
from worldgymnast.config import load_classifier, load_policy, load_world
from worldgymnast.episodes import formats
from worldgymnast.loops.dyna import DynaConfig, dyna
from worldgymnast.loops.reinforce import ReinforceConfig, scorings
from worldgymnast.loops.reproduce import record_policy_to, record_to
from worldgymnast.loops.train import train_judge, train_policy, train_world
from worldgymnast.presets import debug
from worldgymnast.report.collect import collect
from worldgymnast.types import InputError


def test_the_budget_holds_scorings_and_recordings() -> None:
    config = DynaConfig()
    assert scorings(config.finetune.rl) == [0, 6, 12]
    assert scorings(ReinforceConfig(steps=5, evaluate_every=2)) == [0, 2, 4, 5]
    assert config.scored == 3 * 4 * 6
    assert config.per_temperature == (240 - 72) // 12
    assert config.rounds * (config.scored + 12 * config.per_temperature) <= config.budget


@pytest.mark.parametrize("budget", [0, 2 * 72, 2 * 72 + 23])
def test_a_budget_that_does_not_reach_is_refused(budget: int) -> None:
    with pytest.raises(InputError, match=f"found {budget} real episodes for 2 rounds, .* expected at least 168"):
        DynaConfig(budget=budget)
    assert DynaConfig(budget=168).per_temperature == 1


@pytest.mark.usefixtures("gl")
def test_rounds_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, data = debug(), tmp_path / "data"
    logged = record_to(data / "logged", recipe.record)
    policy = train_policy(logged, tmp_path / "sft", recipe.policy)
    own = record_policy_to(data / "policy", policy, recipe.env, recipe.rollouts)
    world = train_world([logged, own], tmp_path / "world", recipe.world)
    judge = train_judge(own, world, tmp_path / "judge", recipe.judge)
    old = formats.read(data / "policy")
    brief = replace(recipe.world.fit, steps=2)
    config = DynaConfig(
        rounds=2,
        budget=2 * (2 * 2 * 1 + 2 * 2),
        temperatures=(1.0,),
        length=8,
        world=replace(recipe.world, fit=brief),
        judge=replace(recipe.judge, fit=brief),
        finetune=recipe.finetune,
        photographs=1,
        score=recipe.score,
    )
    out, parts = tmp_path / "run", (policy, world, judge)
    found = dyna(tmp_path / "sft" / "policy.safetensors", parts, old, out, config)
    assert list(found) == ["before", "round 1", "round 2"]
    for number in (1, 2):
        assert len(formats.read(out / "data" / f"round-{number}")) == 2 * config.per_temperature
        load_world(out / f"world-{number}" / "world.safetensors")
        load_classifier(out / f"judge-{number}" / "judge.safetensors")
        load_policy(out / f"rl-{number}" / "policy.safetensors")
    page = collect(out)
    assert page.budget["labelled policy rollouts"] == 2 * 2 * config.per_temperature
    assert page.budget["scoring episodes during RL (choose the step that is kept)"] == 2 * config.scored
    assert list(page.seeds) == ["round 1", "round 2"]
    assert any("'round 2'" in note for note in page.notes)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert dyna(tmp_path / "sft" / "policy.safetensors", parts, old, out, config) == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == written
    assert main(["dyna", "--data", str(data / "nowhere"), "--out", str(tmp_path / "other")]) == 2
    assert "nowhere" in capsys.readouterr().err
