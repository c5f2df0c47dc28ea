"""The rate that is given reaches training, on every command that reads cameras."""

import pytest
from rlds_builders import seed_rlds

from worldgymnast.cli.command import DatasetCommand
from worldgymnast.cli.commands import KINDS
from worldgymnast.cli.main import main
from worldgymnast.registry import manifest_of


def test_rlds_is_trained_on_with_the_rate_that_is_given(tmp_path, capsys):
    """The message of the first try names a flag that the second takes; the component remembers it."""
    data, out = seed_rlds(tmp_path / "set"), tmp_path / "out"
    small = ["--fit.steps", "1", "--policy.chunk", "1"]
    assert main(["sft", str(data), "--out", str(out), *small]) == 2
    assert "--fps" in capsys.readouterr().err
    assert main(["sft", str(data), "--out", str(tmp_path / "second"), *small, "--fps", "12"]) == 0
    assert manifest_of(tmp_path / "second" / "policy.safetensors")["origin"]["fps"] == 12


def test_every_command_that_takes_cameras_takes_the_rate(capsys):
    names = [name for name, command in KINDS.items() if issubclass(command, DatasetCommand)]
    assert len(names) > 10
    for name in names:
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        assert "--fps" in capsys.readouterr().out
