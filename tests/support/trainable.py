"""What every policy of the tests has beside acting."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from worldgymnast.types import IMAGE
from worldgymnast.weights import module_identity


class Trainable(nn.Module):
    """All weights are trained; one camera is seen; two actions a look."""

    chunk = 2
    needs = frozenset({IMAGE})
    cameras = (IMAGE,)

    @property
    def identity(self) -> str:
        return module_identity(self)

    def trainable_state(self) -> dict[str, Tensor]:
        return dict(self.state_dict())

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        self.load_state_dict(dict(state))
