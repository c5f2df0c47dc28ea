"""A command that is refused with one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from worldgymnast.cli.main import main

Refuses = Callable[..., str]


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Refuses:
    """Runs the command and returns its one line on stderr."""

    def check(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert len(lines) == 1, said.err
        assert lines[0].startswith("worldgymnast: error: ")
        assert "Traceback" not in said.err + said.out
        return lines[0]

    return check
