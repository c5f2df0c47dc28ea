"""Files that hold imagined and real outcomes of the same episodes: read, refused, printed and shown in a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_builders import outcome, seed_run

from worldgymnast.cli.commands.agree import compare
from worldgymnast.cli.commands.diagnose import read_loops, short_names
from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import closed_loop, read_episodes
from worldgymnast.measure.agreement import AgreeConfig
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import render

# ---------------------------------------------------------------- files


def agreed(policies: int = 3) -> dict[str, Any]:
    """What agree writes, with a second stand-in that is always wrong."""
    found = {}
    for p in range(policies):
        real = [bool(x) for x in np.random.default_rng(p).random(8) < 0.5]
        places = {"real": real, "world": real, "simulator": [not x for x in real]}
        found[f"p{p}"] = {
            place: [
                {"task": ("open", "close")[i % 2], "layout": i // 2, "success": [None, won]}
                for i, won in enumerate(own)
            ]
            for place, own in places.items()
        }
    return found


def write(path: Path, found: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def test_every_file_that_holds_both_outcomes_is_read(tmp_path: Path) -> None:
    found = read_episodes(write(tmp_path / "outcomes.json", agreed()))
    assert list(found) == ["world", "simulator"]
    assert closed_loop(found["world"]).phi.value == pytest.approx(1)
    assert closed_loop(found["simulator"]).phi.value == pytest.approx(-1)
    both = {name: [outcome(i, i < won) for i in range(6)] for name, won in (("before", 1), ("after", 3))}
    evaluation = write(tmp_path / "evaluation.json", both)
    assert len(read_episodes(evaluation)["world"]) == 12
    scoring = {"step": 8, "starts": ["open/1", "open/2"], "tasks": ["open"] * 2, "imagined": [True, None]}
    state = {"step": 8, "state": {"scorings": [scoring | {"real": [True, False]}]}}
    (one, two) = read_episodes(write(tmp_path / "state.json", state))["world"]
    assert (one.policy, one.task, one.imagined, one.real, two.imagined) == ("step 8", "open", True, True, None)
    again = write(tmp_path / "other" / "evaluation.json", both)
    names = [f"{tmp_path.name}/evaluation.json", "other/evaluation.json"]
    assert list(read_loops([evaluation, again])) == names
    assert short_names([Path("a/x/data"), Path("b/x/data"), Path("b/y")]) == ["a/x/data", "b/x/data", "y"]


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    only_real = {"before": [{k: v for k, v in outcome(0, True).items() if k != "imagined"}]}
    other_starts = agreed(1)
    other_starts["p0"]["world"][0]["layout"] = 77
    for wrong, expected in (
        (only_real, "found no episodes with an imagined and a real outcome"),
        ([1], "found no episodes"),
        ({}, "found no episodes"),
        ({"before": [{"task": 1}]}, "row 1: found"),
        ({"p": {"real": [{"task": "open"}]}}, "row 1: found"),
        (other_starts, "have different starts"),
        ({"scorings": [{"tasks": ["a"]}]}, "expected a scoring"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            read_episodes(write(tmp_path / "wrong.json", wrong))
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- where it is shown


def test_agree_prints_it(tmp_path: Path) -> None:
    config = AgreeConfig(lengths=(8, 24))
    shown, _ = compare({"all 3": agreed()}, config)
    assert [sheet.title for sheet in shown[-2:]] == [
        "Imagined vs. real outcome by episode: world",
        "Imagined vs. real outcome by episode: simulator",
    ]
    assert shown[-2].rows[0][:2] == ["all 3", "24"]
    assert shown[-2].rows[0][2].startswith("1.00 [1.00")


def test_the_report_of_a_run_shows_it(tmp_path: Path) -> None:
    run = seed_run(tmp_path)
    page = collect(run)
    (sheet,) = page.loops
    assert sheet.rows[0][:2] == ["all 2", "8"]
    for text in (render(page), markdown(page)):
        assert "Imagined vs. real outcome by episode: evaluation" in text
        assert "1.00 [1.00, 1.00]" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_command_reads_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "outcomes.json", agreed()), tmp_path / "out"
    assert main(["diagnose", "--outcomes", str(file), "--out", str(out), "--threads", "1"]) == 0
    assert "Imagined vs. real outcome by episode: outcomes.json, simulator" in capsys.readouterr().out
    found = json.loads((out / "diagnosis.json").read_text())
    assert found["closed_loop"]["outcomes.json, world"]["all"]["phi"]["value"] == pytest.approx(1)
    page = (out / "report.html").read_text()
    assert "Imagined vs. real outcome by episode" in page
    assert json.loads((out / "diagnosis.json").read_text())["command"] in page.replace("&#39;", "'")
