"""`reproduce tables`: cells that are kept, and tables whose numbers are worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from worldgymnast.cli import main
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.loops.agree import AgreeConfig
from worldgymnast.loops.finetune import FinetuneConfig
from worldgymnast.loops.iter_sft import IterSftConfig
from worldgymnast.loops.record import RecordConfig
from worldgymnast.loops.reinforce import ReinforceConfig
from worldgymnast.loops.reproduce import PolicyRecordConfig
from worldgymnast.loops.score import ScoreConfig
from worldgymnast.loops.supervised import FitConfig
from worldgymnast.loops.tables import TablesConfig, agreement, evaluations, tables
from worldgymnast.loops.train import PolicyTraining
from worldgymnast.report.results import sheets
from worldgymnast.types import InputError

ENV = MetaWorldConfig(tasks=("drawer-close", "door-close"))


def put(folder: Path, name: str, outcomes: dict[str, list[bool]], seed: int = 0) -> None:
    """An evaluation by hand: outcomes of consecutive layouts by task."""
    rows = [
        {"task": task, "layout": 100 * seed + i, "seed": seed, "success": success}
        for task, one in outcomes.items()
        for i, success in enumerate(one)
    ]
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"policy": rows}))


def test_methods_are_compared_on_the_same_layouts(tmp_path: Path) -> None:
    folder = tmp_path / "evaluations-4"
    assert sheets(folder) == []
    for seed in (0, 1):
        put(folder, f"sft-{seed}", {"a": [False] * 4, "b": [True, False, False, False]}, seed)
        put(folder, f"rl-world-{seed}", {"a": [True] * 4, "b": [True, True, False, False]}, seed)
    put(folder, "iter-sft-0", {"a": [True] * 4, "b": [True] * 4})
    put(folder, "rl-simulator-mismatch-0.5", {"a": [False] * 4, "b": [False] * 4})
    methods, tasks, mismatch = sheets(folder)
    assert [row[0] for row in methods.rows] == ["SFT", "Iter-SFT", "RL in the world model"]
    assert methods.rows[0][1].startswith("12 % [")
    assert methods.rows[0][2].startswith("+62 points [")
    assert "(16 pairs" in methods.rows[0][2]
    assert methods.rows[1][1].startswith("100 % [")
    assert methods.rows[1][2].startswith("-25 points [")
    assert "(8 pairs" in methods.rows[1][2], "the seed that is missing is not compared"
    assert methods.rows[2][1].startswith("75 % [")
    assert tasks.head == ["task", "SFT", "Iter-SFT", "RL in the world model"]
    assert tasks.rows[1][0] == "b"
    assert tasks.rows[1][1].endswith("(2/8)")
    assert tasks.rows[1][3].endswith("(4/8)")
    assert mismatch.rows[0][0] == "0.5"
    assert mismatch.rows[0][2].startswith("+75 points [")


@pytest.mark.usefixtures("gl")
def test_every_cell_is_filled_once(tmp_path: Path) -> None:
    rl = ReinforceConfig(steps=1, starts=2, group_size=4, evaluate_every=1, evaluate_starts=0, resample=0)
    brief = FitConfig(steps=2)
    config = TablesConfig(
        env=ENV,
        seeds=(0,),
        record=RecordConfig(env=ENV, expert=1, noisy=1, play=0, length=8, workers=1),
        rollouts=PolicyRecordConfig((1.0,), 1, length=8, workers=1),
        finetune=FinetuneConfig(env=ENV, rl=rl, workers=1),
        everything=PolicyTraining(successes=True, demonstrations=1, fit=brief),
        iter_sft=IterSftConfig(env=ENV, rounds=1, starts=8, group_size=4, fit=brief, evaluate_starts=0, workers=1),
        mismatches=(0.5,),
        score=ScoreConfig(per_task=2, workers=1),
        agree=AgreeConfig(env=ENV, per_task=1, workers=1),
    )
    tables(tmp_path, config)
    names = ["iter-sft-0", "rl-simulator-0", "rl-simulator-mismatch-0.5", "rl-world-0", "sft-everything-0"]
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == names
    for name in (*names, "sft-0"):
        assert len(json.loads((evaluations(tmp_path, config) / f"{name}.json").read_text())["policy"]) == 4
    outcomes = json.loads((agreement(tmp_path, config) / "outcomes.json").read_text())
    assert sorted(outcomes) == sorted([*names, "sft"])
    assert all(set(places) == {"real", "world", "simulator"} for places in outcomes.values())
    titles = [sheet.title for sheet in sheets(evaluations(tmp_path, config))]
    assert titles == ["Methods", "By task", "RL in the simulator, by its mismatch"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    tables(tmp_path, config)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == written
    for other in (ScoreConfig(per_task=1), ScoreConfig(per_task=2, temperature=1.0)):
        assert evaluations(tmp_path, replace(config, score=other)) != evaluations(tmp_path, config)
    with pytest.raises(InputError, match="first_layout"):
        tables(tmp_path, replace(config, score=replace(config.score, first_layout=7)))


def test_quick_trains_the_same_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = TablesConfig()
    quick = whole.quick()
    assert quick.seeds == (0,)
    assert (quick.finetune, quick.everything, quick.iter_sft) == (whole.finetune, whole.everything, whole.iter_sft)
    assert quick.score.per_task < whole.score.per_task
    with pytest.raises(SystemExit, match="0"):
        main(["reproduce", "--help"])
    assert "PRESET" in capsys.readouterr().out
    assert main(["reproduce", "tables", "--mismatch", "-1", "--out", str(tmp_path / "run")]) == 2
    assert "--mismatch: found -1" in capsys.readouterr().err
