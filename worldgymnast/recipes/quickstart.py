"""Finetunes the starter policy in the starter world model, and evaluates both for real.

RL starts from photographs of new layouts, and no gradient comes from a real episode. Real episodes only measure: a few
at each evaluation during RL, which also choose the step to keep, and the paired evaluation at the end.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldgymnast.configs import LATER, Count, Positive, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment
from worldgymnast.errors import InputError
from worldgymnast.files import json_object
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.real import ScoreConfig, Scorer, ScoringConfig
from worldgymnast.protocols import Policy, RealEnvironment
from worldgymnast.recipes.estimate import format_duration, measure_pace
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.records import read_object
from worldgymnast.registry import load_judge, load_policy, load_world, to_dict
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.run import Run, is_finished, stage
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.weights import identity

Robot = Literal["metaworld", "libero"]
"""Robots with starter components."""
PLATE = "plate.png"
"""File name of the empty scene of the starter camera."""


@checked
class QuickstartConfig:
    """Finetuning from photographs, and the final evaluation.

    Attributes:
        robot: whose starter components are used.
        env: the real environment.
        finetune: RL and its evaluations.
        photographs: new layouts per task, one frame each.
        photograph_layout: first of these layouts.
        score: the final paired evaluation.
    """

    robot: Annotated[Robot, tyro.conf.Fixed, tyro.conf.Suppress] = field(default="metaworld", metadata=LATER)
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    finetune: FinetuneConfig = FinetuneConfig(scoring=ScoringConfig(per_task=16))
    photographs: Positive = 30
    photograph_layout: Count = 6_000_000
    score: ScoreConfig = ScoreConfig(per_task=20, first_layout=7_000_000)


def starter(name: str, robot: Robot = "metaworld") -> Path:
    """Return the file of a starter component of a robot: "policy", "world" or "judge"."""
    path = _folder(robot) / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"{path}: the starter {name} is missing. Install a release that ships it, or make one (worldgymnast "
            f"reproduce {robot}), and give it with --{name}"
        )
    return path


def _folder(robot: Robot) -> Path:
    folder = Path(str(importlib.resources.files("worldgymnast") / "starter"))
    return folder if robot == "metaworld" else folder / robot


def starter_explorers() -> list[Path]:
    """Return the files of the explorers whose rollouts the starter world model and judge learned from last."""
    return sorted(
        _folder("metaworld").glob("explorer-*.safetensors"), key=lambda path: int(path.stem.rpartition("-")[2])
    )


def starter_plate() -> Path:
    """Return the file of the empty scene of the starter camera, for `scenes.plate`."""
    return _folder("metaworld") / PLATE


def starter_budget(robot: Robot = "metaworld") -> dict[str, int]:
    """Return the number of real episodes of each kind used for the starter components of a robot."""
    file = _folder(robot) / "manifest.json"
    return dict(json_object(read_object(file).get("budget", {}), file, "budget"))


def quickstart(
    out: Path,
    config: QuickstartConfig,
    parts: Mapping[str, Path] | None = None,
    device: str = "cpu",
    imagined: int = 0,
) -> dict[str, Any]:
    """Run RL in OUT/rl, then write OUT/evaluation.json and return it; finished stages are skipped.

    Args:
        out: the run folder.
        config: sizes.
        parts: files of "policy", "world" and "judge"; by default the starter's of the robot.
        device: of training and imagination.
        imagined: additional layouts per task that the evaluation only imagines.
    """
    given = dict(parts or {})
    files = {name: given.get(name) or starter(name, config.robot) for name in ("policy", "world", "judge")}
    before = load_policy(files["policy"], device)
    after = out / "rl" / "policy.safetensors"
    world, judge = load_world(files["world"], device), load_judge(files["judge"], device, Ledger(out / FILE))
    inputs = {"policy": identity(before), "world": identity(world), "judge": identity(judge)}
    env, rl = environment(config.env), config.finetune.rl
    imagine = Imagination.of(before, world, judge, rl.horizon, rl.execute)
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if not is_finished(out / "rl") and not judge.is_remote:
            seconds = _duration(before, imagine, env, config, imagined)
            print(f"{format_duration(seconds)} at the current speed of this machine", flush=True)
        with stage(out, "reinforcement learning"):
            starts = PhotographedStarts(env, config.photographs, config.photograph_layout)
            finetune(before, imagine, starts, out / "rl", rl, Scorer(env, config.finetune.scoring))
        with stage(out, "real evaluation"):
            policies = {"before": Contender(files["policy"]), "after": Contender(after)}
            outcomes = evaluate(out / "evaluation.json", policies, env, config.score, device, world, judge, imagined)
        count = config.photographs * len(env.tasks)
        run.finish({"photographs": count, "starter_budget": {} if given else starter_budget(config.robot)})
    return outcomes


def _duration(
    policy: Policy, imagine: Imagination, env: RealEnvironment, config: QuickstartConfig, imagined: int
) -> float:
    """Estimate the total seconds on this machine."""
    finetuning, tasks = config.finetune, len(env.tasks)
    pace = measure_pace(policy, imagine, env, finetuning.rl)
    executed = executed_per_look(policy, finetuning.rl.execute)
    seconds = pace.finetuning(finetuning.rl, finetuning.scoring, executed, tasks)
    seconds += pace.evaluation(2 * config.score.per_task * tasks, env.horizon, config.score.workers)
    seconds += 2 * imagined * tasks * env.horizon * pace.imagined
    return seconds + (config.photographs + imagined) * tasks * pace.laid_out
