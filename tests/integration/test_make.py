"""`make` where the virtual environment was set up by something else and lacks a tool."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

PIP = '#!/bin/sh\necho "$@" >> asked\n{install}\nexit {code}\n'
TOOL = "#!/bin/sh\\ntouch built\\n"


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make(folder: Path, target: str, install: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run a target with a Python whose pip runs `install`."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    (folder / ".venv/bin").mkdir(parents=True)
    executable(folder / ".venv/bin/python", PIP.format(install=install, code=code))
    (folder / ".venv/.installed").touch()
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # of `make test`, in which this runs
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", target], cwd=folder, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize(("target", "tools"), [("docs", ("mkdocs",)), ("lint", ("ruff", "pyright", "lint-imports"))])
def test_a_missing_tool_is_installed(target: str, tools: tuple[str, ...], tmp_path: Path) -> None:
    install = "; ".join(f"printf '{TOOL}' > .venv/bin/{tool}; chmod +x .venv/bin/{tool}" for tool in tools)
    done = make(tmp_path, target, install, 0)
    assert done.returncode == 0, done.stderr
    assert f".venv has no {tools[0]}; installing" in done.stdout
    assert (tmp_path / "built").is_file()
    assert "-m pip install --quiet -c constraints.txt -e .[dev]" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize(("target", "tool"), [("docs", "mkdocs"), ("lint", "ruff")])
def test_a_tool_that_cannot_be_installed_is_one_line_with_the_command(target: str, tool: str, tmp_path: Path) -> None:
    done = make(tmp_path, target, "true", 1)
    assert done.returncode == 2
    line, *rest = done.stderr.splitlines()
    assert line == (
        f"{tool} could not be installed; run: .venv/bin/python -m pip install -c constraints.txt -e '.[dev]'"
    )
    assert all(other.startswith("make: ***") for other in rest)
