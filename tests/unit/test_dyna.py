"""Dyna: its budget of real episodes, and its rounds end to end with tiny everything."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.sequential import PairedEvidence
from worldgymnast.recipes.dyna import DynaConfig, decide, dyna
from worldgymnast.recipes.presets import debug
from worldgymnast.recipes.record import record_policy_to, record_to
from worldgymnast.registry import load_classifier, load_policy, load_world
from worldgymnast.report.collect import collect
from worldgymnast.rl.reinforce import ReinforceConfig, scorings
from worldgymnast.training.judge import train_judge
from worldgymnast.training.policy import train_policy
from worldgymnast.training.world import train_world
from worldgymnast.types import Episode


def test_the_budget_holds_scorings_and_recordings() -> None:
    config = DynaConfig()
    assert scorings(config.finetune.rl) == [0, 6, 12]
    assert scorings(ReinforceConfig(steps=5, evaluate_every=2)) == [0, 2, 4, 5]
    assert config.scored == 3 * 4 * 6
    assert config.tested == 3 * 96
    assert config.per_temperature == (300 - 144 - 72) // 12
    assert config.rounds * (config.scored + 12 * config.per_temperature) + config.tested <= config.budget


@pytest.mark.parametrize("budget", [0, 2 * 72, 2 * 72 + 23 + 3 * 96])
def test_a_budget_that_does_not_reach_is_refused(budget: int) -> None:
    with pytest.raises(InputError, match=f"found {budget} real episodes for 2 rounds, .* expected at least 456"):
        DynaConfig(budget=budget)
    assert DynaConfig(budget=456).per_temperature == 1


def played(outcomes: Sequence[bool], task: str = "drawer-open", length: int = 4) -> list[Episode]:
    """Episodes that succeed at their last frame, or never."""
    spec, frames = metaworld_spec(4), np.zeros((length + 1, 8, 8, 3), np.uint8)
    ends = [np.arange(length + 1) >= (length if won else length + 1) for won in outcomes]
    return [Episode(frames, np.zeros((length, 4), np.float32), "open", task, 20.0, spec, end) for end in ends]


def test_a_round_is_kept_only_if_the_pairs_say_so() -> None:
    old = from_episodes(played([True] * 10 + [False] * 20))
    better = from_episodes(played([True] * 20 + [False] * 10))
    alike = from_episodes(played([True] * 8 + [False] * 4 + [True] * 5 + [False] * 13))
    found = decide(1, old, better, 24, 0.2)
    assert found.is_replaced
    assert found.evidence == PairedEvidence(10, 0, 20)
    assert "Round 1: its policy replaces the one before (10 wins, 0 losses, 20 ties" in str(found)
    assert not decide(1, old, alike, 24, 0.2).is_replaced
    assert not decide(1, better, old, 24, 0.2).is_replaced
    assert decide(1, old, better, 3, 0.2).evidence == PairedEvidence(0, 0, 30)  # all succeed at the fourth action
    with pytest.raises(InputError, match="round 1: found 30 test episodes of the kept policy and 20 of the new one"):
        decide(1, old, from_episodes(played([True] * 20)), 24, 0.2)


def test_a_round_that_loses_a_task_is_not_kept() -> None:
    old = from_episodes([*played([True] * 10), *played([False] * 40, "door-close")])
    new = from_episodes([*played([False] * 10), *played([True] * 40, "door-close")])
    found = decide(2, old, new, 24, 0.2)
    assert found.evidence.is_better()
    assert not found.is_replaced
    assert "the policy before is kept" in str(found)
    assert "significantly worse: drawer-open" in str(found)


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
        budget=2 * (2 * 2 * 1 + 2 * 2) + 3 * 2,
        pairs=1,
        temperatures=(1.0,),
        length=8,
        world=replace(recipe.world, fit=brief),
        judge=replace(recipe.judge, fit=brief),
        finetune=recipe.finetune,
        photographs=1,
        score=recipe.score,
    )
    out, parts = tmp_path / "run", (policy, world, judge)
    found = dyna(tmp_path / "sft" / "policy.safetensors", parts, old, out, config, imagined=2)
    assert list(found) == ["before", "round 1", "round 2"]
    for number in (1, 2):
        assert len(formats.read(out / "data" / f"round-{number}")) == 2 * config.per_temperature
        assert len(formats.read(out / "data" / f"test-{number}")) == 2 * config.pairs
        load_world(out / f"world-{number}" / "world.safetensors")
        load_classifier(out / f"judge-{number}" / "judge.safetensors")
        load_policy(out / f"rl-{number}" / "policy.safetensors")
    page = collect(out)
    assert page.budget["labelled policy rollouts"] == 2 * 2 * config.per_temperature + config.tested
    assert page.powered is not None
    assert [row[0] for row in page.powered.rows] == ["before", "after", "after minus before"]
    assert page.powered.rows[0][4] == "4"  # two layouts of two tasks were imagined alone
    assert found["round 1"] == found["before"], "one pair a task is no evidence: the policy before is kept"
    assert any(note.startswith("Round 2: the policy before is kept (") for note in page.notes)
    assert page.budget["scoring episodes during RL (choose the step that is kept)"] == 2 * config.scored
    assert list(page.seeds) == ["round 1", "round 2"]
    assert any("'round 2'" in note for note in page.notes)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert dyna(tmp_path / "sft" / "policy.safetensors", parts, old, out, config) == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == written
    assert main(["dyna", "--data", str(data / "nowhere"), "--out", str(tmp_path / "other")]) == 2
    assert "nowhere" in capsys.readouterr().err
