"""Test-time training on many scenes: gain in the scene, and forgetting of all other tasks.

The published weakness (World-Gymnast, arXiv 2602.02454) was that other tasks got worse, without a number. Here every
remedy is tested on the same scenes with the same amount of imagination.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from worldgymnast.configs import Between, Count, checked
from worldgymnast.environments import environment
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.errors import FieldError
from worldgymnast.measure.real import score_real
from worldgymnast.protocols import Policy
from worldgymnast.recipes.adapt import AdaptConfig, adapt
from worldgymnast.recipes.quickstart import QuickstartConfig, starter
from worldgymnast.records import is_scene, read_rows
from worldgymnast.registry import load_judge, load_policy, load_world, to_dict
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.run import Run
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import Layout, Start
from worldgymnast.weights import identity, write_text

REMEDIES = ("none", "replay", "anchor", "both")
ROWS = "scenes.json"


@checked
class NewScenesConfig:
    """Scenes, remedies, and episodes.

    Attributes:
        adapt: the training; its anchor is used by the remedies "anchor" and "both", its replay by "replay" and "both".
        remedies: "none", "replay" of other scenes, the "anchor", or "both".
        scenes: scenes per task.
        first_layout: first layout of the scenes; held-out layouts.
        trials: real episodes in the scene, sampled.
        others: real layouts of every other task, greedy.
        others_layout: first of these layouts.
        workers: processes of the real environment.
    """

    adapt: AdaptConfig = AdaptConfig(replay=0.5)
    remedies: tuple[str, ...] = REMEDIES
    scenes: Annotated[int, Between(1, 1000)] = 1
    first_layout: Count = 9_000_000
    trials: Annotated[int, Between(1, 1000)] = 20
    others: Annotated[int, Between(1, 1000)] = 6
    others_layout: Count = 9_500_000
    workers: Annotated[int, Between(1, 1000)] = 2

    def __post_init__(self) -> None:
        if unknown := [name for name in self.remedies if name not in REMEDIES]:
            raise FieldError("remedies", f"found '{unknown[0]}', expected some of {', '.join(REMEDIES)}")

    def with_remedy(self, remedy: str) -> AdaptConfig:
        """Return the training with a remedy."""
        training = self.adapt if remedy in ("replay", "both") else replace(self.adapt, replay=0.0)
        if remedy in ("anchor", "both"):
            return training
        trainer = training.rl.trainer
        objective = replace(trainer.objective, kl=0.0)
        return replace(training, rl=replace(training.rl, trainer=replace(trainer, objective=objective)))


def new_scenes(
    policy: Path, out: Path, env: MetaWorldConfig, config: NewScenesConfig, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Train and evaluate on every scene with every remedy; return a row for each.

    Trainings are in OUT/REMEDY-TASK-LAYOUT, and rows are saved to OUT/scenes.json one by one. Each row has real
    outcomes: "scene_before" and "scene_after" of `trials` sampled episodes, "before" and "after" on the same layouts of
    the other tasks, whose names are in "tasks".

    Args:
        policy: policy file to adapt, each time from scratch.
        out: a run folder; one with another policy or other settings raises an error.
        env: the real environment.
        config: scenes and remedies.
        device: of the training.
    """
    before = load_policy(policy, device)
    Run(out, {"env": to_dict(env), "scenes": to_dict(config), "inputs": {"policy": identity(before)}}).close()
    file = out / ROWS
    rows = read_rows(file, is_scene)
    done = {(row["remedy"], row["task"], row["layout"]) for row in rows}
    if len(done) == len(config.remedies) * config.scenes * len(env.tasks):
        return rows
    world, judge = load_world(starter("world"), device), load_judge(starter("judge"), device)
    first = QuickstartConfig()
    robot, horizon = environment(env), config.adapt.rl.horizon
    known = PhotographedStarts(robot, first.photographs, first.photograph_layout)
    scenes = robot.photograph(robot.layouts(config.scenes, config.first_layout))
    imagine = Imagination.of(before, world, judge, horizon)
    real = robot.vector(config.workers, before.chunk, horizon=horizon, keyframes_only=True)
    try:
        for scene in scenes:
            others = [s for s in robot.layouts(config.others, config.others_layout) if s.task != scene.task]
            outcomes_before: tuple[list[bool], list[bool]] | None = None
            for remedy in config.remedies:
                if (remedy, scene.task, scene.layout) in done:
                    continue
                training, folder = config.with_remedy(remedy), out / f"{remedy}-{scene.task}-{scene.layout}"
                after = adapt(before, imagine, scene, known, folder, training)
                outcomes_before = outcomes_before or _outcomes(before, real, scene, others, config)
                outcomes_after = _outcomes(after, real, scene, others, config)
                rows.append(
                    {"remedy": remedy, "task": scene.task, "layout": scene.layout, "tasks": [s.task for s in others]}
                    | {"scene_before": outcomes_before[0], "scene_after": outcomes_after[0]}
                    | {"before": outcomes_before[1], "after": outcomes_after[1]}
                )
                write_text(file, json.dumps(rows) + "\n")
    finally:
        real.close()
    return rows


def _outcomes(
    policy: Policy, real: Any, scene: Start, others: Sequence[Layout], config: NewScenesConfig
) -> tuple[list[bool], list[bool]]:
    """Return real outcomes in the scene, sampled, and in the others, greedy."""
    temperature = config.adapt.rl.temperature
    layout = scene.scene
    assert layout is not None
    own = score_real(policy, real, [layout] * config.trials, temperature=temperature, seed=0)
    rest = score_real(policy, real, others, temperature=0.0, seed=0)
    return [bool(r.verdict.succeeded) for r in own], [bool(r.verdict.succeeded) for r in rest]
