"""`dyna` from end to end, with everything tiny."""

from dataclasses import replace
from pathlib import Path

import pytest

from worldgymnast.cli.main import main
from worldgymnast.envs.metaworld import MetaWorld
from worldgymnast.episodes import formats
from worldgymnast.recipes.dyna import DynaConfig, dyna
from worldgymnast.recipes.presets import debug
from worldgymnast.recipes.record import record_policy_to, record_to
from worldgymnast.registry import load_learned_judge, load_policy, load_world
from worldgymnast.report.collect import collect
from worldgymnast.training.judge import train_judge
from worldgymnast.training.policy import train_policy
from worldgymnast.training.world import train_world


@pytest.mark.usefixtures("gl", "one_process")
@pytest.mark.parametrize("planned", [False, True])
def test_rounds_end_to_end(planned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, data = debug(), tmp_path / "data"
    env = MetaWorld(recipe.env)
    logged = record_to(data / "logged", env, recipe.record)
    policy = train_policy(logged, tmp_path / "sft", recipe.policy)
    own = record_policy_to(data / "policy", policy, env, recipe.rollouts)
    world = train_world([logged, own], tmp_path / "world", recipe.world)
    judge = train_judge(own, world, tmp_path / "judge", recipe.judge, require_both=False)
    old = formats.read(data / "policy")
    brief = replace(recipe.world.fit, steps=2)
    config = DynaConfig(
        rounds=2,
        budget=2 * (2 * 2 * 1 + 2 * 2) + 3 * 2,
        pairs=1,
        temperatures=(1.0,),
        length=8,
        planned=planned,
        world=replace(recipe.world, fit=brief),
        judge=replace(recipe.judge, fit=brief),
        env=recipe.env,
        finetune=recipe.finetune,
        photographs=1,
        score=recipe.score,
    )
    out, parts = tmp_path / "run", (policy, world, judge)
    found = dyna(tmp_path / "sft" / "policy.safetensors", parts, old, out, config, imagined=2)
    assert list(found) == ["before", "round 1", "round 2"]
    for number in (1, 2):
        made = formats.read(out / "data" / f"round-{number}")
        assert len(made) == 2 * config.per_temperature
        assert set(made.source) == {"plan@1" if planned else "policy@1"}
        assert len(formats.read(out / "data" / f"test-{number}")) == 2 * config.pairs
        load_world(out / f"world-{number}" / "world.safetensors")
        load_learned_judge(out / f"judge-{number}" / "judge.safetensors")
        load_policy(out / f"rl-{number}" / "policy.safetensors")
    page = collect(out)
    recorded = 2 * 2 * config.per_temperature
    assert page.budget["labelled policy rollouts"] == (0 if planned else recorded) + config.tested
    assert page.budget.get("executed plans", 0) == (recorded if planned else 0)
    assert page.powered is not None
    assert [row[0] for row in page.powered.rows] == ["before", "after", "after minus before"]
    assert page.powered.rows[0][4] == "4"  # two layouts of two tasks were imagined alone
    kept = [row | {"copied": True} for row in found["before"]]
    assert found["round 1"] == kept, "one pair per task is no evidence: the previous policy is kept"
    assert any(note.startswith("Round 2: the previous policy is kept (") for note in page.notes)
    assert page.budget["scoring episodes during RL (checkpoint selection)"] == 2 * config.scored
    assert list(page.seeds) == ["round 1", "round 2"]
    assert any("'round 2'" in note for note in page.notes)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert dyna(tmp_path / "sft" / "policy.safetensors", parts, old, out, config) == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == written
    assert main(["dyna", "--data", str(data / "nowhere"), "--out", str(tmp_path / "other")]) == 2
    assert "nowhere" in capsys.readouterr().err
