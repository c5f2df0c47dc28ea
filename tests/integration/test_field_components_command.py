"""A command that meets a damaged component says so in one line."""

from pathlib import Path

import pytest
from run_builders import seed_component, unsealed

from worldgymnast.cli.main import main


def test_a_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = unsealed(seed_component(tmp_path), tmp_path / "p.safetensors", lambda _, meta: meta.update(config="[]"))
    assert main(["evaluate", str(file), str(file), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"worldgymnast: error: {file}: field 'config': found []")
    assert said.count("\n") == 1
