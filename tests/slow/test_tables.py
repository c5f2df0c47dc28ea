"""`python -m studies.tables`: cells that are kept, and tables whose numbers are worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from studies.cells import TablesConfig, agreement, compared_groups, evaluations, places, scenes_file, tables
from studies.diverse import DiverseConfig
from studies.new_scenes import NewScenesConfig
from studies.report_methods import sheets
from studies.report_results import diverse, dyna, scenes
from studies.tables import Tables
from worldgymnast.cli.main import main
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.errors import InputError
from worldgymnast.measure.agreement import AgreeConfig, find_duplicates
from worldgymnast.measure.real import ScoreConfig, ScoringConfig
from worldgymnast.recipes.adapt import AdaptConfig
from worldgymnast.recipes.dyna import DynaConfig
from worldgymnast.recipes.finetune import FinetuneConfig
from worldgymnast.recipes.iterated_sft import IterSftConfig
from worldgymnast.recipes.quickstart import starter, starter_explorers
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig
from worldgymnast.recipes.relearn import RelearnConfig
from worldgymnast.registry import load_policy
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.training.world import WorldTraining

ENV = MetaWorldConfig(tasks=("drawer-close", "plate-slide"), horizon=8)


@pytest.mark.usefixtures("gl", "one_process")
def test_every_cell_is_filled_once(tmp_path: Path) -> None:
    rl = ReinforceConfig(steps=1, starts=2, group_size=4, horizon=8, evaluate_every=1, resample=0)
    brief = FitConfig(steps=2)
    config = TablesConfig(
        env=ENV,
        seeds=(0,),
        record=RecordConfig(expert=1, noisy=1, play=0, length=8, workers=1),
        rollouts=PolicyRecordConfig((1.0,), 1, length=8, workers=1),
        explored=PolicyRecordConfig((1.0,), 1, length=8, seed=2_050_000, workers=1),
        finetune=FinetuneConfig(rl, ScoringConfig(per_task=1, workers=1)),
        everything=PolicyTraining(successes=True, demonstrations=1, batch=8, fit=brief),
        iter_sft=IterSftConfig(rounds=1, starts=8, group_size=4, batch=8, fit=brief),
        mismatches=(0.5,),
        score=ScoreConfig(per_task=2, workers=1),
        imitators=(1,),
        imitation=PolicyTraining(batch=8, fit=brief),
        agree=AgreeConfig(per_task=1, lengths=(4, 8), workers=1),
        photographs=8,
        which=("methods", "agreement"),
    )
    tables(tmp_path, config)
    names = ["iter-sft-0", "rl-simulator-0", "rl-simulator-mismatch-0.5", "rl-world-0", "sft-everything-0"]
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == [*names, "sft-from-1"]
    for name in (*names, "sft-0"):
        assert len(json.loads((evaluations(tmp_path, config) / f"{name}.json").read_text())["policy"]) == 4
    outcomes = json.loads((agreement(tmp_path, config) / "outcomes.json").read_text())
    files = {"sft": starter("policy")} | {path.stem: path for path in starter_explorers()}
    files |= {name: tmp_path / "cells" / name / "policy.safetensors" for name in (*names, "sft-from-1")}
    same = find_duplicates(
        {name: load_policy(file) for name, file in files.items()}
    )  # one step of RL may end where it began
    assert set(outcomes) == set(files) - set(same)
    assert all(set(places) == {"real", "world", "simulator"} for places in outcomes.values())
    groups = compared_groups(outcomes)
    never = {*names, "sft-from-1"} - set(same)
    real = {name for name in never if not name.startswith("rl-simulator")}
    expected = {
        "all": set(outcomes),
        "not trained in a simulator": set(outcomes) - (never - real),
        "nor ever recorded": real,
        "never recorded": never,
    }
    assert {name: set(group) for name, group in groups.items()} == {
        f"{name}: {len(group)}": group for name, group in expected.items() if len(group) > 2
    }
    titles = [sheet.title for sheet in sheets(evaluations(tmp_path, config), config.mismatch)]
    assert titles == ["Methods", "By task", "RL in the simulator, by its mismatch"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    tables(tmp_path, config)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == written
    for other in (ScoreConfig(per_task=1), ScoreConfig(per_task=2, temperature=1.0)):
        assert evaluations(tmp_path, replace(config, score=other)) != evaluations(tmp_path, config)
    with pytest.raises(InputError, match="first_layout"):
        tables(tmp_path, replace(config, score=replace(config.score, first_layout=7)))


@pytest.mark.usefixtures("gl", "one_process")
def test_the_other_tables_are_filled_once(tmp_path: Path) -> None:
    rl = ReinforceConfig(steps=1, starts=2, group_size=4, horizon=8, evaluate_every=1, resample=0, middle=0.0)
    brief, practice = FitConfig(steps=2), FinetuneConfig(rl, ScoringConfig(per_task=1, workers=1))
    world = WorldTraining(frames=2, autoencoder=brief, clips=2, length=4, fit=brief)
    judge = JudgeTraining(batch=8, fit=brief, calibration=1, late=0)
    more = ("handle-press",)
    config = TablesConfig(
        env=ENV,
        seeds=(0,),
        record=RecordConfig(expert=1, noisy=2, play=0, length=8, workers=1),
        rollouts=PolicyRecordConfig((1.0,), 2, length=8, workers=1),
        explored=PolicyRecordConfig((1.0,), 1, length=8, seed=2_050_000, workers=1),
        finetune=practice,
        score=ScoreConfig(per_task=1, workers=1),
        diverse=DiverseConfig(
            rounds=1,
            explore=replace(rl, keep_best=False),
            explored=PolicyRecordConfig((1.0,), 1, length=8, seed=2_055_000, workers=1),
            again=RelearnConfig(0.5, world, replace(judge, calibration=0)),
            tasks=more,
            play=2,
            length=8,
            world=replace(world, thaw=True),
            judge=replace(judge, language=True),
            photographs=1,
            per_task=1,
            workers=1,
        ),
        scenes=NewScenesConfig(
            AdaptConfig(rl=rl, trials=1), remedies=("none", "anchor"), scenes=1, trials=1, others=1, workers=1
        ),
        dyna=DynaConfig(
            rounds=1,
            env=ENV,
            budget=12,
            pairs=1,
            temperatures=(1.0,),
            length=8,
            world=world,
            judge=judge,
            finetune=practice,
            photographs=1,
        ),
        beside=PolicyTraining(successes=True, demonstrations=1, batch=8, fit=brief),
        photographs=1,
        which=("diverse", "scenes", "dyna"),
    )
    tables(tmp_path, config)
    names = ["beside-1-0", "distractors-0", "language-0", "rl-world-0", "tasks-0", "wide-0"]
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == names
    tested = json.loads((places(tmp_path, config) / "tasks-0.json").read_text())
    assert {place: len(rows) for place, rows in tested.items()} == {
        "clean": 2, "distractors": 2, "paraphrases": 2, "tasks": 1
    }  # fmt: skip
    rows = json.loads(scenes_file(tmp_path, config).read_text())
    assert [(row["remedy"], row["task"]) for row in rows] == [(r, t) for t in ENV.tasks for r in ("none", "anchor")]
    assert len(diverse(places(tmp_path, config))[0].rows) == 6
    assert len(scenes(scenes_file(tmp_path, config))[1].rows) == 2
    assert dyna(tmp_path, evaluations(tmp_path, config))[0].rows[1][3]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    tables(tmp_path, config)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == written


def test_quick_fills_every_table_from_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = TablesConfig()
    quick = whole.quick()
    assert quick.seeds == (0,)
    assert quick.which == whole.which
    assert quick.finetune.rl.steps < whole.finetune.rl.steps
    assert quick.score.per_task < whole.score.per_task
    assert quick.dyna.budget < whole.dyna.budget
    with pytest.raises(SystemExit, match="0"):
        main(["reproduce", "--help"])
    assert "PRESET" in capsys.readouterr().out
    assert main(["--mismatch", "-1", "--out", str(tmp_path / "run")], {"studies.tables": Tables}) == 2
    assert "--mismatch: found -1" in capsys.readouterr().err


def test_a_refused_value_of_a_study_names_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0", "0", "--out", str(tmp_path / "x")], {"studies.tables": Tables}) == 2
    assert capsys.readouterr().err.startswith("worldgymnast: error: --seeds: found 0 twice")
    assert main(["--sedes", "0"], {"studies.tables": Tables}) == 2
    assert "did you mean '--seeds'? Run python -m studies.tables --help" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
