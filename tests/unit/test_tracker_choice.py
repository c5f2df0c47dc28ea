"""The choice of trackers."""

import importlib.util

import pytest

from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.trackers import use_trackers


@pytest.mark.parametrize(("name", "said"), [("mlflow", "found 'mlflow'"), ("", "its value is missing")])
def test_an_unknown_tracker_is_refused(name: str, said: str) -> None:
    with (
        pytest.raises(InputError, match=rf"--tracker: {said}, expected wandb. TensorBoard is always"),
        use_trackers([name]),
    ):
        pass


def test_the_flag_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--tracker", "mlflow", "report", "x"], ["report", "x", "--tracker=mlflow"]):
        assert main(words) == 2
        assert "--tracker: found 'mlflow', expected wandb" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="the extra wandb is installed")
def test_a_tracker_that_is_not_installed_is_named() -> None:
    expected = r"--tracker wandb: not installed. Run pip install 'worldgymnast\[wandb\]'"
    with pytest.raises(InputError, match=expected), use_trackers(["wandb"]):
        pass
