"""Measures the real gain and the cost of planning with the world model at deployment."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldgymnast.measure.evaluate import seed_layouts
from worldgymnast.measure.real import ScoreConfig, result_row, run_trials
from worldgymnast.protocols import Actor, RealEnvironment
from worldgymnast.records import read_outcomes, read_seconds
from worldgymnast.rl.rollout import executed_per_look, open_vector
from worldgymnast.weights import write_text


def evaluate_planning(
    policies: Mapping[str, Actor], env: RealEnvironment, score: ScoreConfig, out: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """Evaluate policies on the same real starts, and measure their time.

    Args:
        policies: by name.
        env: the real environment.
        score: number of starts.
        out: results are saved to OUT/evaluation.json and OUT/seconds.json after every policy.

    Returns:
        Rows by policy, and seconds per episode by policy, including those of the environment.
    """
    file, seconds_file = out / "evaluation.json", out / "seconds.json"
    outcomes: dict[str, Any] = read_outcomes(file)
    seconds = read_seconds(seconds_file)
    layouts = seed_layouts(env, score, 0)
    chunk = executed_per_look(next(iter(policies.values())), score.execute)
    real = open_vector(env, score.workers, chunk, horizon=env.horizon, keyframes_only=True)
    try:
        for name, policy in policies.items():
            if name in outcomes:
                continue
            began = time.perf_counter()
            rollouts = run_trials(
                policy, real, layouts, temperature=score.temperature, seed=0, label=f"evaluating {name}"
            )
            seconds[name] = (time.perf_counter() - began) / len(layouts)
            write_text(seconds_file, json.dumps(seconds) + "\n")
            outcomes[name] = [result_row(rollout, 0) for rollout in rollouts]
            write_text(file, json.dumps(outcomes) + "\n")
    finally:
        real.close()
    return outcomes, seconds
