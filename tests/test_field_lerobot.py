"""LeRobot data sets as they are in the field: each kind of surprise, with the right result."""

import numpy as np
import pytest
from episode_builders import episode

from worldgymnast.types import Episode, InputError


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({"cameras": {"wrist": np.zeros((5, 8, 8, 3), np.uint8)}}, r"cameras\['wrist'\]' has 5 rows, expected 6"),
        ({"state": np.zeros((7, 2), np.float32)}, "'state' has 7 rows, expected 6"),
        ({"last_action": np.zeros(3, np.float32)}, r"'last_action' has shape \[3\], expected \[4\]"),
    ],
)
def test_extras_of_an_episode_have_to_fit_it(extras, said):
    one = episode(1)
    with pytest.raises(InputError, match=said):
        Episode(one.frames, one.actions, "", "", one.fps, one.spec, **extras)
