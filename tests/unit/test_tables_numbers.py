"""The tables of `python -m studies.tables`, whose numbers are worked out by hand."""

import io
import json
from pathlib import Path

from PIL import Image

from studies.report_methods import picture, sheets
from studies.report_results import diverse, dyna, scenes


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
    assert sheets(folder, 1.0) == []
    assert picture(folder, 1.0) is None
    for seed in (0, 1):
        put(folder, f"sft-{seed}", {"a": [False] * 4, "b": [True, False, False, False]}, seed)
        put(folder, f"rl-world-{seed}", {"a": [True] * 4, "b": [True, True, False, False]}, seed)
    put(folder, "iter-sft-0", {"a": [True] * 4, "b": [True] * 4})
    put(folder, "rl-simulator-mismatch-0.5", {"a": [False] * 4, "b": [False] * 4})
    put(folder, "rl-simulator-0", {"a": [True] * 4, "b": [False] * 4})
    methods, tasks, mismatch = sheets(folder, 1.0)
    assert [row[0] for row in methods.rows] == ["SFT", "Iter-SFT", "RL in the simulator", "RL in the world model"]
    assert methods.rows[0][1].startswith("12 % [")
    assert methods.rows[0][2] == "12, 12"
    assert methods.rows[0][3].startswith("+62 points [")
    assert "(16 pairs" in methods.rows[0][3]
    assert methods.rows[0][4] == "+62, +62"
    assert methods.rows[1][1].startswith("100 % [")
    assert methods.rows[1][3].startswith("-25 points [")
    assert "(8 pairs" in methods.rows[1][3], "the seed that is missing is not compared"
    assert methods.rows[3][1].startswith("75 % [")
    assert tasks.head == ["task", "SFT", "Iter-SFT", "RL in the simulator", "RL in the world model"]
    assert tasks.rows[1][0] == "b"
    assert tasks.rows[1][1].endswith("(2/8)")
    assert tasks.rows[1][4].endswith("(4/8)")
    assert [row[0] for row in mismatch.rows] == ["0.5", "1"]
    assert mismatch.rows[0][2].startswith("+75 points [")
    assert mismatch.rows[1][2].startswith("+25 points [")
    assert "(8 pairs" in mismatch.rows[1][2]
    drawn = picture(folder, 1.0)
    assert drawn is not None
    assert Image.open(io.BytesIO(drawn)).size == (1600, 624)


def test_diverse_policies_are_compared_with_the_plain_one(tmp_path: Path) -> None:
    for name, clean, among in (("wide", [True, False], [False, False]), ("distractors", [True, True], [True, False])):
        rows = {
            place: [{"task": "a", "layout": i, "seed": 0, "success": s} for i, s in enumerate(outcomes)]
            for place, outcomes in (("clean", clean), ("distractors", among))
        }
        (tmp_path / f"{name}-0.json").write_text(json.dumps(rows))
    (sheet,) = diverse(tmp_path)
    assert sheet.head[:3] == ["", "clean scenes", "among distractors"]
    assert [row[0] for row in sheet.rows] == ["RL in the wide world", "+ distractors"]
    assert sheet.rows[0][1].startswith("50 % [")
    assert ";" not in sheet.rows[0][1]
    assert "; +50 [" in sheet.rows[1][1]
    assert sheet.rows[1][2].startswith("50 % [")
    assert sheet.rows[1][3] == "", "what was not tested is left empty"


def test_forgetting_is_counted_over_scenes(tmp_path: Path) -> None:
    rows = [
        {"remedy": remedy, "task": task, "layout": 1, "tasks": ["c", "c"], "scene_before": [False, False],
         "scene_after": [True, won], "before": [True, True], "after": after}
        for task in ("a", "b")
        for remedy, won, after in (("none", True, [False, True]), ("replay", False, [True, True]))
    ]  # fmt: skip
    (tmp_path / "scenes.json").write_text(json.dumps(rows))
    table, each = scenes(tmp_path / "scenes.json")
    assert [row[0] for row in table.rows] == ["no remedy", "replay of other scenes"]
    assert table.rows[0][2].startswith("100 % [")
    assert table.rows[0][4].startswith("-50 [")
    assert table.rows[1][4].startswith("+0 [")
    assert each.rows[0][0] == "a 1"
    assert [cell.partition(" %")[0] for cell in each.rows[0][1:]] == ["0", "100", "50"]


def test_dyna_is_compared_with_imitation_of_its_episodes(tmp_path: Path) -> None:
    def rows(*outcomes: bool) -> list[dict[str, object]]:
        return [{"task": "a", "layout": i, "seed": 0, "success": s} for i, s in enumerate(outcomes)]

    (tmp_path / "dyna" / "0").mkdir(parents=True)
    found = {"before": rows(False, False), "round 1": rows(True, False), "round 2": rows(True, True)}
    (tmp_path / "dyna" / "0" / "evaluation.json").write_text(json.dumps(found))
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "beside-2-0.json").write_text(json.dumps({"policy": rows(False, True)}))
    (sheet,) = dyna(tmp_path, tmp_path / "evaluations")
    assert [row[0] for row in sheet.rows] == ["before", "round 1", "round 2"]
    assert sheet.rows[1][3:] == ["", ""]
    assert sheet.rows[2][2].startswith("+100 points")
    assert sheet.rows[2][3].startswith("50 % [")
    assert sheet.rows[2][4].startswith("+50 points")
