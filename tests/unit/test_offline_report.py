"""The table of real episodes needed, with and without a correction for the judge's errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worldgymnast.records import OFFLINE, with_hash
from worldgymnast.report.offline import offline_sheets
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
