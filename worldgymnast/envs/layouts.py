"""Layouts of an environment, and photographs of them: the same for every environment that can be opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldgymnast.progress import Progress
from worldgymnast.types import IMAGE, STATE, Layout, Start


class PhotographsLayouts:
    """Members of a `RealEnvironment` that follow from its tasks, its instructions and a single environment."""

    def layouts(self: Any, per_task: int, first: int) -> list[Layout]:
        """Consecutive layouts of every task, with seeds from `first`."""
        sentences = {task: self.instructions(task)[0] for task in self.tasks}
        return [Layout(task, first + i, sentences[task]) for task in self.tasks for i in range(per_task)]

    def photograph(self: Any, layouts: Sequence[Layout]) -> list[Start]:
        """Starts with the frame of each layout before any action, and the state if the environment reports it."""
        camera, starts = self.open(), []
        try:
            with Progress("photographing new layouts", len(layouts)) as progress:
                for layout in layouts:
                    observed, _ = camera.reset(seed=layout.seed, options={"task": layout.task})
                    starts.append(layout.start(observed[IMAGE], observed.get(STATE)))
                    progress.advance()
        finally:
            camera.close()
        return starts
