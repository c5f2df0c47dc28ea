"""The pictures of docs/how-to/scenes.md: `python benchmarks/pictures.py [docs/pictures]`.

distractors.png: photographs, the same with cut-outs pasted in, and real distractors in the same layouts; below, one
episode whose robot passes in front of what was pasted. instructions.png: scenes of further tasks and the instructions
written for each.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from worldgymnast.envs.metaworld import EXTRA_TASKS, SUITE, MetaWorld, MetaWorldConfig, MetaWorldEnv
from worldgymnast.recipes.quickstart import starter_plate
from worldgymnast.registry import load_editor
from worldgymnast.scenes.language import sample_instructions
from worldgymnast.scenes.plate import load_plate
from worldgymnast.types import Start

LAYOUT = 6_000_000
_TASKS = ("drawer-open", "button-press", "plate-slide", "window-open", "door-close")


def expert_frames(task: str, layout: int) -> np.ndarray:
    env = MetaWorldEnv(MetaWorldConfig(tasks=(task,)))
    try:
        frames = [env.reset(seed=layout, options={"task": task})[0]["image"]]
        for _ in range(20):
            frames.append(env.step(env.expert_action())[0]["image"])
    finally:
        env.close()
    return np.stack(frames)


def photographed(config: MetaWorldConfig) -> list[Start]:
    """A photograph of one layout of each task."""
    env = MetaWorld(config)
    return env.photograph(env.layouts(1, LAYOUT))


def distractors() -> plt.Figure:
    editor = load_editor(None, load_plate(starter_plate()))
    env = MetaWorldConfig(tasks=_TASKS)
    plain = [start.frame for start in photographed(env)]
    pasted = [editor.edit(frame[None], "", np.random.default_rng(i + 3))[0] for i, frame in enumerate(plain)]
    real = [start.frame for start in photographed(replace(env, distractors=3))]
    clip = editor.edit(expert_frames("drawer-open", LAYOUT), "", np.random.default_rng(4))
    rows = {
        "photographs": plain,
        "cut-outs\npasted in": pasted,
        "an episode,\npasted in": [clip[i] for i in (0, 5, 9, 13, 18)],
        "real ones": real,
    }
    figure, axes = plt.subplots(len(rows), 5, figsize=(8, 6.6), layout="constrained")
    for line, (name, frames) in zip(axes, rows.items(), strict=True):
        for axis, frame in zip(line, frames, strict=True):
            axis.imshow(frame)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    return figure


def instructions() -> plt.Figure:
    tasks = ("drawer-open", *EXTRA_TASKS)
    starts = photographed(MetaWorldConfig(tasks=tasks))
    figure, axes = plt.subplots(1, len(tasks), figsize=(12, 3.4), layout="constrained")
    for axis, start in zip(axes, starts, strict=True):
        axis.imshow(start.frame)
        said = "\n".join(sample_instructions(start.task, 5, np.random.default_rng(0)))
        axis.set(xticks=[], yticks=[], title=f"{start.task}{'' if start.task in SUITE else ' (play only)'}")
        axis.set_xlabel(said, fontsize=7)
        axis.title.set_fontsize(9)
    return figure


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    for name, figure in (("distractors", distractors()), ("instructions", instructions())):
        figure.savefig(folder / f"{name}.png", dpi=110)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
