"""Imagined and real outcome of the same episodes: against numbers worked out by hand, and files of every kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_builders import outcome, seed_run

from worldgymnast.cli.commands.agree import compared
from worldgymnast.cli.commands.diagnose import read_loops, short_names
from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import Episode, by_policy, closed_loop, read_episodes
from worldgymnast.measure.agreement import AgreeConfig
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import render


def rows(pairs: Sequence[tuple[bool | None, bool | None]], policy: str = "a", task: str = "open") -> list[Episode]:
    """Episodes on layouts of their own from pairs of imagined and real outcomes."""
    return [Episode(policy, task, i, imagined, real) for i, (imagined, real) in enumerate(pairs)]


def noisy(count: int, agree: float, seed: int = 0) -> list[tuple[bool, bool]]:
    """Pairs that agree with that probability."""
    rng = np.random.default_rng(seed)
    real = rng.random(count) < 0.5
    return list(zip((real == (rng.random(count) < agree)).tolist(), real.tolist(), strict=True))


def test_phi_is_the_correlation_of_the_table() -> None:
    pairs = [(True, True)] * 30 + [(True, False)] * 5 + [(False, True)] * 15 + [(False, False)] * 50
    found = closed_loop(rows([*pairs, (None, True), (True, None)]))
    assert (found.both, found.only_imagined, found.only_real, found.neither, found.unknown) == (30, 5, 15, 50, 2)
    assert found.count == 100
    assert found.phi.value == pytest.approx((30 * 50 - 5 * 15) / np.sqrt(35 * 65 * 45 * 55))
    assert found.within == found.phi  # one policy in one task
    assert found.phi.low < found.phi.value < found.phi.high


def test_the_interval_covers_the_truth() -> None:
    found = [closed_loop(rows(noisy(80, 0.8, seed)), seed).phi for seed in range(60)]
    inside = np.mean([one.low <= 0.6 <= one.high for one in found])
    assert 0.85 <= inside <= 1


def test_policies_that_share_layouts_do_not_narrow_the_interval() -> None:
    alone = closed_loop(rows(noisy(60, 0.8))).phi
    many = closed_loop([e for name in "abcdefgh" for e in rows(noisy(60, 0.8), name)]).phi
    assert many.high - many.low == pytest.approx(alone.high - alone.low)


def test_a_world_that_knows_the_tasks_alone_knows_nothing_within() -> None:
    rng = np.random.default_rng(0)
    easy, hard = ([(bool(a < p), bool(b < p)) for a, b in rng.random((400, 2))] for p in (0.9, 0.1))
    found = closed_loop([*rows(easy, task="easy"), *rows(hard, task="hard")])
    assert found.phi.low > 0.5
    assert abs(found.within.value) < 0.1
    assert found.within.low < 0 < found.within.high


def test_where_an_outcome_never_varies_phi_is_unknown() -> None:
    found = closed_loop(rows([(True, True), (True, False)] * 5))
    assert np.isnan([found.phi.value, found.within.value]).all()
    assert np.isnan(closed_loop([]).phi.value)
    by = by_policy([*rows(noisy(20, 1.0), "b"), *rows([(None, True)], "a")])
    assert list(by) == ["b", "a"]
    assert by["b"].phi.value == pytest.approx(1)
    assert by["a"].unknown == 1


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
        (other_starts, "expected the same starts in all"),
        ({"scorings": [{"tasks": ["a"]}]}, "expected a scoring"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            read_episodes(write(tmp_path / "wrong.json", wrong))
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- where it is shown


def test_agree_prints_it(tmp_path: Path) -> None:
    config = AgreeConfig(lengths=(8, 24))
    shown, _ = compared({"all 3": agreed()}, config)
    assert [sheet.title for sheet in shown[-2:]] == [
        "Closed loop, episode by episode: world",
        "Closed loop, episode by episode: simulator",
    ]
    assert shown[-2].rows[0][:2] == ["all 3", "24"]
    assert shown[-2].rows[0][2].startswith("1.00 [1.00")


def test_the_report_of_a_run_shows_it(tmp_path: Path) -> None:
    run = seed_run(tmp_path)
    page = collect(run)
    (sheet,) = page.loops
    assert sheet.rows[0][:2] == ["all 2", "8"]
    for text in (render(page), markdown(page)):
        assert "Closed loop, episode by episode: evaluation" in text
        assert "1.00 [1.00, 1.00]" in text


def test_the_command_reads_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "outcomes.json", agreed()), tmp_path / "out"
    assert main(["diagnose", "--outcomes", str(file), "--out", str(out), "--threads", "1"]) == 0
    assert "Closed loop, episode by episode: outcomes.json, simulator" in capsys.readouterr().out
    found = json.loads((out / "diagnosis.json").read_text())
    assert found["closed_loop"]["outcomes.json, world"]["all"]["phi"]["value"] == pytest.approx(1)
    page = (out / "report.html").read_text()
    assert "Imagined and real outcome of the same episode" in page
    assert json.loads((out / "diagnosis.json").read_text())["command"] in page.replace("&#39;", "'")
