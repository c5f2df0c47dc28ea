"""Test-time training on many scenes: what each gains in its scene, and what it forgets of all other tasks.

The published weakness (World-Gymnast, arXiv 2602.02454) was that other tasks got worse, without a number. Here every
remedy is tried on the same scenes and paid for with the same imagination.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from worldgymnast.configs import Between, Count, checked
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.errors import FieldError
from worldgymnast.measure.real import score_real
from worldgymnast.protocols import Policy
from worldgymnast.recipes.adapt import AdaptConfig, adapt
from worldgymnast.recipes.quickstart import QuickstartConfig, starter
from worldgymnast.records import is_scene, read_rows
from worldgymnast.registry import environment, load_judge, load_policy, load_world, to_dict
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.run import Run
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import Layout, Start
from worldgymnast.weights import identity, write_text

REMEDIES = ("none", "replay", "anchor", "both")
ROWS = "scenes.json"


@checked
class NewScenesConfig:
    """Scenes, remedies, and how each is tried.

    Attributes:
        adapt: the training; its anchor is that of the remedies "anchor" and "both", its share of other scenes that of
            "replay" and "both".
        remedies: which: none, replay of other scenes, the anchor, both.
        scenes: of each task.
        first_layout: of the scenes; layouts that nothing was trained on.
        trials: real episodes in the scene itself, sampled.
        others: real layouts of every other task, greedy.
        others_layout: first of these.
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
        if odd := [name for name in self.remedies if name not in REMEDIES]:
            raise FieldError("remedies", f"found '{odd[0]}', expected some of {', '.join(REMEDIES)}")

    def remedied(self, remedy: str) -> AdaptConfig:
        """The training with a remedy."""
        training = self.adapt if remedy in ("replay", "both") else replace(self.adapt, replay=0.0)
        if remedy in ("anchor", "both"):
            return training
        trainer = training.rl.trainer
        objective = replace(trainer.objective, kl=0.0)
        return replace(training, rl=replace(training.rl, trainer=replace(trainer, objective=objective)))


def new_scenes(
    policy: Path, out: Path, env: MetaWorldConfig, config: NewScenesConfig, device: str = "cpu"
) -> list[dict[str, Any]]:
    """A row for every scene and remedy; trainings in OUT/REMEDY-TASK-LAYOUT, rows kept in OUT/scenes.json one by one.

    Each row has real outcomes: "scene_before" and "scene_after" of `trials` sampled episodes, "before" and "after" of
    the same layouts of the other tasks, whose names are in "tasks".

    Args:
        policy: the policy's file that is adapted, each time anew.
        out: a folder; one with rows of another policy, or of other settings, is refused.
        env: the real environment.
        config: scenes and remedies.
        device: where to train.
    """
    before = load_policy(policy, device)
    Run(out, {"env": to_dict(env), "scenes": to_dict(config), "inputs": {"policy": identity(before)}}).close()
    file = out / ROWS
    found = read_rows(file, is_scene)
    done = {(row["remedy"], row["task"], row["layout"]) for row in found}
    if len(done) == len(config.remedies) * config.scenes * len(env.tasks):
        return found
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
            was: tuple[list[bool], list[bool]] | None = None
            for remedy in config.remedies:
                if (remedy, scene.task, scene.layout) in done:
                    continue
                training, place = config.remedied(remedy), out / f"{remedy}-{scene.task}-{scene.layout}"
                after = adapt(before, imagine, scene, known, place, training)
                was = was or _outcomes(before, real, scene, others, config)
                now = _outcomes(after, real, scene, others, config)
                found.append(
                    {"remedy": remedy, "task": scene.task, "layout": scene.layout, "tasks": [s.task for s in others]}
                    | {"scene_before": was[0], "scene_after": now[0], "before": was[1], "after": now[1]}
                )
                write_text(file, json.dumps(found) + "\n")
    finally:
        real.close()
    return found


def _outcomes(
    policy: Policy, real: Any, scene: Start, others: Sequence[Layout], config: NewScenesConfig
) -> tuple[list[bool], list[bool]]:
    """Real outcomes in the scene, sampled, and from the others, greedy."""
    temperature = config.adapt.rl.temperature
    layout = scene.scene
    assert layout is not None
    own = score_real(policy, real, [layout] * config.trials, temperature=temperature, seed=0)
    rest = score_real(policy, real, others, temperature=0.0, seed=0)
    return [bool(r.verdict.succeeded) for r in own], [bool(r.verdict.succeeded) for r in rest]
