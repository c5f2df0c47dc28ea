"""RL that starts from pictures."""

from pathlib import Path

import pytest
from scene_builders import put

from worldgymnast.cli.main import main


@pytest.mark.usefixtures("gl")
def test_rl_starts_from_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "scenes", "a.png", {"instruction": "open the drawer", "task": "drawer-open"})
    brief = ["--rl.steps", "1", "--rl.starts", "2", "--rl.group-size", "2", "--rl.horizon", "4", "--threads", "1"]
    words = ["rl", "quickstart", "--starts", str(tmp_path / "scenes"), *brief, "--unscored"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2, "a grey picture is no scene that the world knows"
    assert "--starts: found a frame out of distribution for the world model" in capsys.readouterr().err
    words.append("--anyway")
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    put(tmp_path / "scenes", "b.png", {"instruction": "close the drawer", "task": "drawer-close"})
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "run")]) == 2, "other starts are another run"
    assert "inputs.starts" in capsys.readouterr().err
