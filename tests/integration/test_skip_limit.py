"""More skips than are allowed fail a run that counts them, and so does a missing GL; on tiny suites of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.parametrize("what", ["a camera", "a robot"])
def test_needs(what):
    pytest.skip(f"there is no {what}")
"""
MODULE = "import pytest\n\npytest.importorskip('no_such_module')\n\ndef test_never():\n    pass\n"
RENDERS = "import pytest\n\n@pytest.mark.usefixtures('gl')\ndef test_renders():\n    pass\n"
PYPROJECT = """
[tool.pytest.ini_options]
pythonpath = ["{support}"]
markers = ["gl", "server"]

[tool.worldgymnast.allowed-skips]
always = {allowed}
"""


SURROUNDINGS = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "WORLDGYMNAST_"))}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder with three tests, two of which are skipped, and the plugin."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ("skip_limit",)\n')
    (tmp_path / "test_suite.py").write_text(SUITE)
    return tmp_path


def allow(folder: Path, skips: int) -> None:
    (folder / "pyproject.toml").write_text(PYPROJECT.format(support=ROOT / "tests/support", allowed=skips))


def run(pytester: pytest.Pytester, folder: Path, allowed: int) -> tuple[int, str]:
    """Exit code and output of pytest in `folder`, where that many skips are allowed."""
    allow(folder, allowed)
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--rootdir", str(folder), str(folder))
    return int(done.ret), str(done.stdout)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips are counted, whatever is done around this test."""
    monkeypatch.setenv("WORLDGYMNAST_COUNT_SKIPS", "1")


@pytest.mark.usefixtures("counted")
def test_more_skips_than_allowed_fail_and_are_listed(suite: Path, pytester: pytest.Pytester) -> None:
    code, said = run(pytester, suite, 1)
    assert_refused(code, said)
    code, said = run(pytester, suite, 2)
    assert code == 0, said
    assert "too many skipped tests" not in said


def assert_refused(code: int, said: str) -> None:
    assert code == 1, said
    assert "Skipped 2 tests (limit 1: always 1" in said
    assert "test_suite.py::test_needs[a camera]: there is no a camera" in said
    assert "test_suite.py::test_needs[a robot]: there is no a robot" in said


def test_two_processes_count_together(suite: Path) -> None:
    allow(suite, 1)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2"]
    counting = {**SURROUNDINGS, "PYTHONPATH": str(ROOT), "WORLDGYMNAST_COUNT_SKIPS": "1"}
    done = subprocess.run(command, cwd=suite, env=counting, capture_output=True, text=True, check=False)
    assert_refused(done.returncode, done.stdout + done.stderr)


def test_elsewhere_skips_are_not_counted(
    suite: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLDGYMNAST_COUNT_SKIPS", raising=False)
    code, said = run(pytester, suite, 0)
    assert code == 0, said
    assert "1 passed, 2 skipped" in said


@pytest.mark.usefixtures("counted")
def test_a_module_that_is_skipped_counts_and_a_failure_stays_one(suite: Path, pytester: pytest.Pytester) -> None:
    (suite / "test_module.py").write_text(MODULE)
    code, said = run(pytester, suite, 2)
    assert code == 1, said
    assert "test_module.py: could not import 'no_such_module'" in said
    (suite / "test_module.py").write_text("def test_fails():\n    assert 1 == 2\n")
    code, said = run(pytester, suite, 0)
    assert code == 1, said
    assert "1 failed, 1 passed, 2 skipped" in said
    assert "Skipped 2 tests (limit 0" in said


TWICE = """
import os, pytest
words = ["-p", "no:cacheprovider", "-rs"]
skipped = pytest.main(words)
print("counted from here", flush=True)
os.environ["WORLDGYMNAST_COUNT_SKIPS"] = "1"
raise SystemExit(10 * skipped + pytest.main(words))
"""


def test_without_gl_what_renders_fails_where_skips_are_counted(tmp_path: Path) -> None:
    """In one process, which has no GL: first where skips are not counted, then where they are."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_renders.py").write_text(RENDERS)
    allow(tmp_path, 1)
    without = {**SURROUNDINGS, "PYTHONPATH": str(ROOT), "MUJOCO_GL": "nonsense"}
    command = [sys.executable, "-c", TWICE]
    done = subprocess.run(command, cwd=tmp_path, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    skipped, failed = done.stdout.split("counted from here")
    assert "no GL to render with (MUJOCO_GL=nonsense)" in skipped
    assert "no GL to render with (MUJOCO_GL=nonsense)" in failed
    assert "tests that render must run" in failed
