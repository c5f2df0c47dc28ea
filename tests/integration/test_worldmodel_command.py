"""What `train-world` refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldgymnast.actions import WORLDGYM
from worldgymnast.cli.main import main
from worldgymnast.episodes import worldgym
from worldgymnast.types import Episode


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bridge-26m", "data"], "nor a data set's folder; did you mean 'bridge-25m'?"),
        (["bridge-25m"], "DATA: missing data sets"),
        (["bridge-25m", "DATA", "--autoencoder-of", "no.safetensors"], "no.safetensors: found no file"),
        (["bridge-600m", "DATA"], "--autoencoder-of: missing"),
        (["bridge-25m", "DATA", "--held-out", "1"], "cannot hold out 1 of 1"),
    ],
)
def test_what_train_world_refuses_it_refuses_before_anything_is_written(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = Episode(np.zeros((4, 256, 256, 3), np.uint8), np.zeros((3, 10), np.float32), "", "", 5.0, WORLDGYM)
    still.actions[:, 6] = -1
    worldgym.write(tmp_path / "data", [still])
    words = [str(tmp_path / "data") if word == "DATA" else word for word in words]
    assert main(["train-world", *words, "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert len(line.splitlines()) == 1
    assert not (tmp_path / "run").exists()
