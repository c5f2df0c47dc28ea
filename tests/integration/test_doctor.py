"""The doctor's report; a crash of a checked component is a finding."""

import pytest

from worldgymnast import doctor
from worldgymnast.doctor import Check, diagnose, exit_code, report

GOOD = Check("torch", True, "2.13.0", "everything")
BAD = Check("disk", False, "0.1 GB free here", "runs", "free some")
ABSENT = Check("ray", False, "not installed", "optional: many machines", is_required=False)


def test_only_what_the_main_job_needs_decides() -> None:
    assert exit_code([GOOD, ABSENT]) == 0
    assert exit_code([GOOD, BAD]) == 1


def test_the_report_says_what_to_do() -> None:
    text = report([GOOD, BAD, ABSENT])
    assert "MISSING  disk" in text
    assert "disk: free some" in text
    assert text.endswith("missing: disk.")
    assert report([GOOD, ABSENT]).endswith("The main job can run here.")


def test_a_crash_while_rendering_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    frame = next(check for check in diagnose() if check.name == "Meta-World frame")
    assert not frame.is_ok
    assert "killed by signal 11" in frame.result
    assert "libegl1" in frame.fix


def test_an_error_while_rendering_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER", "raise SystemExit('no display')")
    frame = next(check for check in diagnose() if check.name == "Meta-World frame")
    assert not frame.is_ok
    assert "no display" in frame.result
