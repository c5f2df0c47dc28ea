"""More skips than are allowed fail a run that counts them, and so does a missing GL; on tiny suites of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
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


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder with three tests, two of which are skipped, and the plugin."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ("skip_limit",)\n')
    (tmp_path / "test_suite.py").write_text(SUITE)
    return tmp_path


def run(folder: Path, allowed: int, *words: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of pytest in `folder`, where that many skips are allowed."""
    (folder / "pyproject.toml").write_text(PYPROJECT.format(support=ROOT / "tests/support", allowed=allowed))
    surroundings: Mapping[str, str] = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "WORLDGYMNAST_"))},
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_more_skips_than_allowed_fail_and_are_listed(suite: Path, words: tuple[str, ...]) -> None:
    code, said = run(suite, 1, *words, WORLDGYMNAST_COUNT_SKIPS="1")
    assert code == 1, said
    assert "Skipped 2 tests (limit 1: always 1" in said
    assert "test_suite.py::test_needs[a camera]: there is no a camera" in said
    assert "test_suite.py::test_needs[a robot]: there is no a robot" in said
    code, said = run(suite, 2, *words, WORLDGYMNAST_COUNT_SKIPS="1")
    assert code == 0, said
    assert "too many skipped tests" not in said


def test_elsewhere_skips_are_not_counted(suite: Path) -> None:
    code, said = run(suite, 0)
    assert code == 0, said
    assert "1 passed, 2 skipped" in said


def test_a_module_that_is_skipped_counts_and_a_failure_stays_one(suite: Path) -> None:
    (suite / "test_module.py").write_text(MODULE)
    code, said = run(suite, 2, WORLDGYMNAST_COUNT_SKIPS="1")
    assert code == 1, said
    assert "test_module.py: could not import 'no_such_module'" in said
    (suite / "test_module.py").write_text("def test_fails():\n    assert False\n")
    code, said = run(suite, 0, WORLDGYMNAST_COUNT_SKIPS="1")
    assert code == 1, said
    assert "1 failed, 1 passed, 2 skipped" in said
    assert "Skipped 2 tests (limit 0" in said


def test_without_gl_what_renders_fails_where_skips_are_counted(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_renders.py").write_text(RENDERS)
    code, said = run(tmp_path, 1, "-rs", MUJOCO_GL="nonsense")
    assert code == 0, said
    assert "no GL to render with (MUJOCO_GL=nonsense)" in said
    code, said = run(tmp_path, 1, MUJOCO_GL="nonsense", WORLDGYMNAST_COUNT_SKIPS="1")
    assert code == 1, said
    assert "no GL to render with (MUJOCO_GL=nonsense)" in said
    assert "tests that render must run" in said
