"""A command that several processes cannot do together."""

import pytest

from worldgymnast.cli.main import main


def test_a_command_for_one_process_refuses_two(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["quickstart"]) == 2
    assert "started in 2 processes, but this command runs in one" in capsys.readouterr().err
