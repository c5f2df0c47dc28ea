"""What planning with the world model at deployment gains for real, and what it costs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldgymnast.measure.real import ScoreConfig, row, trials
from worldgymnast.protocols import Actor, RealEnvironment
from worldgymnast.records import read_outcomes, read_seconds
from worldgymnast.weights import write_text


def deploy(
    policies: Mapping[str, Actor], env: RealEnvironment, score: ScoreConfig, out: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """Real outcomes of every policy on the same starts, and its seconds an episode, the environment's included.

    Args:
        policies: by name.
        env: the real environment.
        score: how many starts.
        out: kept in OUT/evaluation.json and OUT/seconds.json policy by policy.
    """
    file, timed = out / "evaluation.json", out / "seconds.json"
    found: dict[str, Any] = read_outcomes(file)
    seconds = read_seconds(timed)
    layouts = env.layouts(score.per_task, score.first_layout)
    chunk = next(iter(policies.values())).chunk
    real = env.vector(score.workers, chunk, horizon=env.horizon, keyframes_only=True)
    try:
        for name, policy in policies.items():
            if name in found:
                continue
            began = time.perf_counter()
            tried = trials(policy, real, layouts, temperature=score.temperature, seed=0, what=f"evaluating {name}")
            seconds[name] = (time.perf_counter() - began) / len(layouts)
            write_text(timed, json.dumps(seconds) + "\n")
            found[name] = [row(rollout, 0) for rollout in tried]
            write_text(file, json.dumps(found) + "\n")
    finally:
        real.close()
    return found, seconds
