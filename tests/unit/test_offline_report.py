"""The table of real episodes needed, with and without a correction for the judge's errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worldgymnast.records import OFFLINE, with_hash
from worldgymnast.report.answers import answers
from worldgymnast.report.offline import DO_NOT_USE, offline_doubts, offline_sheets
from worldgymnast.report.report import Report
from worldgymnast.weights import to_json, write_text

RATE = {"value": 0.5, "low": 0.3, "high": 0.7, "successes": 16, "count": 32, "errors": 0}
NEEDED = {"gain": 0.1, "before": 0.5, "lost": 0.2, "paired": 250, "independent": 390, "unpaired": 400}
KNOWN = {
    "rollouts": 32,
    "horizon": 8,
    "imagined": {"before": RATE, "after": RATE, "difference": {"mean": 0.0, "low": -0.1, "high": 0.1}},
    "doubt": {name: {"mean": 0.1, "unsure": RATE} for name in ("before", "after")},
    "outside": {"expected": 0.05, "before": None, "after": None},
}


def curve(mean: float, spread: float = 1.0) -> dict[str, list[float]]:
    return {"mean": [mean] * 5, "low": [mean - spread] * 5, "high": [mean + spread] * 5}


@pytest.mark.parametrize(
    ("world", "copied", "other", "reasons"),
    [
        (26.0, 20.0, 22.0, []),
        (19.5, 20.0, 18.0, []),  # the intervals overlap
        (9.0, 23.0, 8.0, ["(9.0 against 23.0 dB)"]),
        (26.0, 20.0, 26.0, ["(26.0 and 26.0 dB)"]),
        (9.0, 23.0, 9.0, ["(9.0 against 23.0 dB)", "(9.0 and 9.0 dB)"]),
    ],
)
def test_a_wrong_world_model_is_named_first(
    tmp_path: Path, world: float, copied: float, other: float, reasons: list[str]
) -> None:
    psnr = {"world": curve(world), "copy": curve(copied), "shuffled": curve(other)}
    fidelity = {"horizon": [1.0, 2.0, 3.0, 4.0, 5.0], "psnr": psnr, "episodes": 6}
    known = KNOWN | {"episodes": 6, "fidelity": fidelity, "judge": None, "needed": NEEDED}
    write_text(tmp_path / OFFLINE, to_json(with_hash(known)))
    doubts = offline_doubts(tmp_path)
    assert len(doubts) == (len(reasons) + 1 if reasons else 0)
    for doubt, reason in zip(doubts, reasons, strict=False):
        assert doubt.startswith(("Imagined frame 3 ", "With actions of other episodes, imagined frame 3 "))
        assert reason in doubt
    found = answers(Report("run", "", offline=offline_sheets(tmp_path), offline_doubts=doubts))
    assert (found["changed"].sentence == DO_NOT_USE) == bool(reasons)
    assert found["trust"].sentence.startswith("No. ") == bool(reasons)
    assert found["changed"].is_warning == found["trust"].is_warning == bool(reasons)


def test_real_frames_and_imagined_replays_have_rows_of_their_own(tmp_path: Path) -> None:
    def rate(successes: int) -> dict[str, Any]:
        return {"value": successes / 3, "low": 0.0, "high": 1.0, "successes": successes, "count": 3, "errors": 0}

    judge = {
        "real": {"known": rate(3), "refused": rate(2)},
        "imagined": {"known": rate(1), "refused": rate(0)},
        "successes": 3,
        "failures": 3,
    }
    known = KNOWN | {"episodes": 6, "fidelity": None, "judge": judge, "needed": NEEDED}
    write_text(tmp_path / OFFLINE, to_json(with_hash(known)))
    sheets = offline_sheets(tmp_path)
    assert [(name, value.split()[-1]) for name, value, _ in sheets["trust"].rows] == [
        ("judge: true successes recognized, real frames", "(3/3)"),
        ("judge: true successes recognized, imagined replays", "(1/3)"),
        ("judge: true failures refused, real frames", "(2/3)"),
        ("judge: true failures refused, imagined replays", "(0/3)"),
    ]
    found = answers(Report("run", "", offline=sheets))["trust"]
    said = " ".join((found.sentence, *found.more))
    assert "recognizes: 100 % [0, 100] (3/3) on real frames, 33 % [0, 100] (1/3) on imagined replays." in said
    assert "refuses: 67 % [0, 100] (2/3) on real frames, 0 % [0, 100] (0/3) on imagined replays." in said


def needed(folder: Path, corrected: dict[str, Any] | None) -> Any:
    known = KNOWN | {"needed": NEEDED | {"corrected": corrected}}
    write_text(folder / OFFLINE, to_json(with_hash(known)))
    return offline_sheets(folder)["real"]


def test_both_counts_stand_side_by_side(tmp_path: Path) -> None:
    corrected = {"before": 0.2, "low": 0.05, "high": 0.4, "paired": None, "independent": 280, "unpaired": 290}
    sheet = needed(tmp_path, corrected)
    assert sheet.head[1:] == ["per policy", "in total", "per policy, corrected", "in total, corrected"]
    assert [row[1:] for row in sheet.rows] == [
        ["250", "500", "", "more than 20000, or impossible"],
        ["390", "780", "280", "560"],
        ["400", "800", "290", "580"],
    ]
    assert "before is 50 %, as imagined. Corrected for the errors of world model and judge" in sheet.note
    assert "20 % [5, 40]" in sheet.note


@pytest.mark.parametrize("is_old", [False, True])
def test_without_a_correction_the_note_says_what_it_takes(tmp_path: Path, is_old: bool) -> None:
    sheet = needed(tmp_path, None)
    if is_old:  # written before there was a correction
        write_text(tmp_path / OFFLINE, to_json(with_hash(KNOWN | {"needed": NEEDED})))
        sheet = offline_sheets(tmp_path)["real"]
    assert sheet.head == ["", "per policy", "in total"]
    assert "not corrected for the errors" in sheet.note
