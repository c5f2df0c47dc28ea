"""Instructions for a scene, written from what stands in it: names of an object times ways to say what to do with it.

The default that needs no model; `scenes/proposals.py` asks a vision-language model instead, as the published method
does for new instructions on old frames (World-Gymnast, arXiv 2602.02454).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_BEFORE = ("", "please ", "now ")


@dataclass(frozen=True)
class Affordance:
    """What can be done with an object.

    Attributes:
        objects: what it is called.
        ways: what to do with it, `{}` for the object.
    """

    objects: tuple[str, ...]
    ways: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Every way of saying it."""
        return [a + way.format(name) for a, way, name in itertools.product(_BEFORE, self.ways, self.objects)]


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
        ("slide the {} into the goal", "push the {} into the cabinet", "move the {} into the goal",
         "slide the {} in", "push the {} in there"),
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
        ("press the {} from above", "push the {} down", "press down on the {}", "push down the {}",
         "press the {} down"),
    ),
}  # fmt: skip
"""By the task that a scene is laid out for: its object, in the state in which it begins."""


def written(task: str, count: int, rng: np.random.Generator) -> list[str]:
    """That many different sentences for a scene of `task`, or all there are; none where its objects are unknown."""
    known = AFFORDANCES.get(task)
    sentences = list(dict.fromkeys(known.sentences())) if known else []
    return [sentences[i] for i in rng.permutation(len(sentences))[:count]]
