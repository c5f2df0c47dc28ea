"""Instructions for a scene from templates: names of an object times ways to phrase an action on it.

This default needs no model. `scenes/proposals.py` asks a vision-language model for new instructions, as the published
method does (World-Gymnast, arXiv 2602.02454).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_PREFIXES = ("", "please ", "now ")


@dataclass(frozen=True)
class Affordance:
    """Names of an object and the actions it affords.

    Attributes:
        objects: names of the object.
        ways: phrases for the action, with `{}` for the object.
    """

    objects: tuple[str, ...]
    ways: tuple[str, ...]

    def sentences(self) -> list[str]:
        """All sentences from prefixes, phrases and names.

        >>> Affordance(("door",), ("shut the {}",)).sentences()
        ['shut the door', 'please shut the door', 'now shut the door']
        """
        combinations = itertools.product(_PREFIXES, self.ways, self.objects)
        return [prefix + way.format(name) for prefix, way, name in combinations]


_DRAWER = ("drawer", "green drawer", "drawer of the green box")
_WINDOW = ("window", "sliding window", "brown window")
AFFORDANCES: Mapping[str, Affordance] = {
    "drawer-open": Affordance(
        _DRAWER, ("open the {}", "pull the {} open", "pull out the {}", "slide the {} out", "draw the {} out")
    ),
    "drawer-close": Affordance(
        _DRAWER, ("close the {}", "shut the {}", "push the {} shut", "push the {} in", "slide the {} back")
    ),
    "button-press": Affordance(
        ("button", "red button", "button on the yellow box"),
        ("press the {}", "push the {}", "push the {} in", "hit the {}", "press on the {}"),
    ),
    "plate-slide": Affordance(
        ("plate", "black plate", "puck"),
        (
            "slide the {} into the goal",
            "push the {} into the cabinet",
            "move the {} into the goal",
            "slide the {} in",
            "push the {} in there",
        ),
    ),
    "window-open": Affordance(
        _WINDOW, ("open the {}", "slide the {} open", "push the {} open", "move the {} aside", "get the {} open")
    ),
    "door-close": Affordance(
        ("door", "black door", "door of the cabinet"),
        ("close the {}", "shut the {}", "push the {} shut", "swing the {} closed", "get the {} closed"),
    ),
    "handle-press": Affordance(
        ("handle", "red handle", "lever"),
        ("press the {} down", "push the {} down", "press down the {}", "lower the {}", "move the {} down"),
    ),
    "window-close": Affordance(
        _WINDOW, ("close the {}", "slide the {} shut", "push the {} closed", "shut the {}", "get the {} closed")
    ),
    "faucet-close": Affordance(
        ("faucet", "tap", "red tap"),
        ("close the {}", "turn the {} off", "turn off the {}", "shut the {}", "turn the {} to the right"),
    ),
    "button-press-topdown": Affordance(
        ("button", "red button", "button on top of the box"),
        (
            "press the {} from above",
            "push the {} down",
            "press down on the {}",
            "push down the {}",
            "press the {} down",
        ),
    ),
}
"""Affordances by the task of a scene."""


def sample_instructions(task: str, count: int, rng: np.random.Generator) -> list[str]:
    """Sample up to `count` different sentences for a scene of `task`.

    None for an unknown task.

    >>> len(sample_instructions("drawer-open", 3, np.random.default_rng(0)))
    3
    """
    affordance = AFFORDANCES.get(task)
    sentences = list(dict.fromkeys(affordance.sentences())) if affordance else []
    return [sentences[i] for i in rng.permutation(len(sentences))[:count]]
