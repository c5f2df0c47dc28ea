"""Every parser on damaged inputs for a second, the same ones each time; python tests/support/fuzzing.py for longer."""

import random
from pathlib import Path

import fuzzing
import pytest


@pytest.mark.parametrize("name", list(fuzzing.TARGETS))
def test_nothing_but_an_input_error_comes_out_of_a_damaged_input(name: str, tmp_path: Path) -> None:
    tried, faults = fuzzing.fuzz(fuzzing.TARGETS[name], tmp_path, random.Random(name), 1.0)
    assert tried > 3
    assert not faults, "\n".join(faults)
