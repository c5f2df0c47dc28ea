"""Scenes of Meta-World and LIBERO that outlive their environment: to load one costs as much as a hundred decisions.

A layout's seed alone decides what a scene is after its reset (tests/integration/test_metaworld.py), so the next
environment of the same task, frame size and distractors takes the scene that another has closed. A simulator's scene
has other physics when it is closed, and ends there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def kept() -> Iterator[None]:
    """Closed scenes wait for their next environment until this ends."""
    from worldgymnast.envs.libero_scene import LiberoScene
    from worldgymnast.envs.metaworld import _Scene
    from worldgymnast.envs.simulator import SimulatorEnv

    make, end = _Scene.__init__, _Scene.close
    idle: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)

    def begin(self: _Scene, task: str, size: int, distractors: int = 0) -> None:
        key = (task, size, distractors)
        if idle[key]:
            self.__dict__.update(idle[key].pop())
        else:
            make(self, task, size, distractors)
            self.__dict__["pool_key"] = key

    make_libero = LiberoScene.__init__

    def begin_libero(self: LiberoScene, suite: str, task: str, size: int, is_near: bool) -> None:
        key = (suite, task, size, is_near)
        if idle[key]:
            self.__dict__.update(idle[key].pop())
        else:
            make_libero(self, suite, task, size, is_near)
            self.__dict__["pool_key"] = key

    def leave(self: _Scene | LiberoScene) -> None:
        idle[self.__dict__["pool_key"]].append(dict(self.__dict__))

    def close_simulator(self: SimulatorEnv) -> None:
        for scene in self._scenes.values():
            end(scene)
        self._scenes.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Scene, "__init__", begin)
        patch.setattr(_Scene, "close", leave)
        patch.setattr(SimulatorEnv, "close", close_simulator)
        patch.setattr(LiberoScene, "__init__", begin_libero)
        patch.setattr(LiberoScene, "close", leave)
        yield
    for scenes in idle.values():
        for scene in scenes:
            scene["_renderer"].close()
